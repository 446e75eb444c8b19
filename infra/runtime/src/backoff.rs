//! How long to wait before trying again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

/// Exponential waits with jitter between two bounds, without end.
#[derive(Debug)]
pub struct Backoff {
    least: Duration,
    most: Duration,
    waits: ExponentialBackoff,
}

impl Backoff {
    /// Waits that start at `least`, double, and stay below twice `most` (the jitter adds up to the
    /// wait itself).
    #[must_use]
    pub fn new(least: Duration, most: Duration) -> Self {
        Self {
            least,
            most,
            waits: sequence(least, most),
        }
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.waits = sequence(self.least, self.most);
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        self.waits.next().unwrap_or(self.most)
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

fn sequence(least: Duration, most: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(least)
        .with_max_delay(most)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_over() {
        let (least, most) = (Duration::from_millis(100), Duration::from_secs(2));
        let mut backoff = Backoff::new(least, most);
        let waits: Vec<_> = (0..50).map(|_| backoff.next_wait()).collect();
        assert!(
            waits.iter().all(|wait| (least..=2 * most).contains(wait)),
            "{waits:?}"
        );
        assert!(waits[40..].iter().all(|wait| *wait >= most), "{waits:?}");
        backoff.reset();
        assert!(backoff.next_wait() <= 2 * least);
    }
}
