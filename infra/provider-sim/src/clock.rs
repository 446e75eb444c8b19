//! The one place where the time of day enters.

use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The time of day as of the start, carried on by the monotonic clock: it never goes backwards.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started_nanos: i64,
    started: Instant,
}

impl Clock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the edge where time comes in; the simulator shares no code with what it simulates for"
    )]
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            started_nanos: i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX),
            started: Instant::now(),
        }
    }

    /// Nanoseconds since the Unix epoch.
    pub(crate) fn now_nanos(&self) -> i64 {
        let elapsed = i64::try_from(self.started.elapsed().as_nanos()).unwrap_or(i64::MAX);
        self.started_nanos.saturating_add(elapsed)
    }

    /// Milliseconds since the Unix epoch.
    pub(crate) fn now_ms(&self) -> i64 {
        self.now_nanos() / 1_000_000
    }
}
