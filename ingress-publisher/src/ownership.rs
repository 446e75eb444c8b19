//! Which streams this publisher reads: asks the core, starts and stops streams accordingly.
//!
//! The core's first answer also says how many ingress partitions there are; then the broker is
//! connected. While the core is away, what is owned is read on: nobody else can be granted it. If the
//! [`Lease`] runs out while the core may well be there, as after the process was frozen, each stream
//! closes its socket by itself and waits for what the core says.
//!
//! Asked to stop, the publisher says so and reads on until others are subscribed to its streams, if
//! there are any others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use runtime::amqp::{Link, Publisher};
use runtime::backoff::Backoff;
use runtime::http::Check;
use runtime::{Context, clock};
use shared_model::control::{Assignment, Heartbeat, Release, StreamAssignment, StreamState};
use shared_model::topology;
use shared_model::{ConnectionId, StreamSettings};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::canary::Canary;
use crate::config::PublisherConfig;
use crate::control::{ANSWER_LIMIT, Core, CoreError};
use crate::dialect::Dialect;
use crate::lease::Lease;
use crate::news::{Released, Reported};
use crate::outbound::Outbound;
use crate::pack::Packer;
use crate::sender::{Broker, Sender};
use crate::sent::Sent;
use crate::spool::{Spool, SpoolDirectory};
use crate::start::first_wait;
use crate::status::Streams;
use crate::stream::Stream;
use crate::window::{Limits, Window};

/// However much there is to tell, the core is not asked more often than this.
const SOONEST_BEAT: Duration = Duration::from_millis(500);
/// Over how much time first connects are spread where streams were lost by another publisher.
const TAKEOVER_SPREAD: Duration = Duration::from_secs(1);
/// How long the core may take to hear of the stop.
const GOODBYE: Duration = Duration::from_secs(2);
/// Counts of frames are told with every so many heartbeats; all else with the next.
const COUNTS_EVERY: u32 = 6;

/// The streams that the core has assigned to this publisher.
#[derive(Debug)]
pub(crate) struct Ownership {
    ctx: Context,
    config: PublisherConfig,
    core: Core,
    outbound: Outbound,
    check: Check,
    core_is_up: Option<bool>,
    streams: Streams,
    spool: Arc<SpoolDirectory>,
    ingress: Option<Ingress>,
    owned: BTreeMap<ConnectionId, Owned>,
    tasks: TaskTracker,
    incarnation: Uuid,
    lease: Lease,
    /// The version of the assignment that is followed.
    known: Option<String>,
    /// What the core knows of the streams.
    reported: Reported,
    released: Released,
    /// What the streams' sessions have numbered.
    sent: Sent,
    /// Streams of connections that may be owned again, which still say goodbye.
    closing: BTreeMap<ConnectionId, JoinHandle<()>>,
}

/// The way to the broker.
#[derive(Debug)]
struct Ingress {
    partitions: u32,
    partition_max_bytes: u64,
    window: Window,
}

/// A stream that is owned.
#[derive(Debug)]
struct Owned {
    assignment: StreamAssignment,
    stop: CancellationToken,
    /// None if the provider is not supported.
    task: Option<JoinHandle<()>>,
}

impl Ownership {
    /// Owns nothing yet.
    pub(crate) fn new(
        ctx: Context,
        config: PublisherConfig,
        core: Core,
        outbound: Outbound,
        streams: Streams,
        spool: Arc<SpoolDirectory>,
    ) -> Self {
        Self {
            check: ctx.readiness().add("core"),
            ctx,
            config,
            core,
            outbound,
            core_is_up: None,
            streams,
            spool,
            ingress: None,
            owned: BTreeMap::new(),
            tasks: TaskTracker::new(),
            incarnation: clock::new_id(),
            lease: Lease::default(),
            known: None,
            reported: Reported::default(),
            sent: Sent::default(),
            released: Released::default(),
            closing: BTreeMap::new(),
        }
    }

    /// Follows the core until the service stops and others have taken over, or nobody can. Fails if
    /// the core contradicts itself about the number of partitions, as then devices would change
    /// theirs, or if another process has taken over the instance's name.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let followed = self.follow_the_core().await;
        for owned in std::mem::take(&mut self.owned).into_values() {
            owned.stop.cancel();
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.say_what_was_sent().await;
        let leaving = tokio::time::timeout(GOODBYE, self.core.leave(self.incarnation)).await;
        if !matches!(leaving, Ok(Ok(()))) {
            tracing::warn!(
                "the core does not hear of the stop; it gives the streams away once their lease ends"
            );
        }
        // The senders end once the last handle on the window is gone.
        drop(self.ingress);
        followed
    }

    async fn follow_the_core(&mut self) -> anyhow::Result<()> {
        let (stop, let_go) = (self.ctx.stopping().clone(), self.ctx.letting_go().clone());
        let heartbeat = self.config.core.heartbeat;
        let mut backoff = Backoff::new(SOONEST_BEAT.min(heartbeat), heartbeat);
        let mut drain = None;
        while !let_go.is_cancelled() {
            if stop.is_cancelled() && drain.is_none() {
                if self.core_is_up == Some(false) {
                    // Others could not be told to take over.
                    return Ok(());
                }
                drain = Some(Instant::now() + self.config.core.drain_limit);
            }
            let asked_at = Instant::now();
            let beat = self.beat(drain.is_some());
            let Some(answer) = let_go.run_until_cancelled(beat).await else {
                break;
            };
            let mut takers = None;
            let wait = match answer {
                Ok(assignment) => {
                    self.lease.renew(asked_at, assignment.lease());
                    self.core_answers();
                    backoff.reset();
                    takers = Some(assignment.takers);
                    let wait = assignment.ask_again().min(heartbeat);
                    self.follow(assignment)?;
                    wait
                }
                Err(error) if error.is_supersession() => return Err(error.into()),
                Err(error) => {
                    // A question that outlived the lease says nothing of the core: this process was
                    // frozen, or the answer slow. The next one will tell.
                    let now = Instant::now();
                    if self.lease.holds(now) || !self.lease.holds(asked_at) {
                        self.lease.core_is_away(now, self.patience());
                    }
                    self.core_is_away(&error.into());
                    backoff.next_wait()
                }
            };
            if let Some(until) = drain
                // Nobody is there to take over, or what nobody takes has to be let go.
                && (self.owned.is_empty() || takers == Some(0) || Instant::now() >= until)
            {
                break;
            }
            self.pause(wait, drain.is_some()).await;
        }
        Ok(())
    }

    async fn beat(&mut self, draining: bool) -> Result<Assignment, CoreError> {
        let (reports, now) = (self.streams.reports().into_iter(), Instant::now());
        let counts_every = self.config.core.heartbeat * COUNTS_EVERY;
        let heartbeat = Heartbeat {
            incarnation: self.incarnation,
            capacity: self.config.core.max_streams,
            draining,
            known: self.known.clone(),
            reports: reports
                .filter(|report| self.reported.is_news(report, now, counts_every))
                .collect(),
            released: self.released.all(),
            sessions: self.sent.news(now, counts_every),
            holding: self.spool.depth().is_holding(),
        };
        let answer = self.core.beat(&heartbeat).await?;
        self.sent.keep(heartbeat.sessions, now);
        self.reported.keep(heartbeat.reports, now);
        let owned = &self.owned;
        self.reported
            .retain(|connection| owned.contains_key(connection));
        self.released.forget(&heartbeat.released);
        Ok(answer)
    }

    /// Tells of the sessions that have ended with the stop. Where the core does not hear of them, it
    /// knows what it was told before.
    async fn say_what_was_sent(&mut self) {
        let nothing_new = self.sent.news(Instant::now(), Duration::ZERO).is_empty();
        if nothing_new || self.core_is_up == Some(false) {
            return;
        }
        if !matches!(
            tokio::time::timeout(GOODBYE, self.beat(true)).await,
            Ok(Ok(_))
        ) {
            tracing::warn!("the core does not hear how many frames the last sessions had");
        }
    }

    /// How long it is news that the core is away: until the next try has failed as well.
    fn patience(&self) -> Duration {
        2 * self.config.core.heartbeat + ANSWER_LIMIT
    }

    /// Waits until it is time to ask again: `wait` at the most, and less where a stream has news.
    async fn pause(&self, wait: Duration, is_stopping: bool) {
        let soonest = SOONEST_BEAT.min(self.config.core.heartbeat);
        let news = async {
            tokio::time::sleep(soonest).await;
            tokio::select! {
                () = self.streams.changed() => {}
                () = self.released.changed() => {}
            }
        };
        let stop = self.ctx.stopping();
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = news => {}
            () = stop.cancelled(), if !is_stopping => {}
            () = self.ctx.letting_go().cancelled() => {}
        }
    }

    fn core_answers(&mut self) {
        self.check.up();
        if self.core_is_up.replace(true) != Some(true) {
            tracing::info!(url = self.config.core.url, "the core answers");
        }
    }

    fn core_is_away(&mut self, error: &anyhow::Error) {
        self.check.down(&format_args!("{error:#}"));
        if self.core_is_up.replace(false) != Some(false) {
            tracing::warn!(
                url = self.config.core.url,
                error = format!("{error:#}"),
                streams = self.owned.len(),
                "the core is away; what is owned is read on"
            );
        }
    }

    fn follow(&mut self, assignment: Assignment) -> anyhow::Result<()> {
        let window = self.ingress(&assignment)?;
        self.forget_ended();
        self.streams.say_again(&assignment.say_again);
        let Some(streams) = assignment.streams else {
            return Ok(());
        };
        let current = self.owned.values().map(|owned| &owned.assignment);
        let changes = Changes::between(current, streams);
        for connection in changes.stop {
            if let Some(owned) = self.owned.remove(&connection) {
                owned.stop.cancel();
                self.streams.remove(connection);
                if let Some(task) = owned.task {
                    self.closing.insert(connection, task);
                }
            }
        }
        self.closing.retain(|_, task| !task.is_finished());
        let together = changes.start.len();
        for assignment in changes.start {
            self.start(assignment, &window, together);
        }
        self.known = Some(assignment.version);
        Ok(())
    }

    /// The window in front of the broker, opened by the first answer.
    fn ingress(&mut self, answer: &Assignment) -> anyhow::Result<Window> {
        match &mut self.ingress {
            Some(ingress) if ingress.partitions != answer.partitions => bail!(
                "the core now states {} ingress partitions instead of {}, which are fixed for the \
                 life of an installation: check that core.url leads to the right core",
                answer.partitions,
                ingress.partitions,
            ),
            Some(ingress) => {
                if ingress.partition_max_bytes != answer.partition_max_bytes {
                    tracing::warn!(
                        stated = answer.partition_max_bytes,
                        declared = ingress.partition_max_bytes,
                        "the core states another bound of the partitions; restart to follow it"
                    );
                    ingress.partition_max_bytes = answer.partition_max_bytes;
                }
                Ok(ingress.window.clone())
            }
            None if answer.partitions == 0 => bail!("the core states 0 ingress partitions"),
            None => {
                let window = self.open_window(answer)?;
                self.ingress = Some(Ingress {
                    partitions: answer.partitions,
                    partition_max_bytes: answer.partition_max_bytes,
                    window: window.clone(),
                });
                Ok(window)
            }
        }
    }

    fn open_window(&self, answer: &Assignment) -> anyhow::Result<Window> {
        let topology = topology::ingress(answer.partitions, answer.partition_max_bytes);
        let name = format!("{}/epoch-{}", self.ctx.full_name(), answer.publisher_epoch);
        let link = Link::open_as(&self.ctx, &self.config.amqp, topology, name);
        let config = &self.config.window;
        let limits = Limits {
            frames: config.max_envelope_frames as usize,
            bytes: config.max_envelope_bytes as usize,
        };
        let in_flight = usize::try_from(config.in_flight).context("window.in_flight")?;
        let (window, queues) = Window::open(answer.partitions, config);
        self.spool.check_partitions(answer.partitions)?;
        for (partition, queue) in (0..).zip(queues) {
            // Each has a channel of its own: the broker slows channels down, not queues.
            let publisher = Publisher::new(link.clone());
            let publish = move |message| {
                let publisher = publisher.clone();
                async move { publisher.publish_now(&message).await }
            };
            let broker = Broker {
                publish,
                link: link.state(),
                // What was read is published even while the service stops.
                let_go: self.ctx.letting_go().clone(),
                canary: Canary::new(self.config.canary.republish_percent),
            };
            let (directory, board) = (Arc::clone(&self.spool), window.board().clone());
            let opening = tokio::task::spawn_blocking(move || Spool::open(&directory, partition));
            self.ctx.spawn("sender", async move {
                let sender = Sender {
                    partition,
                    queue,
                    packer: Packer::new(partition, limits),
                    in_flight,
                    broker,
                    spool: opening.await?.context("the spool cannot be opened")?,
                    board,
                };
                Ok(sender.run().await?)
            });
        }
        Ok(window)
    }

    /// Over how much time to spread first connects. What somebody read until its owner was lost is not
    /// kept waiting for the sake of an even start, which is for deployments.
    fn spread(&self, assignment: &StreamAssignment) -> Duration {
        let spread = self.config.stream.start_spread;
        let is_takeover = self.known.is_some() && assignment.heard_until.is_some();
        if is_takeover {
            spread.min(TAKEOVER_SPREAD)
        } else {
            spread
        }
    }

    /// A stream's task ends by itself only by a bug; it harms no other stream and is started again.
    fn forget_ended(&mut self) {
        let known = &mut self.known;
        self.owned.retain(|connection, owned| {
            let ended = !owned.stop.is_cancelled()
                && owned.task.as_ref().is_some_and(JoinHandle::is_finished);
            if ended {
                tracing::error!(%connection, "the stream's task has failed and is started again");
                // The next answer has to name it once more.
                *known = None;
            }
            !ended
        });
    }

    fn start(&mut self, assignment: StreamAssignment, window: &Window, together: usize) {
        // Streams outlive the request to stop, until others have taken over.
        let stop = self.ctx.letting_go().child_token();
        let task = match Dialect::of(&assignment.provider) {
            None => {
                let status = self.streams.add(&assignment, StreamState::Unsupported);
                status.unsupported();
                None
            }
            Some(dialect) => {
                let source = window.source();
                let status = self.streams.add(&assignment, StreamState::Connecting);
                status.watch(source.waits());
                let stream = Stream {
                    dialect,
                    overflow: settings(&assignment).overflow,
                    owner: self.ctx.instance().to_owned(),
                    first_wait: first_wait(self.spread(&assignment), together),
                    gap_from: assignment.heard_until,
                    config: self.config.stream.clone(),
                    backfill: self.config.backfill.clone(),
                    outbound: self.outbound.clone(),
                    source,
                    status,
                    sent: self.sent.clone(),
                    assignment: assignment.clone(),
                    lease: self.lease.clone(),
                    stop: stop.clone(),
                    let_go: self.ctx.letting_go().clone(),
                };
                let (released, release) = (
                    self.released.clone(),
                    Release {
                        connection: assignment.connection,
                        epoch: assignment.epoch,
                    },
                );
                let before = self.closing.remove(&assignment.connection);
                Some(self.tasks.spawn(async move {
                    if let Some(before) = before {
                        // Never two sockets of one stream from here; how the other ended is its own.
                        drop(before.await);
                    }
                    stream.run().await;
                    released.add(release);
                }))
            }
        };
        let owned = Owned {
            assignment,
            stop,
            task,
        };
        self.owned.insert(owned.assignment.connection, owned);
    }
}

/// The stream's own settings. The core refuses those that cannot be read.
fn settings(assignment: &StreamAssignment) -> StreamSettings {
    StreamSettings::split(&assignment.settings).map_or_else(
        |error| {
            tracing::warn!(
                connection = %assignment.connection,
                error,
                "the stream's settings cannot be read; the defaults are used"
            );
            StreamSettings::default()
        },
        |(own, _)| own,
    )
}

/// What to do so that what is owned becomes what is assigned. A connection never changes, so a stream
/// is another one only by its epoch: then it is stopped and started.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    stop: Vec<ConnectionId>,
    start: Vec<StreamAssignment>,
}

impl Changes {
    fn between<'a>(
        current: impl IntoIterator<Item = &'a StreamAssignment>,
        assigned: Vec<StreamAssignment>,
    ) -> Self {
        let mut assigned: BTreeMap<_, _> = assigned
            .into_iter()
            .map(|assignment| (assignment.connection, assignment))
            .collect();
        let mut stop = Vec::new();
        for current in current {
            match assigned.get(&current.connection) {
                Some(same) if same.epoch == current.epoch => {
                    assigned.remove(&current.connection);
                }
                _ => stop.push(current.connection),
            }
        }
        Self {
            stop,
            start: assigned.into_values().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn only_what_has_another_epoch_is_stopped_and_started() {
        let same = testing::assignment("ws://one", None);
        let gone = testing::assignment("ws://two", None);
        let new = testing::assignment("ws://three", None);
        let old = testing::assignment("ws://four", None);
        let renewed = StreamAssignment {
            epoch: 2,
            ..old.clone()
        };
        // What the core knows of the time before may have grown; the stream is the same.
        let known_better = StreamAssignment {
            heard_until: Some(runtime::clock::now()),
            ..same.clone()
        };
        let current = [same, gone.clone(), old.clone()];
        let assigned = vec![renewed.clone(), known_better, new.clone()];
        let mut changes = Changes::between(&current, assigned);
        changes.start.sort_by_key(|start| start.connection);
        let mut start = vec![renewed, new];
        start.sort_by_key(|start| start.connection);
        assert_eq!(changes.stop, [gone.connection, old.connection]);
        assert_eq!(changes.start, start);
    }

    #[test]
    fn the_same_answer_changes_nothing() {
        let current = [
            testing::assignment("ws://one", None),
            testing::assignment("ws://two", None),
        ];
        let changes = Changes::between(&current, current.to_vec());
        assert_eq!(changes, Changes::default());
    }
}
