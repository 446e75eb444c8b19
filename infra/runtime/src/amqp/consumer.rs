//! Consuming in batches: what is there is taken together, and acknowledged together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::{FutureExt, StreamExt};
use lapin::Channel;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use tokio_util::sync::CancellationToken;

use super::Link;
use super::link::{ANSWER_LIMIT, Session};
use crate::backoff::Stopped;
use crate::config::BatchLimit;

/// How long it may take to end one; whatever is not acknowledged goes back to the queue anyway.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// A message as the broker delivered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The broker's number for it, for the acknowledgement.
    pub tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// The key that it was routed by.
    pub routing_key: String,
    /// The body's media type, empty if the sender gave none.
    pub content_type: String,
    /// The sender's id for it, empty if the sender gave none.
    pub message_id: String,
    /// The headers that hold text; others are left out.
    pub headers: BTreeMap<String, String>,
    /// Why a broker gave the message up, if it came as a dead letter: the latest time.
    pub death: Option<Death>,
    /// The content.
    pub body: Bytes,
}

/// That a broker gave a message up, as it says in the header `x-death`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Death {
    /// Why, such as `delivery_limit` or `rejected`.
    pub reason: String,
    /// In which queue.
    pub queue: String,
    /// How often it was given up there for this reason.
    pub count: u64,
    /// When, to the second; none if the broker does not say.
    pub at: Option<DateTime<Utc>>,
}

/// What came of waiting for messages.
#[derive(Debug, PartialEq, Eq)]
pub enum Batch {
    /// At least one message.
    Messages(Vec<Delivery>),
    /// The session is lost: open a new consumer. What was not acknowledged comes again.
    Lost,
    /// The service was asked to stop.
    Stopped,
}

/// The session ended before the broker took an acknowledgement; the messages come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the broker session was lost")]
pub struct SessionLost;

/// One consumer of one queue, for the life of a session.
#[derive(Debug)]
pub struct Consumer {
    queue: String,
    session: Arc<Session>,
    channel: Channel,
    stream: lapin::Consumer,
}

/// Acknowledges the deliveries of one consumer.
#[derive(Debug, Clone)]
pub struct Acknowledger {
    session: Arc<Session>,
    channel: Channel,
}

impl Consumer {
    /// Consumes `queue` once the broker is there.
    ///
    /// A queue that does not answer, for want of a leader, is asked again on another channel: the
    /// session's other consumers have nothing to do with it.
    pub async fn open(link: &Link, queue: &str, stop: &CancellationToken) -> Result<Self, Stopped> {
        loop {
            let session = link.session(stop).await?;
            let opening = Self::on(link, queue, Arc::clone(&session));
            let opened = tokio::select! {
                () = stop.cancelled() => return Err(Stopped),
                () = session.lost().cancelled() => continue,
                opened = tokio::time::timeout(ANSWER_LIMIT, opening) => opened,
            };
            match opened {
                Ok(Ok(consumer)) => return Ok(consumer),
                // A queue that is gone is declared again with the next session.
                Ok(Err(error)) => session.abandon(&error),
                Err(_) => tracing::warn!(queue, "the queue does not answer; it may have no leader"),
            }
        }
    }

    async fn on(link: &Link, queue: &str, session: Arc<Session>) -> Result<Self, lapin::Error> {
        let channel = session.channel().await?;
        channel
            .basic_qos(link.config().prefetch, BasicQosOptions::default())
            .await?;
        let stream = channel
            .basic_consume(
                queue.into(),
                link.full_name().into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await?;
        tracing::info!(queue, "consuming");
        Ok(Self {
            queue: queue.to_owned(),
            session,
            channel,
            stream,
        })
    }

    /// Waits for a message, then takes those that are already there, up to `limit`.
    pub async fn next_batch(&mut self, limit: BatchLimit, stop: &CancellationToken) -> Batch {
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return Batch::Stopped,
            () = self.session.lost().cancelled() => return Batch::Lost,
            first = self.stream.next() => first,
        };
        let mut messages = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        loop {
            match next {
                Some(Ok(delivery)) => {
                    bytes += delivery.data.len();
                    messages.push(read(delivery));
                }
                Some(Err(error)) => {
                    self.session.abandon(&error);
                    return Batch::Lost;
                }
                None => {
                    self.session
                        .abandon(&format_args!("the broker cancelled {}", self.queue));
                    return Batch::Lost;
                }
            }
            if messages.len() >= limit.messages || bytes >= limit.bytes {
                break;
            }
            match self.stream.next().now_or_never() {
                Some(ready) => next = ready,
                None => break,
            }
        }
        Batch::Messages(messages)
    }

    /// Acknowledges every delivery up to and including `tag`.
    pub async fn ack_through(&self, tag: u64) -> Result<(), SessionLost> {
        self.acknowledger().ack_through(tag).await
    }

    /// What acknowledges this consumer's deliveries while it is busy taking more.
    #[must_use]
    pub fn acknowledger(&self) -> Acknowledger {
        Acknowledger {
            session: Arc::clone(&self.session),
            channel: self.channel.clone(),
        }
    }

    /// Done once the session is lost: what is in hand will be delivered to somebody again.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        self.session.lost()
    }

    /// Ends consuming; what was not acknowledged goes back to the queue.
    pub async fn close(self) {
        let tag = self.stream.tag();
        let closing = async {
            self.channel
                .basic_cancel(tag, BasicCancelOptions::default())
                .await?;
            self.channel.close(200, "done".into()).await
        };
        match tokio::time::timeout(CLOSE_LIMIT, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(queue = self.queue, %error, "the consumer was gone"),
            Err(_) => tracing::debug!(queue = self.queue, "the broker does not say goodbye"),
        }
    }
}

impl Acknowledger {
    /// Acknowledges every delivery up to and including `tag`.
    pub async fn ack_through(&self, tag: u64) -> Result<(), SessionLost> {
        let acking = self
            .channel
            .basic_ack(tag, BasicAckOptions { multiple: true });
        match self.session.lost().run_until_cancelled(acking).await {
            Some(Ok(())) => Ok(()),
            Some(Err(error)) => {
                self.session.abandon(&error);
                Err(SessionLost)
            }
            None => Err(SessionLost),
        }
    }

    /// Done once the session is lost: what is in hand will be delivered to somebody again.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        self.session.lost()
    }
}

fn read(delivery: lapin::message::Delivery) -> Delivery {
    let text = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    let properties = &delivery.properties;
    let headers = properties
        .headers()
        .iter()
        .flat_map(FieldTable::inner)
        .filter_map(|(name, value)| {
            let value = match value {
                AMQPValue::LongString(text) => {
                    String::from_utf8_lossy(text.as_bytes()).into_owned()
                }
                AMQPValue::ShortString(text) => text.to_string(),
                _ => return None,
            };
            Some((name.to_string(), value))
        });
    Delivery {
        tag: delivery.delivery_tag,
        redelivered: delivery.redelivered,
        routing_key: delivery.routing_key.to_string(),
        content_type: text(properties.content_type()),
        message_id: text(properties.message_id()),
        headers: headers.collect(),
        death: properties.headers().as_ref().and_then(death),
        body: Bytes::from(delivery.data),
    }
}

/// The latest entry of `x-death`, which is the first. What is not as brokers write it is left out.
fn death(headers: &FieldTable) -> Option<Death> {
    let Some(AMQPValue::FieldArray(deaths)) = headers.inner().get("x-death") else {
        return None;
    };
    let Some(AMQPValue::FieldTable(latest)) = deaths.as_slice().first() else {
        return None;
    };
    let field = |name: &str| latest.inner().get(name);
    let text = |name| match field(name) {
        Some(AMQPValue::LongString(text)) => String::from_utf8_lossy(text.as_bytes()).into_owned(),
        Some(AMQPValue::ShortString(text)) => text.to_string(),
        _ => String::new(),
    };
    let at = match field("time") {
        Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok(),
        _ => None,
    };
    let count = match field("count") {
        Some(AMQPValue::LongLongInt(count)) => u64::try_from(*count).ok(),
        Some(AMQPValue::LongInt(count)) => u64::try_from(*count).ok(),
        Some(AMQPValue::LongUInt(count)) => Some(u64::from(*count)),
        _ => None,
    };
    Some(Death {
        reason: text("reason"),
        queue: text("queue"),
        count: count.unwrap_or(1),
        at: at.and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
    })
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldArray;

    use super::*;

    fn table(fields: Vec<(&str, AMQPValue)>) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in fields {
            table.insert(name.into(), value);
        }
        table
    }

    fn headers(deaths: Vec<FieldTable>) -> FieldTable {
        let deaths: Vec<_> = deaths.into_iter().map(AMQPValue::FieldTable).collect();
        let deaths = AMQPValue::FieldArray(FieldArray::from(deaths));
        table(vec![("x-death", deaths)])
    }

    #[test]
    fn the_latest_death_is_read_and_what_is_none_is_not() {
        let latest = table(vec![
            ("reason", AMQPValue::LongString("delivery_limit".into())),
            ("queue", AMQPValue::LongString("ingress.2".into())),
            ("count", AMQPValue::LongLongInt(3)),
            ("time", AMQPValue::Timestamp(1_700_000_000)),
        ]);
        let earlier = table(vec![("reason", AMQPValue::LongString("expired".into()))]);
        let expected = Death {
            reason: "delivery_limit".to_owned(),
            queue: "ingress.2".to_owned(),
            count: 3,
            at: DateTime::from_timestamp(1_700_000_000, 0),
        };
        assert_eq!(death(&headers(vec![latest, earlier])), Some(expected));
        assert_eq!(death(&headers(Vec::new())), None);
        assert_eq!(death(&FieldTable::default()), None);
        let odd = table(vec![("x-death", AMQPValue::LongString("soon".into()))]);
        assert_eq!(death(&odd), None);
        let bare = death(&headers(vec![FieldTable::default()])).unwrap();
        assert_eq!((bare.count, bare.at), (1, None));
    }
}
