//! A shard that a relay has, for as long as it may believe so.

use std::time::Instant;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// A relay's hold on a shard. The deadline is the relay's own: it is counted from before the database was
/// asked for the lease, and ends before the lease does.
#[derive(Debug, Clone)]
pub struct Hold {
    /// Until when nobody else has the shard.
    pub deadline: watch::Receiver<Instant>,
    /// The shard is to be given up, in order.
    pub give_up: CancellationToken,
}

impl Hold {
    /// Whether nobody else can have the shard now. To be asked right before each message: a process that
    /// was frozen in between wakes up past its deadline.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        Instant::now() < *self.deadline.borrow()
    }

    /// Returns once the deadline has passed and was not moved.
    pub async fn ended(&self) {
        let mut deadline = self.deadline.clone();
        loop {
            let at = *deadline.borrow_and_update();
            let past = tokio::time::sleep_until(at.into());
            tokio::select! {
                () = past => {
                    if !self.is_valid() {
                        return;
                    }
                }
                moved = deadline.changed() => {
                    if moved.is_err() {
                        // Nobody will move it any more.
                        tokio::time::sleep_until(at.into()).await;
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_hold_ends_at_its_deadline_unless_that_is_moved() {
        let begun = Instant::now();
        let after = |millis| begun + Duration::from_millis(millis);
        let (mover, deadline) = watch::channel(after(50));
        let hold = Hold {
            deadline,
            give_up: CancellationToken::new(),
        };
        assert!(hold.is_valid());
        let waiting = hold.clone();
        let ended = tokio::spawn(async move { waiting.ended().await });
        mover.send_replace(after(150));
        ended.await.unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(150) && !hold.is_valid());
    }
}
