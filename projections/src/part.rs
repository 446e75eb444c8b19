//! What is written together, and how it is taken apart when the database refuses it. Pure.

use crate::batch::{ConnectionChange, VehicleChange};
use crate::offsets::Offsets;

/// A part of a batch.
#[derive(Debug)]
pub(crate) struct Part<'a, C> {
    pub(crate) vehicles: &'a [VehicleChange<C>],
    pub(crate) connections: &'a [ConnectionChange],
    /// The batch's events, in the part that is written last.
    pub(crate) offsets: Option<&'a Offsets>,
}

/// What to do about a part that the database refuses.
#[derive(Debug)]
pub(crate) enum Refused<'a, C> {
    /// Try each by itself, in this order.
    Halves(Part<'a, C>, Part<'a, C>),
    /// It is this vehicle.
    Vehicle(&'a VehicleChange<C>),
    /// It is this connection.
    Connection(&'a ConnectionChange),
    /// There is nothing to leave out.
    Neither,
}

impl<C> Clone for Part<'_, C> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<C> Copy for Part<'_, C> {}

impl<'a, C> Part<'a, C> {
    /// Finds what is refused by halving, so that it takes nothing else with it. The events count as
    /// applied once all the rest is written.
    pub(crate) fn refused(self) -> Refused<'a, C> {
        let of = |vehicles, connections, offsets| Self {
            vehicles,
            connections,
            offsets,
        };
        let items = self.vehicles.len() + self.connections.len();
        if items == 0 {
            return Refused::Neither;
        }
        if self.offsets.is_some() {
            let first = of(self.vehicles, self.connections, None);
            return Refused::Halves(first, of(&[], &[], self.offsets));
        }
        match (self.vehicles, self.connections) {
            ([vehicle], []) => Refused::Vehicle(vehicle),
            ([], [connection]) => Refused::Connection(connection),
            (vehicles, []) => {
                let (first, second) = vehicles.split_at(vehicles.len() / 2);
                Refused::Halves(of(first, &[], None), of(second, &[], None))
            }
            ([], connections) => {
                let (first, second) = connections.split_at(connections.len() / 2);
                Refused::Halves(of(&[], first, None), of(&[], second, None))
            }
            (vehicles, connections) => {
                Refused::Halves(of(vehicles, &[], None), of(&[], connections, None))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared_model::event::ConnectionStatusChanged;
    use shared_model::time::from_unix_millis;
    use shared_model::{Provider, VehicleId, WorkspaceId};

    use super::*;
    use crate::VehicleKey;
    use crate::offsets::Position;

    fn vehicle(number: usize) -> VehicleChange<usize> {
        VehicleChange {
            key: VehicleKey {
                workspace: WorkspaceId::new("demo").unwrap(),
                vehicle: VehicleId::new(format!("bus-{number}")).unwrap(),
            },
            change: number,
            events: Vec::new(),
        }
    }

    fn connection(number: usize) -> ConnectionChange {
        ConnectionChange {
            workspace: WorkspaceId::new("demo").unwrap(),
            fact: ConnectionStatusChanged {
                connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                provider: Provider::new("viriciti").unwrap(),
                revision: number as u64,
                status: String::new(),
                since: from_unix_millis(0).unwrap(),
                reason: None,
                error: None,
                owner: String::new(),
                epoch: 0,
                frames_per_minute: 0,
                reconnects: 0,
            },
        }
    }

    fn index(change: &ConnectionChange) -> usize {
        usize::try_from(change.fact.revision).unwrap()
    }

    proptest! {
        /// A database that refuses some vehicles (by number) and connections (by revision) keeps all
        /// the others, each once, and the checkpoint last.
        #[test]
        fn only_what_is_refused_is_left_out(
            vehicles in prop::collection::vec(any::<bool>(), 0..12),
            connections in prop::collection::vec(any::<bool>(), 0..6),
        ) {
            let changes: Vec<_> = (0..vehicles.len()).map(vehicle).collect();
            let told: Vec<_> = (0..connections.len()).map(connection).collect();
            let mut offsets = Offsets::default();
            offsets.insert(Position::new(0, 1).unwrap());
            let mut parts = vec![Part {
                vehicles: &changes,
                connections: &told,
                offsets: Some(&offsets),
            }];
            let (mut kept, mut left_out) = (Vec::new(), Vec::new());
            while let Some(part) = parts.pop() {
                let bad = part.vehicles.iter().any(|of| vehicles[of.change])
                    || part.connections.iter().any(|of| connections[index(of)]);
                if !bad {
                    kept.extend(part.vehicles.iter().map(|of| format!("v{}", of.change)));
                    kept.extend(part.connections.iter().map(|of| format!("c{}", of.fact.revision)));
                    kept.extend(part.offsets.map(|_| "checkpoint".to_owned()));
                    continue;
                }
                match part.refused() {
                    Refused::Halves(first, second) => parts.extend([second, first]),
                    Refused::Vehicle(of) => left_out.push(format!("v{}", of.change)),
                    Refused::Connection(of) => left_out.push(format!("c{}", of.fact.revision)),
                    Refused::Neither => prop_assert!(false, "a part without content was refused"),
                }
            }
            let expect = |wanted: bool| {
                let of = |name: &'static str, refused: &[bool]| -> Vec<String> {
                    let all = refused.iter().enumerate();
                    all.filter(|(_, refused)| **refused == wanted)
                        .map(|(number, _)| format!("{name}{number}"))
                        .collect()
                };
                [of("v", &vehicles), of("c", &connections)].concat()
            };
            prop_assert_eq!(kept, [expect(false), vec!["checkpoint".to_owned()]].concat());
            prop_assert_eq!(left_out, expect(true));
        }
    }
}
