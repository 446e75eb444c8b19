//! An event as it goes to readers. Pure.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use shared_model::{EventType, WorkspaceId};

use super::position::Position;

/// What is known of an event without looking into its data.
#[derive(Debug, Clone)]
pub(super) struct LogEvent {
    /// Its offset in its shard.
    pub(super) offset: u64,
    /// Whose it is.
    pub(super) workspace: WorkspaceId,
    /// Its type.
    pub(super) kind: String,
    /// What it is about, if that is one thing.
    pub(super) subject: Option<String>,
    /// When it was committed (UTC).
    pub(super) time: DateTime<Utc>,
    /// The whole event, as JSON on one line.
    pub(super) line: Bytes,
}

#[derive(Deserialize)]
struct Attributes<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    subject: Option<String>,
    time: DateTime<Utc>,
    workspace: WorkspaceId,
    #[serde(borrow)]
    sequence: Cow<'a, str>,
}

impl LogEvent {
    /// Reads a line of the log. None where it is nothing that a reader could be sent, which a core of this
    /// version does not write.
    pub(super) fn read(line: Bytes) -> Option<Self> {
        let attributes: Attributes<'_> = serde_json::from_slice(&line).ok()?;
        let is_one_line = |text: &[u8]| !text.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
        if !is_one_line(attributes.kind.as_bytes()) || !is_one_line(&line) {
            return None;
        }
        Some(Self {
            offset: attributes.sequence.parse().ok()?,
            workspace: attributes.workspace,
            kind: attributes.kind.into_owned(),
            subject: attributes.subject,
            time: attributes.time,
            line,
        })
    }

    /// Whether it tells of several vehicles at once.
    pub(super) fn is_of_several(&self) -> bool {
        self.kind == EventType::VehiclesSeen.name()
    }

    /// The vehicle that it is about, if it is about one.
    pub(super) fn vehicle(&self) -> Option<&str> {
        let subject = self.subject.as_deref();
        subject.filter(|_| self.kind.starts_with("vehicle."))
    }
}

/// An event in the form in which it is sent, with the position behind it. Clones share the text.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    /// The event's shard.
    pub(super) shard: u32,
    /// Its offset.
    pub(super) offset: u64,
    behind: Arc<Position>,
    whole: Bytes,
    /// What follows the line with the id.
    rest: Bytes,
    line_len: usize,
}

/// What ends an event of the stream.
const END: &[u8] = b"\n\n";

impl Frame {
    /// The event of type `kind`, written as `line`.
    pub(super) fn new(shard: u32, event: &LogEvent, line: &Bytes, behind: Arc<Position>) -> Self {
        let id = format!("id: {behind}\n");
        let mut whole = Vec::with_capacity(id.len() + event.kind.len() + line.len() + 16);
        whole.extend_from_slice(id.as_bytes());
        whole.extend_from_slice(b"event: ");
        whole.extend_from_slice(event.kind.as_bytes());
        whole.extend_from_slice(b"\ndata: ");
        whole.extend_from_slice(line);
        whole.extend_from_slice(END);
        let whole = Bytes::from(whole);
        Self {
            shard,
            offset: event.offset,
            behind,
            line_len: line.len(),
            rest: whole.slice(id.len()..),
            whole,
        }
    }

    /// The same event, written as `line`.
    pub(super) fn with_line(&self, event: &LogEvent, line: &Bytes) -> Self {
        Self::new(self.shard, event, line, Arc::clone(&self.behind))
    }

    /// Where a reader is that has had this and all before it.
    pub(super) fn behind(&self) -> &Position {
        &self.behind
    }

    /// How long it is, in bytes.
    pub(super) fn len(&self) -> usize {
        self.whole.len()
    }

    /// The event's JSON.
    pub(super) fn line(&self) -> Bytes {
        self.rest
            .slice(self.rest.len() - self.line_len - END.len()..self.rest.len() - END.len())
    }

    /// As it is sent.
    pub(super) fn bytes(&self) -> Bytes {
        self.whole.clone()
    }

    /// As it is sent to a reader that is at `behind` with it.
    pub(super) fn bytes_at(&self, behind: &Position) -> Bytes {
        [format!("id: {behind}\n").as_bytes(), &self.rest]
            .concat()
            .into()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A line of the log.
    pub(in super::super) fn line(offset: u64, workspace: &str, kind: &str, data: Value) -> Bytes {
        let mut event = json!({"specversion": "1.0", "id": format!("2:{offset}"), "source": "urn:headrace:core",
            "type": kind, "time": "2017-11-23T11:31:34.250Z", "datacontenttype": "application/json",
            "dataschema": "any", "workspace": workspace, "shard": 2, "sequence": format!("{offset:020}"),
            "data": data});
        if let Some(vehicle) = data_vehicle(&event) {
            event["subject"] = vehicle;
        }
        event.to_string().into()
    }

    fn data_vehicle(event: &Value) -> Option<Value> {
        event["data"].get("vehicle").cloned()
    }

    fn of(kind: &str, data: Value) -> LogEvent {
        LogEvent::read(line(41, "demo", kind, data)).unwrap()
    }

    #[test]
    fn what_an_event_is_about_is_known_without_its_data() {
        let event = of("vehicle.snapshot.changed", json!({"vehicle": "bus-1"}));
        assert_eq!((event.offset, event.vehicle()), (41, Some("bus-1")));
        assert!(!event.is_of_several());
        assert!(of("vehicles.seen", json!({"vehicles": []})).is_of_several());
        let status = of(
            "connection.status.changed",
            json!({"vehicle": "no vehicle"}),
        );
        assert_eq!(status.vehicle(), None);
        assert!(LogEvent::read(Bytes::from_static(b"{}")).is_none());
        assert!(LogEvent::read(Bytes::from_static(b"{\"type\": \"a\",\n")).is_none());
    }

    #[test]
    fn a_frame_is_an_event_of_the_stream() {
        let event = of("vehicle.registered", json!({"vehicle": "bus-1"}));
        let behind = Position::new(1, vec![0, 0, 41]);
        let frame = Frame::new(2, &event, &event.line, Arc::new(behind.clone()));
        let line = std::str::from_utf8(&event.line).unwrap();
        let expected = format!("id: {behind}\nevent: vehicle.registered\ndata: {line}\n\n");
        assert_eq!(frame.bytes(), expected);
        assert_eq!(frame.bytes_at(&behind), expected);
        assert_eq!(frame.len(), expected.len());
        assert_eq!(frame.line(), event.line);
    }
}
