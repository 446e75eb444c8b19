//! Until when this publisher may read what it owns.
//!
//! The core says for how long; the publisher counts from before it asked, less a margin, by a clock
//! that only runs forward. Past that somebody else may have been given the streams, so their sockets
//! are closed: a process that was frozen for a minute must not go on as if nothing had happened.
//!
//! One thing holds the end back: a core that is known to be away. It can give the streams to nobody,
//! and whoever stopped reading then would lose data for nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Part of the lease that is not relied on: clocks that run at different speeds, and the way back of
/// the answer.
const MARGIN: u32 = 5;

/// The lease on all of a publisher's streams; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease(Arc<Mutex<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    /// When the lease ends; none before the first.
    lease: Option<Instant>,
    /// Until when the core is known to be away.
    away: Option<Instant>,
}

impl Lease {
    /// The core has answered what was asked at `asked_at`: all is ours for `lease` from then.
    pub(crate) fn renew(&self, asked_at: Instant, lease: Duration) {
        *self.ends() = Ends {
            lease: Some(asked_at + lease - lease / MARGIN),
            away: None,
        };
    }

    /// The core has not answered, `now`; this is news for `patience`, in which it is asked again.
    pub(crate) fn core_is_away(&self, now: Instant, patience: Duration) {
        self.ends().away = Some(now + patience);
    }

    /// Whether the streams are still ours to read.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        let ends = self.ends();
        let before = |end: Option<Instant>| end.is_some_and(|end| now <= end);
        before(ends.lease) || before(ends.away)
    }

    fn ends(&self) -> MutexGuard<'_, Ends> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);
    const PATIENCE: Duration = Duration::from_secs(12);

    #[test]
    fn it_ends_before_the_core_may_give_the_streams_away() {
        let (lease, asked_at) = (Lease::default(), Instant::now());
        assert!(!lease.holds(asked_at), "nothing was granted yet");
        lease.renew(asked_at, LEASE);
        assert!(lease.holds(asked_at + Duration::from_secs(12)));
        assert!(!lease.holds(asked_at + Duration::from_millis(12_001)));
    }

    #[test]
    fn a_core_that_is_away_holds_the_end_back_for_as_long_as_it_is_known_to_be() {
        let (lease, start) = (Lease::default(), Instant::now());
        lease.renew(start, LEASE);
        let mut now = start;
        for _ in 0..20 {
            now += Duration::from_secs(5);
            lease.core_is_away(now, PATIENCE);
            assert!(lease.holds(now + Duration::from_secs(5)));
        }
        // Frozen for a minute, what was known of the core is out of date.
        assert!(!lease.holds(now + Duration::from_mins(1)));
        lease.renew(now + Duration::from_mins(1), LEASE);
        assert!(lease.holds(now + Duration::from_mins(1)));
    }

    #[test]
    fn a_process_that_was_frozen_does_not_take_its_last_answer_for_a_core_that_is_away() {
        let (lease, start) = (Lease::default(), Instant::now());
        lease.core_is_away(start, PATIENCE);
        lease.renew(start + Duration::from_secs(1), LEASE);
        assert!(!lease.holds(start + Duration::from_mins(1)));
    }
}
