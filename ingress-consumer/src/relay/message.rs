//! Packing events into messages. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;
use runtime::amqp::Message;
use shared_model::event::{BATCH_CONTENT_TYPE, CONTENT_TYPE};
use shared_model::topology::EVENTS_EXCHANGE;
use shared_model::{CloudEvent, EventType, headers};

/// An event with its offset and type.
type Logged = (u64, EventType, CloudEvent);

/// Messages that carry `events` in their order: neighbours of one type share a message, up to
/// `most` of them.
pub fn pack(events: &[Logged], most: usize) -> Result<Vec<Message>, serde_json::Error> {
    events
        .chunk_by(|(_, a, _), (_, b, _)| a == b)
        .flat_map(|of_one_type| of_one_type.chunks(most.max(1)))
        .map(message)
        .collect()
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
