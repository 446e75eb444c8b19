//! The connections that frames come over, with their interpreters, kept in memory for a while.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use shared_model::{ConnectionId, Provider, WorkspaceId};
use sqlx::PgPool;

use crate::interpret::{Provision, provision};
use crate::store::{StoreError, connection};

const KEEP: Duration = Duration::from_secs(10);

/// What acceptance needs to know of a connection.
#[derive(Debug)]
pub struct Known {
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// Its provider.
    pub provider: Provider,
    /// How its frames are read.
    pub provision: Provision,
}

/// Looks connections up.
#[derive(Debug, Clone)]
pub struct Registry {
    pool: PgPool,
    known: Arc<RwLock<HashMap<ConnectionId, Entry>>>,
}

/// A connection, and when it was looked up.
type Entry = (Instant, Arc<Known>);

impl Registry {
    /// Looks up in `pool`'s database.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            known: Arc::default(),
        }
    }

    /// The connection `id`, if there is or was one.
    pub async fn find(&self, id: ConnectionId) -> Result<Option<Arc<Known>>, StoreError> {
        if let Some((at, known)) = self
            .known
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            && at.elapsed() < KEEP
        {
            return Ok(Some(Arc::clone(known)));
        }
        let mut connection = self.pool.acquire().await?;
        let Some(found) = connection::find(&mut connection, id).await? else {
            return Ok(None);
        };
        let provision =
            provision(&found.provider, found.kind, &found.settings).map_err(|error| {
                StoreError::inconsistent("core.connection", "settings", id.to_string(), error)
            })?;
        let known = Arc::new(Known {
            workspace: found.workspace,
            provider: found.provider,
            provision,
        });
        let mut all = self.known.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(id, (Instant::now(), Arc::clone(&known)));
        Ok(Some(known))
    }
}
