//! Configuration of the canary.

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

/// How many messages are published twice, to prove that it changes nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CanaryConfig {
    /// Of a hundred messages, 0 to 100; fractions count.
    pub republish_percent: f64,
}

impl CanaryConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if !(0.0..=100.0).contains(&self.republish_percent) {
            problems.add(
                "canary.republish_percent",
                &self.republish_percent,
                "write a number from 0 to 100, such as 0.5",
            );
        }
    }
}
