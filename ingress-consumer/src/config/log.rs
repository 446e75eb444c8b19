//! Configuration of the event log.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

use super::DAY;

/// The event log.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// For how many days ahead the log's partitions are made.
    pub partition_days_ahead: u16,
    /// How long a day's events are kept after its end, and longer where somebody has not read them.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How often the log's partitions are looked after.
    #[serde(with = "humantime_serde")]
    pub upkeep_every: Duration,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            partition_days_ahead: 7,
            retention: 7 * DAY,
            upkeep_every: Duration::from_mins(1),
        }
    }
}

impl LogConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if !(1..=366).contains(&self.partition_days_ahead) {
            problems.add(
                "log.partition_days_ahead",
                &self.partition_days_ahead,
                "write a number from 1 to 366",
            );
        }
        if !(Duration::from_hours(1)..=3650 * DAY).contains(&self.retention) {
            problems.add(
                "log.retention",
                &self.retention,
                "write a duration from 1h to 3650days",
            );
        }
        if !(Duration::from_millis(100)..=DAY).contains(&self.upkeep_every) {
            problems.add(
                "log.upkeep_every",
                &self.upkeep_every,
                "write a duration from 100ms to 1day",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named_with_what_to_write() {
        let mut problems = Problems::default();
        LogConfig::default().validate(&mut problems);
        assert!(problems.as_slice().is_empty(), "{problems:?}");
        let wrong = LogConfig {
            partition_days_ahead: 0,
            retention: Duration::from_mins(59),
            upkeep_every: Duration::ZERO,
        };
        wrong.validate(&mut problems);
        let text = format!("{problems:?}");
        for key in ["partition_days_ahead", "retention", "upkeep_every"] {
            assert!(text.contains(&format!("log.{key}")), "{key}: {text}");
        }
    }
}
