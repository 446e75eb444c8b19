//! When a missing event is fetched.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

/// When a missing event is fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GapsConfig {
    /// An event that has been missing for so long is fetched from the core's log.
    #[serde(with = "humantime_serde")]
    pub after: Duration,
}

impl Default for GapsConfig {
    fn default() -> Self {
        Self {
            after: Duration::from_secs(2),
        }
    }
}

impl GapsConfig {
    /// Adds what is wrong.
    pub(crate) fn validate(&self, problems: &mut Problems) {
        if self.after < Duration::from_millis(1) {
            problems.add(
                "gaps.after",
                &self.after,
                "write a duration such as 2s, longer than a commit takes",
            );
        }
    }
}
