//! How many requests a provider allows: so many per period in each pool, by customer. Pure: the time comes in as an argument.

use std::{collections::BTreeMap, time::Duration};

/// How many requests there may be in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The number of requests.
    pub requests: u32,
    /// The period, which begins with the first request after the last period.
    pub period: Duration,
}

impl Limit {
    /// `requests` in each `period`.
    #[must_use]
    pub const fn new(requests: u32, period: Duration) -> Self {
        Self { requests, period }
    }
}

/// Where a customer stands with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Quota {
    pub(crate) limit: Limit,
    pub(crate) remaining: u32,
    /// When the period ends.
    pub(crate) reset_ms: i64,
    pub(crate) is_exceeded: bool,
}

/// What each customer has used of each pool. There are as many of them as there are secrets and pools.
#[derive(Debug, Default)]
pub(crate) struct Limits(BTreeMap<(usize, &'static str), Used>);

#[derive(Debug, Clone, Copy)]
struct Used {
    begin_ms: i64,
    requests: u32,
}

impl Limits {
    /// Charges a request, unless there is nothing left.
    pub(crate) fn charge(
        &mut self,
        customer: usize,
        pool: &'static str,
        limit: Limit,
        now_ms: i64,
    ) -> Quota {
        let period_ms = i64::try_from(limit.period.as_millis()).unwrap_or(i64::MAX);
        let fresh = Used {
            begin_ms: now_ms,
            requests: 0,
        };
        let used = self.0.entry((customer, pool)).or_insert(fresh);
        if now_ms.saturating_sub(used.begin_ms) >= period_ms {
            *used = fresh;
        }
        let is_exceeded = used.requests >= limit.requests;
        if !is_exceeded {
            used.requests += 1;
        }
        Quota {
            limit,
            remaining: limit.requests.saturating_sub(used.requests),
            reset_ms: used.begin_ms.saturating_add(period_ms),
            is_exceeded,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_is_empty_until_its_period_ends_and_pools_and_customers_do_not_share() {
        let limit = Limit::new(2, Duration::from_secs(10));
        let mut limits = Limits::default();
        let first = limits.charge(0, "a", limit, 1000);
        assert_eq!((first.remaining, first.reset_ms), (1, 11_000));
        assert!(!limits.charge(0, "a", limit, 5000).is_exceeded);
        let third = limits.charge(0, "a", limit, 10_999);
        assert!(third.is_exceeded && third.remaining == 0 && third.reset_ms == 11_000);
        assert!(!limits.charge(0, "b", limit, 10_999).is_exceeded);
        assert!(!limits.charge(1, "a", limit, 10_999).is_exceeded);
        assert!(!limits.charge(0, "a", limit, 11_000).is_exceeded);
    }
}
