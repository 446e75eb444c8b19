//! One reader's stream: first what it has missed, then what comes.
//!
//! What it has missed is taken from memory where that reaches back far enough, and else read from the
//! log, its workspace's events only, up to where memory begins. The change from one to the other is made
//! by the hub under its lock, so nothing is missing and nothing is there twice.
//!
//! A stream is asked for more only as its reader takes what there is. While the core is away, a stream
//! that has to read the log waits, and says that it lives.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use runtime::access::{Access, Scope};
use runtime::telemetry::chain;
use serde_json::json;
use shared_model::WorkspaceId;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::config::LiveSettings;
use super::end::End;
use super::event::{Frame, LogEvent};
use super::filter::Filter;
use super::hub::{Hub, Join, Joined, Seat};
use super::mailbox::Mail;
use super::position::{Position, Unusable};
use crate::core_log::{CoreError, CoreLog};
use crate::metrics;

/// How many offsets of the log are asked for at once.
const PAGE: u64 = 2000;
/// How many readers read the log at the same time; the others wait.
const READING_AT_ONCE: usize = 8;
/// How long to wait after the core has not answered.
const PATIENCE: Duration = Duration::from_millis(500);
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

/// What is read of the log.
#[derive(Default)]
struct CatchUp {
    /// Up to where.
    target: Option<Position>,
    /// What was read and not sent yet, of one shard.
    events: VecDeque<LogEvent>,
    /// The shard, and up to which offset everything is in them.
    read: Option<(u32, u64)>,
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

    /// The events of `workspace` among the next of `shard`, and up to which offset these go.
    async fn read(
        &self,
        generation: u64,
        shard: u32,
        after: u64,
        most: u64,
        workspace: &WorkspaceId,
    ) -> Result<(VecDeque<LogEvent>, u64), Failed> {
        // Never closed.
        let _turn = self.reading.acquire().await;
        let mut stretch = self.core.read_of(shard, after, most, workspace).await?;
        if stretch.generation != generation || stretch.end <= after {
            return Err(Failed::Unusable(Unusable::Restored));
        }
        let mut events = VecDeque::new();
        while let Some(line) = stretch.lines.next().await? {
            if let Some(event) = LogEvent::read(line) {
                events.push_back(event);
            } else {
                tracing::error!(shard, after, "an event cannot be read");
            }
        }
        Ok((events, stretch.end))
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
                self.phase = Phase::CatchingUp(CatchUp::default());
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

    /// Begun anew where it is interrupted: nothing is taken that is not sent.
    async fn step(&mut self) -> Step {
        match &mut self.phase {
            Phase::Live(joined) => {
                let mail = match joined.backlog.pop_front() {
                    Some(frame) => Mail::Frame(frame),
                    None => joined.mailbox().next().await,
                };
                match mail {
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
        if let Some((shard, end)) = catch_up.read {
            let Some(event) = catch_up.events.pop_front() else {
                self.position.advance(shard, end);
                catch_up.read = None;
                return Step::GoOn;
            };
            self.position.advance(shard, event.offset);
            let Some(line) = self.filter.line(&event) else {
                return Step::GoOn;
            };
            metrics::live_caught_up(1);
            let behind = Arc::new(self.position.clone());
            return Step::Send(Frame::new(shard, &event, &line, behind).bytes());
        }
        if self.shared.stopping.is_cancelled() {
            return Step::End(End::Stopping);
        }
        let missing = catch_up.target.as_ref().and_then(|target| {
            let mut shards = 0..target.shards();
            let shard = shards.find(|shard| self.position.of(*shard) < target.of(*shard))?;
            Some((shard, target.of(shard)))
        });
        let Some((shard, target)) = missing else {
            return self.join();
        };
        let after = self.position.of(shard);
        let (generation, workspace) = (self.position.generation, &self.filter.workspace);
        let most = PAGE.min(target - after);
        let read = self.shared.read(generation, shard, after, most, workspace);
        match read.await {
            Ok((events, end)) => {
                catch_up.events = events;
                catch_up.read = Some((shard, end));
                Step::GoOn
            }
            Err(Failed::Unusable(why)) => Step::End(End::Unusable(why)),
            Err(Failed::Core(error)) => {
                tracing::debug!(error = %chain(&error), "a reader waits for the log");
                tokio::time::sleep(PATIENCE).await;
                Step::GoOn
            }
        }
    }

    fn join(&mut self) -> Step {
        let joined = (self.shared.hub).join(&self.seat, &self.position, &self.filter);
        self.phase = match joined {
            Join::Joined(joined) => Phase::Live(joined),
            Join::Behind(target) => Phase::CatchingUp(CatchUp {
                target: Some(target),
                ..CatchUp::default()
            }),
            Join::Restored => return Step::End(End::Unusable(Unusable::Restored)),
        };
        Step::GoOn
    }
}

enum Failed {
    Core(CoreError),
    Unusable(Unusable),
}

impl From<CoreError> for Failed {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Gone { .. } => Self::Unusable(Unusable::Truncated),
            CoreError::Restored(_) => Self::Unusable(Unusable::Restored),
            error => Self::Core(error),
        }
    }
}
