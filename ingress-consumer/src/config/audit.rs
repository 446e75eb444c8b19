//! Configuration of the audit log.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

use super::DAY;

/// How long it is known who has changed what.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// How long an entry is kept.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            retention: 400 * DAY,
        }
    }
}

impl AuditConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if !(Duration::from_secs(1)..=3650 * DAY).contains(&self.retention) {
            problems.add(
                "audit.retention",
                &self.retention,
                "write a duration from 1s to 3650days",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retention_that_cannot_be_is_named() {
        let mut problems = Problems::default();
        AuditConfig::default().validate(&mut problems);
        assert!(problems.as_slice().is_empty(), "{problems:?}");
        let retention = Duration::ZERO;
        AuditConfig { retention }.validate(&mut problems);
        assert!(format!("{problems:?}").contains("audit.retention"));
    }
}
