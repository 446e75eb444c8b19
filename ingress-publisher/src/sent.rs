//! How many frames of each session have been numbered, until the core knows.
//!
//! What is numbered is sent: if it does not arrive, the core can tell that something is missing. The
//! numbers of an open session are told now and then, and the last ones once it has ended. While the core
//! is away they wait, up to a bound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared_model::SessionId;
use shared_model::control::SessionSent;
use shared_model::envelope::Attributes;
use tokio::time::Instant;

/// How many numbers one heartbeat tells of.
const AT_ONCE: usize = 50_000;
/// How many sessions that have ended may wait for the core.
const MOST_ENDED: usize = 100_000;

/// What all sessions of the publisher have numbered; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent(Arc<Mutex<BTreeMap<SessionId, Entry>>>);

#[derive(Debug)]
struct Entry {
    now: SessionSent,
    /// What the core knows, and since when.
    told: Option<(Instant, SessionSent)>,
}

/// Numbers the frames of one session. The session has ended once it is dropped.
#[derive(Debug)]
pub(crate) struct Numbering {
    session: SessionId,
    sent: Sent,
}

impl Sent {
    /// A session has begun.
    pub(crate) fn begin(&self, attributes: &Attributes) -> Numbering {
        let now = SessionSent {
            session: attributes.session,
            connection: attributes.connection,
            workspace: attributes.workspace.clone(),
            sent: BTreeMap::new(),
            ended: false,
        };
        let entry = Entry { now, told: None };
        self.lock().insert(attributes.session, entry);
        Numbering {
            session: attributes.session,
            sent: self.clone(),
        }
    }

    /// What the core does not know: of sessions that have ended at once, of open ones once in `every`.
    pub(crate) fn news(&self, now: Instant, every: Duration) -> Vec<SessionSent> {
        let mut room = AT_ONCE;
        let mut news = Vec::new();
        for Entry { now: said, told } in self.lock().values() {
            let is_due = match told {
                None => !said.sent.is_empty(),
                Some((at, known)) => said.ended || (said != known && now >= *at + every),
            };
            if is_due && room > 0 {
                room = room.saturating_sub(said.sent.len());
                news.push(said.clone());
            }
        }
        news
    }

    /// The core knows these now.
    pub(crate) fn keep(&self, told: Vec<SessionSent>, now: Instant) {
        let mut all = self.lock();
        for said in told {
            if said.ended {
                all.remove(&said.session);
            } else if let Some(entry) = all.get_mut(&said.session) {
                entry.told = Some((now, said));
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<SessionId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Numbering {
    /// The next number of `partition`, from 1.
    pub(crate) fn next(&self, partition: u32) -> u64 {
        let mut all = self.sent.lock();
        // The entry of a session that has not ended is never removed.
        let Some(entry) = all.get_mut(&self.session) else {
            return 1;
        };
        let number = entry.now.sent.entry(partition).or_default();
        *number += 1;
        *number
    }
}

impl Drop for Numbering {
    fn drop(&mut self) {
        let mut all = self.sent.lock();
        let Some(entry) = all.get_mut(&self.session) else {
            return;
        };
        if entry.now.sent.is_empty() {
            all.remove(&self.session);
            return;
        }
        entry.now.ended = true;
        if all.len() > MOST_ENDED {
            let oldest = all.iter().find(|(_, entry)| entry.now.ended);
            if let Some(oldest) = oldest.map(|(session, _)| *session) {
                all.remove(&oldest);
                tracing::warn!(
                    session = %oldest,
                    "the core has been away for so long that it is not told what this session sent"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    const EVERY: Duration = Duration::from_secs(30);

    fn told(sent: &Sent, at: Instant) -> Vec<(Vec<(u32, u64)>, bool)> {
        let news = sent.news(at, EVERY);
        sent.keep(news.clone(), at);
        let news = news.into_iter();
        news.map(|said| (said.sent.into_iter().collect(), said.ended))
            .collect()
    }

    #[test]
    fn open_sessions_are_told_of_now_and_then_and_ended_ones_once_more() {
        let (sent, start) = (Sent::default(), Instant::now());
        let numbering = sent.begin(&testing::attributes());
        assert!(told(&sent, start).is_empty(), "nothing was numbered");
        assert_eq!(
            (numbering.next(0), numbering.next(2), numbering.next(0)),
            (1, 1, 2)
        );
        assert_eq!(told(&sent, start), [(vec![(0, 2), (2, 1)], false)]);
        assert_eq!(numbering.next(2), 2);
        assert!(
            told(&sent, start + EVERY / 2).is_empty(),
            "that is soon enough later"
        );
        assert_eq!(told(&sent, start + EVERY), [(vec![(0, 2), (2, 2)], false)]);
        assert!(told(&sent, start + 3 * EVERY).is_empty(), "it is known");
        drop(numbering);
        assert_eq!(
            sent.news(start, EVERY),
            sent.news(start, EVERY),
            "until the core has it"
        );
        assert_eq!(
            told(&sent, start + 3 * EVERY),
            [(vec![(0, 2), (2, 2)], true)]
        );
        assert!(told(&sent, start + 9 * EVERY).is_empty() && sent.lock().is_empty());
        drop(sent.begin(&testing::attributes()));
        assert!(
            sent.lock().is_empty(),
            "a session without frames is none of the core's business"
        );
    }

    #[test]
    fn a_session_that_ends_while_the_core_hears_of_it_is_told_of_again() {
        let (sent, now) = (Sent::default(), Instant::now());
        let numbering = sent.begin(&testing::attributes());
        numbering.next(0);
        let news = sent.news(now, EVERY);
        numbering.next(0);
        drop(numbering);
        sent.keep(news, now);
        assert_eq!(told(&sent, now), [(vec![(0, 2)], true)]);
    }

    #[test]
    fn a_core_that_is_away_for_ever_costs_no_more_than_a_bound() {
        let sent = Sent::default();
        for _ in 0..MOST_ENDED + 10 {
            sent.begin(&testing::attributes()).next(0);
        }
        assert_eq!(sent.lock().len(), MOST_ENDED);
        assert!(sent.news(Instant::now(), EVERY).len() <= AT_ONCE);
    }
}
