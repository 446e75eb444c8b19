//! Packing events into messages. Pure.

use bytes::Bytes;
use runtime::amqp::Message;
use shared_model::event::{BATCH_CONTENT_TYPE, CONTENT_TYPE};
use shared_model::headers;
use shared_model::topology::EVENTS_EXCHANGE;

use crate::store::event_log::LoggedEvent;

/// The bound of a message's body, unless a single event is larger.
const MOST_BYTES: usize = 256 * 1024;

/// Messages that carry `events` in their order: neighbours of one type share a message, up to
/// `most` of them and [`MOST_BYTES`].
pub fn pack(events: &[(u64, LoggedEvent)], most: usize) -> Result<Vec<Message>, serde_json::Error> {
    let mut messages = Vec::new();
    let mut open = Packing::default();
    for (offset, event) in events {
        let text = serde_json::to_vec(event)?;
        if !open.takes(event, text.len(), most) {
            messages.extend(open.close());
        }
        open.push(*offset, event, text);
    }
    messages.extend(open.close());
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
    fn close(&mut self) -> Option<Message> {
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
        let traceparent = events
            .iter()
            .find_map(|(_, event)| event.traceparent.clone());
        Some(Message {
            exchange: EVENTS_EXCHANGE,
            routing_key: event.kind.clone(),
            message_id: format!("{}:{first}-{last}", event.shard),
            content_type: content_type.into(),
            headers: traceparent
                .map(|parent| (headers::TRACEPARENT.to_owned(), parent))
                .into_iter()
                .collect(),
            body: Bytes::from(body),
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
        let messages = pack(&events, 100).unwrap();
        let ids: Vec<_> = messages
            .iter()
            .map(|message| message.message_id.as_str())
            .collect();
        assert_eq!(ids, ["2:1-2", "2:3-3", "2:4-4", "2:5-5"]);
        assert!(pack(&[], 100).unwrap().is_empty());
    }

    #[test]
    fn neighbours_of_one_type_share_messages_and_no_event_is_left_out() {
        use EventType::{VehicleRegistered as R, VehicleSnapshotChanged as C};
        let events: Vec<_> = (1..)
            .zip([R, C, C, C, R])
            .map(|(n, kind)| logged(n, kind))
            .collect();
        let messages = pack(&events, 2).unwrap();
        let ids: Vec<_> = messages
            .iter()
            .map(|message| message.message_id.as_str())
            .collect();
        assert_eq!(ids, ["2:1-1", "2:2-3", "2:4-4", "2:5-5"]);
        let read: Vec<_> = messages
            .iter()
            .flat_map(|message| CloudEvent::decode(&message.content_type, &message.body).unwrap())
            .map(|event| event.unwrap().id)
            .collect();
        assert_eq!(read, ["2:1", "2:2", "2:3", "2:4", "2:5"]);
    }
}
