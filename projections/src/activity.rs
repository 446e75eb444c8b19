//! Since when the queue has had nothing to deliver.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What the worker is doing, for whoever wants to know whether more is to come.
#[derive(Debug, Default)]
pub(crate) struct Activity(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// How many batches are in hand.
    in_hand: usize,
    /// Since when nothing is, and the queue is listened to; none otherwise.
    idle_since: Option<Instant>,
}

impl Activity {
    /// The queue is listened to.
    pub(crate) fn opened(&self) {
        *self.state() = State {
            in_hand: 0,
            idle_since: Some(Instant::now()),
        };
    }

    /// It is not any more.
    pub(crate) fn closed(&self) {
        *self.state() = State::default();
    }

    /// A batch was delivered.
    pub(crate) fn took(&self) {
        let mut state = self.state();
        state.in_hand += 1;
        state.idle_since = None;
    }

    /// A batch is acknowledged.
    pub(crate) fn done(&self) {
        let mut state = self.state();
        state.in_hand = state.in_hand.saturating_sub(1);
        if state.in_hand == 0 {
            state.idle_since = Some(Instant::now());
        }
    }

    /// Whether the queue has had nothing to deliver for `time`.
    pub(crate) fn is_idle_for(&self, time: Duration) -> bool {
        let since = self.state().idle_since;
        since.is_some_and(|since| since.elapsed() >= time)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_queue_that_is_listened_to_and_empty_is_idle() {
        let activity = Activity::default();
        let is_idle = || activity.is_idle_for(Duration::ZERO);
        assert!(!is_idle());
        activity.opened();
        assert!(is_idle());
        assert!(!activity.is_idle_for(Duration::from_hours(1)));
        activity.took();
        activity.took();
        activity.done();
        assert!(!is_idle());
        activity.done();
        assert!(is_idle());
        activity.took();
        activity.closed();
        assert!(!is_idle());
        activity.opened();
        assert!(is_idle());
    }
}
