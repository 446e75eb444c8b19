//! How gaps are closed.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

use super::at_least_a_milli;

/// How much of a provider's history is asked for after an outage, and how fast.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackfillConfig {
    /// The most requests a second of one stream.
    pub requests_per_second: u32,
    /// How far back a gap is closed; what is older stays open.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// How long before the last sign of a socket's life its gap begins: vehicles' data reach the
    /// provider late.
    #[serde(with = "humantime_serde")]
    pub margin: Duration,
    /// How long to wait for the new socket's first datum before a gap counts as ended.
    #[serde(with = "humantime_serde")]
    pub settle: Duration,
}

impl Default for BackfillConfig {
    fn default() -> Self {
        Self {
            requests_per_second: 5,
            max_age: Duration::from_hours(24),
            margin: Duration::from_mins(1),
            settle: Duration::from_secs(10),
        }
    }
}

impl BackfillConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if !(1..=1000).contains(&self.requests_per_second) {
            problems.add(
                "backfill.requests_per_second",
                &self.requests_per_second,
                "write a number from 1 to 1000",
            );
        }
        at_least_a_milli("backfill.max_age", self.max_age, "24h", problems);
        let longest = Duration::from_hours(24 * 366);
        for (key, value, example) in [
            ("backfill.max_age", self.max_age, "24h"),
            ("backfill.margin", self.margin, "1m"),
            ("backfill.settle", self.settle, "10s"),
        ] {
            if value > longest {
                let fix = format!("write a duration of at most a year, such as {example}");
                problems.add(
                    key,
                    &humantime_serde::re::humantime::format_duration(value),
                    &fix,
                );
            }
        }
    }
}
