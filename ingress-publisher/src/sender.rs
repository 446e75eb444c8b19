//! The sender of a partition: takes what waits and sees it to the broker, over the spool if need be.
//!
//! A lone frame leaves at once. While as many envelopes as allowed are unconfirmed, frames pile up
//! in the queue and then leave together; no timer is involved. Once a message is not confirmed, it
//! and all that come after it go to the spool, gathered for a moment, until the broker has taken
//! everything from there.
//! Nothing is forgotten that is neither confirmed nor on the disk.
//!
//! Meanwhile frames that may be replaced wait in memory for newer ones, for a few seconds and within a
//! share of the window. Then those that are left go to the spool as well, with the numbers of those
//! that they replaced: a kill costs no more than these seconds, and the window stays free for others.
//!
//! It ends when the window is closed and everything is confirmed or on the disk. A hard stop ends it
//! even if the disk takes nothing; then the log says how many messages were let go.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{FuturesOrdered, FuturesUnordered};
use runtime::amqp::{LinkState, Message, Outcome};
use runtime::backoff::{Backoff, Stopped};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::canary::Canary;
use crate::flow::{Event, Flow, Trouble};
use crate::metrics;
use crate::pack::{self, Load, Packer};
use crate::parcel::Parcel;
use crate::pause::Board;
use crate::spool::{AppendError, Spool, Stored};
use crate::window::{FRAME_OVERHEAD, Pending};

/// How many waiting frames are looked at together.
const BATCH: usize = 1024;
/// How many messages of the spool are read together, and about how many bytes.
const READ: usize = 64;
const READ_BYTES: usize = 1024 * 1024;
/// How long frames gather between two writes to the spool. Nobody waits for them there, and few large
/// envelopes are published much sooner than many small ones.
const GATHER: Duration = Duration::from_millis(100);
/// For how long a frame that may be replaced waits in memory while messages go to the spool. The longer,
/// the fewer are written, and the more a kill costs.
const CONFLATE_FOR: Duration = Duration::from_secs(5);
/// What part of the partition's share of the window those frames may hold together: an eighth.
const CONFLATE_SHARE: usize = 8;
/// How many times as many messages may be unconfirmed while the spool is drained: then the broker's
/// round trips, not what comes in, set the pace.
const CATCHING_UP: usize = 4;
/// How soon to try again to write what the spool did not take.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// How soon to try again to publish what the broker did not take.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(2);
/// For how long a stop lets the spool go on being published: what is left is on the disk.
const LAST_DRAIN: Duration = Duration::from_secs(5);

/// The broker, as a sender sees it.
#[derive(Debug, Clone)]
pub(crate) struct Broker<P> {
    /// Publishes a message once.
    pub(crate) publish: P,
    /// Whether there is a point in it.
    pub(crate) link: watch::Receiver<LinkState>,
    /// Tells to let go.
    pub(crate) let_go: CancellationToken,
    /// Which messages are published twice.
    pub(crate) canary: Canary,
}

/// Sends what comes through one partition's queue.
#[derive(Debug)]
pub(crate) struct Sender<P> {
    /// The partition.
    pub(crate) partition: u32,
    /// What waits for it.
    pub(crate) queue: mpsc::Receiver<Pending>,
    /// What makes messages of it.
    pub(crate) packer: Packer,
    /// The most messages that may be unconfirmed.
    pub(crate) in_flight: usize,
    /// Where messages go.
    pub(crate) broker: Broker<P>,
    /// Where they go meanwhile.
    pub(crate) spool: Spool,
    /// Where to say what keeps them.
    pub(crate) board: Board,
}

/// Why a sender stops doing what it does.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    /// It does something else now.
    Changed,
    /// Nothing comes any more, and everything is safe.
    Done,
}

/// What became of a batch of messages.
struct Drained {
    /// How many of the first ones are confirmed.
    confirmed: usize,
    /// Why the next one is not.
    trouble: Option<Trouble>,
}

impl<P, F> Broker<P>
where
    P: Fn(Message) -> F,
    F: Future<Output = Outcome>,
{
    /// Publishes once. What is unknown once the link is lost is not waited for.
    async fn attempt(&self, partition: u32, parcel: &Parcel) -> Option<Trouble> {
        let mut link = self.link.clone();
        let outcome = tokio::select! {
            biased;
            // An error means that the link is closed, which is as good as away.
            _ = link.wait_for(|state| *state != LinkState::Up) => Outcome::Unknown,
            () = self.let_go.cancelled() => Outcome::Unknown,
            outcome = (self.publish)(parcel.message(partition)) => outcome,
        };
        match outcome {
            Outcome::Confirmed => {
                metrics::envelope_confirmed();
                if self.canary.chooses(&parcel.message_id) {
                    self.publish_again(partition, parcel).await;
                }
                None
            }
            Outcome::Refused | Outcome::Unroutable => Some(Trouble::Refused),
            Outcome::Unknown if *self.link.borrow() == LinkState::Blocked => Some(Trouble::Blocked),
            Outcome::Unknown => Some(Trouble::Away),
        }
    }

    /// Publishes what the broker has already. Whatever becomes of it, the message is safe.
    async fn publish_again(&self, partition: u32, parcel: &Parcel) {
        let again = (self.publish)(parcel.message(partition));
        let outcome = self.let_go.run_until_cancelled(again).await;
        if outcome == Some(Outcome::Confirmed) {
            metrics::canary_republished();
        }
    }

    /// Returns once there is a point in publishing.
    async fn is_up(&self) {
        let mut link = self.link.clone();
        if link
            .wait_for(|state| *state == LinkState::Up)
            .await
            .is_err()
        {
            // The link is closed for good.
            std::future::pending::<()>().await;
        }
    }
}

impl<P, F> Sender<P>
where
    P: Fn(Message) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    /// Sends until the window is closed and everything is safe.
    pub(crate) async fn run(mut self) -> Result<(), Stopped> {
        let mut backlog = Vec::new();
        let mut state = Flow::Flowing;
        if !self.spool.is_empty().await {
            self.turn(&mut state, Event::Trouble(Trouble::Away));
        }
        loop {
            let turn = match state {
                Flow::Flowing => self.flow(&mut state, &mut backlog).await,
                _ => self.store(&mut state, &mut backlog).await?,
            };
            if turn == Turn::Done {
                return Ok(());
            }
        }
    }

    /// Publishes what comes, until a message is not confirmed. Then `backlog` holds it and all that
    /// were taken after it.
    async fn flow(&mut self, state: &mut Flow, backlog: &mut Vec<Load>) -> Turn {
        let (broker, partition) = (&self.broker, self.partition);
        let send = |(number, load): (u64, Load)| async move {
            let span = load.span.clone();
            let attempt = broker.attempt(partition, &load.parcel).instrument(span);
            (attempt.await, number, load)
        };
        let mut ready: VecDeque<_> = (0..).zip(backlog.drain(..)).collect();
        let mut next_number = ready.len() as u64;
        let mut in_flight = FuturesUnordered::new();
        let mut failed = BTreeMap::new();
        let mut trouble = None;
        let mut closed = false;
        let mut waiting = Vec::new();
        loop {
            while trouble.is_none()
                && in_flight.len() < self.in_flight
                && let Some(load) = ready.pop_front()
            {
                in_flight.push(send(load));
            }
            if in_flight.is_empty() {
                if let Some(trouble) = trouble {
                    drop(in_flight);
                    failed.extend(ready);
                    backlog.extend(failed.into_values());
                    self.turn(state, Event::Trouble(trouble));
                    return Turn::Changed;
                }
                if closed {
                    return Turn::Done;
                }
            }
            let listens = !closed && trouble.is_none() && ready.is_empty();
            tokio::select! {
                biased;
                // What is on its way is let go of, too, and then all of it is put on the disk.
                () = self.broker.let_go.cancelled(), if trouble.is_none() => {
                    trouble = Some(Trouble::Away);
                }
                Some((outcome, number, load)) = in_flight.next() => {
                    if let Some(outcome) = outcome {
                        trouble = Some(outcome);
                        failed.insert(number, load);
                    }
                }
                taken = self.queue.recv_many(&mut waiting, BATCH),
                    if listens && in_flight.len() < self.in_flight =>
                {
                    closed = taken == 0;
                    let loads = self.packer.pack(waiting.drain(..));
                    let count = loads.len() as u64;
                    ready.extend((next_number..).zip(loads));
                    next_number += count;
                }
            }
        }
    }

    /// Writes what comes to the spool and publishes what is there, until it is empty.
    async fn store(&mut self, state: &mut Flow, backlog: &mut Vec<Load>) -> Result<Turn, Stopped> {
        let mut backoff = Backoff::new(SOONEST, LATEST);
        let mut publish_at = Instant::now();
        let mut write_at = Instant::now();
        let mut take_at = Instant::now();
        // When the frames that wait to be replaced have waited for long enough, if there are any.
        let mut conflate_until = None;
        // At most one batch: of the spool, or of the backlog if the spool is empty and takes nothing.
        // A task of its own, so that publishing goes on while the disk is written.
        let mut draining = JoinSet::new();
        let mut of_spool: Vec<Stored> = Vec::new();
        let mut end = None;
        let mut waiting = Vec::new();
        loop {
            let of_backlog = !draining.is_empty() && of_spool.is_empty();
            if !backlog.is_empty() && !of_backlog && write_at <= Instant::now() {
                self.write(state, backlog).await;
                write_at = Instant::now() + WRITE_AGAIN;
            }
            if backlog.is_empty()
                && let Some(end) = end
                && (*state != Flow::Draining || end <= Instant::now())
            {
                return Ok(Turn::Done);
            }
            let broker = self.broker.clone();
            // Once it has passed, what is left is what the disk does not take: that is awaited.
            let ending = end.filter(|end| *end > Instant::now());
            let queue = &mut self.queue;
            let take = async {
                sleep_until(take_at).await;
                queue.recv_many(&mut waiting, BATCH).await
            };
            tokio::select! {
                biased;
                () = self.broker.let_go.cancelled() => return self.let_go(state, backlog).await,
                Some(drained) = draining.join_next() => {
                    let Drained { confirmed, trouble } = unwind(drained);
                    if of_backlog {
                        backlog.drain(..confirmed.min(backlog.len()));
                    }
                    of_spool.truncate(confirmed);
                    if let Some(last) = of_spool.pop() {
                        self.spool.release(last).await;
                        self.turn(state, Event::Confirmed);
                        // There is room again.
                        write_at = Instant::now();
                    }
                    of_spool.clear();
                    if confirmed > 0 {
                        backoff.reset();
                    }
                    publish_at = Instant::now();
                    if let Some(trouble) = trouble {
                        self.turn(state, Event::Trouble(trouble));
                        publish_at += backoff.next_wait();
                    }
                }
                // Before what comes, which may be without end.
                () = sleep_until(conflate_until.unwrap_or(publish_at)),
                    if conflate_until.is_some() && backlog.is_empty() =>
                {
                    backlog.extend(self.packer.pack_conflated());
                    conflate_until = None;
                    write_at = Instant::now();
                }
                taken = take, if backlog.is_empty() && end.is_none() => {
                    *backlog = self.conflate(&mut waiting, &mut conflate_until);
                    write_at = Instant::now();
                    if taken == 0 {
                        end = Some(write_at + LAST_DRAIN);
                    }
                    if taken < BATCH {
                        take_at = write_at + GATHER;
                    }
                }
                () = async { sleep_until(publish_at).await; broker.is_up().await },
                    if draining.is_empty() =>
                {
                    match self.spool.read(READ, READ_BYTES).await {
                        Some(stored) if stored.is_empty() && backlog.is_empty() => {
                            backlog.extend(self.packer.pack_conflated());
                            self.turn(state, Event::Drained);
                            return Ok(Turn::Changed);
                        }
                        Some(stored) => {
                            of_spool = stored;
                            let parcels = of_spool.iter().map(|stored| stored.parcel.clone());
                            let parcels = if of_spool.is_empty() {
                                let first = backlog.iter().take(READ);
                                first.map(|load| load.parcel.clone()).collect()
                            } else {
                                parcels.collect()
                            };
                            let in_flight = self.in_flight * CATCHING_UP;
                            draining.spawn(drain(broker, self.partition, in_flight, parcels));
                        }
                        None => publish_at = Instant::now() + backoff.next_wait(),
                    }
                }
                () = sleep_until(write_at), if !backlog.is_empty() && !of_backlog => {}
                () = sleep_until(ending.unwrap_or(publish_at)), if ending.is_some() => {}
            }
        }
    }

    /// Messages of what was taken, but for frames that wait to be replaced, `until` when. Those leave
    /// as well once they are too much, or nothing comes any more.
    fn conflate(&mut self, taken: &mut Vec<Pending>, until: &mut Option<Instant>) -> Vec<Load> {
        // The queue has room for as many of the smallest frames as the partition's share pays for.
        let share = self.queue.max_capacity() * FRAME_OVERHEAD as usize;
        let is_last = taken.is_empty();
        let mut loads = self.packer.pack_or_conflate(taken.drain(..));
        let conflated = self.packer.conflated_bytes();
        if is_last || conflated > share / CONFLATE_SHARE {
            loads.extend(self.packer.pack_conflated());
            *until = None;
        } else if conflated > 0 {
            until.get_or_insert_with(|| Instant::now() + CONFLATE_FOR);
        }
        loads
    }

    /// Writes the backlog to the spool, or says why it cannot be written.
    async fn write(&self, state: &mut Flow, backlog: &mut Vec<Load>) {
        let parcels = backlog.iter().map(|load| load.parcel.clone()).collect();
        match self.spool.append(parcels).await {
            Ok(()) => {
                backlog.clear();
                self.turn(state, Event::Room);
            }
            Err(AppendError::Full) => self.turn(state, Event::SpoolFull),
            Err(AppendError::Failed(error)) => {
                tracing::error!(
                    partition = self.partition,
                    error = %runtime::telemetry::chain(&error),
                    "the spool cannot be written"
                );
                self.turn(state, Event::SpoolFails);
            }
        }
    }

    /// A hard stop: what the disk takes is safe.
    async fn let_go(&mut self, state: &mut Flow, backlog: &mut Vec<Load>) -> Result<Turn, Stopped> {
        self.queue.close();
        let mut waiting = Vec::new();
        while self.queue.recv_many(&mut waiting, BATCH).await > 0 {
            backlog.extend(self.packer.pack_or_conflate(waiting.drain(..)));
        }
        backlog.extend(self.packer.pack_conflated());
        if !backlog.is_empty() {
            self.write(state, backlog).await;
        }
        if backlog.is_empty() {
            return Ok(Turn::Done);
        }
        tracing::error!(
            partition = self.partition,
            messages = backlog.len(),
            "messages that neither the broker nor the disk takes are let go"
        );
        Err(Stopped)
    }

    fn turn(&self, state: &mut Flow, event: Event) {
        let before = *state;
        *state = before.after(event);
        if *state != before {
            tracing::info!(partition = self.partition, ?before, now = ?*state, "the sender turns");
            self.board.state(self.partition, state.cause());
        }
    }
}

/// What a task returned; its panic is ours.
fn unwind(drained: Result<Drained, JoinError>) -> Drained {
    drained.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Nobody cancels it but the end of the runtime.
        Err(_) => Drained {
            confirmed: 0,
            trouble: Some(Trouble::Away),
        },
    })
}

/// Publishes messages, up to the first one that is not confirmed.
async fn drain<P, F>(
    broker: Broker<P>,
    partition: u32,
    in_flight: usize,
    parcels: Vec<Parcel>,
) -> Drained
where
    P: Fn(Message) -> F,
    F: Future<Output = Outcome>,
{
    let mut attempts = FuturesOrdered::new();
    let mut next = parcels.iter();
    let mut confirmed = 0;
    let trouble = loop {
        while attempts.len() < in_flight
            && let Some(parcel) = next.next()
        {
            let span = pack::span(partition, 1);
            attempts.push_back(broker.attempt(partition, parcel).instrument(span));
        }
        match attempts.next().await {
            Some(None) => confirmed += 1,
            Some(Some(trouble)) => break Some(trouble),
            None => break None,
        }
    };
    Drained { confirmed, trouble }
}

#[cfg(test)]
mod tests;
