//! Configuration of what is kept of frames that cannot be interpreted.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

use super::{DAY, counts};

/// How long and how much is kept of what cannot be interpreted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParkedConfig {
    /// How long a parked frame is kept after its last copy came.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How many are kept of one connection, newest first.
    pub max_rows: u64,
    /// How many bytes of bodies are kept of one connection, newest first.
    pub max_bytes: u64,
    /// How many copies of the same frame are stored; further ones are counted.
    pub copies: u32,
    /// For how long after its last copy a frame's further copies are counted and not stored.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
    /// How often to look for what is kept no longer.
    #[serde(with = "humantime_serde")]
    pub sweep_every: Duration,
}

impl Default for ParkedConfig {
    fn default() -> Self {
        Self {
            retention: 30 * DAY,
            max_rows: 100_000,
            max_bytes: 256 * 1024 * 1024,
            copies: 5,
            window: Duration::from_hours(1),
            sweep_every: Duration::from_mins(1),
        }
    }
}

impl ParkedConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        for (key, value, days) in [
            ("parked.retention", &self.retention, 3650),
            ("parked.window", &self.window, 365),
        ] {
            if !(Duration::from_secs(1)..=days * DAY).contains(value) {
                let fix = format!("write a duration from 1s to {days}days");
                problems.add(key, value, &fix);
            }
        }
        if !(Duration::from_millis(10)..=DAY).contains(&self.sweep_every) {
            problems.add(
                "parked.sweep_every",
                &self.sweep_every,
                "write a duration from 10ms to 1day",
            );
        }
        counts(
            problems,
            &[
                ("parked.max_rows", self.max_rows),
                ("parked.max_bytes", self.max_bytes),
                ("parked.copies", u64::from(self.copies)),
            ],
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named_with_what_to_write() {
        let mut problems = Problems::default();
        ParkedConfig::default().validate(&mut problems);
        assert!(problems.as_slice().is_empty(), "{problems:?}");
        let wrong = ParkedConfig {
            retention: Duration::ZERO,
            max_rows: 0,
            max_bytes: 0,
            copies: 0,
            window: Duration::ZERO,
            sweep_every: Duration::ZERO,
        };
        wrong.validate(&mut problems);
        let text = format!("{problems:?}");
        for key in [
            "retention",
            "max_rows",
            "max_bytes",
            "copies",
            "window",
            "sweep_every",
        ] {
            assert!(text.contains(&format!("parked.{key}")), "{key}: {text}");
        }
    }
}
