//! How polled providers are asked.

use std::path::PathBuf;
use std::time::Duration;

use runtime::config::Problems;
use runtime::outbound;
use serde::{Deserialize, Serialize};

const MIB: usize = 1024 * 1024;

/// How polled providers are asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollingConfig {
    /// How many connections this replica asks for at the same time; 0 asks for none.
    pub concurrency: u16,
    /// For how long a connection is a replica's from its last sign of life on.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often to look for due connections at the least.
    #[serde(with = "humantime_serde")]
    pub look_every: Duration,
    /// How many pages of a feed that is behind are read before others have their turn.
    pub pages_per_run: u32,
    /// How long a request may take, to the last byte of its answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// The largest answer that is taken.
    pub max_answer_bytes: usize,
    /// The bound of the first wait after a failure.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// What the bound doubles up to.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// For how long a connection is left alone that the provider refuses.
    #[serde(with = "humantime_serde")]
    pub refused_wait: Duration,
    /// Authorities that are trusted beside the system's.
    pub extra_ca_file: Option<PathBuf>,
}

impl Default for PollingConfig {
    fn default() -> Self {
        Self {
            // Most of the time of a run is the provider's, so one that hangs must not have all of them.
            concurrency: 32,
            lease: Duration::from_secs(30),
            look_every: Duration::from_secs(1),
            pages_per_run: 20,
            timeout: Duration::from_secs(30),
            max_answer_bytes: 32 * MIB,
            backoff_min: Duration::from_secs(1),
            backoff_max: Duration::from_mins(5),
            refused_wait: Duration::from_mins(5),
            extra_ca_file: None,
        }
    }
}

impl PollingConfig {
    pub(super) fn validate(&self, problems: &mut Problems) {
        if self.concurrency > 1000 {
            let fix = "write a number up to 1000";
            problems.add("polling.concurrency", &self.concurrency, fix);
        }
        if self.pages_per_run == 0 {
            problems.add(
                "polling.pages_per_run",
                &self.pages_per_run,
                "write 1 or more",
            );
        }
        let (milli, second) = (Duration::from_millis(1), Duration::from_secs(1));
        let (minutes, day) = (Duration::from_mins(10), Duration::from_hours(24));
        for (key, value, least, most, fix) in [
            (
                "polling.lease",
                &self.lease,
                second,
                minutes,
                "write a duration from 1s to 10m",
            ),
            (
                "polling.look_every",
                &self.look_every,
                10 * milli,
                minutes,
                "write a duration from 10ms to 10m",
            ),
            (
                "polling.timeout",
                &self.timeout,
                milli,
                minutes,
                "write a duration from 1ms to 10m",
            ),
            (
                "polling.backoff_min",
                &self.backoff_min,
                milli,
                day,
                "write a duration from 1ms to 1day",
            ),
            (
                "polling.backoff_max",
                &self.backoff_max,
                self.backoff_min,
                day,
                "write a duration from polling.backoff_min to 1day",
            ),
            (
                "polling.refused_wait",
                &self.refused_wait,
                milli,
                day,
                "write a duration from 1ms to 1day",
            ),
        ] {
            if *value < least || *value > most {
                problems.add(key, value, fix);
            }
        }
        if !(1024..=1024 * MIB).contains(&self.max_answer_bytes) {
            problems.add(
                "polling.max_answer_bytes",
                &self.max_answer_bytes,
                "write a number from 1024 to 1073741824 (1 GiB)",
            );
        }
        if let Some(path) = &self.extra_ca_file
            && let Err(error) = outbound::certificates(path)
        {
            problems.add("polling.extra_ca_file", &path.display(), &error.to_string());
        }
    }
}
