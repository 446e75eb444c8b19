//! What events say about a vehicle's snapshot. Pure.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::event::{Fact, PublishedReading, VehicleSeen, VehicleSnapshotChanged};
use shared_model::signal::Provenance;
use shared_model::{Provider, VehicleId};

use crate::heard_through::heard_through;
use crate::{Change, OutOfRange};

/// A signal's value without its times. Open, as events are: a newer core may publish kinds of
/// values that this code does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Quantity {
    /// A number, or `{"latitude","longitude"}`.
    pub value: Value,
    /// The value's unit.
    pub unit: String,
}

/// A vehicle's snapshot as far as some events tell. The default is what no event tells: nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Snapshot {
    /// Orders the values; 0 if none are known.
    pub version: i64,
    /// The values, by signal.
    pub signals: BTreeMap<String, Quantity>,
    /// Orders the times; 0 if none are known.
    pub revision: i64,
    /// When and by whom each value was reported, by signal.
    pub times: BTreeMap<String, Provenance>,
    /// Through whom the vehicle was last heard from; before it ever was, who registered it. Belongs to
    /// the times.
    pub provider: Option<Provider>,
    /// The latest time of its observations (UTC). Belongs to the times.
    pub observed_at: Option<DateTime<Utc>>,
    /// When the vehicle was last heard from (UTC).
    pub last_received_at: Option<DateTime<Utc>>,
}

impl Snapshot {
    /// The known values with their times.
    ///
    /// Times may be ahead of the values while an event is still on its way; then they tell of
    /// signals that have no value here yet, which are left out.
    #[must_use]
    pub fn readings(self) -> BTreeMap<String, PublishedReading> {
        let Self {
            signals, mut times, ..
        } = self;
        signals
            .into_iter()
            .filter_map(|(name, Quantity { value, unit })| {
                let provenance = times.remove(&name)?;
                let reading = PublishedReading {
                    value,
                    unit,
                    provenance,
                };
                Some((name, reading))
            })
            .collect()
    }

    fn changed(fact: VehicleSnapshotChanged) -> Result<(VehicleId, Self), OutOfRange> {
        let (signals, times) = fact
            .signals
            .into_iter()
            .map(|(name, reading)| {
                let PublishedReading {
                    value,
                    unit,
                    provenance,
                } = reading;
                let quantity = Quantity { value, unit };
                ((name.clone(), quantity), (name, provenance))
            })
            .unzip();
        let snapshot = Self {
            version: number("version", fact.version)?,
            signals,
            ..Self::heard(fact.revision, times, fact.last_received_at)?
        };
        Ok((fact.vehicle, snapshot))
    }

    fn seen(fact: VehicleSeen) -> Result<(VehicleId, Self), OutOfRange> {
        let snapshot = Self::heard(fact.revision, fact.signals, fact.last_received_at)?;
        Ok((fact.vehicle, snapshot))
    }

    /// The times of one revision, without values.
    fn heard(
        revision: u64,
        times: BTreeMap<String, Provenance>,
        last_received_at: DateTime<Utc>,
    ) -> Result<Self, OutOfRange> {
        Ok(Self {
            revision: number("revision", revision)?,
            provider: heard_through(last_received_at, times.values()).cloned(),
            observed_at: latest_observation(&times),
            times,
            last_received_at: Some(last_received_at),
            ..Self::default()
        })
    }
}

impl Change for Snapshot {
    fn of(fact: Fact) -> Result<Vec<(VehicleId, Self)>, OutOfRange> {
        match fact {
            Fact::VehicleRegistered(fact) => {
                let known = Self {
                    provider: Some(fact.provider),
                    ..Self::default()
                };
                Ok(vec![(fact.vehicle, known)])
            }
            Fact::VehicleSnapshotChanged(fact) => Ok(vec![Self::changed(fact)?]),
            Fact::VehiclesSeen(fact) => fact.vehicles.into_iter().map(Self::seen).collect(),
            Fact::ConnectionStatusChanged(_)
            | Fact::VehicleHealthChanged(_)
            | Fact::ProviderIncidentChanged(_) => Ok(Vec::new()),
        }
    }

    /// The newer values, the newer times and the later receipt. Equal versions hold equal values and
    /// equal revisions equal times, by the core's promise; two that only register the vehicle may name
    /// two providers, of which the first in order of their names is kept. The upsert in `store` does the
    /// same.
    fn merge(self, other: Self) -> Self {
        let last_received_at = self.last_received_at.max(other.last_received_at);
        let provider = match self.revision.cmp(&other.revision) {
            Ordering::Less => other.provider,
            Ordering::Equal => self.provider.into_iter().chain(other.provider).min(),
            Ordering::Greater => self.provider,
        };
        let (revision, times, observed_at) = if other.revision > self.revision {
            (other.revision, other.times, other.observed_at)
        } else {
            (self.revision, self.times, self.observed_at)
        };
        let (version, signals) = if other.version > self.version {
            (other.version, other.signals)
        } else {
            (self.version, self.signals)
        };
        Self {
            version,
            signals,
            revision,
            times,
            provider,
            observed_at,
            last_received_at,
        }
    }
}

/// The latest time of observation. One before 1970 is that of a broken clock, which finds nothing.
fn latest_observation(times: &BTreeMap<String, Provenance>) -> Option<DateTime<Utc>> {
    let latest = times.values().map(|signal| signal.observed_at).max();
    latest.filter(|at| *at >= DateTime::UNIX_EPOCH)
}

fn number(name: &'static str, value: u64) -> Result<i64, OutOfRange> {
    i64::try_from(value).map_err(|_| OutOfRange { name, value })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use shared_model::event::{VehicleRegistered, VehiclesSeen};
    use shared_model::time::from_unix_millis;

    use super::*;

    fn at(second: u64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * i64::try_from(second).unwrap()).unwrap()
    }

    fn vehicle(number: u8) -> VehicleId {
        VehicleId::new(format!("bus-{number}")).unwrap()
    }

    fn provenance(revision: u64, received: u64) -> Provenance {
        Provenance {
            observed_at: at(revision),
            received_at: at(received),
            provider: Provider::new(PROVIDERS[usize::try_from(revision % 3).unwrap()]).unwrap(),
            clock_ahead: revision.is_multiple_of(3),
        }
    }

    const PROVIDERS: [&str; 3] = ["viriciti", "samsara", "rfms"];

    // As in the core, a version stands for its values and a revision for its times.
    fn names(number: u64) -> impl Iterator<Item = String> {
        (0..=number % 3).map(|signal| format!("signal_{signal}"))
    }

    fn times(revision: u64) -> BTreeMap<String, Provenance> {
        names(revision)
            .map(|name| (name, provenance(revision, revision)))
            .collect()
    }

    pub(crate) fn registered(number: u8) -> Fact {
        registered_by("viriciti", number)
    }

    fn registered_by(provider: &str, number: u8) -> Fact {
        Fact::VehicleRegistered(VehicleRegistered {
            vehicle: vehicle(number),
            connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            provider: Provider::new(provider).unwrap(),
            registered_at: at(0),
        })
    }

    pub(crate) fn changed(number: u8, version: u64) -> Fact {
        let revision = 2 * version;
        let signals = names(revision).map(|name| {
            let reading = PublishedReading {
                value: json!(version),
                unit: "%".to_owned(),
                provenance: provenance(revision, revision),
            };
            (name, reading)
        });
        Fact::VehicleSnapshotChanged(VehicleSnapshotChanged {
            vehicle: vehicle(number),
            version,
            revision,
            last_received_at: at(revision),
            changed: Vec::new(),
            signals: signals.collect(),
        })
    }

    pub(crate) fn seen(vehicles: &[(u8, u64)]) -> Fact {
        let vehicles = vehicles.iter().map(|&(number, revision)| VehicleSeen {
            vehicle: vehicle(number),
            version: revision / 2,
            revision,
            last_received_at: at(revision),
            signals: times(revision),
        });
        Fact::VehiclesSeen(VehiclesSeen {
            vehicles: vehicles.collect(),
        })
    }

    pub(crate) fn any_fact() -> impl Strategy<Value = Fact> {
        prop_oneof![
            (0..3_u8, prop::sample::select(&PROVIDERS[..]))
                .prop_map(|(number, provider)| registered_by(provider, number)),
            (0..3_u8, 1..8_u64).prop_map(|(number, version)| changed(number, version)),
            prop::collection::vec((0..3_u8, 1..16_u64), 1..4).prop_map(|vehicles| seen(&vehicles)),
        ]
    }

    type State = BTreeMap<VehicleId, Snapshot>;

    fn fold<'a>(facts: impl IntoIterator<Item = &'a Fact>) -> State {
        let mut state = State::new();
        for fact in facts {
            for (vehicle, change) in Snapshot::of(fact.clone()).unwrap() {
                let merged = state.entry(vehicle).or_default();
                *merged = std::mem::take(merged).merge(change);
            }
        }
        state
    }

    fn join(mut state: State, batch: State) -> State {
        for (vehicle, change) in batch {
            let merged = state.entry(vehicle).or_default();
            *merged = std::mem::take(merged).merge(change);
        }
        state
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
            let in_batches = shuffled.chunks(size).map(fold).fold(State::new(), join);
            prop_assert_eq!(&in_batches, &expected);
        }
    }

    fn snapshot(fact: Fact) -> Snapshot {
        Snapshot::of(fact).unwrap().remove(0).1
    }

    #[test]
    fn newer_times_leave_the_values_alone() {
        let changed = snapshot(changed(1, 4));
        let merged = changed.clone().merge(snapshot(seen(&[(1, 11)])));
        assert_eq!((merged.version, merged.revision), (4, 11));
        assert_eq!(merged.signals, changed.signals);
        assert_eq!(merged.times, times(11));
        assert_eq!(merged.last_received_at, Some(at(11)));
    }

    #[test]
    fn a_vehicle_is_its_registrars_until_it_is_heard_from() {
        let registered = snapshot(registered_by("viriciti", 1));
        let again = registered.clone().merge(snapshot(registered_by("rfms", 1)));
        assert_eq!(again.provider.unwrap().as_str(), "rfms");
        let heard = snapshot(seen(&[(1, 4)])).merge(registered);
        assert_eq!(heard.provider.unwrap().as_str(), "samsara");
        assert_eq!(heard.observed_at, Some(at(4)));
    }

    #[test]
    fn the_time_of_a_broken_clock_finds_nothing() {
        let old = DateTime::UNIX_EPOCH - chrono::TimeDelta::seconds(1);
        let mut times = times(4);
        for signal in times.values_mut() {
            signal.observed_at = old;
        }
        assert_eq!(latest_observation(&times), None);
        assert_eq!(latest_observation(&BTreeMap::new()), None);
    }

    #[test]
    fn a_signal_without_a_value_is_not_shown() {
        // Revision 11 tells of three signals, version 3 of one.
        let merged = snapshot(seen(&[(1, 11)])).merge(snapshot(changed(1, 3)));
        assert_eq!(merged.times.len(), 3);
        let readings = merged.readings();
        assert_eq!(readings.len(), 1);
        assert_eq!(readings["signal_0"].provenance, provenance(11, 11));
        assert_eq!(readings["signal_0"].value, json!(3));
    }

    #[test]
    fn a_number_beyond_the_tables_is_refused() {
        let mut fact = seen(&[(1, 2)]);
        if let Fact::VehiclesSeen(fact) = &mut fact {
            fact.vehicles[0].revision = u64::MAX;
        }
        assert_eq!(Snapshot::of(fact).unwrap_err().name, "revision");
    }
}
