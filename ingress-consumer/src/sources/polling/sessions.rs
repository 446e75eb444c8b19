//! Sessions at providers that have them, kept in memory: one that is lost costs one authentication.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use shared_model::ConnectionId;

/// The open session of each connection that has one.
#[derive(Default)]
pub struct Sessions(Mutex<HashMap<ConnectionId, Value>>);

impl Sessions {
    /// The connection's open session.
    pub fn get(&self, connection: ConnectionId) -> Option<Value> {
        self.all().get(&connection).cloned()
    }

    /// Keeps the session that was just opened.
    pub fn keep(&self, connection: ConnectionId, session: Value) {
        self.all().insert(connection, session);
    }

    /// Forgets a session that is over.
    pub fn forget(&self, connection: ConnectionId) {
        self.all().remove(&connection);
    }

    fn all(&self) -> MutexGuard<'_, HashMap<ConnectionId, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Sessions {
    /// A session is as good as a credential.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sessions")
            .field("open", &self.all().len())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_session_is_kept_until_it_is_over_and_never_printed() {
        let (sessions, connection) = (Sessions::default(), ConnectionId(Uuid::nil()));
        sessions.keep(connection, json!({"sessionId": "hunter2"}));
        assert!(sessions.get(connection).is_some());
        assert!(!format!("{sessions:?}").contains("hunter2"));
        sessions.forget(connection);
        assert_eq!(sessions.get(connection), None);
    }
}
