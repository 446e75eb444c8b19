//! What events say about when a vehicle was heard from. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use shared_model::VehicleId;
use shared_model::event::Fact;

use super::freshness::{Judgement, Limits, Run, freshness_at};
use crate::{Change, OutOfRange};

/// When a vehicle was heard from, as far as some events tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// When it was registered.
    pub registered_at: Option<DateTime<Utc>>,
    /// Receipts: as many as the events in a batch, which is bounded.
    pub receipts: BTreeSet<DateTime<Utc>>,
}

impl Heard {
    fn registered(at: DateTime<Utc>) -> Self {
        Self {
            registered_at: Some(at),
            ..Self::default()
        }
    }

    fn received(at: DateTime<Utc>) -> Self {
        Self {
            receipts: BTreeSet::from([at]),
            ..Self::default()
        }
    }

    /// The latest run of receipts, if there are any, and what to make of it at `now`.
    pub(super) fn judge(&self, now: DateTime<Utc>, limits: Limits) -> (Option<Run>, Judgement) {
        let run = Run::latest(self.receipts.iter().copied(), limits);
        let judgement = match run {
            Some(run) => freshness_at(run, now, limits),
            // What has no receipts came from a registration.
            None => Judgement::never_seen(self.registered_at.unwrap_or(now)),
        };
        (run, judgement)
    }
}

impl Change for Heard {
    fn of(fact: Fact) -> Result<Vec<(VehicleId, Self)>, OutOfRange> {
        Ok(match fact {
            Fact::VehicleRegistered(fact) => {
                vec![(fact.vehicle, Self::registered(fact.registered_at))]
            }
            Fact::VehicleSnapshotChanged(fact) => {
                vec![(fact.vehicle, Self::received(fact.last_received_at))]
            }
            Fact::VehiclesSeen(fact) => fact
                .vehicles
                .into_iter()
                .map(|seen| (seen.vehicle, Self::received(seen.last_received_at)))
                .collect(),
            // Not about a vehicle (see `connection_store`), or found by this very projection.
            Fact::ConnectionStatusChanged(_)
            | Fact::VehicleHealthChanged(_)
            | Fact::ProviderIncidentChanged(_) => Vec::new(),
        })
    }

    fn merge(self, mut other: Self) -> Self {
        let mut receipts = self.receipts;
        receipts.append(&mut other.receipts);
        let registrations = [self.registered_at, other.registered_at];
        Self {
            registered_at: registrations.into_iter().flatten().min(),
            receipts,
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;
    use shared_model::time::from_unix_millis;

    use super::*;
    use crate::health::Freshness;
    use crate::snapshot::any_fact;

    const LIMITS: Limits = Limits {
        stale_after: TimeDelta::seconds(3),
        offline_after: TimeDelta::seconds(8),
    };

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    fn fold(facts: &[Fact]) -> Heard {
        facts
            .iter()
            .flat_map(|fact| Heard::of(fact.clone()).unwrap())
            .map(|(_, heard)| heard)
            .fold(Heard::default(), Heard::merge)
    }

    proptest! {
        #[test]
        fn order_repetition_and_batches_do_not_matter(
            (facts, shuffled) in prop::collection::vec(any_fact(), 1..30).prop_flat_map(|facts| {
                let repeated = [facts.clone(), facts.clone()].concat();
                (Just(facts), Just(repeated).prop_shuffle())
            }),
            size in 1..10_usize,
        ) {
            let expected = fold(&facts);
            prop_assert_eq!(&fold(&shuffled), &expected);
            let in_batches = shuffled.chunks(size).map(fold).fold(Heard::default(), Heard::merge);
            prop_assert_eq!(&in_batches, &expected);
        }
    }

    #[test]
    fn an_old_receipt_is_judged_by_its_age() {
        let heard = Heard::received(at(0)).merge(Heard::received(at(2)));
        let (run, judgement) = heard.judge(at(6), LIMITS);
        assert_eq!(
            run,
            Some(Run {
                since: at(0),
                last: at(2)
            })
        );
        assert_eq!(judgement.freshness, Freshness::Stale);
        assert_eq!(judgement.since, at(5));
        assert_eq!(heard.judge(at(4), LIMITS).1.since, at(0));
        assert_eq!(heard.judge(at(60), LIMITS).1.since, at(10));
    }

    #[test]
    fn a_registration_is_no_receipt() {
        let heard = Heard::registered(at(7)).merge(Heard::registered(at(5)));
        assert_eq!(
            heard.judge(at(1000), LIMITS),
            (None, Judgement::never_seen(at(5)))
        );
        let heard = heard.merge(Heard::received(at(999)));
        assert_eq!(heard.judge(at(1000), LIMITS).1.freshness, Freshness::Fresh);
    }
}
