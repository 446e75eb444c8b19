//! How much a principal may ask, and how many keys may be guessed.
//!
//! Each service counts by itself, in memory: a limit is that of one replica. It keeps one careless client
//! from taking a service from all others; it is no bill.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota};

use super::{Kind, Principal, RateConfig, Refusal};

/// How often principals are looked for that need no counting any more, in requests.
const FORGET_EVERY: u32 = 10_000;

/// Counts what each principal asks.
pub(super) struct PrincipalLimits {
    limiter: Option<DefaultKeyedRateLimiter<String>>,
    requests: AtomicU32,
}

/// Counts the keys that nobody here knows.
pub(super) struct GuessLimit(Option<DefaultDirectRateLimiter>);

impl PrincipalLimits {
    pub(super) fn new(config: &RateConfig) -> Self {
        let quota = quota(config.requests_per_second, config.burst);
        Self {
            limiter: quota.map(DefaultKeyedRateLimiter::keyed),
            requests: AtomicU32::new(0),
        }
    }

    /// Counts a request of `principal`. The services among themselves are not counted.
    pub(super) fn count(&self, principal: &Principal) -> Result<(), Refusal> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        if principal.kind == Kind::Internal {
            return Ok(());
        }
        if self.requests.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            // Who has asked for nothing for a while is in no other state than who was never here.
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
        limiter.check_key(&principal.name).map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            refused(
                wait,
                "this credential asks more often than it may; slow down",
            )
        })
    }
}

impl GuessLimit {
    pub(super) fn new(config: &RateConfig) -> Self {
        let burst = config.unknown_keys_per_second.saturating_mul(10);
        let quota = quota(config.unknown_keys_per_second, burst);
        Self(quota.map(DefaultDirectRateLimiter::direct))
    }

    /// Counts a key that is to be asked about for the first time.
    pub(super) fn count(&self) -> Result<(), Refusal> {
        let Some(limiter) = &self.0 else {
            return Ok(());
        };
        limiter.check().map_err(|not_until| {
            let wait = not_until.wait_time_from(DefaultClock::default().now());
            refused(
                wait,
                "too many unknown keys are sent for the moment; try again",
            )
        })
    }
}

fn refused(wait: Duration, detail: &str) -> Refusal {
    // What is due at this moment was not due when it was asked.
    Refusal::rate_limited(wait.max(Duration::from_nanos(1)), detail)
}

/// None where nothing is limited.
fn quota(per_second: u32, burst: u32) -> Option<Quota> {
    let per_second = NonZeroU32::new(per_second)?;
    let burst = NonZeroU32::new(burst).unwrap_or(per_second);
    Some(Quota::per_second(per_second).allow_burst(burst))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn principal(name: &str) -> Principal {
        Principal {
            name: name.to_owned(),
            kind: Kind::ApiKey,
            ..Principal::internal()
        }
    }

    fn limits(requests_per_second: u32, burst: u32) -> PrincipalLimits {
        PrincipalLimits::new(&RateConfig {
            requests_per_second,
            burst,
            ..RateConfig::default()
        })
    }

    #[test]
    fn one_principal_is_limited_and_others_are_not() {
        let limits = limits(1, 3);
        let (one, other) = (principal("key:1"), principal("key:2"));
        for _ in 0..3 {
            limits.count(&one).unwrap();
        }
        let refusal = limits.count(&one).unwrap_err();
        assert_eq!(refusal.problem.status, 429);
        assert!(refusal.problem.kind.ends_with(":rate-limited"));
        limits.count(&other).unwrap();
    }

    #[test]
    fn the_installation_itself_is_not_limited_and_zero_limits_nobody() {
        let strict = limits(1, 1);
        let none = limits(0, 1);
        for _ in 0..10 {
            strict.count(&Principal::internal()).unwrap();
            none.count(&principal("key:1")).unwrap();
        }
    }

    #[test]
    fn who_asks_nothing_any_more_is_forgotten() {
        let limits = limits(1_000_000, 1);
        for n in 0..FORGET_EVERY {
            limits.count(&principal(&n.to_string())).unwrap();
        }
        let left = limits.limiter.as_ref().unwrap().len();
        assert!(left < FORGET_EVERY as usize / 2, "{left}");
    }

    #[test]
    fn guesses_are_limited_all_together() {
        let limit = GuessLimit::new(&RateConfig {
            unknown_keys_per_second: 1,
            ..RateConfig::default()
        });
        for _ in 0..10 {
            limit.count().unwrap();
        }
        assert_eq!(limit.count().unwrap_err().problem.status, 429);
    }
}
