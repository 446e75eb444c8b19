//! Configuration that all projections have.

use runtime::amqp::BatchLimit;
use runtime::config::Problems;
use serde::{Deserialize, Serialize};

/// How much a projection commits at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchConfig {
    /// At most so many messages.
    pub messages: usize,
    /// No further message once so many bytes are taken.
    pub bytes: usize,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self {
            messages: 200,
            bytes: 4 * 1024 * 1024,
        }
    }
}

impl BatchConfig {
    pub(crate) fn validate(self, problems: &mut Problems) {
        for (key, value) in [
            ("batch.messages", self.messages),
            ("batch.bytes", self.bytes),
        ] {
            if value == 0 {
                problems.add(key, &value, "write 1 or more");
            }
        }
    }

    pub(crate) fn limit(self) -> BatchLimit {
        BatchLimit {
            messages: self.messages,
            bytes: self.bytes,
        }
    }
}
