//! What events say about when a vehicle was heard from, and by whom. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use shared_model::event::Fact;
use shared_model::signal::Provenance;
use shared_model::{ConnectionId, Provider, VehicleId};

use crate::heard_through::heard_through;
use crate::{Change, OutOfRange};

/// Where a vehicle comes from. The earliest counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Registration {
    /// When it became known (UTC).
    pub at: DateTime<Utc>,
    /// The connection that brought it.
    pub connection: ConnectionId,
    /// That connection's provider.
    pub provider: Provider,
}

/// When a vehicle was heard from, as far as some events tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// How it became known.
    pub registration: Option<Registration>,
    /// Receipts, with the provider of each where it is known: as many as the events in a batch, which
    /// is bounded.
    pub receipts: BTreeMap<DateTime<Utc>, Option<Provider>>,
}

impl Heard {
    fn received<'a>(at: DateTime<Utc>, signals: impl Iterator<Item = &'a Provenance>) -> Self {
        Self {
            receipts: BTreeMap::from([(at, heard_through(at, signals).cloned())]),
            ..Self::default()
        }
    }
}

impl Change for Heard {
    fn of(fact: Fact) -> Result<Vec<(VehicleId, Self)>, OutOfRange> {
        Ok(match fact {
            Fact::VehicleRegistered(fact) => {
                let registration = Registration {
                    at: fact.registered_at,
                    connection: fact.connection,
                    provider: fact.provider,
                };
                let heard = Self {
                    registration: Some(registration),
                    ..Self::default()
                };
                vec![(fact.vehicle, heard)]
            }
            Fact::VehicleSnapshotChanged(fact) => {
                let signals = fact.signals.values().map(|reading| &reading.provenance);
                let heard = Self::received(fact.last_received_at, signals);
                vec![(fact.vehicle, heard)]
            }
            Fact::VehiclesSeen(fact) => fact
                .vehicles
                .into_iter()
                .map(|seen| {
                    let heard = Self::received(seen.last_received_at, seen.signals.values());
                    (seen.vehicle, heard)
                })
                .collect(),
            // Not about a vehicle (see `connection_store`), or found by this very projection.
            Fact::ConnectionStatusChanged(_)
            | Fact::VehicleHealthChanged(_)
            | Fact::ProviderIncidentChanged(_) => Vec::new(),
        })
    }

    fn merge(self, other: Self) -> Self {
        let mut receipts = self.receipts;
        for (at, provider) in other.receipts {
            let known = receipts.entry(at).or_default();
            *known = known.take().max(provider);
        }
        let registrations = [self.registration, other.registration];
        Self {
            registration: registrations.into_iter().flatten().min(),
            receipts,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared_model::time::from_unix_millis;

    use super::*;
    use crate::snapshot::any_fact;

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    fn provider(name: &str) -> Provider {
        Provider::new(name).unwrap()
    }

    fn signal(second: i64, name: &str) -> Provenance {
        Provenance {
            observed_at: at(0),
            received_at: at(second),
            provider: provider(name),
            clock_ahead: false,
        }
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
    fn a_receipt_is_of_the_provider_whose_signal_came_last() {
        let signals = [signal(3, "samsara"), signal(5, "rfms"), signal(4, "geotab")];
        let heard = Heard::received(at(5), signals.iter());
        assert_eq!(
            heard.receipts,
            BTreeMap::from([(at(5), Some(provider("rfms")))])
        );
        assert_eq!(
            Heard::received(at(5), [].into_iter()).receipts,
            BTreeMap::from([(at(5), None)])
        );
    }

    #[test]
    fn the_earliest_registration_counts() {
        let registered = |second, number: u128| Heard {
            registration: Some(Registration {
                at: at(second),
                connection: ConnectionId(uuid::Uuid::from_u128(number)),
                provider: provider("rfms"),
            }),
            ..Heard::default()
        };
        let merged = registered(7, 1).merge(registered(5, 2));
        assert_eq!(merged, registered(5, 2));
    }
}
