//! Until when this publisher may read what it owns.
//!
//! The core says for how long; the publisher counts from before it asked, less a margin, by a clock
//! that only runs forward. Past that somebody else may have been given the streams, so their sockets
//! are closed: a process that was frozen for a minute must not go on as if nothing had happened.
//!
//! One thing holds the end back: a core that is known to be away. It can give the streams to nobody,
//! and whoever stopped reading then would lose data for nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Part of the lease that is not relied on: clocks that run at different speeds, and the way back of
/// the answer.
const MARGIN: u32 = 5;

/// The lease on all of a publisher's streams; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lease(Arc<watch::Sender<Ends>>);

#[derive(Debug, Clone, Copy, Default)]
struct Ends {
    /// When the lease ends; none before the first.
    lease: Option<Instant>,
    /// Until when the core is known to be away.
    away: Option<Instant>,
}

impl Ends {
    /// When the streams stop being ours, as far as is known now.
    fn last(self) -> Option<Instant> {
        self.lease.max(self.away)
    }
}

impl Lease {
    /// The core has answered what was asked at `asked_at`: all is ours for `lease` from then.
    pub(crate) fn renew(&self, asked_at: Instant, lease: Duration) {
        self.0.send_replace(Ends {
            lease: Some(asked_at + lease - lease / MARGIN),
            away: None,
        });
    }

    /// The core has not answered, `now`; this is news for `patience`, in which it is asked again.
    pub(crate) fn core_is_away(&self, now: Instant, patience: Duration) {
        self.0.send_modify(|ends| ends.away = Some(now + patience));
    }

    /// Whether the streams are still ours to read.
    pub(crate) fn holds(&self, now: Instant) -> bool {
        self.0.borrow().last().is_some_and(|end| now <= end)
    }

    /// Returns once the streams are ours no more.
    pub(crate) async fn lapsed(&self) {
        let mut changes = self.0.subscribe();
        loop {
            let end = changes.borrow_and_update().last();
            let Some(end) = end.filter(|end| Instant::now() <= *end) else {
                return;
            };
            tokio::select! {
                // A millisecond later, as the end itself belongs to the lease.
                () = sleep_until(end + Duration::from_millis(1)) => {}
                // The sender lives as long as this handle.
                renewed = changes.changed() => renewed.unwrap_or_default(),
            }
        }
    }

    /// Returns once the streams are ours.
    pub(crate) async fn held(&self) {
        let mut changes = self.0.subscribe();
        while !self.holds(Instant::now()) {
            // The sender lives as long as this handle.
            changes.changed().await.unwrap_or_default();
        }
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

    #[tokio::test(start_paused = true)]
    async fn its_end_and_its_return_can_be_waited_for() {
        let (lease, start) = (Lease::default(), Instant::now());
        lease.lapsed().await;
        lease.renew(start, LEASE);
        lease.held().await;
        let lapsing = lease.lapsed();
        tokio::pin!(lapsing);
        // Renewed meanwhile, it ends later.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(futures_util::poll!(&mut lapsing).is_pending());
        lease.renew(Instant::now(), LEASE);
        lapsing.await;
        assert!(
            start.elapsed() >= Duration::from_secs(22),
            "{:?}",
            start.elapsed()
        );

        let returning = lease.held();
        tokio::pin!(returning);
        assert!(futures_util::poll!(&mut returning).is_pending());
        lease.core_is_away(Instant::now(), PATIENCE);
        returning.await;
    }
}
