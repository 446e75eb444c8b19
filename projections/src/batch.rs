//! From messages to what they say about each vehicle. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use runtime::amqp::Delivery;
use shared_model::event::{CloudEvent, ConnectionStatusChanged, EventError, Fact};
use shared_model::{ConnectionId, VehicleId, WorkspaceId};

/// Which vehicle of which workspace. Sorts like the tables do: by bytes, workspace first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VehicleKey {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The vehicle.
    pub vehicle: VehicleId,
}

/// What events say about one vehicle, as far as one projection cares.
pub trait Change: Default + Send + Sync + 'static {
    /// What `fact` says about each vehicle that it is about.
    fn of(fact: Fact) -> Result<Vec<(VehicleId, Self)>, OutOfRange>;

    /// What both say together. Commutative, associative and idempotent.
    #[must_use]
    fn merge(self, other: Self) -> Self;
}

/// All that a batch says about one vehicle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VehicleChange<C> {
    /// The vehicle.
    pub key: VehicleKey,
    /// What its events say, merged.
    pub change: C,
    /// Which of the batch's events those are.
    pub(crate) events: Vec<usize>,
}

/// The last that a batch says about one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionChange {
    /// Whose connection it is.
    pub workspace: WorkspaceId,
    /// How it is doing.
    pub fact: ConnectionStatusChanged,
}

impl ConnectionChange {
    fn of(workspace: &WorkspaceId, fact: ConnectionStatusChanged) -> Result<Self, OutOfRange> {
        for (name, value) in [
            ("revision", fact.revision),
            ("epoch", fact.epoch),
            ("frames_per_minute", fact.frames_per_minute),
            ("reconnects", fact.reconnects),
        ] {
            i64::try_from(value).map_err(|_| OutOfRange { name, value })?;
        }
        Ok(Self {
            workspace: workspace.clone(),
            fact,
        })
    }
}

/// A number that no table can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{name} {value} is beyond {}", i64::MAX)]
pub struct OutOfRange {
    /// What the number is.
    pub name: &'static str,
    /// The number.
    pub value: u64,
}

/// Why a message, or one event of it, cannot be applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error(transparent)]
    Event(#[from] EventError),
    #[error(transparent)]
    Number(#[from] OutOfRange),
}

impl Unreadable {
    /// The reason as a metric's label.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Event(EventError::Json(_)) => "malformed",
            Self::Event(EventError::ContentType(_)) => "content_type",
            Self::Event(EventError::DataSchema(_)) => "data_schema",
            Self::Event(EventError::VersionUnknown { .. }) => "version_unknown",
            Self::Number(_) => "out_of_range",
        }
    }
}

/// A message, or one event of it, that is left out.
#[derive(Debug)]
pub(crate) struct Rejection {
    pub(crate) message_id: String,
    pub(crate) error: Unreadable,
}

/// What a batch of messages says.
#[derive(Debug)]
pub(crate) struct Folded<C> {
    /// By vehicle, in the keys' order.
    pub(crate) changes: Vec<VehicleChange<C>>,
    /// By workspace and connection, in the keys' order.
    pub(crate) connections: Vec<ConnectionChange>,
    /// How many events are about connections.
    pub(crate) connection_events: u64,
    /// When each event about vehicles was committed by the core.
    pub(crate) event_times: Vec<DateTime<Utc>>,
    /// How many events are of types that belong to a newer core.
    pub(crate) ignored: u64,
    /// What cannot be applied.
    pub(crate) rejections: Vec<Rejection>,
    /// Trace Context of the first event that has one.
    pub(crate) traceparent: Option<String>,
}

/// Reads `deliveries` and merges what they say, by vehicle.
pub(crate) fn fold<C: Change>(deliveries: &[Delivery]) -> Folded<C> {
    let mut folded = Folded {
        changes: Vec::new(),
        connections: Vec::new(),
        connection_events: 0,
        event_times: Vec::new(),
        ignored: 0,
        rejections: Vec::new(),
        traceparent: None,
    };
    let mut by_vehicle = BTreeMap::<VehicleKey, (C, Vec<usize>)>::new();
    let mut by_connection = BTreeMap::<(WorkspaceId, ConnectionId), ConnectionChange>::new();
    for delivery in deliveries {
        let mut reject = |error| {
            folded.rejections.push(Rejection {
                message_id: delivery.message_id.clone(),
                error,
            });
        };
        let events = match CloudEvent::decode(&delivery.content_type, &delivery.body) {
            Ok(events) => events,
            Err(error) => {
                reject(error.into());
                continue;
            }
        };
        for event in events {
            let event = match event {
                Ok(event) => event,
                Err(error) => {
                    reject(error.into());
                    continue;
                }
            };
            let changes = match changes_of::<C>(&event) {
                Ok(Said::OfVehicles(changes)) => changes,
                Ok(Said::OfConnection(change)) => {
                    folded.connection_events += 1;
                    let key = (change.workspace.clone(), change.fact.connection);
                    let known = by_connection.entry(key).or_insert_with(|| change.clone());
                    if change.fact.revision > known.fact.revision {
                        *known = change;
                    }
                    continue;
                }
                Ok(Said::Unknown) => {
                    folded.ignored += 1;
                    continue;
                }
                Err(error) => {
                    reject(error);
                    continue;
                }
            };
            let index = folded.event_times.len();
            folded.event_times.push(event.time);
            if folded.traceparent.is_none() {
                folded.traceparent = event.traceparent;
            }
            for (vehicle, change) in changes {
                let key = VehicleKey {
                    workspace: event.workspace.clone(),
                    vehicle,
                };
                let (merged, events) = by_vehicle.entry(key).or_default();
                *merged = std::mem::take(merged).merge(change);
                events.push(index);
            }
        }
    }
    folded.changes = by_vehicle
        .into_iter()
        .map(|(key, (change, events))| VehicleChange {
            key,
            change,
            events,
        })
        .collect();
    folded.connections = by_connection.into_values().collect();
    folded
}

/// What an event is about.
enum Said<C> {
    OfVehicles(Vec<(VehicleId, C)>),
    OfConnection(ConnectionChange),
    /// Its type belongs to a newer core.
    Unknown,
}

fn changes_of<C: Change>(event: &CloudEvent) -> Result<Said<C>, Unreadable> {
    Ok(match event.fact()? {
        None => Said::Unknown,
        Some(Fact::ConnectionStatusChanged(fact)) => {
            Said::OfConnection(ConnectionChange::of(&event.workspace, fact)?)
        }
        Some(fact) => Said::OfVehicles(C::of(fact)?),
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;
    use shared_model::event::{BATCH_CONTENT_TYPE, CONTENT_TYPE};

    use super::*;

    /// Remembers the kinds of facts.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Kinds(BTreeSet<&'static str>);

    impl Change for Kinds {
        fn of(fact: Fact) -> Result<Vec<(VehicleId, Self)>, OutOfRange> {
            let kind = fact.event_type().name();
            let of = |vehicle| (vehicle, Self(BTreeSet::from([kind])));
            Ok(match fact {
                Fact::VehicleRegistered(fact) => vec![of(fact.vehicle)],
                Fact::VehicleSnapshotChanged(fact) if fact.version > 100 => {
                    return Err(OutOfRange {
                        name: "version",
                        value: fact.version,
                    });
                }
                Fact::VehicleSnapshotChanged(fact) => vec![of(fact.vehicle)],
                Fact::VehiclesSeen(fact) => fact
                    .vehicles
                    .into_iter()
                    .map(|seen| of(seen.vehicle))
                    .collect(),
                Fact::ConnectionStatusChanged(_)
                | Fact::VehicleHealthChanged(_)
                | Fact::ProviderIncidentChanged(_) => Vec::new(),
            })
        }

        fn merge(mut self, other: Self) -> Self {
            self.0.extend(other.0);
            self
        }
    }

    fn changed(vehicle: &str, version: u64) -> serde_json::Value {
        event(
            "vehicle.snapshot.changed",
            "1.0",
            &json!({"vehicle": vehicle, "version": version, "revision": version, "changed": [],
                "last_received_at": "2017-11-23T11:31:34Z", "signals": {}}),
        )
    }

    fn event(kind: &str, version: &str, data: &serde_json::Value) -> serde_json::Value {
        json!({"specversion": "1.0", "id": "0:1", "source": "urn:headrace:core", "type": kind,
            "time": "2017-11-23T11:31:34Z", "datacontenttype": "application/json",
            "dataschema": format!("urn:headrace:event:{kind}:{version}"), "workspace": "demo",
            "shard": 0, "sequence": "1", "data": data})
    }

    fn delivery(content_type: &str, body: &serde_json::Value) -> Delivery {
        Delivery {
            tag: 1,
            redelivered: false,
            routing_key: String::new(),
            content_type: content_type.to_owned(),
            message_id: "m-1".to_owned(),
            headers: BTreeMap::new(),
            death: None,
            body: serde_json::to_vec(body).unwrap().into(),
        }
    }

    #[test]
    fn events_are_merged_by_vehicle_in_the_keys_order() {
        let seen = event(
            "vehicles.seen",
            "1.3",
            &json!({"vehicles": [{"vehicle": "bus-1", "version": 1, "revision": 2,
                "last_received_at": "2017-11-23T11:31:35Z", "signals": {}}]}),
        );
        let folded = fold::<Kinds>(&[
            delivery(
                BATCH_CONTENT_TYPE,
                &json!([changed("bus-2", 1), changed("bus-1", 1)]),
            ),
            delivery(CONTENT_TYPE, &seen),
        ]);
        let changes: Vec<_> = folded
            .changes
            .iter()
            .map(|of| (of.key.vehicle.as_str(), of.change.0.len(), &*of.events))
            .collect();
        assert_eq!(changes, [("bus-1", 2, &[1, 2][..]), ("bus-2", 1, &[0][..])]);
        assert_eq!(folded.event_times.len(), 3);
        assert!(folded.rejections.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named_and_leaves_the_rest_alone() {
        let mut no_schema = changed("bus-1", 1);
        no_schema["dataschema"] = json!("other");
        let mut future = changed("bus-1", 1);
        future["dataschema"] = json!("urn:headrace:event:vehicle.snapshot.changed:2.0");
        let folded = fold::<Kinds>(&[
            delivery("text/plain", &json!("hello")),
            delivery(CONTENT_TYPE, &json!({"no": "event"})),
            delivery(
                BATCH_CONTENT_TYPE,
                &json!([no_schema, changed("bus-1", 1), future]),
            ),
            delivery(CONTENT_TYPE, &changed("bus-1", 101)),
        ]);
        let reasons: Vec<_> = folded
            .rejections
            .iter()
            .map(|rejection| rejection.error.reason())
            .collect();
        assert_eq!(
            reasons,
            [
                "content_type",
                "malformed",
                "data_schema",
                "version_unknown",
                "out_of_range"
            ]
        );
        assert!(folded.rejections.iter().all(|of| of.message_id == "m-1"));
        assert_eq!(folded.changes.len(), 1);
    }

    #[test]
    fn a_type_of_a_newer_core_is_ignored() {
        let sold = event("vehicle.sold", "1.0", &json!({}));
        let folded = fold::<Kinds>(&[delivery(CONTENT_TYPE, &sold)]);
        assert_eq!(folded.ignored, 1);
        assert!(folded.changes.is_empty() && folded.rejections.is_empty());
    }
}
