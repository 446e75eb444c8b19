//! Publishing with confirms, and the four things that can become of a message.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::link::Session;
use super::{Link, metrics};
use crate::backoff::{Backoff, Stopped};

const PERSISTENT: u8 = 2;

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub exchange: &'static str,
    /// By which key.
    pub routing_key: String,
    /// The same for the same content, however often it is sent.
    pub message_id: String,
    /// The body's media type.
    pub content_type: Cow<'static, str>,
    /// Readable attributes.
    pub headers: BTreeMap<String, String>,
    /// The content.
    pub body: Bytes,
}

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The broker has it safe in every queue that it was routed to.
    Confirmed,
    /// The broker took it and no queue wanted it: a queue or binding is missing.
    Unroutable,
    /// The broker refused it: a queue is full.
    Refused,
    /// Nobody knows: the connection was lost, or no answer came in time.
    Unknown,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Unroutable => "unroutable",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// Publishes over a link; clones share the channel.
#[derive(Debug, Clone)]
pub struct Publisher {
    link: Link,
    channel: Arc<Mutex<Option<OpenChannel>>>,
}

/// A channel in confirm mode, and the session that it lives and dies with.
type OpenChannel = (Arc<Session>, Channel);

impl Publisher {
    /// Publishes over `link`.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self {
            link,
            channel: Arc::default(),
        }
    }

    /// Publishes once the broker is there, and waits for what becomes of the message.
    pub async fn publish(
        &self,
        message: &Message,
        stop: &CancellationToken,
    ) -> Result<Outcome, Stopped> {
        let session = self.link.session(stop).await?;
        stop.run_until_cancelled(self.metered(&session, message))
            .await
            .ok_or(Stopped)
    }

    /// Publishes once, if the broker is there now: [`Outcome::Unknown`] if it is not. A missing queue
    /// is an error in the log and has the topology declared anew.
    pub async fn publish_now(&self, message: &Message) -> Outcome {
        let Some(session) = self.link.current() else {
            return Outcome::Unknown;
        };
        let outcome = self.metered(&session, message).await;
        if outcome == Outcome::Unroutable {
            unroutable(&session, message);
        }
        outcome
    }

    /// Publishes again and again, always with the same id, until the broker has the message safe.
    ///
    /// A refusal backs off; a missing queue is an error in the log and has the topology declared
    /// anew before the next attempt.
    pub async fn publish_until_confirmed(
        &self,
        message: &Message,
        stop: &CancellationToken,
    ) -> Result<(), Stopped> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.publish(message, stop).await? {
                Outcome::Confirmed => return Ok(()),
                // The next attempt waits for the next session as well.
                Outcome::Unknown => {}
                Outcome::Refused => {
                    tracing::debug!(key = message.routing_key, "a full queue refused a message");
                }
                Outcome::Unroutable => {
                    unroutable(&*self.link.session(stop).await?, message);
                }
            }
            backoff.wait(stop).await?;
        }
    }

    async fn metered(&self, session: &Arc<Session>, message: &Message) -> Outcome {
        let started = Instant::now();
        let outcome = self.attempt(session, message).await;
        metrics::published(
            self.link.service(),
            outcome.name(),
            started.elapsed().as_secs_f64(),
        );
        outcome
    }

    async fn attempt(&self, session: &Arc<Session>, message: &Message) -> Outcome {
        let confirmation = async {
            let channel = self.channel(session).await?;
            hand_over(&channel, message).await?.await
        };
        tokio::pin!(confirmation);
        loop {
            tokio::select! {
                answer = &mut confirmation => return match answer {
                    Ok(Confirmation::Ack(None)) => Outcome::Confirmed,
                    Ok(Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_))) => Outcome::Unroutable,
                    Ok(Confirmation::Nack(None)) => Outcome::Refused,
                    Ok(Confirmation::NotRequested) => {
                        session.abandon(&"the channel does not confirm");
                        Outcome::Unknown
                    }
                    Err(error) => {
                        session.abandon(&error);
                        Outcome::Unknown
                    }
                },
                () = session.lost().cancelled() => return Outcome::Unknown,
                () = tokio::time::sleep(self.link.config().confirm_timeout) => {
                    // A blocked broker will answer once it is unblocked; a new connection would
                    // only be blocked as well.
                    if !session.is_blocked() {
                        session.abandon(&"no confirm in time");
                        return Outcome::Unknown;
                    }
                }
            }
        }
    }

    async fn channel(&self, session: &Arc<Session>) -> Result<Channel, lapin::Error> {
        let mut held = self.channel.lock().await;
        if let Some((of, channel)) = &*held
            && Arc::ptr_eq(of, session)
        {
            return Ok(channel.clone());
        }
        let channel = confirming(session).await?;
        *held = Some((Arc::clone(session), channel.clone()));
        Ok(channel)
    }
}

/// A new channel of `session` that confirms what is published on it.
pub(super) async fn confirming(session: &Session) -> Result<Channel, lapin::Error> {
    let channel = session.channel().await?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await?;
    Ok(channel)
}

/// Sends `message`; what becomes of it comes with the confirm.
pub(super) async fn hand_over(
    channel: &Channel,
    message: &Message,
) -> Result<PublisherConfirm, lapin::Error> {
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    channel
        .basic_publish(
            message.exchange.into(),
            message.routing_key.as_str().into(),
            options,
            &message.body,
            properties(message),
        )
        .await
}

fn unroutable(session: &Session, message: &Message) {
    tracing::error!(
        exchange = message.exchange,
        key = message.routing_key,
        message_id = message.message_id,
        "no queue takes this message: a queue or binding was removed"
    );
    session.abandon(&"the topology is incomplete");
}

fn properties(message: &Message) -> BasicProperties {
    let mut headers = FieldTable::default();
    for (name, value) in &message.headers {
        headers.insert(
            name.as_str().into(),
            AMQPValue::LongString(value.as_str().into()),
        );
    }
    BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_content_type(message.content_type.as_ref().into())
        .with_message_id(message.message_id.as_str().into())
        .with_headers(headers)
}
