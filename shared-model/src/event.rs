//! Events: facts that the core committed, as CloudEvents 1.0 in structured JSON mode.
//!
//! Every event carries absolute state and the numbers to order it by, so that a reader may see it
//! twice, late or out of order and still end up in the same state:
//!
//! * `version` orders a vehicle's **values**: dense, raised by one by each `vehicle.snapshot.changed`;
//! * `revision` orders a vehicle's **times**: raised by each write of its state, so it has gaps.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::id::{ConnectionId, Provider, VehicleId, WorkspaceId};
use crate::signal::Provenance;
use crate::version::Version;

/// The version of the events' data that this code writes.
pub const VERSION: Version = Version { major: 1, minor: 0 };

/// `content_type` of a message that holds one event.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// `content_type` of a message that holds an array of events.
pub const BATCH_CONTENT_TYPE: &str = "application/cloudevents-batch+json";

/// The type of an event, which is also its routing key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// A vehicle became known.
    VehicleRegistered,
    /// A vehicle's values changed.
    VehicleSnapshotChanged,
    /// Vehicles were heard from, their values as before.
    VehiclesSeen,
    /// A connection is doing otherwise than before.
    ConnectionStatusChanged,
    /// A vehicle's health is other than before.
    VehicleHealthChanged,
    /// A provider's outage has begun or ended.
    ProviderIncidentChanged,
}

impl EventType {
    /// Every type.
    pub const ALL: [Self; 6] = [
        Self::VehicleRegistered,
        Self::VehicleSnapshotChanged,
        Self::VehiclesSeen,
        Self::ConnectionStatusChanged,
        Self::VehicleHealthChanged,
        Self::ProviderIncidentChanged,
    ];

    /// The type's name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::VehicleRegistered => "vehicle.registered",
            Self::VehicleSnapshotChanged => "vehicle.snapshot.changed",
            Self::VehiclesSeen => "vehicles.seen",
            Self::ConnectionStatusChanged => "connection.status.changed",
            Self::VehicleHealthChanged => "vehicle.health.changed",
            Self::ProviderIncidentChanged => "provider.incident.changed",
        }
    }

    /// The type called `name`, if this code knows it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The `dataschema` of the type's data as this code writes them.
    #[must_use]
    pub fn data_schema(self) -> String {
        format!("{DATA_SCHEMA}{}:{VERSION}", self.name())
    }
}

const DATA_SCHEMA: &str = "urn:headrace:event:";

/// An event's envelope: the CloudEvents 1.0 attributes, Headrace's extensions, and the data, which a
/// carrier may leave as the text that it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CloudEvent<D = Value> {
    /// Always `1.0`.
    pub specversion: String,
    /// Unique: shard and offset in the event log.
    pub id: String,
    /// Always `urn:headrace:core`.
    pub source: String,
    /// See [`EventType`]; a name that is not known here belongs to a newer core.
    #[serde(rename = "type")]
    pub kind: String,
    /// The vehicle, connection or incident that the event is about; absent where it is about several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// When the core committed it (UTC).
    pub time: DateTime<Utc>,
    /// Always `application/json`.
    pub datacontenttype: String,
    /// Names the data's version.
    pub dataschema: String,
    /// Extension: whose data these are.
    pub workspace: WorkspaceId,
    /// Extension: the log's shard.
    pub shard: u32,
    /// Extension: the offset in the shard, dense from 1, padded so that text sorts like numbers.
    pub sequence: String,
    /// Extension: W3C Trace Context of the write that made the event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The fact; see [`Fact`].
    #[schema(value_type = Object)]
    pub data: D,
}

/// Why a message or an event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// Not JSON, or not the JSON of an event.
    #[error("not a CloudEvent")]
    Json(#[from] serde_json::Error),
    /// A media type that carries no events.
    #[error("content type {0:?} is not known here (known: {CONTENT_TYPE}, {BATCH_CONTENT_TYPE})")]
    ContentType(String),
    /// `dataschema` is not one of ours.
    #[error("dataschema {0:?} is not {DATA_SCHEMA}<type>:<major>.<minor>")]
    DataSchema(String),
    /// A format from the future.
    #[error("{kind} version {found} is not known here (known: {}.x)", VERSION.major)]
    VersionUnknown {
        /// The event's type.
        kind: String,
        /// The version that it states.
        found: Version,
    },
}

/// What identifies an event in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPosition {
    /// The shard.
    pub shard: u32,
    /// The offset in it, from 1.
    pub offset: u64,
    /// When it was committed.
    pub logged_at: DateTime<Utc>,
}

impl<D> CloudEvent<D> {
    /// The event for a row of the log.
    #[must_use]
    pub fn new(
        at: &LogPosition,
        kind: EventType,
        workspace: WorkspaceId,
        subject: Option<String>,
        traceparent: Option<String>,
        data: D,
    ) -> Self {
        Self {
            specversion: "1.0".to_owned(),
            id: format!("{}:{}", at.shard, at.offset),
            source: "urn:headrace:core".to_owned(),
            kind: kind.name().to_owned(),
            subject,
            time: at.logged_at,
            datacontenttype: "application/json".to_owned(),
            dataschema: kind.data_schema(),
            workspace,
            shard: at.shard,
            sequence: format!("{:020}", at.offset),
            traceparent,
            data,
        }
    }

    /// The event's type; `None` for one that is not known here. Refuses data of an unknown version.
    fn known_type(&self) -> Result<Option<EventType>, EventError> {
        let Some(kind) = EventType::from_name(&self.kind) else {
            return Ok(None);
        };
        let found = self
            .dataschema
            .strip_prefix(DATA_SCHEMA)
            .and_then(|schema| schema.rsplit_once(':'))
            .and_then(|(_, version)| Version::parse(version))
            .ok_or_else(|| EventError::DataSchema(self.dataschema.clone()))?;
        if found.major != VERSION.major {
            return Err(EventError::VersionUnknown {
                kind: self.kind.clone(),
                found,
            });
        }
        Ok(Some(kind))
    }
}

impl CloudEvent {
    /// Reads a message's events, each by itself: one that cannot be read leaves the others alone.
    pub fn decode(
        content_type: &str,
        body: &[u8],
    ) -> Result<Vec<Result<Self, EventError>>, EventError> {
        each_event(content_type, body, serde_json::from_slice)
    }

    /// The fact that the event states; `None` for a type that is not known here.
    pub fn fact(&self) -> Result<Option<Fact>, EventError> {
        let read = |kind| Fact::read(kind, &self.data);
        Ok(self.known_type()?.map(read).transpose()?)
    }
}

impl<'a> CloudEvent<&'a RawValue> {
    /// As [`CloudEvent::decode`], but the events' data stay the text that they are, so that
    /// [`Self::fact`] reads it straight into the fact.
    pub fn read(
        content_type: &str,
        body: &'a [u8],
    ) -> Result<Vec<Result<Self, EventError>>, EventError> {
        each_event(content_type, body, serde_json::from_slice)
    }

    /// The fact that the event states; `None` for a type that is not known here.
    pub fn fact(&self) -> Result<Option<Fact>, EventError> {
        let read = |kind| Fact::read(kind, self.data);
        Ok(self.known_type()?.map(read).transpose()?)
    }
}

/// Reads each event of a message by itself.
fn each_event<'a, E>(
    content_type: &str,
    body: &'a [u8],
    read: impl Fn(&'a [u8]) -> Result<E, serde_json::Error>,
) -> Result<Vec<Result<E, EventError>>, EventError> {
    let read = |event| read(event).map_err(EventError::from);
    match content_type {
        CONTENT_TYPE => Ok(vec![read(body)]),
        BATCH_CONTENT_TYPE => {
            let events: Vec<&RawValue> = serde_json::from_slice(body)?;
            Ok(events
                .into_iter()
                .map(|event| read(event.get().as_bytes()))
                .collect())
        }
        other => Err(EventError::ContentType(other.to_owned())),
    }
}

/// The data of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// Data of [`EventType::VehicleRegistered`].
    VehicleRegistered(VehicleRegistered),
    /// Data of [`EventType::VehicleSnapshotChanged`].
    VehicleSnapshotChanged(VehicleSnapshotChanged),
    /// Data of [`EventType::VehiclesSeen`].
    VehiclesSeen(VehiclesSeen),
    /// Data of [`EventType::ConnectionStatusChanged`].
    ConnectionStatusChanged(ConnectionStatusChanged),
    /// Data of [`EventType::VehicleHealthChanged`].
    VehicleHealthChanged(VehicleHealthChanged),
    /// Data of [`EventType::ProviderIncidentChanged`].
    ProviderIncidentChanged(ProviderIncidentChanged),
}

impl Fact {
    /// The type of the event that states this fact.
    #[must_use]
    pub const fn event_type(&self) -> EventType {
        match self {
            Self::VehicleRegistered(_) => EventType::VehicleRegistered,
            Self::VehicleSnapshotChanged(_) => EventType::VehicleSnapshotChanged,
            Self::VehiclesSeen(_) => EventType::VehiclesSeen,
            Self::ConnectionStatusChanged(_) => EventType::ConnectionStatusChanged,
            Self::VehicleHealthChanged(_) => EventType::VehicleHealthChanged,
            Self::ProviderIncidentChanged(_) => EventType::ProviderIncidentChanged,
        }
    }

    /// The fact that the data of an event of type `kind` state.
    pub fn read<'a, D>(kind: EventType, data: D) -> Result<Self, serde_json::Error>
    where
        D: Deserializer<'a, Error = serde_json::Error>,
    {
        Ok(match kind {
            EventType::VehicleRegistered => {
                Self::VehicleRegistered(VehicleRegistered::deserialize(data)?)
            }
            EventType::VehicleSnapshotChanged => {
                Self::VehicleSnapshotChanged(VehicleSnapshotChanged::deserialize(data)?)
            }
            EventType::VehiclesSeen => Self::VehiclesSeen(VehiclesSeen::deserialize(data)?),
            EventType::ConnectionStatusChanged => {
                Self::ConnectionStatusChanged(ConnectionStatusChanged::deserialize(data)?)
            }
            EventType::VehicleHealthChanged => {
                Self::VehicleHealthChanged(VehicleHealthChanged::deserialize(data)?)
            }
            EventType::ProviderIncidentChanged => {
                Self::ProviderIncidentChanged(ProviderIncidentChanged::deserialize(data)?)
            }
        })
    }

    /// The event's subject: the vehicle, where there is exactly one, the connection or the incident.
    #[must_use]
    pub fn subject(&self) -> Option<String> {
        match self {
            Self::VehicleRegistered(fact) => Some(fact.vehicle.to_string()),
            Self::VehicleSnapshotChanged(fact) => Some(fact.vehicle.to_string()),
            Self::VehiclesSeen(_) => None,
            Self::ConnectionStatusChanged(fact) => Some(fact.connection.to_string()),
            Self::VehicleHealthChanged(fact) => Some(fact.vehicle.to_string()),
            Self::ProviderIncidentChanged(fact) => Some(fact.incident.to_string()),
        }
    }

    /// The fact as an event's `data`.
    ///
    /// # Panics
    /// Never: the facts are plain data with text keys and finite numbers.
    #[must_use]
    pub fn to_data(&self) -> Value {
        let data = match self {
            Self::VehicleRegistered(fact) => serde_json::to_value(fact),
            Self::VehicleSnapshotChanged(fact) => serde_json::to_value(fact),
            Self::VehiclesSeen(fact) => serde_json::to_value(fact),
            Self::ConnectionStatusChanged(fact) => serde_json::to_value(fact),
            Self::VehicleHealthChanged(fact) => serde_json::to_value(fact),
            Self::ProviderIncidentChanged(fact) => serde_json::to_value(fact),
        };
        data.expect("facts have text keys and finite numbers, so they are JSON")
    }
}

/// A vehicle became known, by its first observation or by a connection's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VehicleRegistered {
    /// The vehicle.
    pub vehicle: VehicleId,
    /// The connection that brought it.
    pub connection: ConnectionId,
    /// That connection's provider.
    pub provider: Provider,
    /// When (UTC).
    pub registered_at: DateTime<Utc>,
}

/// The full new state of a vehicle.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VehicleSnapshotChanged {
    /// The vehicle.
    pub vehicle: VehicleId,
    /// Orders the values; dense per vehicle, from 1.
    pub version: u64,
    /// Orders the times.
    pub revision: u64,
    /// When the vehicle was last heard from (UTC).
    pub last_received_at: DateTime<Utc>,
    /// The signals that moved beyond their deadband, or came up for the first time; empty where a
    /// sweep publishes small moves.
    pub changed: Vec<String>,
    /// Every known signal by name.
    pub signals: BTreeMap<String, PublishedReading>,
}

/// A signal's latest value as published. Open: a newer core may publish signals, units and kinds
/// of values that this code does not know.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(from = "FlatReading")]
pub struct PublishedReading {
    /// A number, or `{"latitude","longitude"}`.
    pub value: Value,
    /// The value's unit.
    pub unit: String,
    /// When and by whom it was reported.
    #[serde(flatten)]
    pub provenance: Provenance,
}

/// A reading as it is written. Flattening would have serde buffer each field before it reads it, and
/// readings are most of what there is to read.
#[derive(Deserialize)]
struct FlatReading {
    value: Value,
    unit: String,
    observed_at: DateTime<Utc>,
    received_at: DateTime<Utc>,
    provider: Provider,
    #[serde(default)]
    clock_ahead: bool,
}

impl From<FlatReading> for PublishedReading {
    fn from(flat: FlatReading) -> Self {
        let FlatReading {
            value,
            unit,
            observed_at,
            received_at,
            provider,
            clock_ahead,
        } = flat;
        Self {
            value,
            unit,
            provenance: Provenance {
                observed_at,
                received_at,
                provider,
                clock_ahead,
            },
        }
    }
}

/// Vehicles that were heard from while their values stayed as last published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VehiclesSeen {
    /// The vehicles, all of one workspace and shard.
    pub vehicles: Vec<VehicleSeen>,
}

/// One vehicle's newest times.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VehicleSeen {
    /// The vehicle.
    pub vehicle: VehicleId,
    /// The version whose values are still the latest.
    pub version: u64,
    /// Orders the times.
    pub revision: u64,
    /// When the vehicle was last heard from (UTC).
    pub last_received_at: DateTime<Utc>,
    /// Every known signal's provenance by name.
    pub signals: BTreeMap<String, Provenance>,
}

/// How a connection is doing now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConnectionStatusChanged {
    /// The connection.
    pub connection: ConnectionId,
    /// Its provider.
    pub provider: Provider,
    /// Orders what is said of the connection.
    pub revision: u64,
    /// `connected`, `subscribed`, `silent` or `disconnected`; `removed` for good.
    pub status: String,
    /// Since when (UTC).
    pub since: DateTime<Utc>,
    /// Why, as a word from a closed set, such as `closed` or `unowned`.
    pub reason: Option<String>,
    /// What went wrong last.
    pub error: Option<String>,
    /// The publisher that reads it, or did last.
    pub owner: String,
    /// The owner epoch.
    pub epoch: u64,
    /// Frames in the minute before.
    pub frames_per_minute: u64,
    /// How often the owner had to connect again.
    pub reconnects: u64,
}

impl ConnectionStatusChanged {
    /// The status of a connection that is no more.
    pub const REMOVED: &'static str = "removed";
}

/// A vehicle's health is other than before: the health projection's finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct VehicleHealthChanged {
    /// The vehicle.
    pub vehicle: VehicleId,
    /// Orders what is said of the vehicle's health; dense per vehicle, from 1.
    pub number: u64,
    /// `fresh`, `stale`, `offline` or `never_seen`.
    pub freshness: String,
    /// The freshness before; none for a vehicle that was not known.
    pub previous: Option<String>,
    /// Why it is not fresh: `source_silent`, `pipeline_late` or `provider_outage`; none if it is, and
    /// for one that was never heard from.
    pub cause: Option<String>,
    /// The outage that it is part of, where the cause is one.
    pub incident: Option<Uuid>,
    /// The provider that it was last heard from through, if it is known.
    pub provider: Option<Provider>,
    /// Since when (UTC): by the vehicle's times, not by when that was found.
    pub since: DateTime<Utc>,
    /// When the vehicle was last heard from (UTC).
    pub last_received_at: Option<DateTime<Utc>>,
}

/// A provider's outage has begun or ended, as one connection sees it: one event, however many
/// vehicles it silences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProviderIncidentChanged {
    /// The outage.
    pub incident: Uuid,
    /// Orders what is said of it; dense per incident, from 1.
    pub number: u64,
    /// The connection.
    pub connection: ConnectionId,
    /// Its provider.
    pub provider: Provider,
    /// `open` or `closed`.
    pub state: String,
    /// Why, as a word from a closed set: the connection's reason, or `silent`.
    pub reason: Option<String>,
    /// When it began (UTC).
    pub opened_at: DateTime<Utc>,
    /// When it ended (UTC).
    pub closed_at: Option<DateTime<Utc>>,
    /// How many vehicles are heard from through the connection.
    pub vehicles: u64,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time::from_unix_millis;

    fn at(millis: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + millis).unwrap()
    }

    fn provenance() -> Provenance {
        Provenance {
            observed_at: at(0),
            received_at: at(120),
            provider: Provider::new("viriciti").unwrap(),
            clock_ahead: false,
        }
    }

    fn vehicle() -> VehicleId {
        VehicleId::new("bus-1").unwrap()
    }

    fn event(fact: &Fact) -> CloudEvent {
        CloudEvent::new(
            &LogPosition {
                shard: 2,
                offset: 41,
                logged_at: at(250),
            },
            fact.event_type(),
            WorkspaceId::new("demo").unwrap(),
            fact.subject(),
            None,
            fact.to_data(),
        )
    }

    fn facts() -> [Fact; 6] {
        [
            Fact::VehicleRegistered(VehicleRegistered {
                vehicle: vehicle(),
                connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                provider: Provider::new("viriciti").unwrap(),
                registered_at: at(200),
            }),
            Fact::VehicleSnapshotChanged(VehicleSnapshotChanged {
                vehicle: vehicle(),
                version: 7,
                revision: 9,
                last_received_at: at(120),
                changed: vec!["state_of_charge".to_owned()],
                signals: BTreeMap::from([(
                    "state_of_charge".to_owned(),
                    PublishedReading {
                        value: json!(81.5),
                        unit: "%".to_owned(),
                        provenance: provenance(),
                    },
                )]),
            }),
            Fact::VehiclesSeen(VehiclesSeen {
                vehicles: vec![VehicleSeen {
                    vehicle: vehicle(),
                    version: 7,
                    revision: 12,
                    last_received_at: at(120),
                    signals: BTreeMap::from([("state_of_charge".to_owned(), provenance())]),
                }],
            }),
            Fact::ConnectionStatusChanged(ConnectionStatusChanged {
                connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                provider: Provider::new("viriciti").unwrap(),
                revision: 4,
                status: "disconnected".to_owned(),
                since: at(100),
                reason: Some("closed".to_owned()),
                error: Some("the provider closed the socket".to_owned()),
                owner: "publisher-0".to_owned(),
                epoch: 3,
                frames_per_minute: 60,
                reconnects: 1,
            }),
            Fact::VehicleHealthChanged(VehicleHealthChanged {
                vehicle: vehicle(),
                number: 5,
                freshness: "stale".to_owned(),
                previous: Some("fresh".to_owned()),
                cause: Some("provider_outage".to_owned()),
                incident: Some("01890a5d-ac96-774b-bcce-b302099a8059".parse().unwrap()),
                provider: Some(Provider::new("viriciti").unwrap()),
                since: at(300_120),
                last_received_at: Some(at(120)),
            }),
            Fact::ProviderIncidentChanged(ProviderIncidentChanged {
                incident: "01890a5d-ac96-774b-bcce-b302099a8059".parse().unwrap(),
                number: 2,
                connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
                provider: Provider::new("viriciti").unwrap(),
                state: "closed".to_owned(),
                reason: Some("closed".to_owned()),
                opened_at: at(100),
                closed_at: Some(at(400_000)),
                vehicles: 20,
            }),
        ]
    }

    #[test]
    fn the_wire_format_is_pinned() {
        let events: Vec<_> = facts().iter().map(event).collect();
        insta::assert_json_snapshot!(events);
    }

    fn decode(content_type: &str, body: &[u8]) -> Vec<CloudEvent> {
        let events = CloudEvent::decode(content_type, body).unwrap();
        events.into_iter().map(Result::unwrap).collect()
    }

    #[test]
    fn an_event_that_cannot_be_read_leaves_its_batch_mates_alone() {
        let mut events: Vec<_> = facts().iter().map(|fact| json!(event(fact))).collect();
        events[1] = json!({"specversion": "1.0"});
        let body = serde_json::to_vec(&events).unwrap();
        let read = CloudEvent::decode(BATCH_CONTENT_TYPE, &body).unwrap();
        assert_eq!(
            read.iter().map(Result::is_ok).collect::<Vec<_>>(),
            [true, false, true, true, true, true]
        );
    }

    #[test]
    fn events_read_back_alone_and_in_batches() {
        for fact in facts() {
            let event = event(&fact);
            let body = serde_json::to_vec(&event).unwrap();
            let read = decode(CONTENT_TYPE, &body);
            assert_eq!(read, std::slice::from_ref(&event));
            let unread = CloudEvent::read(CONTENT_TYPE, &body).unwrap().remove(0);
            assert_eq!(unread.unwrap().fact().unwrap(), Some(fact.clone()));
            assert_eq!(read[0].fact().unwrap(), Some(fact));
        }
        let events: Vec<_> = facts().iter().map(event).collect();
        let body = serde_json::to_vec(&events).unwrap();
        assert_eq!(decode(BATCH_CONTENT_TYPE, &body), events);
        assert!(CloudEvent::decode("text/plain", &body).is_err());
    }

    #[test]
    fn unknown_types_and_fields_are_tolerated_and_unknown_majors_refused() {
        let mut event = event(&facts()[1]);
        event.data["colour"] = json!("blue");
        event.data["signals"]["cabin_mood"] = json!({"value": "calm", "unit": "mood",
            "observed_at": at(0), "received_at": at(0), "provider": "viriciti"});
        assert!(matches!(
            event.fact(),
            Ok(Some(Fact::VehicleSnapshotChanged(_)))
        ));

        event.dataschema = "urn:headrace:event:vehicle.snapshot.changed:2.0".to_owned();
        let error = event.fact().unwrap_err().to_string();
        assert_eq!(
            error,
            "vehicle.snapshot.changed version 2.0 is not known here (known: 1.x)"
        );

        event.kind = "vehicle.sold".to_owned();
        assert_eq!(event.fact().unwrap(), None);
    }
}
