//! How long to wait before trying again.

use std::time::Duration;

use rand::RngExt;
use tokio_util::sync::CancellationToken;

/// Exponential waits with full jitter, without end: each is drawn evenly from zero to a cap, and the
/// cap doubles from a least to a most. So those who were cut off together do not come back together.
#[derive(Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    cap: Duration,
}

impl Backoff {
    /// Waits whose cap starts at `least` and doubles up to `most`.
    #[must_use]
    pub fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            cap: least.min(most),
        }
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.cap = self.least.min(self.most);
    }

    /// The next wait: above zero, and at most the cap that it raises for the one after it.
    pub fn next_wait(&mut self) -> Duration {
        let wait = up_to(self.cap);
        self.cap = self.cap.saturating_mul(2).min(self.most);
        wait
    }

    /// Waits; [`Stopped`] if `stop` comes first.
    pub async fn wait(&mut self, stop: &CancellationToken) -> Result<(), Stopped> {
        let wait = self.next_wait();
        match stop.run_until_cancelled(tokio::time::sleep(wait)).await {
            Some(()) => Ok(()),
            None => Err(Stopped),
        }
    }
}

/// The wait, or the work, was ended by a request to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("asked to stop")]
pub struct Stopped;

/// A wait drawn evenly from (0, `cap`]; zero if the cap is.
#[must_use]
pub fn up_to(cap: Duration) -> Duration {
    // From [0, 1), so what is left of one is never zero.
    let share = 1.0 - rand::rng().random::<f64>();
    Duration::try_from_secs_f64(cap.as_secs_f64() * share)
        .unwrap_or(cap)
        .clamp(Duration::from_nanos(1).min(cap), cap)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: Duration = Duration::from_millis(100);
    const MOST: Duration = Duration::from_secs(2);

    #[test]
    fn the_cap_doubles_to_its_bound_and_starts_over() {
        for _ in 0..100 {
            let mut backoff = Backoff::new(LEAST, MOST);
            for cap in [100, 200, 400, 800, 1600, 2000, 2000] {
                let wait = backoff.next_wait();
                assert!(
                    !wait.is_zero() && wait <= Duration::from_millis(cap),
                    "{wait:?}"
                );
            }
            backoff.reset();
            assert!(backoff.next_wait() <= LEAST);
        }
    }

    #[test]
    fn waits_are_spread_over_all_of_the_cap() {
        let mut quarters = [0; 4];
        for _ in 0..4000 {
            let quarter = (up_to(MOST).as_secs_f64() / MOST.as_secs_f64() * 4.0).min(3.0);
            for (bound, count) in (1..).zip(&mut quarters) {
                *count += u32::from(quarter < f64::from(bound));
            }
        }
        // Each holds what is below its upper end; that it is a thousand off by 200 is no chance.
        for (expected, count) in [1000, 2000, 3000, 4000].into_iter().zip(quarters) {
            assert!(count.abs_diff(expected) < 200, "{quarters:?}");
        }
    }

    #[test]
    fn a_cap_below_the_least_and_one_of_zero_hold() {
        let mut backoff = Backoff::new(MOST, LEAST);
        assert!(backoff.next_wait() <= LEAST);
        assert_eq!(up_to(Duration::ZERO), Duration::ZERO);
        let mut endless = Backoff::new(Duration::MAX, Duration::MAX);
        endless.next_wait();
        assert!(endless.next_wait() <= Duration::MAX);
    }
}
