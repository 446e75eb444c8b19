//! One reader's stream: first what it has missed, then what comes.
//!
//! What it has missed is taken from memory where that reaches back far enough, and else read from the
//! log, its workspace's events only, up to where memory begins. The change from one to the other is made
//! by the hub under its lock, so nothing is missing and nothing is there twice.
//!
//! A stream is asked for more only as its reader takes what there is. While the core is away, a stream
//! that has to read the log waits, and says that it lives.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use runtime::access::{Access, Scope};
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::catch_up::{CatchUp, Progress};
use super::config::LiveSettings;
use super::end::End;
use super::event::{Frame, LogEvent};
use super::filter::{Filter, Wanted};
use super::hub::{Hub, Join, Joined, Seat};
use super::mailbox::Mail;
use super::position::{Position, Unusable};
use crate::core_log::CoreLog;
use crate::metrics;

/// How long to wait after the core has not answered.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many readers read the log at the same time; the others wait.
const READING_AT_ONCE: usize = 8;
/// After how many milliseconds a client should connect again.
const RETRY: u64 = 2000;

/// What all streams share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) hub: Arc<Hub>,
    pub(super) core: CoreLog,
    pub(super) access: Access,
    pub(super) settings: LiveSettings,
    pub(super) stopping: CancellationToken,
    pub(super) reading: Arc<Semaphore>,
}

/// A stream that is under way.
pub(super) struct Reader {
    shared: Arc<Shared>,
    seat: Seat,
    filter: Arc<Filter>,
    /// With the credential.
    headers: HeaderMap,
    /// It has had everything that it wants up to here.
    position: Position,
    phase: Phase,
    beat_at: Instant,
    check_at: Instant,
    ends_at: Instant,
}

enum Phase {
    Hello,
    CatchingUp(CatchUp),
    Live(Joined),
    Over,
}

/// What a stream does next.
enum Step {
    Send(Bytes),
    End(End),
    GoOn,
}

impl Shared {
    pub(super) fn readings() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(READING_AT_ONCE))
    }
}

impl Reader {
    /// A stream of what follows `position`.
    pub(super) fn new(
        shared: Arc<Shared>,
        seat: Seat,
        filter: Filter,
        headers: HeaderMap,
        position: Position,
    ) -> Self {
        let (now, settings) = (Instant::now(), &shared.settings);
        // Those who came together do not all go together.
        let spread = settings
            .max_duration
            .mul_f64((seat.number % 64) as f64 / 640.0);
        Self {
            beat_at: now + settings.heartbeat,
            check_at: now + settings.check_access_every,
            ends_at: now + settings.max_duration - spread,
            shared,
            seat,
            filter: Arc::new(filter),
            headers,
            position,
            phase: Phase::Hello,
        }
    }

    /// The next piece of the stream, and the rest of it.
    pub(super) async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        let piece = match self.phase {
            Phase::Over => return None,
            Phase::Hello => {
                self.phase = Phase::CatchingUp(CatchUp::new(None));
                self.hello()
            }
            Phase::CatchingUp(_) | Phase::Live(_) => self.piece().await,
        };
        self.beat_at = Instant::now() + self.shared.settings.heartbeat;
        Some((Ok(piece), self))
    }

    /// The first event: where the stream begins, so that a reader can come back before there is another.
    fn hello(&self) -> Bytes {
        let position = self.position.to_string();
        let data = json!({"workspace": self.filter.workspace, "position": position});
        format!("retry: {RETRY}\nid: {position}\nevent: hello\ndata: {data}\n\n").into()
    }

    async fn piece(&mut self) -> Bytes {
        loop {
            // A reader that wants little of much gives others a turn.
            tokio::task::consume_budget().await;
            let due = self.beat_at.min(self.check_at).min(self.ends_at);
            let step = if due <= Instant::now() {
                self.tick().await
            } else {
                tokio::select! {
                    step = self.step() => step,
                    () = tokio::time::sleep_until(due) => Step::GoOn,
                }
            };
            match step {
                Step::Send(bytes) => return bytes,
                Step::GoOn => {}
                Step::End(end) => {
                    metrics::live_ended(end.reason());
                    self.phase = Phase::Over;
                    return end.frame(&self.position).into();
                }
            }
        }
    }

    /// What is due at this time.
    async fn tick(&mut self) -> Step {
        let now = Instant::now();
        if self.ends_at <= now {
            return Step::End(End::Reconnect);
        }
        if self.check_at <= now {
            self.check_at = now + self.shared.settings.check_access_every;
            let workspace = self.filter.workspace.as_str();
            let access = &self.shared.access;
            let admitted = access.still_admits(&self.headers, Scope::Read, workspace);
            // Where it cannot be told now, it is next time.
            if let Err(problem) = admitted.await
                && [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN]
                    .iter()
                    .any(|status| status.as_u16() == problem.status)
            {
                return Step::End(End::Refused(problem));
            }
        }
        if self.beat_at <= now {
            return Step::Send(self.beat());
        }
        Step::GoOn
    }

    /// A sign of life. It also says where the reader is: it may have moved past much that it does not want.
    fn beat(&mut self) -> Bytes {
        if let Phase::Live(joined) = &self.phase
            && let Some(head) = joined.caught_up()
        {
            self.position = head.joined(&self.position);
        }
        format!(":\nid: {}\n\n", self.position).into()
    }

    /// Where it is interrupted, it goes on: nothing is taken that is not sent.
    async fn step(&mut self) -> Step {
        match &mut self.phase {
            Phase::Live(joined) => {
                if let Some(entry) = joined.backlog.pop_front() {
                    let frame = entry.frame_for(&self.filter);
                    return frame.map_or(Step::GoOn, |frame| self.send(&frame));
                }
                match joined.mailbox().next().await {
                    Mail::Frame(frame) => self.send(&frame),
                    Mail::End(end) => Step::End(end),
                }
            }
            Phase::CatchingUp(_) => self.catch_up().await,
            Phase::Hello | Phase::Over => Step::GoOn,
        }
    }

    /// A frame from the hub, unless the reader has had it.
    fn send(&mut self, frame: &Frame) -> Step {
        if frame.offset <= self.position.of(frame.shard) {
            return Step::GoOn;
        }
        if frame.behind().covers(&self.position) {
            self.position.move_to(frame.behind());
            return Step::Send(frame.bytes());
        }
        // The reader has been further in another shard than this process is.
        self.position = frame.behind().joined(&self.position);
        Step::Send(frame.bytes_at(&self.position))
    }

    async fn catch_up(&mut self) -> Step {
        let Phase::CatchingUp(catch_up) = &mut self.phase else {
            return Step::GoOn;
        };
        let progress = tokio::select! {
            // What is read already is sent.
            biased;
            progress = catch_up.next(&self.shared, &self.filter, &self.position) => progress,
            () = self.shared.stopping.cancelled() => return Step::End(End::Stopping),
        };
        match progress {
            Ok(Progress::Event(shard, event)) => self.send_read(shard, &event),
            Ok(Progress::UpTo(shard, end)) => {
                self.position.advance(shard, end);
                Step::GoOn
            }
            Ok(Progress::Away) => {
                let pause = tokio::time::sleep(PATIENCE);
                self.shared.stopping.run_until_cancelled(pause).await;
                Step::GoOn
            }
            Ok(Progress::Done) => self.join(),
            Err(why) => Step::End(End::Unusable(why)),
        }
    }

    /// An event of the log, or what is wanted of it.
    fn send_read(&mut self, shard: u32, event: &LogEvent) -> Step {
        self.position.advance(shard, event.offset);
        let part = match self.filter.wants(event) {
            Wanted::Nothing => return Step::GoOn,
            Wanted::All => None,
            Wanted::Part(line) => Some(line),
        };
        metrics::live_caught_up(1);
        let behind = Arc::new(self.position.clone());
        let line = part.as_ref().unwrap_or(&event.line);
        Step::Send(Frame::new(shard, event, line, behind).bytes())
    }

    fn join(&mut self) -> Step {
        let joined = (self.shared.hub).join(&self.seat, &self.position, &self.filter);
        self.phase = match joined {
            Join::Joined(joined) => Phase::Live(joined),
            Join::Behind(target) => Phase::CatchingUp(CatchUp::new(Some(target))),
            Join::Restored => return Step::End(End::Unusable(Unusable::Restored)),
        };
        Step::GoOn
    }
}
