//! Readiness: which of the things that the service depends on are there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

/// The checks of one service; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, State>>>);

/// One dependency's place in the readiness report. Down until it is first said to be up.
#[derive(Debug, Clone)]
pub struct Check {
    name: &'static str,
    readiness: Readiness,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "snake_case")]
enum State {
    Up {
        #[serde(skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    },
    Down {
        detail: String,
    },
}

/// What `/readyz` answers.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    status: &'static str,
    checks: BTreeMap<&'static str, State>,
}

impl Report {
    /// Whether everything is there and the service is not stopping.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status == "ready"
    }
}

impl Readiness {
    /// Adds a dependency called `name`.
    #[must_use]
    pub fn add(&self, name: &'static str) -> Check {
        let check = Check {
            name,
            readiness: self.clone(),
        };
        check.down(&"not there yet");
        check
    }

    /// Where things stand. A service that is stopping is not ready, whatever its dependencies.
    #[must_use]
    pub fn report(&self, stopping: bool) -> Report {
        let checks = self.lock().clone();
        let status = if stopping {
            "stopping"
        } else if checks
            .values()
            .all(|state| matches!(state, State::Up { .. }))
        {
            "ready"
        } else {
            "not_ready"
        };
        Report { status, checks }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Check {
    /// The dependency is there.
    pub fn up(&self) {
        self.set(State::Up { detail: None });
    }

    /// The dependency is there, and this is worth knowing about it.
    pub fn up_with(&self, detail: &dyn std::fmt::Display) {
        let detail = Some(detail.to_string());
        self.set(State::Up { detail });
    }

    /// The dependency is away, for the reason given.
    pub fn down(&self, reason: &dyn std::fmt::Display) {
        let detail = reason.to_string();
        self.set(State::Down { detail });
    }

    fn set(&self, state: State) {
        self.readiness.lock().insert(self.name, state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_once_everything_is_there_and_says_what_is_not() {
        let readiness = Readiness::default();
        let (broker, database) = (readiness.add("rabbitmq"), readiness.add("postgresql"));
        broker.up();
        database.down(&"connection refused");
        let report = readiness.report(false);
        assert!(!report.is_ready());
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["checks"]["postgresql"]["detail"], "connection refused");
        assert_eq!(json["checks"]["rabbitmq"]["status"], "up");

        database.up_with(&"3 connections");
        let json = serde_json::to_value(readiness.report(false)).unwrap();
        assert_eq!(json["checks"]["postgresql"]["detail"], "3 connections");
        assert_eq!(json["checks"]["rabbitmq"].get("detail"), None);
        assert!(readiness.report(false).is_ready());
        assert!(!readiness.report(true).is_ready());
    }
}
