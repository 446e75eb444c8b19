//! Packing events into messages. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::amqp::Message;
use shared_model::event::{BATCH_CONTENT_TYPE, CONTENT_TYPE};
use shared_model::headers;
use shared_model::topology::EVENTS_EXCHANGE;

use uuid::Uuid;

use crate::store::event_log::LoggedEvent;

/// The bound of a message's body, unless a single event is larger.
const MOST_BYTES: usize = 256 * 1024;

/// Who publishes, as each message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sender {
    /// The relay.
    pub relay: Uuid,
    /// The epoch that it has the shard under.
    pub epoch: u64,
}

/// A message, and what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// How many events.
    pub events: usize,
    /// The offset of the last one.
    pub last: u64,
    /// The message.
    pub message: Message,
}

/// Messages that carry `events` in their order: neighbours of one type share a message, up to
/// `most` of them and [`MOST_BYTES`].
pub fn pack(
    events: &[(u64, LoggedEvent)],
    most: usize,
    sender: Sender,
) -> Result<Vec<Packed>, serde_json::Error> {
    let mut messages = Vec::new();
    let mut open = Packing::default();
    for (offset, event) in events {
        let text = serde_json::to_vec(event)?;
        if !open.takes(event, text.len(), most) {
            messages.extend(open.close(sender));
        }
        open.push(*offset, event, text);
    }
    messages.extend(open.close(sender));
    Ok(messages)
}

/// A message that is being filled.
#[derive(Default)]
struct Packing<'a> {
    events: Vec<(u64, &'a LoggedEvent)>,
    texts: Vec<Vec<u8>>,
    bytes: usize,
}

impl<'a> Packing<'a> {
    fn takes(&self, event: &LoggedEvent, bytes: usize, most: usize) -> bool {
        self.events.len() < most
            && self.bytes + bytes <= MOST_BYTES
            && self
                .events
                .iter()
                .all(|(_, other)| other.kind == event.kind)
    }

    fn push(&mut self, offset: u64, event: &'a LoggedEvent, text: Vec<u8>) {
        self.bytes += text.len();
        self.events.push((offset, event));
        self.texts.push(text);
    }

    /// The message, if there is anything in it, and an empty one in its stead.
    fn close(&mut self, sender: Sender) -> Option<Packed> {
        let Self {
            events, mut texts, ..
        } = std::mem::take(self);
        let ((first, event), (last, _)) = (events.first()?, events.last()?);
        let (content_type, body) = if texts.len() == 1 {
            (CONTENT_TYPE, texts.remove(0))
        } else {
            (
                BATCH_CONTENT_TYPE,
                [b"[".as_slice(), &texts.join(&b','), b"]"].concat(),
            )
        };
        let mut headers = BTreeMap::from([
            (headers::RELAY.to_owned(), sender.relay.to_string()),
            (headers::RELAY_EPOCH.to_owned(), sender.epoch.to_string()),
        ]);
        let parents = events
            .iter()
            .find_map(|(_, event)| event.traceparent.clone());
        headers.extend(parents.map(|parent| (headers::TRACEPARENT.to_owned(), parent)));
        let message = Message {
            exchange: EVENTS_EXCHANGE,
            routing_key: event.kind.clone(),
            message_id: format!("{}:{first}-{last}", event.shard),
            content_type: content_type.into(),
            headers,
            body: Bytes::from(body),
        };
        Some(Packed {
            events: events.len(),
            last: *last,
            message,
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use serde_json::value::RawValue;
    use shared_model::event::LogPosition;
    use shared_model::{CloudEvent, EventType, WorkspaceId, time};

    use super::*;

    const SENDER: Sender = Sender {
        relay: Uuid::from_u128(7),
        epoch: 3,
    };

    fn logged(offset: u64, kind: EventType) -> (u64, LoggedEvent) {
        of_size(offset, kind, 1)
    }

    fn of_size(offset: u64, kind: EventType, size: usize) -> (u64, LoggedEvent) {
        let logged_at = time::from_unix_millis(1_700_000_000_000).unwrap();
        let at = LogPosition {
            shard: 2,
            offset,
            logged_at,
        };
        let workspace = WorkspaceId::new("demo").unwrap();
        let data = RawValue::from_string(json!("x".repeat(size)).to_string()).unwrap();
        (
            offset,
            CloudEvent::new(&at, kind, workspace, None, None, data),
        )
    }

    #[test]
    fn messages_are_bounded_in_bytes_but_for_a_single_large_event() {
        let large = |offset, size| of_size(offset, EventType::VehiclesSeen, size);
        let events = [
            large(1, 200_000),
            large(2, 40_000),
            large(3, 40_000),
            large(4, 900_000),
            large(5, 1),
        ];
        let messages = pack(&events, 100, SENDER).unwrap();
        let ids: Vec<_> = messages
            .iter()
            .map(|packed| packed.message.message_id.as_str())
            .collect();
        assert_eq!(ids, ["2:1-2", "2:3-3", "2:4-4", "2:5-5"]);
        assert!(pack(&[], 100, SENDER).unwrap().is_empty());
    }

    #[test]
    fn neighbours_of_one_type_share_messages_and_no_event_is_left_out() {
        use EventType::{VehicleRegistered as R, VehicleSnapshotChanged as C};
        let events: Vec<_> = (1..)
            .zip([R, C, C, C, R])
            .map(|(n, kind)| logged(n, kind))
            .collect();
        let messages = pack(&events, 2, SENDER).unwrap();
        let ids: Vec<_> = messages
            .iter()
            .map(|packed| packed.message.message_id.as_str())
            .collect();
        assert_eq!(ids, ["2:1-1", "2:2-3", "2:4-4", "2:5-5"]);
        let read: Vec<_> = messages
            .iter()
            .map(|packed| &packed.message)
            .flat_map(|message| CloudEvent::decode(&message.content_type, &message.body).unwrap())
            .map(|event| event.unwrap().id)
            .collect();
        assert_eq!(read, ["2:1", "2:2", "2:3", "2:4", "2:5"]);
        let counts: Vec<_> = messages.iter().map(|p| (p.events, p.last)).collect();
        assert_eq!(counts, [(1, 1), (2, 3), (1, 4), (1, 5)]);
        for packed in messages {
            assert_eq!(
                packed.message.headers[headers::RELAY],
                SENDER.relay.to_string()
            );
            assert_eq!(packed.message.headers[headers::RELAY_EPOCH], "3");
        }
    }
}
