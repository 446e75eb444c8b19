//! Which streams this publisher reads: asks the core, starts and stops streams accordingly.
//!
//! The core's first answer also says how many ingress partitions there are; then the broker is
//! connected. While the core is away, what is owned is read on: nobody else can be granted it.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use runtime::Context;
use runtime::amqp::{Link, Publisher};
use runtime::backoff::Backoff;
use runtime::http::Check;
use shared_model::ConnectionId;
use shared_model::control::{Assignment, Heartbeat, StreamAssignment};
use shared_model::topology;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::PublisherConfig;
use crate::control::Core;
use crate::dialect::Dialect;
use crate::outbound::Outbound;
use crate::sender::Sender;
use crate::start::first_wait;
use crate::status::{StreamState, Streams};
use crate::stream::Stream;
use crate::window::{Limits, Window};

const SOONEST_RETRY: Duration = Duration::from_millis(500);

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
    ingress: Option<Ingress>,
    owned: BTreeMap<ConnectionId, Owned>,
    tasks: TaskTracker,
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
    ) -> Self {
        Self {
            check: ctx.readiness().add("core"),
            ctx,
            config,
            core,
            outbound,
            core_is_up: None,
            streams,
            ingress: None,
            owned: BTreeMap::new(),
            tasks: TaskTracker::new(),
        }
    }

    /// Follows the core until the service stops. Fails if the core contradicts itself about the
    /// number of partitions: then devices would change their partition.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let stop = self.ctx.stopping().clone();
        let heartbeat = self.config.core.heartbeat;
        let mut backoff = Backoff::new(SOONEST_RETRY.min(heartbeat), heartbeat);
        loop {
            let heard = Heartbeat {
                streams: self.streams.subscribed(),
            };
            let Some(answer) = stop.run_until_cancelled(self.core.beat(&heard)).await else {
                break;
            };
            let wait = match answer {
                Ok(assignment) => {
                    self.core_answers();
                    self.follow(assignment)?;
                    backoff.reset();
                    heartbeat
                }
                Err(error) => {
                    self.core_is_away(&error.into());
                    backoff.next_wait()
                }
            };
            let waiting = tokio::time::sleep(wait);
            if stop.run_until_cancelled(waiting).await.is_none() {
                break;
            }
        }
        // The senders end once the last handle on the window is gone.
        drop(self.ingress);
        self.tasks.close();
        self.tasks.wait().await;
        Ok(())
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
        let current = self.owned.values().map(|owned| &owned.assignment);
        let changes = Changes::between(current, assignment.streams);
        for connection in changes.stop {
            if let Some(owned) = self.owned.remove(&connection) {
                owned.stop.cancel();
                self.streams.remove(connection);
            }
        }
        let together = changes.start.len();
        for assignment in changes.start {
            self.start(assignment, &window, together);
        }
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
        let link = Link::open(&self.ctx, &self.config.amqp, topology);
        let config = &self.config.window;
        let limits = Limits {
            frames: config.max_envelope_frames as usize,
            bytes: config.max_envelope_bytes as usize,
        };
        let in_flight = usize::try_from(config.in_flight).context("window.in_flight")?;
        let (window, queues) = Window::open(answer.partitions, config);
        for (partition, queue) in (0..).zip(queues) {
            // Each has a channel of its own: the broker slows channels down, not queues.
            let publisher = Publisher::new(link.clone());
            // What was read is published even while the service stops.
            let let_go = self.ctx.letting_go().clone();
            let publish = move |message| {
                let (publisher, let_go) = (publisher.clone(), let_go.clone());
                async move { publisher.publish_until_confirmed(&message, &let_go).await }
            };
            let sender = Sender::new(partition, queue, limits, in_flight, publish);
            self.ctx.spawn("sender", async { Ok(sender.run().await?) });
        }
        Ok(window)
    }

    /// A stream's task ends by itself only by a bug; it harms no other stream and is started again.
    fn forget_ended(&mut self) {
        self.owned.retain(|connection, owned| {
            let ended = !owned.stop.is_cancelled()
                && owned.task.as_ref().is_some_and(JoinHandle::is_finished);
            if ended {
                tracing::error!(%connection, "the stream's task has failed and is started again");
            }
            !ended
        });
    }

    fn start(&mut self, assignment: StreamAssignment, window: &Window, together: usize) {
        let stop = self.ctx.stopping().child_token();
        let task = match Dialect::of(&assignment.provider) {
            None => {
                let status = self.streams.add(&assignment, StreamState::Unsupported);
                status.unsupported();
                None
            }
            Some(dialect) => {
                let stream = Stream {
                    dialect,
                    owner: self.ctx.instance().to_owned(),
                    first_wait: first_wait(self.config.stream.start_spread, together),
                    gap_from: None,
                    config: self.config.stream.clone(),
                    backfill: self.config.backfill.clone(),
                    outbound: self.outbound.clone(),
                    window: window.clone(),
                    status: self.streams.add(&assignment, StreamState::Connecting),
                    assignment: assignment.clone(),
                    stop: stop.clone(),
                    let_go: self.ctx.letting_go().clone(),
                };
                Some(self.tasks.spawn(stream.run()))
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

/// What to do so that what is owned becomes what is assigned. A stream of which anything changed is
/// stopped and started.
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
            if assigned.get(&current.connection) == Some(current) {
                assigned.remove(&current.connection);
            } else {
                stop.push(current.connection);
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
    fn only_what_changed_is_stopped_and_started() {
        let same = testing::assignment("ws://one", None);
        let gone = testing::assignment("ws://two", None);
        let new = testing::assignment("ws://three", None);
        let old = testing::assignment("ws://four", None);
        let mut variants = vec![old.clone(); 4];
        variants[0].endpoint = "ws://five".to_owned();
        variants[1].credential = Some("env:KEY".to_owned());
        variants[2].settings = serde_json::json!({"vehicles": {"bus-2": ["soc"]}});
        variants[3].epoch += 1;
        for changed in variants {
            let current = [same.clone(), gone.clone(), old.clone()];
            let assigned = vec![changed.clone(), same.clone(), new.clone()];
            let mut changes = Changes::between(&current, assigned);
            changes.start.sort_by_key(|start| start.connection);
            let mut start = vec![changed, new.clone()];
            start.sort_by_key(|start| start.connection);
            assert_eq!(changes.stop, [gone.connection, old.connection]);
            assert_eq!(changes.start, start);
        }
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
