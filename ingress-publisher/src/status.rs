//! What each stream is doing: for the API, the log and the metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::clock;
use shared_model::control::{StreamAssignment, StreamReport, StreamState};
use shared_model::{ConnectionId, SessionId};
use tokio::sync::Notify;

use crate::failure::Failure;
use crate::metrics;
use crate::pause::Waits;

/// Every stream of the publisher; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams {
    all: Arc<Mutex<BTreeMap<ConnectionId, StreamStatus>>>,
    changed: Arc<Notify>,
}

impl Streams {
    /// Adds a stream, in place of an earlier one of the same connection.
    pub(crate) fn add(&self, assignment: &StreamAssignment, state: StreamState) -> StreamStatus {
        let status = StreamStatus::new(assignment, state, Arc::clone(&self.changed));
        lock(&self.all).insert(assignment.connection, status.clone());
        status
    }

    pub(crate) fn remove(&self, connection: ConnectionId) {
        lock(&self.all).remove(&connection);
    }

    /// Has these streams say once more how their connections are doing.
    pub(crate) fn say_again(&self, connections: &[ConnectionId]) {
        let all = lock(&self.all);
        for status in connections.iter().filter_map(|id| all.get(id)) {
            status.again.notify_one();
        }
    }

    pub(crate) fn reports(&self) -> Vec<StreamReport> {
        lock(&self.all).values().map(StreamStatus::report).collect()
    }

    /// Returns once a stream has come into another state, or has since the last time.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// One stream's status; clones share it. Every change of state is logged once.
#[derive(Debug, Clone)]
pub(crate) struct StreamStatus {
    inner: Arc<Mutex<Inner>>,
    again: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    report: StreamReport,
    /// Why it last backed off, unless it was subscribed since.
    trouble: Option<&'static str>,
    changed: Arc<Notify>,
    /// Whether it waits for room in the window.
    waits: Option<Waits>,
}

impl StreamStatus {
    fn new(assignment: &StreamAssignment, state: StreamState, changed: Arc<Notify>) -> Self {
        metrics::stream(state, 1);
        let inner = Inner {
            report: StreamReport {
                connection: assignment.connection,
                workspace: assignment.workspace.clone(),
                provider: assignment.provider.clone(),
                epoch: assignment.epoch,
                state,
                since: clock::now(),
                session: None,
                frames: 0,
                last_frame_at: None,
                receiving: false,
                reconnects: 0,
                last_error: None,
                paused: None,
            },
            trouble: None,
            changed,
            waits: None,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            again: Arc::default(),
        }
    }

    /// Returns once the stream is to say again how its connection is doing.
    pub(crate) async fn asked_again(&self) {
        self.again.notified().await;
    }

    pub(crate) fn report(&self) -> StreamReport {
        let inner = lock(&self.inner);
        let paused = inner.waits.as_ref().and_then(Waits::paused);
        StreamReport {
            paused: paused.map(|reason| reason.name().to_owned()),
            ..inner.report.clone()
        }
    }

    /// Shows from now on whether the stream waits.
    pub(crate) fn watch(&self, waits: Waits) {
        lock(&self.inner).waits = Some(waits);
    }

    pub(crate) fn connecting(&self) {
        lock(&self.inner).enter(StreamState::Connecting);
    }

    pub(crate) fn subscribed(&self, session: SessionId) {
        let mut inner = lock(&self.inner);
        inner.enter(StreamState::Subscribed);
        inner.trouble = None;
        let report = &mut inner.report;
        report.session = Some(session);
        report.frames = 0;
        report.last_frame_at = None;
        report.receiving = false;
        tracing::info!(
            connection = %report.connection,
            workspace = %report.workspace,
            provider = %report.provider,
            %session,
            "the stream is subscribed"
        );
    }

    /// A frame has come; `tells` whether it told of a device.
    pub(crate) fn received(&self, number: u64, at: DateTime<Utc>, tells: bool) {
        let mut inner = lock(&self.inner);
        let report = &mut inner.report;
        report.frames = number;
        report.last_frame_at = Some(at);
        if tells && !report.receiving {
            report.receiving = true;
            inner.changed.notify_one();
        }
    }

    /// The same trouble again goes to the debug log only.
    pub(crate) fn backing_off(&self, failure: &Failure, wait: Duration) {
        metrics::reconnect(failure.reason());
        let mut inner = lock(&self.inner);
        let was = inner.report.state;
        inner.enter(failure.state());
        inner.report.reconnects += 1;
        inner.report.last_error = Some(failure.to_string());
        let again = inner.trouble.replace(failure.reason()) == Some(failure.reason());
        let report = &inner.report;
        let session = (was == StreamState::Subscribed)
            .then_some(report.session)
            .flatten()
            .map(tracing::field::display);
        macro_rules! log {
            ($level:ident) => {
                tracing::$level!(
                    connection = %report.connection,
                    workspace = %report.workspace,
                    provider = %report.provider,
                    session,
                    reason = failure.reason(),
                    wait = ?wait,
                    error = %runtime::telemetry::chain(failure),
                    "the stream is in trouble and will connect again"
                )
            };
        }
        if again {
            log!(debug);
        } else {
            log!(warn);
        }
    }

    pub(crate) fn fenced(&self) {
        let report = &lock(&self.inner).report;
        tracing::warn!(
            connection = %report.connection,
            workspace = %report.workspace,
            provider = %report.provider,
            epoch = report.epoch,
            "the lease ran out before it was renewed: the stream has no socket until the core has answered"
        );
    }

    pub(crate) fn unsupported(&self) {
        let mut inner = lock(&self.inner);
        inner.report.last_error = Some("the provider's protocol is not known here".to_owned());
        let report = &inner.report;
        tracing::warn!(
            connection = %report.connection,
            workspace = %report.workspace,
            provider = %report.provider,
            "the provider's protocol is not known here: the stream is not read"
        );
    }

    pub(crate) fn stopped(&self) {
        let inner = lock(&self.inner);
        let report = &inner.report;
        tracing::info!(
            connection = %report.connection,
            workspace = %report.workspace,
            provider = %report.provider,
            session = report.session.map(tracing::field::display),
            frames = report.frames,
            "the stream has stopped"
        );
    }
}

impl Inner {
    fn enter(&mut self, state: StreamState) {
        metrics::stream(self.report.state, -1);
        metrics::stream(state, 1);
        self.report.state = state;
        self.report.since = clock::now();
        self.changed.notify_one();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        metrics::stream(self.report.state, -1);
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
