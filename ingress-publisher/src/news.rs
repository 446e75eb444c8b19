//! What there is to tell the core with the next heartbeat.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared_model::ConnectionId;
use shared_model::control::{Release, StreamReport};
use tokio::sync::Notify;
use tokio::time::Instant;

/// What the core knows of the streams.
#[derive(Debug, Default)]
pub(crate) struct Reported(BTreeMap<ConnectionId, (Instant, StreamReport)>);

impl Reported {
    /// Whether the core does not know this already. Counts alone are news once in `counts_every`, or
    /// each heartbeat would tell of every stream.
    pub(crate) fn is_news(
        &self,
        report: &StreamReport,
        now: Instant,
        counts_every: Duration,
    ) -> bool {
        let Some((at, known)) = self.0.get(&report.connection) else {
            return true;
        };
        let but_for_counts = StreamReport {
            frames: known.frames,
            last_frame_at: known.last_frame_at,
            ..report.clone()
        };
        but_for_counts != *known || (report != known && now >= *at + counts_every)
    }

    /// The core knows these too now.
    pub(crate) fn keep(&mut self, reports: Vec<StreamReport>, now: Instant) {
        let reports = reports.into_iter();
        self.0
            .extend(reports.map(|report| (report.connection, (now, report))));
    }

    /// Forgets the streams that are of no interest any more.
    pub(crate) fn retain(&mut self, of_interest: impl Fn(&ConnectionId) -> bool) {
        self.0.retain(|connection, _| of_interest(connection));
    }
}

/// Streams whose sockets are closed, until the core knows; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Released(Arc<(Mutex<Vec<Release>>, Notify)>);

impl Released {
    /// Another one is closed.
    pub(crate) fn add(&self, release: Release) {
        self.lock().push(release);
        self.0.1.notify_one();
    }

    /// All of which the core does not know yet.
    pub(crate) fn all(&self) -> Vec<Release> {
        self.lock().clone()
    }

    /// The core knows of these.
    pub(crate) fn forget(&self, known: &[Release]) {
        self.lock().retain(|release| !known.contains(release));
    }

    /// Returns once another one was closed, or has been since the last time.
    pub(crate) async fn changed(&self) {
        self.0.1.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Release>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
