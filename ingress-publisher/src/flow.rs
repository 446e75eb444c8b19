//! What a partition's sender is doing: the state machine of backpressure. Pure.

use crate::pause::PauseReason;

/// Why the broker does not take a partition's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// It refused one: the queue is full, or missing.
    Refused,
    /// It takes none from anybody: a memory or disk alarm.
    Blocked,
    /// It is not there, or did not answer in time.
    Away,
}

/// What a sender is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Messages go to the broker as they come.
    Flowing,
    /// Messages go to the spool.
    Spooling(Trouble),
    /// The broker takes messages again: those of the spool first, new ones behind them.
    Draining,
    /// The spool takes nothing: nothing is taken from the window either.
    Paused(PauseReason),
}

/// What happens to a sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A message was not confirmed.
    Trouble(Trouble),
    /// A message of the spool was confirmed.
    Confirmed,
    /// The spool is empty.
    Drained,
    /// The spool has reached its bound.
    SpoolFull,
    /// The spool cannot be written.
    SpoolFails,
    /// The spool took what it did not take before.
    Room,
}

impl Flow {
    /// What it does after `event`.
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (Self::Flowing | Self::Spooling(_) | Self::Draining, Event::Trouble(trouble)) => {
                Self::Spooling(trouble)
            }
            (_, Event::Drained) => Self::Flowing,
            (Self::Spooling(_) | Self::Draining | Self::Paused(_), Event::SpoolFull) => {
                Self::Paused(PauseReason::SpoolFull)
            }
            // As if there were no spool: what keeps messages is the broker.
            (Self::Spooling(trouble), Event::SpoolFails) => Self::Paused(trouble.into()),
            (Self::Draining, Event::SpoolFails) => Self::Paused(PauseReason::WindowFull),
            // A full spool stays the reason; else it is the newest trouble.
            (Self::Paused(reason), Event::Trouble(trouble)) if reason != PauseReason::SpoolFull => {
                Self::Paused(trouble.into())
            }
            // Room comes from messages that were published. If not ours, the next attempt will tell.
            (Self::Spooling(_), Event::Confirmed) | (Self::Paused(_), Event::Room) => {
                Self::Draining
            }
            (state, _) => state,
        }
    }

    /// Why a source waits that finds no room in front of this sender; none if that is not the
    /// sender's doing: confirms are slow.
    pub(crate) const fn cause(self) -> Option<PauseReason> {
        match self {
            Self::Flowing | Self::Draining => None,
            Self::Spooling(trouble) => Some(trouble.reason()),
            Self::Paused(reason) => Some(reason),
        }
    }
}

impl Trouble {
    const fn reason(self) -> PauseReason {
        match self {
            Self::Refused => PauseReason::Refused,
            Self::Blocked => PauseReason::Blocked,
            Self::Away => PauseReason::BrokerAway,
        }
    }
}

impl From<Trouble> for PauseReason {
    fn from(trouble: Trouble) -> Self {
        trouble.reason()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[Event]) -> Vec<Flow> {
        let mut state = Flow::Flowing;
        let next = |event: &Event| {
            state = state.after(*event);
            state
        };
        events.iter().map(next).collect()
    }

    #[test]
    fn an_outage_is_spooled_then_drained_then_over() {
        let states = run(&[
            Event::Trouble(Trouble::Away),
            Event::Trouble(Trouble::Refused),
            Event::Confirmed,
            Event::Confirmed,
            Event::Trouble(Trouble::Blocked),
            Event::Confirmed,
            Event::Drained,
        ]);
        assert_eq!(
            states,
            [
                Flow::Spooling(Trouble::Away),
                Flow::Spooling(Trouble::Refused),
                Flow::Draining,
                Flow::Draining,
                Flow::Spooling(Trouble::Blocked),
                Flow::Draining,
                Flow::Flowing,
            ]
        );
    }

    #[test]
    fn a_full_spool_pauses_until_there_is_room() {
        let states = run(&[
            Event::Trouble(Trouble::Away),
            Event::SpoolFull,
            Event::Trouble(Trouble::Refused),
            Event::Confirmed,
            Event::Room,
            Event::SpoolFull,
            Event::Drained,
        ]);
        let full = Flow::Paused(PauseReason::SpoolFull);
        assert_eq!(states[1..4], [full; 3]);
        assert_eq!(states[4..], [Flow::Draining, full, Flow::Flowing]);
    }

    #[test]
    fn a_spool_that_fails_leaves_the_broker_as_the_reason() {
        let states = run(&[
            Event::Trouble(Trouble::Away),
            Event::SpoolFails,
            Event::Trouble(Trouble::Blocked),
            Event::SpoolFull,
            Event::Room,
            Event::SpoolFails,
        ]);
        assert_eq!(states[1].cause(), Some(PauseReason::BrokerAway));
        assert_eq!(states[2].cause(), Some(PauseReason::Blocked));
        assert_eq!(states[3].cause(), Some(PauseReason::SpoolFull));
        assert_eq!(states[4].cause(), None);
        assert_eq!(states[5].cause(), Some(PauseReason::WindowFull));
    }

    #[test]
    fn a_sender_that_flows_knows_no_spool() {
        for event in [
            Event::Confirmed,
            Event::SpoolFull,
            Event::SpoolFails,
            Event::Room,
            Event::Drained,
        ] {
            assert_eq!(Flow::Flowing.after(event), Flow::Flowing);
        }
    }
}
