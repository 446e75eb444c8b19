//! Since when vehicles must have been heard from to be fresh, or no more than stale. Pure.
//!
//! Freshness is not kept but judged when it is asked for, by the rule and the limits of the health
//! projection: so a vehicle that falls silent turns stale here in the moment that it does there.

use chrono::{DateTime, TimeDelta, Utc};

use crate::health::{Limits, LimitsByProvider};

/// The cut-offs of one moment, by provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cutoffs {
    /// For all providers without limits of their own.
    pub(super) usual: Cutoff,
    /// Providers with limits of their own, and theirs.
    pub(super) providers: Vec<(String, Cutoff)>,
}

/// Those of one provider. A vehicle that was last heard from later than that is still so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cutoff {
    /// For fresh.
    pub(super) fresh: DateTime<Utc>,
    /// For no more than stale.
    pub(super) stale: DateTime<Utc>,
}

impl Cutoffs {
    /// Those at `now`.
    pub(super) fn at(now: DateTime<Utc>, limits: &LimitsByProvider) -> Self {
        let providers = limits.providers.iter();
        Self {
            usual: Cutoff::at(now, limits.usual),
            providers: providers
                .map(|(provider, limits)| (provider.to_string(), Cutoff::at(now, *limits)))
                .collect(),
        }
    }
}

impl Cutoff {
    fn at(now: DateTime<Utc>, limits: Limits) -> Self {
        Self {
            fresh: before(now, limits.stale_after),
            stale: before(now, limits.offline_after),
        }
    }
}

/// Nobody was heard from before 1970, so earlier than that is as good as never.
fn before(now: DateTime<Utc>, by: TimeDelta) -> DateTime<Utc> {
    let time = now.checked_sub_signed(by);
    time.unwrap_or_default().max(DateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared_model::time::from_unix_millis;

    use super::*;
    use crate::health::{Freshness, Run, freshness_at};

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    proptest! {
        #[test]
        fn they_cut_where_the_health_projection_does(
            last in 0..2_000_i64, now in 0..2_000_i64, stale in 1..500_i64, more in 1..500_i64,
        ) {
            let limits = Limits {
                stale_after: TimeDelta::seconds(stale),
                offline_after: TimeDelta::seconds(stale + more),
            };
            let (last, now) = (at(last), at(now));
            let Cutoffs { usual, .. } = Cutoffs::at(now, &limits.into());
            let cut = if last > usual.fresh {
                Freshness::Fresh
            } else if last > usual.stale {
                Freshness::Stale
            } else {
                Freshness::Offline
            };
            let judged = freshness_at(Run { since: last, last }, now, limits);
            prop_assert_eq!(cut, judged.freshness);
        }
    }

    #[test]
    fn limits_beyond_all_time_are_no_overflow() {
        let limits = Limits {
            stale_after: TimeDelta::MAX,
            offline_after: TimeDelta::MAX,
        };
        assert_eq!(Cutoff::at(at(0), limits).fresh, DateTime::UNIX_EPOCH);
    }
}
