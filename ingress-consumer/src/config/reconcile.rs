//! Configuration of reconciliation.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

use super::DAY;

/// How it is judged whether everything adds up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileConfig {
    /// For how long a frame may be on its way before it is missing.
    #[serde(with = "humantime_serde")]
    pub late_after: Duration,
    /// How often to look, for the metrics.
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

impl Default for ReconcileConfig {
    fn default() -> Self {
        Self {
            late_after: Duration::from_mins(1),
            every: Duration::from_mins(1),
        }
    }
}

impl ReconcileConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, value) in [
            ("reconcile.late_after", &self.late_after),
            ("reconcile.every", &self.every),
        ] {
            if !(Duration::from_millis(100)..=DAY).contains(value) {
                problems.add(key, value, "write a duration from 100ms to 1day");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named_with_what_to_write() {
        let mut problems = Problems::default();
        ReconcileConfig::default().validate(&mut problems);
        assert!(problems.as_slice().is_empty(), "{problems:?}");
        let wrong = ReconcileConfig {
            late_after: Duration::ZERO,
            every: 2 * DAY,
        };
        wrong.validate(&mut problems);
        let text = format!("{problems:?}");
        assert!(
            text.contains("reconcile.late_after") && text.contains("reconcile.every"),
            "{text}"
        );
    }
}
