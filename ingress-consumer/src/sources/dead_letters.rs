//! The queue of dead letters: taken from there into a table, where they can be looked at.
//!
//! A message that the broker has given up may be what ends the core, so nothing here looks into its
//! frames: only how the envelope counts them. It is acknowledged after the commit of its row. While the
//! database is away it stays in the queue.

use std::time::Duration;

use rangemap::RangeInclusiveSet;
use runtime::amqp::{Batch, Consumer, Delivery, Link};
use runtime::backoff::Backoff;
use runtime::config::BatchLimit;
use runtime::{Context, clock, db, telemetry};
use shared_model::{Envelope, headers, topology};
use sqlx::PgPool;
use xxhash_rust::xxh3::xxh3_128;

use crate::metrics;
use crate::store::StoreError;
use crate::store::dead_letter::{self, DeadLetter, Source};

/// Frame numbers that a message can account for without its body: as many as an envelope can hold.
const MOST_FRAMES: u64 = 1000;

/// Takes dead letters from their queue.
pub struct Drain {
    /// Where to take them from.
    pub link: Link,
    /// How many at once.
    pub limit: BatchLimit,
    /// Where to take them to.
    pub pool: PgPool,
    /// The service.
    pub context: Context,
}

impl Drain {
    /// Takes them until the service is asked to stop.
    pub async fn run(self) -> anyhow::Result<()> {
        let stop = self.context.stopping();
        loop {
            let mut consumer =
                Consumer::open(&self.link, topology::DEAD_LETTER_QUEUE, stop).await?;
            loop {
                match consumer.next_batch(self.limit, stop).await {
                    Batch::Lost => break,
                    Batch::Stopped => {
                        consumer.close().await;
                        return Ok(());
                    }
                    Batch::Messages(deliveries) => {
                        let Some(last) = deliveries.last().map(|delivery| delivery.tag) else {
                            continue;
                        };
                        if !self.keep(&consumer, &deliveries).await?
                            || consumer.ack_through(last).await.is_err()
                        {
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Keeps them once the database is there; false if the broker will deliver them again.
    async fn keep(&self, consumer: &Consumer, deliveries: &[Delivery]) -> anyhow::Result<bool> {
        let letters: Vec<_> = deliveries.iter().map(letter).collect();
        let letters = &letters;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let kept = db::in_tx(&self.pool, "keep_dead_letters", |mut tx| async move {
                let kept = dead_letter::keep(&mut tx, letters, clock::now()).await?;
                Ok::<_, StoreError>((tx, kept))
            });
            match self.context.letting_go().run_until_cancelled(kept).await {
                None => return Ok(false),
                Some(Ok(kept)) => {
                    tell(letters, kept);
                    return Ok(true);
                }
                // Whatever is wrong, they are nowhere else.
                Some(Err(error)) => tracing::warn!(
                    error = %telemetry::chain(&error),
                    "dead letters wait for the database"
                ),
            }
            tokio::select! {
                waited = backoff.wait(self.context.stopping()) => waited?,
                () = consumer.lost().cancelled() => return Ok(false),
            }
        }
    }
}

fn tell(letters: &[DeadLetter], kept: u64) {
    metrics::dead_letters_kept(kept);
    if kept == 0 {
        return;
    }
    for letter in letters {
        tracing::error!(
            message_id = letter.message_id,
            connection = letter.source.connection.map(tracing::field::display),
            reason = letter.reason,
            queue = letter.queue,
            frames = letter.frames,
            "the broker gave a message up: it is a dead letter until it is replayed or discarded"
        );
    }
}

/// What a delivery from the queue of dead letters says.
fn letter(delivery: &Delivery) -> DeadLetter {
    let said = |name: &str| delivery.headers.get(name).cloned();
    let death = delivery.death.clone().unwrap_or_default();
    let or_first = |text: String, name| {
        if text.is_empty() {
            said(name).unwrap_or_default()
        } else {
            text
        }
    };
    let source = Source {
        workspace: said(headers::WORKSPACE).filter(|name| !name.contains('\0')),
        connection: said(headers::CONNECTION).and_then(|id| id.parse().ok()),
        provider: said(headers::PROVIDER).filter(|name| !name.contains('\0')),
        session: said(headers::SESSION).and_then(|id| id.parse().ok()),
        partition: said(headers::PARTITION)
            .and_then(|number| number.parse().ok())
            .filter(|number| *number >= 0),
    };
    let (numbers, frames) = numbers(delivery);
    let content = [delivery.message_id.as_bytes(), &delivery.body].join(&0);
    DeadLetter {
        identity: format!("{:032x}", xxh3_128(&content)),
        routing_key: delivery.routing_key.clone(),
        message_id: delivery.message_id.clone(),
        content_type: delivery.content_type.clone(),
        headers: delivery
            .headers
            .iter()
            .filter(|(name, _)| !is_of_the_broker(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
        body: delivery.body.to_vec(),
        reason: or_first(death.reason, "x-first-death-reason"),
        queue: or_first(death.queue, "x-first-death-queue"),
        died_at: death.at,
        source,
        numbers,
        frames,
    }
}

/// Whether the broker adds the header to what it gives up.
fn is_of_the_broker(header: &str) -> bool {
    [
        "x-first-death-",
        "x-last-death-",
        "x-death",
        "x-delivery-count",
    ]
    .iter()
    .any(|prefix| header.starts_with(prefix))
}

/// The numbers that a message accounts for, and how many frames it holds: by its body, or else by its id
/// where that is as a publisher makes it.
fn numbers(delivery: &Delivery) -> (RangeInclusiveSet<u64>, u64) {
    if let Ok(envelope) = Envelope::decode(&delivery.headers, &delivery.body) {
        let mut numbers = envelope.conflated;
        numbers.extend(
            envelope
                .frames
                .iter()
                .map(|frame| frame.number..=frame.number),
        );
        return (numbers, envelope.frames.len() as u64);
    }
    let frames = delivery.headers.get(headers::FRAMES);
    let frames = frames.and_then(|count| count.parse().ok()).unwrap_or(0);
    let range = || {
        let (first, last) = delivery.message_id.rsplit('/').next()?.split_once('-')?;
        let range = first.parse::<u64>().ok()?..=last.parse::<u64>().ok()?;
        let count = range.end().checked_sub(*range.start())?.checked_add(1)?;
        let is_dense = count == frames && *range.start() > 0 && frames <= MOST_FRAMES;
        (is_dense && *range.end() < i64::MAX as u64).then_some(range)
    };
    let numbers = range().into_iter().collect();
    (numbers, frames.min(MOST_FRAMES))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use runtime::amqp::Death;

    use super::*;

    const SESSION: &str = "01890a5d-ac96-774b-bcce-b302099a8058";

    fn delivery(headers: &[(&str, &str)], body: &'static [u8]) -> Delivery {
        let headers = headers.iter();
        Delivery {
            tag: 1,
            redelivered: false,
            routing_key: "2".to_owned(),
            content_type: "x/y".to_owned(),
            message_id: format!("{SESSION}/2/4-6"),
            headers: headers
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect::<BTreeMap<_, _>>(),
            death: None,
            body: Bytes::from_static(body),
        }
    }

    fn envelope() -> Vec<(&'static str, &'static str)> {
        vec![
            (headers::ENVELOPE_VERSION, "1.1"),
            (headers::PROVIDER, "viriciti"),
            (headers::WORKSPACE, "w"),
            (headers::CONNECTION, "01890a5d-ac96-774b-bcce-b302099a8057"),
            (headers::SESSION, SESSION),
            (headers::PARTITION, "2"),
            (headers::EPOCH, "1"),
            (headers::FRAMES, "3"),
            (headers::CONFLATED, "5"),
        ]
    }

    #[test]
    fn an_envelope_accounts_for_its_frames_and_for_those_that_they_replaced() {
        let body = b"4 1700000000000000 text 2\n{}\n6 1700000000000000 text 2\n{}\n";
        let read = letter(&delivery(&envelope(), body));
        assert_eq!(read.numbers, [4..=6].into_iter().collect());
        assert_eq!(read.frames, 2);
        assert_eq!(read.source.session, SESSION.parse().ok());
        assert_eq!(read.source.partition, Some(2));
        assert_eq!(read.source.workspace.as_deref(), Some("w"));
    }

    #[test]
    fn a_body_that_cannot_be_read_is_accounted_for_by_the_messages_id() {
        let read = letter(&delivery(&envelope(), b"?"));
        assert_eq!(read.numbers, [4..=6].into_iter().collect());
        assert_eq!(read.frames, 3);
        let mut gaps = envelope();
        gaps[7] = (headers::FRAMES, "2");
        let read = letter(&delivery(&gaps, b"?"));
        assert!(read.numbers.is_empty(), "which of the three is not known");
        let stray = letter(&delivery(&[], b"hello"));
        assert_eq!((stray.source, stray.frames), (Source::default(), 0));
    }

    #[test]
    fn what_the_broker_added_is_read_and_not_kept_among_the_headers() {
        let mut died = delivery(
            &[
                ("x-first-death-reason", "rejected"),
                ("x-first-death-queue", "ingress.2"),
                (headers::OWNER, "p"),
            ],
            b"",
        );
        let read = letter(&died);
        assert_eq!(
            (read.reason.as_str(), read.queue.as_str()),
            ("rejected", "ingress.2")
        );
        assert_eq!(read.headers.keys().collect::<Vec<_>>(), [headers::OWNER]);
        died.death = Some(Death {
            reason: "delivery_limit".to_owned(),
            ..Death::default()
        });
        let again = letter(&died);
        assert_eq!(again.reason, "delivery_limit");
        assert_eq!(again.identity, read.identity, "it is the same message");
    }
}
