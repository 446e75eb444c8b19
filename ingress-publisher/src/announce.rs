//! What a stream says of its connection: facts for the core, by the way of its frames.
//!
//! A report leaves when the status changes, and once a minute when the rate of frames has. It goes
//! through the window like a frame, behind the frames that it speaks of, so that it is in the spool
//! while the broker is away. The `number` of a report orders an owner's reports.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use runtime::clock;
use shared_model::connection_status::{CONTENT_TYPE, VERSION};
use shared_model::control::StreamAssignment;
use shared_model::partition::partition;
use shared_model::{ConnectionStatus, SessionId, StatusReport, headers};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;
use crate::parcel::Parcel;
use crate::window::Source;

/// How often the rate of frames is counted.
const MINUTE: Duration = Duration::from_mins(1);

/// Says how a stream's connection is doing.
#[derive(Debug)]
pub(crate) struct Announcer {
    source: Source,
    partition: u32,
    let_go: CancellationToken,
    silent_after: Duration,
    /// What was said last.
    last: StatusReport,
    /// Frames since the minute began.
    frames: u64,
    minute: Instant,
    heard: Instant,
}

impl Announcer {
    /// Nothing has been said yet of the connection of `assignment` under its epoch.
    pub(crate) fn new(
        assignment: &StreamAssignment,
        owner: &str,
        source: &Source,
        silent_after: Duration,
        let_go: &CancellationToken,
    ) -> Self {
        let partition = partition(
            &assignment.workspace,
            assignment.connection,
            "",
            source.partitions(),
        );
        let now = Instant::now();
        Self {
            source: source.clone(),
            partition,
            let_go: let_go.clone(),
            silent_after,
            last: StatusReport {
                version: VERSION.to_string(),
                connection: assignment.connection,
                workspace: assignment.workspace.clone(),
                provider: assignment.provider.clone(),
                owner: owner.to_owned(),
                epoch: assignment.epoch,
                // Grows from one life of a stream to the next, which may be under the same epoch.
                number: u64::try_from(clock::now().timestamp_millis()).unwrap_or_default(),
                status: ConnectionStatus::Disconnected,
                since: clock::now(),
                reason: None,
                error: None,
                session: None,
                frames_per_minute: 0,
                reconnects: 0,
            },
            frames: 0,
            minute: now,
            heard: now,
        }
    }

    /// The socket is open and the subscription sent.
    pub(crate) async fn connected(&mut self, session: SessionId) {
        self.heard = Instant::now();
        self.last.session = Some(session);
        self.enter(ConnectionStatus::Connected, None).await;
    }

    /// A frame has come.
    pub(crate) async fn heard(&mut self) {
        self.heard = Instant::now();
        self.frames += 1;
        if self.last.status != ConnectionStatus::Subscribed {
            self.enter(ConnectionStatus::Subscribed, None).await;
        }
    }

    /// There is no socket, because of `failure`. The same again is no news.
    pub(crate) async fn failed(&mut self, failure: &Failure) {
        let was_open = self.last.status != ConnectionStatus::Disconnected;
        self.last.reconnects += 1;
        let news = (Some(failure.reason().to_owned()), Some(failure.to_string()));
        if was_open || (&self.last.reason, &self.last.error) != (&news.0, &news.1) {
            self.last.error = news.1;
            self.enter(ConnectionStatus::Disconnected, news.0).await;
        }
    }

    /// The publisher has closed the socket itself, for `reason`.
    pub(crate) async fn disconnected(&mut self, reason: &str) {
        let reason = Some(reason.to_owned());
        self.enter(ConnectionStatus::Disconnected, reason).await;
    }

    /// The core asks: while nobody was heard of, it took the connection for one that nobody reads.
    pub(crate) async fn again(&mut self) {
        self.say().await;
    }

    /// When there may be something to say although nothing has come.
    pub(crate) fn due(&self) -> Instant {
        let minute = self.minute + MINUTE;
        match self.last.status {
            ConnectionStatus::Connected | ConnectionStatus::Subscribed => {
                minute.min(self.heard + self.silent_after)
            }
            ConnectionStatus::Silent | ConnectionStatus::Disconnected => minute,
        }
    }

    /// Says what there is to say once [`Announcer::due`] has come.
    pub(crate) async fn tick(&mut self) {
        let now = Instant::now();
        let is_open = matches!(
            self.last.status,
            ConnectionStatus::Connected | ConnectionStatus::Subscribed
        );
        if is_open && now >= self.heard + self.silent_after {
            self.enter(ConnectionStatus::Silent, None).await;
        }
        if now >= self.minute + MINUTE {
            let frames = std::mem::take(&mut self.frames);
            self.minute = now;
            if self.last.frames_per_minute != frames {
                self.last.frames_per_minute = frames;
                self.say().await;
            }
        }
    }

    async fn enter(&mut self, status: ConnectionStatus, reason: Option<String>) {
        self.last.status = status;
        self.last.reason = reason;
        self.last.since = clock::now();
        if matches!(
            status,
            ConnectionStatus::Silent | ConnectionStatus::Disconnected
        ) {
            self.last.frames_per_minute = 0;
        }
        self.say().await;
    }

    async fn say(&mut self) {
        self.last.number += 1;
        let readable = [
            (headers::PROVIDER, self.last.provider.to_string()),
            (headers::WORKSPACE, self.last.workspace.to_string()),
            (headers::CONNECTION, self.last.connection.to_string()),
            (headers::EPOCH, self.last.epoch.to_string()),
            (headers::OWNER, self.last.owner.clone()),
        ];
        let parcel = Parcel {
            message_id: self.last.message_id(),
            content_type: Cow::Borrowed(CONTENT_TYPE),
            headers: BTreeMap::from(readable.map(|(name, value)| (name.to_owned(), value))),
            body: self.last.encode(),
        };
        let said = self
            .source
            .submit_message(self.partition, parcel, &self.let_go);
        if said.await.is_err() {
            tracing::debug!(
                connection = %self.last.connection,
                "told to let go, the stream does not say how its connection is doing"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::Receiver;

    use super::*;
    use crate::testing;
    use crate::window::{Pending, Window};

    const SILENT_AFTER: Duration = Duration::from_secs(90);

    fn announcer() -> (Announcer, Receiver<Pending>) {
        let (window, mut queues) = Window::open(1, &testing::config().window);
        let assignment = testing::assignment("ws://one", None);
        let let_go = CancellationToken::new();
        let source = window.source();
        let announcer = Announcer::new(&assignment, "publisher-0", &source, SILENT_AFTER, &let_go);
        (announcer, queues.remove(0))
    }

    fn said(queue: &mut Receiver<Pending>) -> Vec<(&'static str, Option<String>, u64)> {
        let mut said = Vec::new();
        while let Ok(Pending::Message(message)) = queue.try_recv() {
            assert_eq!(message.parcel.content_type, CONTENT_TYPE);
            let report = StatusReport::decode(&message.parcel.body).unwrap();
            assert_eq!(message.parcel.message_id, report.message_id());
            let rate = report.frames_per_minute;
            said.push((report.number, report.status.name(), report.reason, rate));
        }
        assert!(said.is_sorted_by(|one, next| one.0 < next.0), "{said:?}");
        let said = said.into_iter();
        said.map(|(_, status, reason, rate)| (status, reason, rate))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_life_is_told_in_order_and_nothing_is_told_twice() {
        let (mut announcer, mut queue) = announcer();
        announcer.failed(&Failure::Closed(String::new())).await;
        announcer.failed(&Failure::Closed(String::new())).await;
        announcer.connected(SessionId(clock::new_id())).await;
        announcer.heard().await;
        announcer.heard().await;
        let closed = Some("closed".to_owned());
        assert_eq!(
            said(&mut queue),
            [
                ("disconnected", closed.clone(), 0),
                ("connected", None, 0),
                ("subscribed", None, 0),
            ]
        );

        // A minute later the rate is known; then nothing comes any more.
        tokio::time::sleep_until(announcer.due()).await;
        announcer.tick().await;
        assert_eq!(said(&mut queue), [("subscribed", None, 2)]);
        tokio::time::sleep_until(announcer.due()).await;
        announcer.tick().await;
        assert_eq!(said(&mut queue), [("silent", None, 0)]);
        for _ in 0..3 {
            tokio::time::sleep_until(announcer.due()).await;
            announcer.tick().await;
        }
        assert_eq!(said(&mut queue), [], "silence is told once");

        announcer.heard().await;
        announcer.disconnected("stopped").await;
        assert_eq!(
            said(&mut queue),
            [
                ("subscribed", None, 0),
                ("disconnected", Some("stopped".to_owned()), 0),
            ]
        );
    }
}
