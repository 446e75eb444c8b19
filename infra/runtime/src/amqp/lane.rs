//! Publishing in order, many messages at a time.
//!
//! A [`super::Publisher`] answers for one message at a time and shares its channel. A lane is a channel
//! of its own, on which messages are sent one behind the other while the confirms of earlier ones are
//! outstanding. Where the broker closes the channel over a message, nobody but the lane is hit, and its
//! user is told; what to make of it is the user's affair.

use std::sync::Arc;
use std::time::Instant;

use futures_util::future::BoxFuture;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::{Channel, Confirmation, ErrorKind, PublisherConfirm};
use tokio_util::sync::CancellationToken;

use super::link::{Session, answer};
use super::publisher::{confirming, hand_over};
use super::{Link, Message, metrics};
use crate::backoff::Stopped;

/// What the broker says of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It has the message safe in every queue that it was routed to.
    Confirmed,
    /// No queue, or not even an exchange, takes it: something that was declared is gone.
    Unroutable,
    /// It does not take it now, and says why. A queue is full, or access was withdrawn: others may well
    /// be refused too.
    Refused(String),
    /// It closed the channel because it never takes this message, or one that was sent on the channel
    /// before or after and whose answer was outstanding as well.
    Unacceptable(String),
    /// Nothing: the connection was lost, or no answer came in time.
    Lost,
}

impl Answer {
    const fn name(&self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Unroutable => "unroutable",
            Self::Refused(_) => "refused",
            Self::Unacceptable(_) => "unacceptable",
            Self::Lost => "unknown",
        }
    }

    fn of(confirmation: Confirmation) -> Self {
        match confirmation {
            Confirmation::Ack(None) => Self::Confirmed,
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => Self::Unroutable,
            Confirmation::Nack(None) => {
                Self::Refused("the queue does not take it (nack)".to_owned())
            }
            Confirmation::NotRequested => Self::Lost,
        }
    }

    /// What the broker's closing of the channel says of the message; none where the channel or the
    /// connection ended for another reason.
    fn of_error(error: &lapin::Error) -> Option<Self> {
        let ErrorKind::ProtocolError(amqp) = error.kind() else {
            return None;
        };
        let AMQPErrorKind::Soft(soft) = amqp.kind() else {
            return None;
        };
        let text = amqp.get_message().to_string();
        Some(match soft {
            AMQPSoftError::NOTFOUND => Self::Unroutable,
            AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::CONTENTTOOLARGE => {
                Self::Unacceptable(text)
            }
            _ => Self::Refused(text),
        })
    }
}

/// What will become of a message that was sent.
pub type Pending = BoxFuture<'static, Answer>;

/// A channel to publish on in order. Dropping it closes the channel.
#[derive(Debug)]
pub struct Lane {
    link: Link,
    session: Arc<Session>,
    channel: Channel,
}

impl Lane {
    /// Opens a lane on `link` once the broker is there.
    pub async fn open(link: &Link, stop: &CancellationToken) -> Result<Self, Stopped> {
        loop {
            let session = link.session(stop).await?;
            let opening = answer(confirming(&session));
            match stop.run_until_cancelled(opening).await.ok_or(Stopped)? {
                Ok(channel) => {
                    return Ok(Self {
                        link: link.clone(),
                        session,
                        channel,
                    });
                }
                Err(error) => session.abandon(&error),
            }
        }
    }

    /// Sends `message` behind those before; returns once it is handed to the connection, with what will
    /// become of it. That comes within `amqp.confirm_timeout`, but for a broker that takes no messages
    /// from anybody (memory or disk alarm), which answers once it does again.
    pub async fn send(&self, message: &Message) -> Pending {
        let started = Instant::now();
        let sent = hand_over(&self.channel, message).await;
        let (link, session) = (self.link.clone(), Arc::clone(&self.session));
        Box::pin(async move {
            let answer = match sent {
                Ok(confirm) => confirmed(&link, &session, confirm).await,
                Err(error) => failed(&session, &error),
            };
            let seconds = started.elapsed().as_secs_f64();
            metrics::published(link.service(), answer.name(), seconds);
            answer
        })
    }

    /// Has everything declared anew, and with it ends the lane: something that was declared is gone.
    pub fn redeclare(&self) {
        self.session.abandon(&"the topology is incomplete");
    }
}

async fn confirmed(link: &Link, session: &Session, confirm: PublisherConfirm) -> Answer {
    tokio::pin!(confirm);
    loop {
        tokio::select! {
            answer = &mut confirm => return match answer {
                Ok(confirmation) => {
                    if confirmation == Confirmation::NotRequested {
                        session.abandon(&"the channel does not confirm");
                    }
                    Answer::of(confirmation)
                }
                Err(error) => failed(session, &error),
            },
            () = session.lost().cancelled() => return Answer::Lost,
            () = tokio::time::sleep(link.config().confirm_timeout) => {
                if !session.is_blocked() {
                    session.abandon(&"no confirm in time");
                    return Answer::Lost;
                }
            }
        }
    }
}

fn failed(session: &Session, error: &lapin::Error) -> Answer {
    Answer::of_error(error).unwrap_or_else(|| {
        // Sent on a channel that the broker has just closed: those before it know why.
        if !matches!(error.kind(), ErrorKind::InvalidChannelState(..)) {
            session.abandon(error);
        }
        Answer::Lost
    })
}

#[cfg(test)]
mod tests {
    use lapin::protocol::{AMQPError, AMQPHardError};

    use super::*;

    fn error(kind: AMQPErrorKind) -> lapin::Error {
        ErrorKind::ProtocolError(AMQPError::new(kind, "told so".into())).into()
    }

    #[test]
    fn the_reason_for_which_a_channel_is_closed_says_what_becomes_of_the_message() {
        let said = || "told so".to_owned();
        for (soft, answer) in [
            (
                AMQPSoftError::PRECONDITIONFAILED,
                Answer::Unacceptable(said()),
            ),
            (AMQPSoftError::CONTENTTOOLARGE, Answer::Unacceptable(said())),
            (AMQPSoftError::NOTFOUND, Answer::Unroutable),
            (AMQPSoftError::ACCESSREFUSED, Answer::Refused(said())),
        ] {
            assert_eq!(Answer::of_error(&error(soft.into())), Some(answer));
        }
        let hard = error(AMQPHardError::CONNECTIONFORCED.into());
        assert_eq!(Answer::of_error(&hard), None);
    }

    #[test]
    fn only_a_confirm_without_a_returned_message_counts() {
        assert_eq!(Answer::of(Confirmation::Ack(None)), Answer::Confirmed);
        assert!(matches!(
            Answer::of(Confirmation::Nack(None)),
            Answer::Refused(_)
        ));
        assert_eq!(Answer::of(Confirmation::NotRequested), Answer::Lost);
    }
}
