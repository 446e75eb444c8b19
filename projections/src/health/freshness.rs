//! How fresh a vehicle is, as a function of its receipts and the time. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// How recently a vehicle was heard from.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    sqlx::Type,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[sqlx(type_name = "text", rename_all = "snake_case")]
pub enum Freshness {
    /// Within [`Limits::stale_after`].
    Fresh,
    /// Longer ago than that.
    Stale,
    /// [`Limits::offline_after`] ago, or longer.
    Offline,
    /// Registered, and never heard from since.
    NeverSeen,
}

impl Freshness {
    /// Every freshness.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::Stale, Self::Offline, Self::NeverSeen];

    /// Whether there is a reason to give for it.
    #[must_use]
    pub const fn has_cause(self) -> bool {
        matches!(self, Self::Stale | Self::Offline)
    }

    /// The name used in JSON, tables and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Stale => "stale",
            Self::Offline => "offline",
            Self::NeverSeen => "never_seen",
        }
    }
}

/// How long a silence may last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Before the vehicle is stale.
    pub stale_after: TimeDelta,
    /// Before it is offline; longer than `stale_after`.
    pub offline_after: TimeDelta,
}

/// Receipts with no gap between them in which the vehicle would have been stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first receipt.
    pub since: DateTime<Utc>,
    /// The last receipt.
    pub last: DateTime<Utc>,
}

impl Run {
    /// The latest run among `receipts`, which are in ascending order; none if there are none.
    #[must_use]
    pub fn latest(
        receipts: impl DoubleEndedIterator<Item = DateTime<Utc>>,
        limits: Limits,
    ) -> Option<Self> {
        let mut receipts = receipts.rev();
        let last = receipts.next()?;
        let mut since = last;
        for receipt in receipts {
            if since >= later(receipt, limits.stale_after) {
                break;
            }
            since = receipt;
        }
        Some(Self { since, last })
    }
}

/// A vehicle's freshness at one time, and how long that holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judgement {
    /// The freshness.
    pub freshness: Freshness,
    /// When it began (UTC).
    pub since: DateTime<Utc>,
    /// When it ends unless the vehicle is heard from (UTC); none if silence changes nothing.
    pub deadline: Option<DateTime<Utc>>,
}

/// The freshness at `now` of a vehicle whose latest receipts are `heard`.
///
/// A receipt that another clock puts into the future is as good as one of this moment.
#[must_use]
pub fn freshness_at(heard: Run, now: DateTime<Utc>, limits: Limits) -> Judgement {
    let stale_at = later(heard.last, limits.stale_after);
    let offline_at = later(heard.last, limits.offline_after);
    let (freshness, since, deadline) = if now < stale_at {
        (Freshness::Fresh, heard.since, Some(stale_at))
    } else if now < offline_at {
        (Freshness::Stale, stale_at, Some(offline_at))
    } else {
        (Freshness::Offline, offline_at, None)
    };
    Judgement {
        freshness,
        since,
        deadline,
    }
}

impl Judgement {
    /// A vehicle that was registered and never heard from. It stays so until it is.
    #[must_use]
    pub const fn never_seen(registered_at: DateTime<Utc>) -> Self {
        Self {
            freshness: Freshness::NeverSeen,
            since: registered_at,
            deadline: None,
        }
    }
}

/// Beyond what can be represented is the end of time.
pub(super) fn later(time: DateTime<Utc>, by: TimeDelta) -> DateTime<Utc> {
    time.checked_add_signed(by)
        .unwrap_or(DateTime::<Utc>::MAX_UTC)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared_model::time::from_unix_millis;

    use super::*;

    const LIMITS: Limits = Limits {
        stale_after: TimeDelta::minutes(5),
        offline_after: TimeDelta::hours(1),
    };

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    fn run(since: i64, last: i64) -> Run {
        Run {
            since: at(since),
            last: at(last),
        }
    }

    #[test]
    fn a_silent_vehicle_turns_stale_then_offline_at_the_limits() {
        let judged = |now| {
            let judgement = freshness_at(run(0, 100), at(now), LIMITS);
            (judgement.freshness, judgement.since, judgement.deadline)
        };
        assert_eq!(judged(99), (Freshness::Fresh, at(0), Some(at(400))));
        assert_eq!(judged(399), (Freshness::Fresh, at(0), Some(at(400))));
        assert_eq!(judged(400), (Freshness::Stale, at(400), Some(at(3700))));
        assert_eq!(judged(3699), (Freshness::Stale, at(400), Some(at(3700))));
        assert_eq!(judged(3700), (Freshness::Offline, at(3700), None));
    }

    #[test]
    fn a_run_ends_where_the_vehicle_would_have_been_stale() {
        let latest = |receipts: &[i64]| Run::latest(receipts.iter().map(|&s| at(s)), LIMITS);
        assert_eq!(latest(&[]), None);
        assert_eq!(latest(&[7]), Some(run(7, 7)));
        assert_eq!(latest(&[0, 299, 598]), Some(run(0, 598)));
        assert_eq!(latest(&[0, 300, 598]), Some(run(300, 598)));
    }

    #[test]
    fn the_end_of_time_is_no_overflow() {
        let end = DateTime::<Utc>::MAX_UTC;
        let heard = Run {
            since: end,
            last: end,
        };
        let judgement = freshness_at(heard, at(0), LIMITS);
        assert_eq!(judgement.freshness, Freshness::Fresh);
    }

    proptest! {
        #[test]
        fn a_judgement_holds_exactly_until_its_deadline(
            last in 0..10_000_i64, before in 0..10_000_i64, now in 0..20_000_i64,
        ) {
            let heard = run(last - before, last);
            let judgement = freshness_at(heard, at(now), LIMITS);
            if let Some(deadline) = judgement.deadline {
                prop_assert!(at(now) < deadline);
                let just_before = deadline - TimeDelta::microseconds(1);
                prop_assert_eq!(freshness_at(heard, just_before.max(at(now)), LIMITS), judgement);
                let next = freshness_at(heard, deadline, LIMITS);
                prop_assert!(next.freshness > judgement.freshness);
                prop_assert_eq!(next.since, deadline);
            } else {
                prop_assert_eq!(judgement.freshness, Freshness::Offline);
            }
        }
    }
}
