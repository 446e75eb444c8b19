//! How soon a provider may be asked again, whatever it has just answered. Pure: randomness is added by
//! the caller.

use std::time::Duration;

use chrono::{DateTime, Utc};
use xxhash_rust::xxh3::Xxh3;

use crate::interpret::feed::{Budget, Failure, RateLimit};

/// What is left unused of a budget, so that a request that takes longer to leave than the next one
/// does not exceed it.
const SLACK: f64 = 0.05;
/// A provider that asks for more than this has a broken header, or is asked again in between.
const LONGEST_WAIT: Duration = Duration::from_hours(1);
/// A provider without a period that can be used.
const SHORTEST_PERIOD: Duration = Duration::from_millis(1);

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Put the feed off; nothing is wrong.
    Postpone(Duration),
    /// Try again, later after each failure.
    TryAgain,
    /// Ask for nothing of the connection for long: it would be refused again.
    Break,
    /// Ask for this feed no more for long; the connection's others may be allowed.
    BreakFeed,
}

/// What to do about `failure`, at a provider with this `limit`.
#[must_use]
pub fn react(failure: &Failure, limit: &RateLimit) -> Reaction {
    match failure {
        Failure::Limited { retry_after } => Reaction::Postpone(blocked_for(*retry_after, limit)),
        Failure::Refused(_) => Reaction::Break,
        Failure::FeedRefused(_) => Reaction::BreakFeed,
        // That a new session is over at once is the provider's trouble.
        Failure::SessionOver(_) | Failure::Passing(_) | Failure::Unreadable(_) => {
            Reaction::TryAgain
        }
    }
}

/// For how long nothing is asked of a provider that had too many requests. By the end of a period the
/// budget is full again.
#[must_use]
pub fn blocked_for(retry_after: Option<Duration>, limit: &RateLimit) -> Duration {
    retry_after.unwrap_or(limit.period).min(LONGEST_WAIT)
}

/// For how long nothing is asked of a provider that says what is left; `None` if something is.
#[must_use]
pub fn used_up(budget: Option<Budget>, received_at: DateTime<Utc>) -> Option<Duration> {
    let budget = budget.filter(|budget| budget.remaining == 0)?;
    // The reset is by the provider's clock: if that one is behind, it is tried and answered with 429.
    let wait = (budget.reset_at - received_at).to_std().ok()?;
    Some(wait.min(LONGEST_WAIT))
}

/// How far apart requests of one budget are, so that no period has more of them than it may have.
#[must_use]
pub fn spacing(limit: &RateLimit) -> Duration {
    let period = limit.period.max(SHORTEST_PERIOD);
    (period / limit.requests.max(1)).mul_f64(1.0 + SLACK)
}

/// The bound of the wait after `failures` in a row and one more: it doubles from `least` up to `most`.
#[must_use]
pub fn cap(failures: u32, least: Duration, most: Duration) -> Duration {
    let factor = 2_u32.checked_pow(failures).unwrap_or(u32::MAX);
    least.saturating_mul(factor).min(most)
}

/// The name of the budget that connections with the same `credential` (its reference) share at the same
/// host of a provider.
#[must_use]
pub fn budget(provider: &str, host: &str, credential: Option<&str>) -> String {
    let mut hash = Xxh3::new();
    for part in [provider, host, credential.unwrap_or_default()] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("{:032x}", hash.digest128())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(requests: u32, period: Duration) -> RateLimit {
        RateLimit {
            pool: "positions",
            requests,
            period,
        }
    }

    #[test]
    fn no_period_holds_more_requests_than_it_may() {
        for (requests, period) in [
            (1, Duration::from_secs(1)),
            (60, Duration::from_mins(1)),
            (150, Duration::from_secs(1)),
            (7, Duration::from_millis(100)),
        ] {
            let spacing = spacing(&limit(requests, period));
            // The first and the last of a full period's requests and one more.
            assert!(spacing * requests > period, "{requests} in {period:?}");
            assert!(spacing * requests < period.mul_f64(1.06));
        }
        assert!(spacing(&limit(0, Duration::ZERO)) > Duration::ZERO);
    }

    #[test]
    fn a_limit_is_no_failure_and_lasts_as_long_as_the_provider_says() {
        let limit = limit(60, Duration::from_mins(1));
        for (retry_after, wait) in [
            (Some(Duration::from_secs(56)), Duration::from_secs(56)),
            (
                Some(Duration::from_secs_f64(0.40235)),
                Duration::from_secs_f64(0.40235),
            ),
            (None, Duration::from_mins(1)),
            (Some(Duration::from_hours(20)), LONGEST_WAIT),
        ] {
            let failure = Failure::Limited { retry_after };
            assert_eq!(react(&failure, &limit), Reaction::Postpone(wait));
        }
    }

    #[test]
    fn trouble_is_waited_out_longer_and_longer_and_a_refusal_breaks_the_circuit() {
        let (least, most) = (Duration::from_secs(1), Duration::from_mins(5));
        for (failures, seconds) in [(0, 1), (3, 8), (9, 300), (32, 300), (u32::MAX, 300)] {
            assert_eq!(cap(failures, least, most).as_secs(), seconds, "{failures}");
        }
        let limit = limit(1, Duration::from_secs(1));
        for failure in [Failure::Passing, Failure::Unreadable, Failure::SessionOver] {
            let failure = failure("HTTP 502".to_owned());
            assert_eq!(react(&failure, &limit), Reaction::TryAgain);
        }
        let refused = Failure::Refused("HTTP 401".to_owned());
        let feed = Failure::FeedRefused("HTTP 403".to_owned());
        assert_eq!(react(&feed, &limit), Reaction::BreakFeed);
        assert_eq!(react(&refused, &limit), Reaction::Break);
    }

    #[test]
    fn a_budget_is_waited_for_only_once_it_is_used_up() {
        let now: DateTime<Utc> = "2026-07-01T12:00:00Z".parse().unwrap();
        let budget = |remaining, seconds| {
            let reset_at = now + chrono::Duration::seconds(seconds);
            used_up(
                Some(Budget {
                    remaining,
                    reset_at,
                }),
                now,
            )
        };
        assert_eq!(budget(0, 30), Some(Duration::from_secs(30)));
        assert_eq!(budget(0, 1_000_000), Some(LONGEST_WAIT));
        assert_eq!(budget(0, -5), None);
        assert_eq!(budget(1, 30), None);
        assert_eq!(used_up(None, now), None);
    }

    #[test]
    fn a_budget_is_one_credential_s_at_one_host() {
        let own = budget("rfms", "a", Some("env:KEY"));
        assert_eq!(own, budget("rfms", "a", Some("env:KEY")));
        for other in [
            budget("rfms", "a", Some("env:OTHER")),
            budget("rfms", "b", Some("env:KEY")),
            budget("geotab", "a", Some("env:KEY")),
            budget("rfms", "aenv:KEY", None),
        ] {
            assert_ne!(own, other);
        }
    }
}
