//! Relaying a shard while the broker takes what it is given: the next batch is read, and the one before
//! written down, while messages are under way.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use runtime::amqp::{Answer, Lane};
use tokio::time::{Instant, MissedTickBehavior};

use super::message::{self, Packed};
use super::window::{Bounds, Window};
use super::worker::Worker;
use super::{RelayError, retry};
use crate::store::StoreError;
use crate::store::blocked_event::{NewBlocked, subject_key};
use crate::store::event_log::LoggedEvent;

/// How long to wait for the answers to what is under way, once nothing more is sent.
const FINISH: Duration = Duration::from_secs(3);
/// How often to look for blocked events that are due, at least.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The shard is to be given up.
    GivenUp,
    /// The link to the broker, or its answer, was lost.
    Lost,
    /// The broker refused something.
    Refused,
    /// Something that was declared is gone.
    Unroutable,
}

/// What is next in the log.
enum Ready {
    Message(Packed),
    /// Nothing is to be sent up to this offset.
    Passed(u64),
}

type Batch = Vec<(u64, LoggedEvent)>;
type Task<T> = Option<BoxFuture<'static, T>>;

/// A shard's stream on one lane.
pub(super) struct Stream<'a> {
    worker: &'a mut Worker,
    lane: &'a Lane,
    window: Window,
    answers: FuturesUnordered<BoxFuture<'static, (u64, usize, Answer)>>,
    ready: VecDeque<Ready>,
    read_to: u64,
    /// Events of blocked subjects that were read and are not written down yet.
    aside: BTreeMap<u64, LoggedEvent>,
    reading: Task<Result<Batch, StoreError>>,
    saving: Task<Result<u64, StoreError>>,
    retrying: Task<Result<bool, RelayError>>,
    saved: u64,
    /// How many messages the broker had taken when blocked events were last tried.
    taken_before: u64,
    may_have_more: bool,
    retry_is_due: bool,
    blocked_may_differ: bool,
    end: Option<(End, Instant)>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(worker: &'a mut Worker, lane: &'a Lane) -> Self {
        let settings = &worker.shared.settings;
        let bounds = Bounds {
            messages: settings.window_messages,
            bytes: settings.window_bytes,
        };
        let saved = worker.settled;
        Self {
            window: Window::behind(saved, bounds),
            answers: FuturesUnordered::new(),
            ready: VecDeque::new(),
            read_to: saved,
            aside: BTreeMap::new(),
            reading: None,
            saving: None,
            retrying: None,
            saved,
            taken_before: worker.shared.taken(),
            may_have_more: true,
            retry_is_due: true,
            blocked_may_differ: false,
            end: None,
            worker,
            lane,
        }
    }

    /// Relays until the stream has to end, and everything that was under way is answered and written
    /// down; returns why, and the checkpoint.
    pub(super) async fn run(mut self) -> Result<(End, u64), RelayError> {
        let give_up = self.worker.hold.give_up.clone();
        let settings = &self.worker.shared.settings;
        let every = settings
            .poll_every
            .min(RETRY_EVERY)
            .min(settings.backoff_min);
        let mut polls = tokio::time::interval(settings.poll_every);
        let mut retries = tokio::time::interval(every);
        polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
        retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.send().await?;
            self.begin_tasks().await?;
            if let Some((end, _)) = self.end
                && self.answers.is_empty()
                && self.saving.is_none()
            {
                return Ok((end, self.saved));
            }
            let is_open = self.end.is_none();
            let finish = self.end.map_or_else(Instant::now, |(_, finish)| finish);
            tokio::select! {
                Some((last, events, answer)) = self.answers.next() => {
                    self.answered(last, events, answer);
                }
                read = done(&mut self.reading) => self.take_in(read?)?,
                saved = done(&mut self.saving) => self.written(saved?),
                tried = done(&mut self.retrying) => {
                    self.retry_is_due |= tried?;
                    self.taken_before = self.worker.shared.taken();
                    self.blocked_may_differ = true;
                }
                () = self.worker.waker().notified(), if is_open => self.may_have_more = true,
                _ = polls.tick(), if is_open => self.may_have_more = true,
                _ = retries.tick(), if is_open => self.retry_is_due = true,
                () = give_up.cancelled(), if is_open => self.finish(End::GivenUp),
                () = tokio::time::sleep_until(finish), if !is_open => {
                    let end = self.end.map_or(End::Lost, |(end, _)| end);
                    return Ok((end, self.saved));
                }
            }
        }
    }

    /// Sends what is ready, for as long as there is room for it.
    async fn send(&mut self) -> Result<(), RelayError> {
        while self.end.is_none()
            && let Some(ready) = self.ready.front()
        {
            let packed = match ready {
                Ready::Passed(last) => {
                    self.window.passed(*last);
                    self.ready.pop_front();
                    continue;
                }
                Ready::Message(packed) => packed,
            };
            let (bytes, last, events) = (packed.message.body.len(), packed.last, packed.events);
            if !self.window.has_room(bytes) {
                break;
            }
            if !self.worker.hold.is_valid() {
                return Err(StoreError::LeaseLost.into());
            }
            // A connection that takes nothing holds nobody up who is to let go.
            let sending = self.lane.send(&packed.message);
            let give_up = &self.worker.hold.give_up;
            let Some(pending) = give_up.run_until_cancelled(sending).await else {
                self.finish(End::GivenUp);
                break;
            };
            self.window.sent(last, bytes);
            self.answers
                .push(Box::pin(async move { (last, events, pending.await) }));
            self.ready.pop_front();
        }
        Ok(())
    }

    /// Begins to read, to write down, and to try blocked events again, each where it is time.
    async fn begin_tasks(&mut self) -> Result<(), RelayError> {
        let Worker {
            shared,
            shard,
            epoch,
            ..
        } = &*self.worker;
        let (shard, epoch) = (*shard, *epoch);
        let settled = self.window.settled();
        if self.saving.is_none() && settled > self.saved {
            let aside = self.aside.range(..=settled);
            let blocked = aside.map(|(offset, event)| NewBlocked {
                offset: *offset,
                event: event.clone(),
                reason: None,
            });
            let saving = Arc::clone(shared).save(shard, epoch, settled, blocked.collect());
            self.saving = Some(Box::pin(saving));
        }
        if self.end.is_some() {
            return Ok(());
        }
        if self.reading.is_none() && self.may_have_more && self.ready.is_empty() {
            let limit = self.worker.pace.limit();
            let reading = Arc::clone(shared).read(shard, self.read_to, limit);
            self.reading = Some(Box::pin(reading));
        }
        if self.retrying.is_none() && self.retry_is_due && !self.blocked_may_differ {
            self.retry_is_due = false;
            let retrying = retry::run(
                Arc::clone(shared),
                shard,
                self.worker.sender(),
                self.worker.hold.clone(),
                self.taken_before,
            );
            self.retrying = Some(Box::pin(retrying));
        }
        // What is being written down may be of a subject that the table does not show yet.
        if self.blocked_may_differ && self.saving.is_none() {
            self.blocked_may_differ = false;
            let stored = self.worker.read_blocked().await?;
            let aside: HashSet<_> = self.aside.values().map(subject_key).collect();
            self.worker.blocked = &stored | &aside;
        }
        Ok(())
    }

    fn take_in(&mut self, batch: Batch) -> Result<(), RelayError> {
        self.worker.pace.found(batch.len());
        let Some((last, _)) = batch.last() else {
            self.may_have_more = false;
            return Ok(());
        };
        self.read_to = *last;
        let is_blocked = |event: &LoggedEvent| self.worker.blocked.contains(&subject_key(event));
        let (aside, events): (Batch, Batch) =
            batch.into_iter().partition(|(_, event)| is_blocked(event));
        self.aside.extend(aside);
        let most = self.worker.shared.settings.message_events;
        let packed = message::pack(&events, most, self.worker.sender())?;
        let sent_to = packed.last().map(|packed| packed.last);
        self.ready.extend(packed.into_iter().map(Ready::Message));
        if sent_to != Some(self.read_to) {
            self.ready.push_back(Ready::Passed(self.read_to));
        }
        Ok(())
    }

    fn answered(&mut self, last: u64, events: usize, answer: Answer) {
        let end = match self.worker.shared.heard(answer, events) {
            Answer::Confirmed => return self.window.confirmed(last),
            Answer::Lost => End::Lost,
            Answer::Refused(_) | Answer::Unacceptable(_) => End::Refused,
            Answer::Unroutable => End::Unroutable,
        };
        if end != End::Lost {
            self.worker.search_to = self.window.last_sent();
        }
        // Where the broker closed the channel, those without an answer say less than the one that has.
        match self.end {
            Some((End::Lost, finish)) => self.end = Some((end, finish)),
            Some(_) => {}
            None => self.finish(end),
        }
    }

    fn written(&mut self, saved: u64) {
        self.saved = saved;
        self.worker.settled = saved;
        self.aside.retain(|offset, _| *offset > saved);
    }

    /// Sends nothing more, and waits for what is under way.
    fn finish(&mut self, end: End) {
        self.end = Some((end, Instant::now() + FINISH));
        self.ready.clear();
    }
}

/// What a task has come to; never, if there is none.
async fn done<T>(task: &mut Task<T>) -> T {
    let Some(pending) = task else {
        return std::future::pending().await;
    };
    let value = pending.await;
    *task = None;
    value
}
