//! Configuration of HTTP provider-ingest.

use std::time::Duration;

use runtime::config::Problems;
use serde::{Deserialize, Serialize};

use super::DAY;

const MIB: usize = 1024 * 1024;
/// What a request may have at most: more would not fit the database's own limits.
const MOST_BYTES: usize = 256 * MIB;

/// HTTP provider-ingest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngestConfig {
    /// The most bytes of one request, decompressed.
    pub max_bytes: usize,
    /// The most frames of one request.
    pub max_frames: usize,
    /// The most bytes of all requests that are read or wait for their commit.
    pub queue_bytes: usize,
    /// The most requests that wait for their commit.
    pub queue_requests: usize,
    /// No further request joins a commit that has so many frames.
    pub group_frames: usize,
    /// How long a request's `Idempotency-Key` is remembered.
    #[serde(with = "humantime_serde")]
    pub key_retention: Duration,
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            max_bytes: 8 * MIB,
            max_frames: 10_000,
            queue_bytes: 64 * MIB,
            queue_requests: 1000,
            group_frames: 2000,
            key_retention: DAY,
        }
    }
}

impl IngestConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if !(1..=MOST_BYTES).contains(&self.max_bytes) {
            problems.add(
                "ingest.max_bytes",
                &self.max_bytes,
                "write a number from 1 to 268435456 (256 MiB)",
            );
        }
        for (key, value) in [
            ("ingest.max_frames", self.max_frames),
            ("ingest.group_frames", self.group_frames),
        ] {
            if !(1..=1_000_000).contains(&value) {
                problems.add(key, &value, "write a number from 1 to 1000000");
            }
        }
        if !(1..=100_000).contains(&self.queue_requests) {
            problems.add(
                "ingest.queue_requests",
                &self.queue_requests,
                "write a number from 1 to 100000",
            );
        }
        if !(self.max_bytes..=usize::MAX >> 8).contains(&self.queue_bytes) {
            problems.add(
                "ingest.queue_bytes",
                &self.queue_bytes,
                "write ingest.max_bytes or more",
            );
        }
        if !(Duration::from_secs(1)..=365 * DAY).contains(&self.key_retention) {
            problems.add(
                "ingest.key_retention",
                &self.key_retention,
                "write a duration from 1s to 365days",
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
        IngestConfig::default().validate(&mut problems);
        assert!(problems.as_slice().is_empty(), "{problems:?}");
        let wrong = IngestConfig {
            max_bytes: 0,
            max_frames: 0,
            queue_requests: 0,
            group_frames: 0,
            key_retention: Duration::ZERO,
            ..IngestConfig::default()
        };
        wrong.validate(&mut problems);
        let narrow = IngestConfig {
            queue_bytes: 1,
            ..IngestConfig::default()
        };
        narrow.validate(&mut problems);
        let text = format!("{problems:?}");
        for key in [
            "max_bytes",
            "max_frames",
            "queue_requests",
            "group_frames",
            "key_retention",
            "queue_bytes",
        ] {
            assert!(text.contains(&format!("ingest.{key}")), "{key}: {text}");
        }
    }
}
