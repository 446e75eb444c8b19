//! The task of a shard that a relay has.
//!
//! It lives for as long as the relay has the shard. Usually it streams; when the broker refuses
//! something, it searches for the events that are to blame.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use runtime::amqp::{Answer, Lane};
use runtime::backoff::Backoff;
use runtime::db;
use tokio::sync::Notify;

use super::hold::Hold;
use super::message::{self, Sender};
use super::pace::Pace;
use super::search::{Next, Search, Verdict};
use super::stream::{End, Stream};
use super::{RelayError, Shared};
use crate::metrics;
use crate::store::StoreError;
use crate::store::blocked_event::{self, NewBlocked, subject_key};
use crate::store::event_log::{self, LoggedEvent};
use crate::store::relay::{self, Grant};

/// How many bytes of events are read at once, unless a single event is larger.
const BATCH_MOST_BYTES: i64 = 4 * 1024 * 1024;
/// How many events a search reads at most.
const SEARCHED: u32 = 200;
/// How long the database may take to hear that a shard is given up.
const RELEASE: Duration = Duration::from_secs(2);

/// The task of a shard.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    wakers: Arc<Vec<Notify>>,
    pub(super) shard: u32,
    pub(super) epoch: u64,
    /// The checkpoint.
    pub(super) settled: u64,
    pub(super) hold: Hold,
    pub(super) pace: Pace,
    /// The keys of the subjects that have blocked events.
    pub(super) blocked: HashSet<String>,
    /// Up to here, messages are sent one at a time.
    pub(super) search_to: u64,
}

/// What to do next.
enum Turn {
    GoOn,
    /// The broker or the link to it needs time.
    Wait,
    GivenUp,
}

impl Worker {
    pub(super) fn new(
        shared: Arc<Shared>,
        wakers: Arc<Vec<Notify>>,
        grant: Grant,
        hold: Hold,
    ) -> Self {
        Self {
            pace: Pace::up_to(shared.settings.batch_events),
            shared,
            wakers,
            shard: grant.shard,
            epoch: grant.epoch,
            settled: grant.relayed,
            hold,
            blocked: HashSet::new(),
            search_to: 0,
        }
    }

    /// Relays the shard until it is to be given up, or hold of it is lost: then nothing more is
    /// published, and what is under way is let go.
    pub(super) async fn run(mut self) -> Result<(), RelayError> {
        let hold = self.hold.clone();
        tokio::select! {
            biased;
            () = hold.ended() => Err(StoreError::LeaseLost.into()),
            worked = self.work() => worked,
        }
    }

    async fn work(&mut self) -> Result<(), RelayError> {
        let give_up = self.hold.give_up.clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
        let mut is_prepared = false;
        while !give_up.is_cancelled() {
            let turn = async {
                if !is_prepared {
                    self.prepare().await?;
                    is_prepared = true;
                }
                self.turn().await
            };
            match turn.await {
                Ok(Turn::GoOn) => {
                    backoff.reset();
                    continue;
                }
                Ok(Turn::Wait) => {}
                Ok(Turn::GivenUp) | Err(RelayError::Stopped(_)) => break,
                Err(RelayError::Store(error)) if error.is_passing() => {
                    // What was to be written down may have been, and only the answer was lost.
                    is_prepared = false;
                    tracing::warn!(
                        shard = self.shard,
                        error = %runtime::telemetry::chain(&error),
                        "relaying waits for the database"
                    );
                }
                Err(error) => return Err(error),
            }
            if backoff.wait(&give_up).await.is_err() {
                break;
            }
        }
        self.release().await;
        Ok(())
    }

    /// Takes what is stored for the truth.
    async fn prepare(&mut self) -> Result<(), StoreError> {
        self.blocked = self.read_blocked().await?;
        let mut pg = self.shared.pool.acquire().await?;
        let stored = relay::checkpoint(&mut pg, self.shard).await?;
        // Another relay that has moved it further has the shard now, and the next write says so.
        self.settled = self.settled.max(stored);
        Ok(())
    }

    async fn turn(&mut self) -> Result<Turn, RelayError> {
        // Asked to let go while the broker is away, nothing is at stake: the log has it all.
        let lane = Lane::open(&self.shared.link, &self.hold.give_up).await?;
        if self.search_to > self.settled {
            return self.search(lane).await;
        }
        let before = self.settled;
        let (end, settled) = Stream::new(self, &lane).run().await?;
        self.settled = settled;
        let progressed = settled > before;
        Ok(match end {
            End::GivenUp => Turn::GivenUp,
            End::Lost if !progressed => Turn::Wait,
            End::Lost | End::Refused => Turn::GoOn,
            End::Unroutable => {
                tracing::error!(
                    shard = self.shard,
                    "no queue takes an event: a queue or binding was removed"
                );
                lane.redeclare();
                Turn::GoOn
            }
        })
    }

    /// Sends what lies behind the checkpoint one message at a time, to find what the broker refuses.
    async fn search(&mut self, lane: Lane) -> Result<Turn, RelayError> {
        let limit = SEARCHED.min(self.shared.settings.batch_events);
        let events = Arc::clone(&self.shared)
            .read(self.shard, self.settled, limit)
            .await?;
        let Some((last, _)) = events.last() else {
            self.search_to = self.settled;
            return Ok(Turn::GoOn);
        };
        let (last, most) = (*last, self.shared.settings.message_events);
        let mut rest = events.as_slice();
        let mut groups = Vec::new();
        for packed in message::pack(&events, most, self.sender())? {
            let (group, behind) = rest.split_at(packed.events);
            groups.push(group.to_vec());
            rest = behind;
        }
        let mut search = Search::of(groups, last, self.blocked.clone());
        let mut lane = Some(lane);
        // How many messages the broker had taken when it first refused one.
        let mut taken_before = None;
        while let Some(group) = search.next() {
            let Some(packed) = message::pack(group, most, self.sender())?
                .into_iter()
                .next()
            else {
                break;
            };
            let open = match lane.take() {
                Some(lane) => lane,
                None => Lane::open(&self.shared.link, &self.hold.give_up).await?,
            };
            if !self.hold.is_valid() {
                return Err(StoreError::LeaseLost.into());
            }
            let asking = async { open.send(&packed.message).await.await };
            let Some(answer) = self.hold.give_up.run_until_cancelled(asking).await else {
                return Ok(Turn::GivenUp);
            };
            let verdict = match self.shared.heard(answer, packed.events) {
                Answer::Confirmed => Verdict::Confirmed,
                Answer::Refused(reason) => Verdict::Refused(reason),
                Answer::Unacceptable(reason) => Verdict::Unacceptable(reason),
                Answer::Unroutable => {
                    open.redeclare();
                    Verdict::Refused("no queue takes it".to_owned())
                }
                Answer::Lost => return Ok(Turn::Wait),
            };
            if verdict == Verdict::Confirmed {
                lane = Some(open);
            }
            let next = search.answered(verdict);
            if search.has_suspects() {
                taken_before.get_or_insert(self.shared.taken());
            } else {
                taken_before = None;
            }
            if next == Next::Full {
                break;
            }
        }
        let others_are_taken = taken_before.is_some_and(|before| self.shared.taken() > before);
        let found = search.end(others_are_taken);
        for blocked in found
            .blocked
            .iter()
            .filter(|blocked| blocked.reason.is_some())
        {
            tracing::error!(
                shard = self.shard,
                offset = blocked.offset,
                subject = blocked.event.subject,
                reason = blocked.reason,
                "the broker refuses an event; its vehicle's later ones wait for it"
            );
        }
        if found.to > self.settled {
            let keys = found
                .blocked
                .iter()
                .map(|blocked| subject_key(&blocked.event));
            self.blocked.extend(keys);
            let saving =
                Arc::clone(&self.shared).save(self.shard, self.epoch, found.to, found.blocked);
            self.settled = saving.await?;
        }
        if found.is_full {
            tracing::warn!(
                shard = self.shard,
                "the broker takes nothing: relaying waits until it does"
            );
        }
        Ok(if found.is_full {
            Turn::Wait
        } else {
            Turn::GoOn
        })
    }

    pub(super) fn sender(&self) -> Sender {
        Sender {
            relay: self.shared.relay,
            epoch: self.epoch,
        }
    }

    pub(super) fn waker(&self) -> &Notify {
        // There is one for each shard.
        &self.wakers[self.shard as usize % self.wakers.len()]
    }

    pub(super) async fn read_blocked(&self) -> Result<HashSet<String>, StoreError> {
        let mut pg = self.shared.pool.acquire().await?;
        Ok(blocked_event::keys(&mut pg, self.shard).await?)
    }

    /// Lets others take the shard at once.
    async fn release(&self) {
        let releasing = async {
            let mut pg = self.shared.pool.acquire().await?;
            relay::release(&mut pg, self.shard, self.epoch).await
        };
        match tokio::time::timeout(RELEASE, releasing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                shard = self.shard,
                error = %runtime::telemetry::chain(&error),
                "a lease was not ended"
            ),
            Err(_) => tracing::warn!(shard = self.shard, "a lease was not ended in time"),
        }
    }
}

impl Shared {
    /// Counts what the broker said of a message of so many events.
    pub(super) fn heard(&self, answer: Answer, events: usize) -> Answer {
        match &answer {
            Answer::Confirmed => {
                self.confirmed.fetch_add(1, Ordering::Relaxed);
                metrics::relayed(events as u64);
            }
            Answer::Unroutable => metrics::relay_refused("unroutable"),
            Answer::Refused(_) => metrics::relay_refused("refused"),
            Answer::Unacceptable(_) => metrics::relay_refused("unacceptable"),
            Answer::Lost => {}
        }
        answer
    }

    /// How many messages the broker has taken from this relay, of all shards.
    pub(super) fn taken(&self) -> u64 {
        self.confirmed.load(Ordering::Relaxed)
    }

    /// The events of `shard` behind `after`.
    pub(super) async fn read(
        self: Arc<Self>,
        shard: u32,
        after: u64,
        limit: u32,
    ) -> Result<Vec<(u64, LoggedEvent)>, StoreError> {
        let mut pg = self.pool.acquire().await?;
        event_log::read(&mut pg, shard, after, i64::from(limit), BATCH_MOST_BYTES).await
    }

    /// Moves the checkpoint to `to` and blocks `blocked` in the same transaction; returns the
    /// checkpoint.
    pub(super) async fn save(
        self: Arc<Self>,
        shard: u32,
        epoch: u64,
        to: u64,
        blocked: Vec<NewBlocked>,
    ) -> Result<u64, StoreError> {
        if blocked.is_empty() {
            let mut pg = self.pool.acquire().await?;
            relay::advance(&mut pg, shard, epoch, to).await?;
            return Ok(to);
        }
        let (blocked, pause, lease) = (&blocked, self.settings.pause(1), self.settings.lease);
        db::in_tx(&self.pool, "block_events", |mut tx| async move {
            relay::limit_idle(&mut tx, lease).await?;
            relay::advance(&mut tx, shard, epoch, to).await?;
            blocked_event::block(&mut tx, shard, blocked, pause).await?;
            Ok::<_, StoreError>((tx, to))
        })
        .await
    }
}
