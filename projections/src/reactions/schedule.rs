//! When to call again, and when to give up. Pure.

use std::time::Duration;

/// What is asked for beyond this is not waited for.
const LONGEST_ASKED: Duration = Duration::from_hours(24);
/// The share of a wait that is added at most, so that calls that failed together do not come back
/// together.
const JITTER: f64 = 0.2;

/// What came of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver answered with this status.
    Answered {
        /// The status.
        status: u16,
        /// How long the receiver wants to be left in peace.
        retry_after: Option<Duration>,
    },
    /// There was no answer within `webhooks.timeout`.
    TimedOut,
    /// No connection came about, or it broke before the answer.
    Unreachable,
    /// The URL leads to an address that may not be called.
    NotAllowed,
}

impl Outcome {
    /// The outcome as a word: part of the API and a metric's label.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Answered { .. } if self.is_success() => "succeeded",
            Self::Answered { status: 410, .. } => "gone",
            Self::Answered {
                status: 300..=399, ..
            } => "redirected",
            Self::Answered { .. } => "refused",
            Self::TimedOut => "timed_out",
            Self::Unreachable => "unreachable",
            Self::NotAllowed => "not_allowed",
        }
    }

    /// Whether the event was received: any status from 200 to 299.
    #[must_use]
    pub const fn is_success(&self) -> bool {
        matches!(
            self,
            Self::Answered {
                status: 200..=299,
                ..
            }
        )
    }
}

/// What happens to the delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It is done.
    Done,
    /// It is tried again after this time.
    Retry(Duration),
    /// It has failed for good.
    GiveUp,
    /// The receiver wants no more calls, of this or any other event.
    Gone,
}

/// What follows from `outcome` after `retries` retries, with `jitter` from 0 to 1.
#[must_use]
pub fn next(outcome: &Outcome, retries: usize, schedule: &[Duration], jitter: f64) -> Next {
    if outcome.is_success() {
        return Next::Done;
    }
    let asked = match outcome {
        Outcome::Answered { status: 410, .. } => return Next::Gone,
        Outcome::Answered {
            status: 429 | 503,
            retry_after: Some(asked),
        } => (*asked).min(LONGEST_ASKED),
        _ => Duration::ZERO,
    };
    match schedule.get(retries) {
        Some(wait) => Next::Retry(
            wait.mul_f64(1.0 + JITTER * jitter.clamp(0.0, 1.0))
                .max(asked),
        ),
        None => Next::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(5)];

    fn answered(status: u16, retry_after: Option<u64>) -> Outcome {
        Outcome::Answered {
            status,
            retry_after: retry_after.map(Duration::from_secs),
        }
    }

    #[test]
    fn failures_are_tried_again_until_the_schedule_ends() {
        for failure in [
            Outcome::TimedOut,
            Outcome::Unreachable,
            Outcome::NotAllowed,
            answered(302, None),
            answered(400, None),
            answered(500, None),
        ] {
            assert_eq!(next(&failure, 0, &SCHEDULE, 0.0), Next::Retry(SCHEDULE[0]));
            assert_eq!(next(&failure, 1, &SCHEDULE, 0.0), Next::Retry(SCHEDULE[1]));
            assert_eq!(next(&failure, 2, &SCHEDULE, 0.0), Next::GiveUp);
        }
    }

    #[test]
    fn any_2xx_is_a_success_and_410_ends_everything() {
        for status in [200, 202, 204, 299] {
            assert_eq!(next(&answered(status, None), 0, &SCHEDULE, 0.0), Next::Done);
        }
        assert_eq!(next(&answered(410, None), 0, &SCHEDULE, 0.0), Next::Gone);
    }

    #[test]
    fn a_wait_grows_by_a_fifth_at_most() {
        let wait = |jitter| next(&Outcome::TimedOut, 0, &SCHEDULE, jitter);
        assert_eq!(wait(1.0), Next::Retry(Duration::from_secs(6)));
        assert_eq!(wait(7.0), Next::Retry(Duration::from_secs(6)));
        assert_eq!(wait(0.5), Next::Retry(Duration::from_millis(5500)));
    }

    #[test]
    fn retry_after_prolongs_a_wait_within_bounds() {
        let wait = |outcome| next(&outcome, 0, &SCHEDULE, 0.0);
        for status in [429, 503] {
            assert_eq!(
                wait(answered(status, Some(60))),
                Next::Retry(Duration::from_mins(1))
            );
            assert_eq!(wait(answered(status, Some(1))), Next::Retry(SCHEDULE[0]));
            assert_eq!(
                wait(answered(status, Some(1 << 40))),
                Next::Retry(LONGEST_ASKED)
            );
        }
        // Of other answers it means something else, or nothing.
        assert_eq!(wait(answered(500, Some(60))), Next::Retry(SCHEDULE[0]));
        // It gives nobody more attempts.
        assert_eq!(
            next(&answered(429, Some(1)), 2, &SCHEDULE, 0.0),
            Next::GiveUp
        );
    }

    #[test]
    fn outcomes_have_names() {
        for (outcome, name) in [
            (answered(204, None), "succeeded"),
            (answered(302, None), "redirected"),
            (answered(410, None), "gone"),
            (answered(429, None), "refused"),
            (Outcome::TimedOut, "timed_out"),
            (Outcome::Unreachable, "unreachable"),
            (Outcome::NotAllowed, "not_allowed"),
        ] {
            assert_eq!(outcome.name(), name);
        }
    }
}
