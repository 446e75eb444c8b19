//! From messages to what they say about each vehicle. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::amqp::Delivery;
use serde_json::value::RawValue;
use shared_model::event::{CloudEvent, ConnectionStatusChanged, EventError, EventType, Fact};
use shared_model::log::StateItem;
use shared_model::{ConnectionId, VehicleId, WorkspaceId};

use crate::offsets::{Offsets, Position, named};

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

/// A message with events, from the queue or from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    /// The body's media type.
    pub(crate) content_type: String,
    /// Names the offsets of its events; see [`named`].
    pub(crate) id: String,
    /// The events.
    pub(crate) body: Bytes,
}

impl From<Delivery> for Message {
    fn from(delivery: Delivery) -> Self {
        Self {
            content_type: delivery.content_type,
            id: delivery.message_id,
            body: delivery.body,
        }
    }
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
    /// How many events are about vehicles.
    pub(crate) vehicle_events: usize,
    /// How many events are of types that belong to a newer core.
    pub(crate) ignored: u64,
    /// What cannot be applied.
    pub(crate) rejections: Vec<Rejection>,
    /// The events that are done with once all this is written: also those that cannot be applied,
    /// which will be no different the next time.
    pub(crate) offsets: Offsets,
    /// Trace Context of the first event that has one.
    pub(crate) traceparent: Option<String>,
}

/// Reads `messages` and merges what they say, by vehicle.
pub(crate) fn fold<C: Change>(messages: &[Message]) -> Folded<C> {
    let mut folder = Folder::default();
    for message in messages {
        folder.message(message);
    }
    folder.finish()
}

/// Merges what the core says of vehicles and connections, as if events said it.
pub(crate) fn fold_state<C: Change>(items: Vec<StateItem>) -> Folded<C> {
    let mut folder = Folder::default();
    for item in items {
        folder.item(item);
    }
    folder.finish()
}

/// What has been read of a batch so far.
struct Folder<C> {
    folded: Folded<C>,
    by_vehicle: BTreeMap<VehicleKey, (C, Vec<usize>)>,
    by_connection: BTreeMap<(WorkspaceId, ConnectionId), ConnectionChange>,
}

impl<C> Default for Folder<C> {
    fn default() -> Self {
        Self {
            folded: Folded {
                changes: Vec::new(),
                connections: Vec::new(),
                connection_events: 0,
                vehicle_events: 0,
                ignored: 0,
                rejections: Vec::new(),
                offsets: Offsets::default(),
                traceparent: None,
            },
            by_vehicle: BTreeMap::new(),
            by_connection: BTreeMap::new(),
        }
    }
}

impl<C: Change> Folder<C> {
    /// A message that cannot be read at all names no events: they stay missing, and the log has them.
    fn message(&mut self, message: &Message) {
        let id = &message.id;
        let events = match CloudEvent::read(&message.content_type, &message.body) {
            Ok(events) => events,
            Err(error) => return self.reject(id, error.into()),
        };
        let count = events.len();
        for (index, event) in events.into_iter().enumerate() {
            let (stated, said) = match event {
                Ok(event) => (stated(&event), self.event(event)),
                Err(error) => (None, Err(error.into())),
            };
            if let Err(error) = said {
                self.reject(id, error);
            }
            if let Some(position) = stated.or_else(|| named(id, index, count)) {
                self.folded.offsets.insert(position);
            }
        }
    }

    fn event(&mut self, event: CloudEvent<&RawValue>) -> Result<(), Unreadable> {
        match event.fact()? {
            None => self.folded.ignored += 1,
            Some(fact) => self.fact(&event.workspace, fact)?,
        }
        if self.folded.traceparent.is_none() {
            self.folded.traceparent = event.traceparent;
        }
        Ok(())
    }

    fn item(&mut self, item: StateItem) {
        let said = match EventType::from_name(&item.kind) {
            None => {
                self.folded.ignored += 1;
                Ok(())
            }
            Some(kind) => Fact::read(kind, item.data)
                .map_err(|error| EventError::from(error).into())
                .and_then(|fact| self.fact(&item.workspace, fact)),
        };
        if let Err(error) = said {
            self.reject(&format!("{} of {}", item.kind, item.workspace), error);
        }
    }

    fn fact(&mut self, workspace: &WorkspaceId, fact: Fact) -> Result<(), Unreadable> {
        if let Fact::ConnectionStatusChanged(fact) = fact {
            let change = ConnectionChange::of(workspace, fact)?;
            self.folded.connection_events += 1;
            let key = (change.workspace.clone(), change.fact.connection);
            let known = self
                .by_connection
                .entry(key)
                .or_insert_with(|| change.clone());
            if change.fact.revision > known.fact.revision {
                *known = change;
            }
            return Ok(());
        }
        let changes = C::of(fact)?;
        let index = self.folded.vehicle_events;
        self.folded.vehicle_events += 1;
        for (vehicle, change) in changes {
            let key = VehicleKey {
                workspace: workspace.clone(),
                vehicle,
            };
            let (merged, events) = self.by_vehicle.entry(key).or_default();
            *merged = std::mem::take(merged).merge(change);
            events.push(index);
        }
        Ok(())
    }

    fn reject(&mut self, message_id: &str, error: Unreadable) {
        self.folded.rejections.push(Rejection {
            message_id: message_id.to_owned(),
            error,
        });
    }

    fn finish(self) -> Folded<C> {
        let change = |(key, (change, events))| VehicleChange {
            key,
            change,
            events,
        };
        Folded {
            changes: self.by_vehicle.into_iter().map(change).collect(),
            connections: self.by_connection.into_values().collect(),
            ..self.folded
        }
    }
}

/// The place that an event states.
fn stated<D>(event: &CloudEvent<D>) -> Option<Position> {
    Position::new(event.shard, event.sequence.parse().ok()?)
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

    fn message(content_type: &str, body: &serde_json::Value) -> Message {
        named_message("m-1", content_type, body)
    }

    fn named_message(id: &str, content_type: &str, body: &serde_json::Value) -> Message {
        Message {
            content_type: content_type.to_owned(),
            id: id.to_owned(),
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
            message(
                BATCH_CONTENT_TYPE,
                &json!([changed("bus-2", 1), changed("bus-1", 1)]),
            ),
            message(CONTENT_TYPE, &seen),
        ]);
        let changes: Vec<_> = folded
            .changes
            .iter()
            .map(|of| (of.key.vehicle.as_str(), of.change.0.len(), &*of.events))
            .collect();
        assert_eq!(changes, [("bus-1", 2, &[1, 2][..]), ("bus-2", 1, &[0][..])]);
        assert_eq!(folded.vehicle_events, 3);
        assert!(folded.rejections.is_empty());
    }

    #[test]
    fn what_cannot_be_read_is_named_and_leaves_the_rest_alone() {
        let mut no_schema = changed("bus-1", 1);
        no_schema["dataschema"] = json!("other");
        let mut future = changed("bus-1", 1);
        future["dataschema"] = json!("urn:headrace:event:vehicle.snapshot.changed:2.0");
        let folded = fold::<Kinds>(&[
            message("text/plain", &json!("hello")),
            message(CONTENT_TYPE, &json!({"no": "event"})),
            message(
                BATCH_CONTENT_TYPE,
                &json!([no_schema, changed("bus-1", 1), future]),
            ),
            message(CONTENT_TYPE, &changed("bus-1", 101)),
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
        let folded = fold::<Kinds>(&[message(CONTENT_TYPE, &sold)]);
        assert_eq!(folded.ignored, 1);
        assert!(folded.changes.is_empty() && folded.rejections.is_empty());
    }

    #[test]
    fn every_event_that_is_done_with_is_known_by_its_offset() {
        let at = |offset: u64, mut event: serde_json::Value| {
            event["sequence"] = json!(format!("{offset:020}"));
            event
        };
        let batch = [
            at(7, changed("bus-1", 1)),
            json!({"no": "event"}),
            // Refused, ignored, and without a place of its own.
            at(9, changed("bus-1", 101)),
            at(10, event("vehicle.sold", "1.0", &json!({}))),
            at(0, changed("bus-2", 1)),
        ];
        let offsets = |id, content_type, body: &serde_json::Value| {
            let folded = fold::<Kinds>(&[named_message(id, content_type, body)]);
            let of = folded.offsets.of(0).map(crate::offsets::multirange);
            of.unwrap_or_default()
        };
        let body = json!(batch);
        assert_eq!(offsets("0:7-11", BATCH_CONTENT_TYPE, &body), "{[7,12)}");
        // A name that does not fit says nothing; what events state themselves counts.
        assert_eq!(
            offsets("0:7-12", BATCH_CONTENT_TYPE, &body),
            "{[7,8),[9,11)}"
        );
        assert_eq!(
            offsets("0:4-4", CONTENT_TYPE, &json!({"no": "event"})),
            "{[4,5)}"
        );
        // Nobody knows what was in it, but the log does.
        assert_eq!(offsets("0:4-6", BATCH_CONTENT_TYPE, &json!("torn")), "");
        assert_eq!(offsets("0:4-4", "text/plain", &body), "");
    }

    #[test]
    fn the_state_is_read_as_events_are() {
        let item = |kind: &str, data: serde_json::Value| StateItem {
            workspace: WorkspaceId::new("demo").unwrap(),
            kind: kind.to_owned(),
            data,
        };
        let folded = fold_state::<Kinds>(vec![
            item(
                "vehicle.snapshot.changed",
                changed("bus-2", 1)["data"].clone(),
            ),
            item("vehicle.snapshot.changed", json!({})),
            item("vehicle.sold", json!({})),
        ]);
        assert_eq!(folded.changes[0].key.vehicle.as_str(), "bus-2");
        assert_eq!((folded.changes.len(), folded.ignored), (1, 1));
        assert_eq!(folded.rejections[0].error.reason(), "malformed");
        assert!(folded.offsets.is_empty());
    }
}
