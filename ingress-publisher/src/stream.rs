//! One stream: a provider's websocket, read for as long as the connection is assigned to us.
//!
//! Each socket is a session of its own, in which the frames of each partition are numbered from 1
//! without gaps. Every message is a frame, verbatim: the echo of the subscription and the provider's
//! own messages too. If the socket ends, or is silent beyond a ping, the stream connects again after
//! a wait with full jitter; what it missed meanwhile is asked for ([`crate::backfill`]). While the
//! window is full the socket is not read.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{SinkExt, StreamExt};
use runtime::backoff::{Backoff, Stopped, up_to};
use runtime::{clock, credential};
use shared_model::control::StreamAssignment;
use shared_model::envelope::Attributes;
use shared_model::partition::partition;
use shared_model::stream_settings::Overflow;
use shared_model::{Frame, FrameKind, FrameOrigin, SessionId};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout_at};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::CancellationToken;

use crate::announce::Announcer;
use crate::backfill::{Backfill, Gaps, Handed, Job};
use crate::config::{BackfillConfig, StreamConfig};
use crate::dialect::Dialect;
use crate::failure::Failure;
use crate::lease::Lease;
use crate::metrics;
use crate::outbound::Outbound;
use crate::sent::{Numbering, Sent};
use crate::socket::{self, Socket};
use crate::status::StreamStatus;
use crate::window::{Source, Topic};

/// How long the provider may take to answer our goodbye.
const FAREWELL: Duration = Duration::from_secs(2);

/// A stream and what it needs.
#[derive(Debug)]
pub(crate) struct Stream {
    /// What to read.
    pub(crate) assignment: StreamAssignment,
    /// How its provider speaks.
    pub(crate) dialect: Dialect,
    /// What becomes of its frames while the broker takes fewer than come.
    pub(crate) overflow: Overflow,
    /// The publisher's instance.
    pub(crate) owner: String,
    /// How to deal with sockets.
    pub(crate) config: StreamConfig,
    /// How to close gaps.
    pub(crate) backfill: BackfillConfig,
    /// The last sign of life of an earlier stream of the connection, if what came since is missing.
    pub(crate) gap_from: Option<DateTime<Utc>>,
    /// How long to wait before the first connect.
    pub(crate) first_wait: Duration,
    /// The way out to the provider.
    pub(crate) outbound: Outbound,
    /// Where frames go.
    pub(crate) source: Source,
    /// Where to tell what happens.
    pub(crate) status: StreamStatus,
    /// Where its sessions' frames are numbered.
    pub(crate) sent: Sent,
    /// Until when the stream is ours.
    pub(crate) lease: Lease,
    /// Asks to read nothing new.
    pub(crate) stop: CancellationToken,
    /// Tells to let go of what is in hand.
    pub(crate) let_go: CancellationToken,
}

/// Why a session ended.
enum End {
    /// It was asked to.
    Stopped,
    /// The stream may be somebody else's by now.
    Fenced,
    /// Something went wrong.
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// The life of one socket.
struct Session {
    attributes: Arc<Attributes>,
    frames: u64,
    numbering: Numbering,
    first_frame: Option<Instant>,
    /// When the provider last gave a sign of life.
    heard_at: DateTime<Utc>,
}

/// What outlives a socket.
struct Memory {
    backoff: Backoff,
    /// The credential of the last try.
    tried: Option<HeaderValue>,
    gaps: Gaps,
    announcer: Announcer,
}

impl Stream {
    /// Reads until it is asked to stop.
    pub(crate) async fn run(self) {
        let mut memory = Memory {
            backoff: Backoff::new(self.config.backoff_min, self.config.backoff_max),
            tried: None,
            gaps: Gaps::new(self.gap_from.map(|at| at.timestamp_millis())),
            announcer: Announcer::new(
                &self.assignment,
                &self.owner,
                &self.source,
                self.config.silent_after,
                &self.let_go,
            ),
        };
        let first = tokio::time::sleep(self.first_wait);
        if self.stop.run_until_cancelled(first).await.is_some() {
            self.live_on(&mut memory).await;
        }
        self.status.stopped();
    }

    /// Lives from one socket to the next until it is asked to stop. While the stream may be somebody
    /// else's it has no socket.
    async fn live_on(&self, memory: &mut Memory) {
        loop {
            let ended = self.live(memory).await;
            match ended {
                Err(End::Failed(failure)) => {
                    memory.announcer.failed(&failure).await;
                    if self.wait(&failure, memory).await.is_err() {
                        return;
                    }
                }
                Err(End::Fenced) => {
                    self.status.fenced();
                    memory.announcer.disconnected("fenced").await;
                    // The stream is ours again, or it is stopped for being somebody else's.
                    let held = self.lease.held();
                    if self.stop.run_until_cancelled(held).await.is_none() {
                        return;
                    }
                }
                Ok(()) | Err(End::Stopped) => {
                    memory.announcer.disconnected("stopped").await;
                    return;
                }
            }
        }
    }

    /// Leaves the provider in peace after `failure`. A credential that has changed ends that at
    /// once, where it was the trouble.
    async fn wait(&self, failure: &Failure, memory: &mut Memory) -> Result<(), Stopped> {
        let refused = self.config.refused_wait;
        // Half as much again at most, so that all streams of a refused key do not come together.
        let long = refused.saturating_add(up_to(refused / 2));
        let wait = failure.wait(memory.backoff.next_wait(), long);
        self.status.backing_off(failure, wait);
        let changed = async {
            match &self.assignment.credential {
                Some(reference) if failure.is_about_the_credential() => {
                    credential::changed(reference, memory.tried.as_ref()).await;
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stopped),
            () = changed => memory.backoff.reset(),
            () = tokio::time::sleep(wait) => {}
        }
        Ok(())
    }

    /// Connects and reads one socket to its end.
    async fn live(&self, memory: &mut Memory) -> Result<(), End> {
        if !self.lease.holds(Instant::now()) {
            return Err(End::Fenced);
        }
        self.status.connecting();
        let mut socket = match self.stop.run_until_cancelled(self.open(memory)).await {
            None => return Err(End::Stopped),
            Some(opened) => opened?,
        };
        let mut session = self.new_session();
        let job = Job::new(
            &self.assignment,
            self.dialect,
            memory.gaps.clone(),
            memory.tried.clone(),
            (&self.config, &self.backfill),
            &self.outbound,
        );
        let mut backfill = job.map(Backfill::start);
        memory.announcer.connected(session.attributes.session).await;
        let ended = self
            .read(&mut session, &mut socket, &mut backfill, memory)
            .await;
        memory
            .gaps
            .session_ended(session.heard_at.timestamp_millis());
        // A socket that brought frames and lived on for so long proves that connecting again soon
        // is no burden. One that only greets and then hangs up proves nothing.
        let lived = session.first_frame.map(|first| first.elapsed());
        if lived.is_some_and(|lived| lived >= self.config.healthy_after) {
            memory.backoff.reset();
        }
        ended
    }

    async fn open(&self, memory: &mut Memory) -> Result<Socket, Failure> {
        memory.tried = None;
        if let Some(reference) = &self.assignment.credential {
            memory.tried = Some(credential::header(reference).await?);
        }
        // An endpoint that has no host fails below.
        let _turn = self.outbound.turns.take(&self.assignment.endpoint).await;
        let (credential, tls) = (memory.tried.clone(), &self.outbound.tls);
        socket::open(
            &self.assignment,
            self.dialect,
            credential,
            &self.config,
            tls,
        )
        .await
    }

    fn new_session(&self) -> Session {
        let session = SessionId(clock::new_id());
        self.status.subscribed(session);
        let assignment = &self.assignment;
        let attributes = Attributes {
            provider: assignment.provider.clone(),
            workspace: assignment.workspace.clone(),
            connection: assignment.connection,
            session,
            epoch: assignment.epoch,
            owner: self.owner.clone(),
        };
        Session {
            numbering: self.sent.begin(&attributes),
            attributes: Arc::new(attributes),
            frames: 0,
            first_frame: None,
            heard_at: clock::now(),
        }
    }

    async fn read(
        &self,
        session: &mut Session,
        socket: &mut Socket,
        backfill: &mut Option<Backfill>,
        Memory {
            gaps, announcer, ..
        }: &mut Memory,
    ) -> Result<(), End> {
        let every = self.config.ping_interval;
        let mut pings = interval_at(Instant::now() + every, every);
        // Time in which the socket was not read proves nothing about the provider.
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = true;
        loop {
            let mut began = None;
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.say_goodbye(session, socket).await?;
                    return Err(End::Stopped);
                }
                () = self.lease.lapsed() => {
                    // What was sent while the stream was ours is in the socket still.
                    self.say_goodbye(session, socket).await?;
                    return Err(End::Fenced);
                }
                _ = pings.tick() => {
                    if !heard {
                        return Err(Failure::Silent(every).into());
                    }
                    heard = false;
                    self.write(socket, Message::Ping(Bytes::new())).await?;
                }
                message = socket.next() => {
                    heard = true;
                    if matches!(message, Some(Ok(_))) {
                        session.heard_at = clock::now();
                    }
                    match message {
                        Some(Ok(Message::Ping(_))) => self.flush(socket).await?,
                        Some(Ok(Message::Close(goodbye))) => {
                            // The answer is written; whether it arrives changes nothing.
                            self.flush(socket).await.unwrap_or_default();
                            return Err(socket::closed(goodbye.as_ref()).into());
                        }
                        Some(Ok(message)) => {
                            began = Some(Instant::now());
                            if message.is_text() || message.is_binary() {
                                announcer.heard().await;
                            }
                            let is_datum = self.take_or_close(session, socket, message).await?;
                            if let (true, Some(backfill)) = (is_datum, &backfill) {
                                backfill.is_live();
                            }
                        }
                        Some(Err(error)) => return Err(socket::broken(error).into()),
                        None => return Err(socket::closed(None).into()),
                    }
                }
                () = tokio::time::sleep_until(announcer.due()) => {
                    began = Some(Instant::now());
                    announcer.tick().await;
                }
                () = self.status.asked_again() => announcer.again().await,
                handed = Backfill::next(backfill) => match handed {
                    Handed::Datum { origin, body } => {
                        began = Some(Instant::now());
                        metrics::backfill_frame(origin);
                        let device = self.dialect.device(&body).unwrap_or_default().into_owned();
                        // An older value must not replace a newer one that waits.
                        let topic = None;
                        self.submit(session, (origin, FrameKind::Text), body, &device, topic).await?;
                    }
                    Handed::Planned(missing) => gaps.planned(missing),
                    Handed::Closed { series, until } => gaps.closed(series, until),
                    Handed::GivenUp { series } => gaps.given_up(series),
                },
            }
            if began.is_some_and(|began| began.elapsed() >= every / 2) {
                // The window was full, and what the provider answered meanwhile was not read.
                heard = true;
                pings.reset();
            }
        }
    }

    /// [`Stream::take`], which may wait for room in the window. If the stream is to end meanwhile, the
    /// socket is closed at once: only what is in hand goes on waiting.
    async fn take_or_close(
        &self,
        session: &mut Session,
        socket: &mut Socket,
        message: Message,
    ) -> Result<bool, End> {
        let taking = self.take(session, message);
        tokio::pin!(taking);
        tokio::select! {
            biased;
            taken = &mut taking => return taken,
            () = self.stop.cancelled() => {}
            () = self.lease.lapsed() => {}
        }
        let closing = timeout_at(Instant::now() + FAREWELL, socket.close(Some(goodbye())));
        if !matches!(closing.await, Ok(Ok(()))) {
            tracing::debug!(connection = %self.assignment.connection, "the provider takes no goodbye");
        }
        taking.await
    }

    /// Makes a frame of a message that holds data, and waits until the window has room for it.
    /// Answers whether it is a device's.
    async fn take(&self, session: &mut Session, message: Message) -> Result<bool, End> {
        let (kind, body) = match &message {
            Message::Text(text) => (FrameKind::Text, text.as_bytes()),
            Message::Binary(bytes) => (FrameKind::Binary, bytes.as_ref()),
            _ => return Ok(false),
        };
        session.first_frame.get_or_insert_with(Instant::now);
        metrics::frame(self.dialect.name(), body.len());
        let device = self.dialect.device(body);
        let is_datum = device.is_some();
        // A copy: the message shares the whole read buffer, which would stay with it.
        let copy = Bytes::copy_from_slice(body);
        let device = device.unwrap_or_default();
        let topic = self.topic(&device, body);
        self.submit(session, (FrameOrigin::Live, kind), copy, &device, topic)
            .await?;
        Ok(is_datum)
    }

    /// Numbers a frame, and waits until the window has room for it.
    async fn submit(
        &self,
        session: &mut Session,
        (origin, kind): (FrameOrigin, FrameKind),
        body: Bytes,
        device: &str,
        topic: Option<Topic>,
    ) -> Result<(), End> {
        session.frames += 1;
        let partition = partition(
            &self.assignment.workspace,
            self.assignment.connection,
            device,
            self.source.partitions(),
        );
        let frame = Frame {
            number: session.numbering.next(partition),
            received_at: clock::now(),
            kind,
            origin,
            body,
        };
        let tells = origin == FrameOrigin::Live && !device.is_empty();
        self.status
            .received(session.frames, frame.received_at, tells);
        let attributes = Arc::clone(&session.attributes);
        let submitted = self
            .source
            .submit(partition, attributes, frame, topic, &self.let_go);
        submitted.await.map_err(|Stopped| {
            tracing::error!(
                connection = %self.assignment.connection,
                workspace = %self.assignment.workspace,
                provider = %self.assignment.provider,
                session = %session.attributes.session,
                frame = session.frames,
                "a frame that found no room in the window is let go"
            );
            End::Stopped
        })
    }

    /// What the frame is about, if newer frames about the same may replace it.
    fn topic(&self, device: &str, body: &[u8]) -> Option<Topic> {
        if self.overflow == Overflow::Block || device.is_empty() {
            return None;
        }
        Some(Topic {
            device: device.into(),
            label: self.dialect.label(body)?.as_ref().into(),
        })
    }

    /// Closes the socket. What the provider had sent before it heard of it is taken as well.
    async fn say_goodbye(&self, session: &mut Session, socket: &mut Socket) -> Result<(), End> {
        let deadline = Instant::now() + FAREWELL;
        if let Ok(Ok(())) = timeout_at(deadline, socket.close(Some(goodbye()))).await {
            while let Ok(Some(Ok(message))) = timeout_at(deadline, socket.next()).await {
                self.take(session, message).await?;
            }
        }
        Ok(())
    }

    async fn write(&self, socket: &mut Socket, message: Message) -> Result<(), End> {
        self.in_time(socket.send(message)).await
    }

    async fn flush(&self, socket: &mut Socket) -> Result<(), End> {
        self.in_time(socket.flush()).await
    }

    /// A provider that takes nothing any more is as good as silent.
    async fn in_time(
        &self,
        writing: impl Future<Output = Result<(), tokio_tungstenite::tungstenite::Error>>,
    ) -> Result<(), End> {
        let limit = self.config.ping_interval;
        match tokio::time::timeout(limit, writing).await {
            Ok(written) => written.map_err(|error| socket::broken(error).into()),
            Err(_) => Err(Failure::Silent(limit).into()),
        }
    }
}

/// What a socket is closed with that we want no more.
fn goodbye() -> CloseFrame {
    CloseFrame {
        code: CloseCode::Away,
        reason: "".into(),
    }
}

#[cfg(test)]
mod faults;

#[cfg(test)]
pub(crate) mod tests;
