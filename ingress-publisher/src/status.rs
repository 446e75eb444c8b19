//! What each stream is doing: for the API, the log and the metrics.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::clock;
use serde::{Deserialize, Serialize};
use shared_model::control::StreamAssignment;
use shared_model::{ConnectionId, Provider, SessionId, WorkspaceId};

use crate::failure::Failure;
use crate::metrics;

/// What a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// On the way to a socket.
    Connecting,
    /// The socket is open and the subscription is sent.
    Subscribed,
    /// Waiting before it connects again.
    BackingOff,
    /// Waiting because the provider refused the credential.
    Refused,
    /// Nothing: the provider's protocol is not known here.
    Unsupported,
}

impl StreamState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Connecting,
        Self::Subscribed,
        Self::BackingOff,
        Self::Refused,
        Self::Unsupported,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Subscribed => "subscribed",
            Self::BackingOff => "backing_off",
            Self::Refused => "refused",
            Self::Unsupported => "unsupported",
        }
    }
}

/// A stream, as `GET /internal/v1/streams` shows it. It holds nothing that is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamReport {
    /// The connection.
    pub connection: ConnectionId,
    /// Whose data these are.
    pub workspace: WorkspaceId,
    /// The provider's protocol.
    pub provider: Provider,
    /// The owner epoch that frames are marked with.
    pub epoch: u64,
    /// What the stream is doing.
    pub state: StreamState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The session that is open or was open last.
    pub session: Option<SessionId>,
    /// How many frames that session has had.
    pub frames: u64,
    /// When its last frame was received.
    pub last_frame_at: Option<DateTime<Utc>>,
    /// What went wrong last.
    pub last_error: Option<String>,
}

/// Every stream of the publisher; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<BTreeMap<ConnectionId, StreamStatus>>>);

impl Streams {
    /// Adds a stream, in place of an earlier one of the same connection.
    pub(crate) fn add(&self, assignment: &StreamAssignment, state: StreamState) -> StreamStatus {
        let status = StreamStatus::new(assignment, state);
        lock(&self.0).insert(assignment.connection, status.clone());
        status
    }

    pub(crate) fn remove(&self, connection: ConnectionId) {
        lock(&self.0).remove(&connection);
    }

    pub(crate) fn reports(&self) -> Vec<StreamReport> {
        lock(&self.0).values().map(StreamStatus::report).collect()
    }

    /// How many are read at the moment.
    pub(crate) fn subscribed(&self) -> u32 {
        let reports = self.reports().into_iter();
        let subscribed = reports.filter(|report| report.state == StreamState::Subscribed);
        u32::try_from(subscribed.count()).unwrap_or(u32::MAX)
    }
}

/// One stream's status; clones share it. Every change of state is logged once.
#[derive(Debug, Clone)]
pub(crate) struct StreamStatus(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    report: StreamReport,
    /// Why it last backed off, unless it was subscribed since.
    trouble: Option<&'static str>,
}

impl StreamStatus {
    fn new(assignment: &StreamAssignment, state: StreamState) -> Self {
        metrics::stream(state, 1);
        Self(Arc::new(Mutex::new(Inner {
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
                last_error: None,
            },
            trouble: None,
        })))
    }

    pub(crate) fn report(&self) -> StreamReport {
        lock(&self.0).report.clone()
    }

    pub(crate) fn connecting(&self) {
        lock(&self.0).enter(StreamState::Connecting);
    }

    pub(crate) fn subscribed(&self, session: SessionId) {
        let mut inner = lock(&self.0);
        inner.enter(StreamState::Subscribed);
        inner.trouble = None;
        let report = &mut inner.report;
        report.session = Some(session);
        report.frames = 0;
        report.last_frame_at = None;
        tracing::info!(
            connection = %report.connection,
            workspace = %report.workspace,
            provider = %report.provider,
            %session,
            "the stream is subscribed"
        );
    }

    pub(crate) fn received(&self, number: u64, at: DateTime<Utc>) {
        let report = &mut lock(&self.0).report;
        report.frames = number;
        report.last_frame_at = Some(at);
    }

    /// The same trouble again goes to the debug log only.
    pub(crate) fn backing_off(&self, failure: &Failure, wait: Duration) {
        metrics::reconnect(failure.reason());
        let mut inner = lock(&self.0);
        let was = inner.report.state;
        inner.enter(failure.state());
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

    pub(crate) fn unsupported(&self) {
        let mut inner = lock(&self.0);
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
        let inner = lock(&self.0);
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
