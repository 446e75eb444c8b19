//! Packing events into messages. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::amqp::Message;
use shared_model::event::{BATCH_CONTENT_TYPE, CONTENT_TYPE};
use shared_model::topology::EVENTS_EXCHANGE;
use shared_model::{CloudEvent, EventType, headers};

/// An event with its offset and type.
type Logged = (u64, EventType, CloudEvent);

/// The bound of a message's body, unless a single event is larger.
const MOST_BYTES: usize = 256 * 1024;

/// Messages that carry `events` in their order: neighbours of one type share a message, up to
/// `most` of them and [`MOST_BYTES`].
pub fn pack(events: &[Logged], most: usize) -> Result<Vec<Message>, serde_json::Error> {
    let mut messages = Vec::new();
    let mut start = 0;
    let mut bytes = 0;
    for (end, (_, kind, event)) in events.iter().enumerate() {
        let size = serde_json::to_vec(event)?.len();
        let is_full = end - start >= most || bytes + size > MOST_BYTES;
        if end > start && (is_full || *kind != events[start].1) {
            messages.push(message(&events[start..end])?);
            (start, bytes) = (end, 0);
        }
        bytes += size;
    }
    if start < events.len() {
        messages.push(message(&events[start..])?);
    }
    Ok(messages)
}

fn message(events: &[Logged]) -> Result<Message, serde_json::Error> {
    let (first, last) = (&events[0], &events[events.len() - 1]);
    let (content_type, body) = if events.len() == 1 {
        (CONTENT_TYPE, serde_json::to_vec(&first.2)?)
    } else {
        let events: Vec<_> = events.iter().map(|(_, _, event)| event).collect();
        (BATCH_CONTENT_TYPE, serde_json::to_vec(&events)?)
    };
    let traceparent = events
        .iter()
        .find_map(|(_, _, event)| event.traceparent.clone());
    Ok(Message {
        exchange: EVENTS_EXCHANGE,
        routing_key: first.1.name().to_owned(),
        message_id: format!("{}:{}-{}", first.2.shard, first.0, last.0),
        content_type,
        headers: traceparent
            .map(|parent| (headers::TRACEPARENT.to_owned(), parent))
            .into_iter()
            .collect::<BTreeMap<_, _>>(),
        body: Bytes::from(body),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared_model::event::LogPosition;
    use shared_model::{WorkspaceId, time};

    use super::*;

    fn logged(offset: u64, kind: EventType) -> Logged {
        let logged_at = time::from_unix_millis(1_700_000_000_000).unwrap();
        let at = LogPosition {
            shard: 2,
            offset,
            logged_at,
        };
        let workspace = WorkspaceId::new("demo").unwrap();
        (
            offset,
            kind,
            CloudEvent::new(&at, kind, workspace, None, None, json!({})),
        )
    }

    #[test]
    fn messages_are_bounded_in_bytes_but_for_a_single_large_event() {
        let large = |offset, size: usize| {
            let mut logged = logged(offset, EventType::VehiclesSeen);
            logged.2.data = json!("x".repeat(size));
            logged
        };
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
            .flat_map(|message| CloudEvent::decode(message.content_type, &message.body).unwrap())
            .collect();
        assert_eq!(
            read,
            events
                .into_iter()
                .map(|(_, _, event)| event)
                .collect::<Vec<_>>()
        );
    }
}
