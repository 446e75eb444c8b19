//! Configuration of what is kept of messages that the broker gave up.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

use super::{DAY, counts};

/// How long and how much is kept of what the broker gave up.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLettersConfig {
    /// Whether dead letters are taken from their queue.
    pub drain: bool,
    /// How long a dead letter is kept.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How many are kept, newest first.
    pub max_rows: u64,
    /// How many bytes of bodies are kept, newest first.
    pub max_bytes: u64,
}

impl Default for DeadLettersConfig {
    fn default() -> Self {
        Self {
            drain: true,
            retention: 90 * DAY,
            max_rows: 100_000,
            max_bytes: 1024 * 1024 * 1024,
        }
    }
}

impl DeadLettersConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if !(Duration::from_secs(1)..=3650 * DAY).contains(&self.retention) {
            problems.add(
                "dead_letters.retention",
                &self.retention,
                "write a duration from 1s to 3650days",
            );
        }
        counts(
            problems,
            &[
                ("dead_letters.max_rows", self.max_rows),
                ("dead_letters.max_bytes", self.max_bytes),
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
        DeadLettersConfig::default().validate(&mut problems);
        assert!(problems.as_slice().is_empty(), "{problems:?}");
        let wrong = DeadLettersConfig {
            drain: false,
            retention: Duration::ZERO,
            max_rows: 0,
            max_bytes: 0,
        };
        wrong.validate(&mut problems);
        let text = format!("{problems:?}");
        for key in ["retention", "max_rows", "max_bytes"] {
            assert!(
                text.contains(&format!("dead_letters.{key}")),
                "{key}: {text}"
            );
        }
    }
}
