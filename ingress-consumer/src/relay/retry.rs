//! Trying blocked events again.
//!
//! The first of each subject is tried when it is due; once the broker has it, those that waited for it
//! follow. A refusal counts as an attempt only where the broker says that it never takes the message, or
//! has taken something else since: so a broker that is away or full uses no attempts up. After the last
//! attempt the event is given up on, and what waited for it goes on.

use std::sync::Arc;

use runtime::amqp::{Answer, Lane};
use runtime::backoff::Stopped;
use runtime::db;

use super::hold::Hold;
use super::message::{self, Sender};
use super::{RelayError, Shared};
use crate::metrics;
use crate::store::StoreError;
use crate::store::blocked_event::{self, Blocked};
use crate::store::relay;

/// How many subjects are tried in one go.
const SUBJECTS: i64 = 50;
/// How many events of one subject are sent in one go.
const EVENTS: usize = 200;

/// What becomes of a blocked event.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// The broker has it.
    Delivered,
    /// It is given up on.
    Dead,
    /// It waits, refused so many times by now.
    Waits { attempts: u32, reason: String },
}

/// Tries what is due of `shard`; returns whether there may be more that is due. `taken_before` is how many messages the broker had taken when this was
/// last done.
pub(super) async fn run(
    common: Arc<Shared>,
    shard: u32,
    sender: Sender,
    hold: Hold,
    taken_before: u64,
) -> Result<bool, RelayError> {
    let due = {
        let mut pg = common.pool.acquire().await?;
        blocked_event::due(&mut pg, shard, SUBJECTS).await?
    };
    let retry = Retry {
        shared: &common,
        shard,
        sender,
        hold: &hold,
        taken_before,
    };
    let mut lane = None;
    let mut has_more = false;
    for key in due {
        match retry.subject(&key, &mut lane).await {
            Ok(Some(sent)) => has_more |= sent == EVENTS,
            Ok(None) | Err(RelayError::Stopped(Stopped)) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(has_more)
}

struct Retry<'a> {
    shared: &'a Shared,
    shard: u32,
    sender: Sender,
    hold: &'a Hold,
    taken_before: u64,
}

impl Retry<'_> {
    /// Sends a subject's events for as long as they are due and taken, and returns how many were dealt
    /// with; none if the broker was lost.
    async fn subject(
        &self,
        key: &str,
        lane: &mut Option<Lane>,
    ) -> Result<Option<usize>, RelayError> {
        for dealt_with in 0..EVENTS {
            let first = {
                let mut pg = self.shared.pool.acquire().await?;
                blocked_event::first(&mut pg, self.shard, key).await?
            };
            let Some(event) = first else {
                return Ok(Some(dealt_with));
            };
            let fate = if event.attempts >= self.shared.settings.attempts {
                Fate::Dead
            } else {
                let open = match lane.take() {
                    Some(lane) => lane,
                    None => Lane::open(&self.shared.link, &self.hold.give_up).await?,
                };
                let Some(answer) = self.ask(&open, &event).await? else {
                    return Ok(None);
                };
                match fate(
                    answer,
                    event.attempts,
                    self.shared.taken() > self.taken_before,
                ) {
                    Some(Fate::Delivered) => {
                        *lane = Some(open);
                        Fate::Delivered
                    }
                    Some(fate) => fate,
                    None => return Ok(None),
                }
            };
            let waits = matches!(fate, Fate::Waits { .. });
            self.settle(&event, fate).await?;
            if waits && event.attempts + 1 < self.shared.settings.attempts {
                return Ok(Some(dealt_with));
            }
        }
        Ok(Some(EVENTS))
    }

    /// What the broker says of the event; none if it has nothing that can take it.
    async fn ask(&self, lane: &Lane, event: &Blocked) -> Result<Option<Answer>, RelayError> {
        let events = [(event.offset, event.event.clone())];
        let Some(packed) = message::pack(&events, 1, self.sender)?.pop() else {
            return Ok(None);
        };
        if !self.hold.is_valid() {
            return Err(StoreError::LeaseLost.into());
        }
        let answer = lane.send(&packed.message).await.await;
        let answer = self.shared.heard(answer, 1);
        if answer == Answer::Unroutable {
            lane.redeclare();
            return Ok(None);
        }
        Ok(Some(answer))
    }

    async fn settle(&self, event: &Blocked, fate: Fate) -> Result<(), StoreError> {
        let (shard, epoch, offset) = (self.shard, self.sender.epoch, event.offset);
        let (fate, settings) = (&fate, &self.shared.settings);
        db::in_tx(&self.shared.pool, "settle_blocked", |mut tx| async move {
            relay::limit_idle(&mut tx, settings.lease).await?;
            relay::hold(&mut tx, shard, epoch).await?;
            match fate {
                Fate::Delivered => blocked_event::unblock(&mut tx, shard, offset).await?,
                Fate::Dead => blocked_event::bury(&mut tx, shard, offset).await?,
                Fate::Waits { attempts, reason } => {
                    let pause = if *attempts >= settings.attempts {
                        // It has had its last attempt: nothing is to be waited for.
                        std::time::Duration::ZERO
                    } else {
                        settings.pause((*attempts).max(1))
                    };
                    blocked_event::put_off(&mut tx, shard, offset, *attempts, reason, pause)
                        .await?;
                }
            }
            Ok::<_, StoreError>((tx, ()))
        })
        .await?;
        match fate {
            Fate::Delivered => {
                tracing::info!(shard, offset, "the broker has taken a blocked event");
            }
            Fate::Dead => {
                tracing::error!(
                    shard,
                    offset,
                    subject = event.event.subject,
                    "gave up on an event that the broker refuses; see headrace dead-events"
                );
                metrics::relay_dead(shard);
            }
            Fate::Waits { attempts, reason } => tracing::warn!(
                shard,
                offset,
                attempts,
                reason,
                "the broker refuses a blocked event again"
            ),
        }
        Ok(())
    }
}

/// What becomes of an event that was refused `attempts` times before, by what the broker says now; none
/// if it says nothing of the event. `others_are_taken`: since the last time, it has taken others.
fn fate(answer: Answer, attempts: u32, others_are_taken: bool) -> Option<Fate> {
    let (reason, counts) = match answer {
        Answer::Confirmed => return Some(Fate::Delivered),
        Answer::Lost | Answer::Unroutable => return None,
        Answer::Unacceptable(reason) => (reason, true),
        Answer::Refused(reason) => (reason, others_are_taken),
    };
    Some(Fate::Waits {
        attempts: attempts + u32::from(counts),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_that_is_the_events_own_counts_as_an_attempt() {
        let waits = |attempts| {
            Some(Fate::Waits {
                attempts,
                reason: "no".to_owned(),
            })
        };
        let refused = || Answer::Refused("no".to_owned());
        assert_eq!(fate(refused(), 2, true), waits(3));
        assert_eq!(fate(refused(), 2, false), waits(2));
        assert_eq!(
            fate(Answer::Unacceptable("no".to_owned()), 2, false),
            waits(3)
        );
        assert_eq!(fate(Answer::Lost, 2, true), None);
        assert_eq!(fate(Answer::Unroutable, 2, true), None);
        assert_eq!(fate(Answer::Confirmed, 2, false), Some(Fate::Delivered));
    }
}
