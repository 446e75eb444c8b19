//! The ingress queue: one consumer a partition.
//!
//! A delivery is acknowledged only after the commit that holds its effect. While the database is
//! away, the batch in hand is kept and nothing more is taken, so the queue grows where operators
//! look. If the broker goes away meanwhile, the batch is dropped here and delivered again.

use std::sync::Arc;
use std::time::Duration;

use runtime::amqp::{Batch, Consumer, Delivery, Link};
use runtime::backoff::Backoff;
use runtime::config::BatchLimit;
use runtime::{Context, telemetry};
use shared_model::connection_status::{self, StatusError};
use shared_model::{Envelope, EnvelopeError, StatusReport, headers, topology};
use tracing::Instrument;
use xxhash_rust::xxh3::xxh3_128;

use crate::acceptance::{Acceptance, Received};
use crate::interpret::Reason;
use crate::store::StoreError;
use crate::store::parked::ParkedFrame;

/// One partition's consumer.
pub struct PartitionConsumer {
    /// The partition.
    pub partition: u32,
    /// How much to take at once.
    pub limit: BatchLimit,
    /// Where to take it from.
    pub link: Link,
    /// Where to take it to.
    pub acceptance: Acceptance,
    /// The service.
    pub context: Context,
}

/// What became of a batch that could not be accepted at once.
enum Accepted {
    /// It had its effect.
    Yes,
    /// The broker will deliver it again.
    Dropped,
}

impl PartitionConsumer {
    /// Consumes until the service is asked to stop.
    pub async fn run(self) -> anyhow::Result<()> {
        let queue = topology::ingress_queue(self.partition);
        let stop = self.context.stopping();
        loop {
            let mut consumer = Consumer::open(&self.link, &queue, stop).await?;
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
                        match self.accept(&consumer, &deliveries).await? {
                            Accepted::Yes if consumer.ack_through(last).await.is_ok() => {}
                            Accepted::Yes | Accepted::Dropped => break,
                        }
                    }
                }
            }
        }
    }

    async fn accept(
        &self,
        consumer: &Consumer,
        deliveries: &[Delivery],
    ) -> anyhow::Result<Accepted> {
        let span = tracing::info_span!(
            "process ingress",
            otel.kind = "consumer",
            messaging.system = "rabbitmq",
            messaging.destination.name = %topology::ingress_queue(self.partition),
            messaging.batch.message_count = deliveries.len(),
        );
        let traceparent = deliveries
            .iter()
            .find_map(|d| d.headers.get(headers::TRACEPARENT));
        telemetry::continue_trace(&span, traceparent.map(String::as_str));
        self.accept_until_done(consumer, deliveries)
            .instrument(span)
            .await
    }

    async fn accept_until_done(
        &self,
        consumer: &Consumer,
        deliveries: &[Delivery],
    ) -> anyhow::Result<Accepted> {
        let batch = decode(deliveries);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            // Let go of, a batch that may or may not have been committed is delivered again.
            let attempt = self.attempt(&batch);
            let letting_go = self.context.letting_go();
            match letting_go.run_until_cancelled(attempt).await {
                None => return Ok(Accepted::Dropped),
                Some(Ok(())) => return Ok(Accepted::Yes),
                Some(Err(error @ StoreError::Inconsistent { .. })) => {
                    tracing::error!(
                        partition = self.partition,
                        error = %telemetry::chain(&error),
                        "a batch waits for a row that can be read; was it written by a newer version?"
                    );
                }
                Some(Err(error)) if error.is_passing() => {
                    tracing::warn!(
                        partition = self.partition,
                        error = %runtime::telemetry::chain(&error),
                        "a batch waits for the database"
                    );
                }
                Some(Err(error)) => return Err(error.into()),
            }
            // Asked to stop while the database is away: what is in hand goes back to the queue.
            tokio::select! {
                waited = backoff.wait(self.context.stopping()) => waited?,
                () = consumer.lost().cancelled() => return Ok(Accepted::Dropped),
            }
        }
    }

    async fn attempt(&self, batch: &Decoded) -> Result<(), StoreError> {
        for message in &batch.malformed {
            self.acceptance.park_message(message.clone()).await?;
        }
        if !batch.frames.is_empty() {
            self.acceptance.accept(&batch.frames).await?;
        }
        // What is said of a connection stands behind the frames that it speaks of.
        self.acceptance.accept_statuses(&batch.statuses).await
    }
}

/// What deliveries hold.
#[derive(Default)]
struct Decoded {
    frames: Vec<Received>,
    statuses: Vec<StatusReport>,
    /// Deliveries that are neither.
    malformed: Vec<ParkedFrame>,
}

fn decode(deliveries: &[Delivery]) -> Decoded {
    let mut decoded = Decoded::default();
    for delivery in deliveries {
        if delivery.content_type == connection_status::CONTENT_TYPE {
            match StatusReport::decode(&delivery.body) {
                Ok(report) => decoded.statuses.push(report),
                Err(error) => {
                    let reason = match error {
                        StatusError::VersionUnknown { .. } => Reason::UnsupportedVersion,
                        StatusError::Json(_) | StatusError::OutOfRange(_) => {
                            Reason::UndecodableEnvelope
                        }
                    };
                    decoded.malformed.push(park(delivery, reason, &error));
                }
            }
            continue;
        }
        match Envelope::decode(&delivery.headers, &delivery.body) {
            Ok(envelope) => {
                let attributes = Arc::new(envelope.attributes);
                let mut conflated = envelope.conflated;
                let frames = envelope.frames.into_iter().map(|frame| Received {
                    attributes: Arc::clone(&attributes),
                    partition: envelope.partition,
                    frame,
                    conflated: std::mem::take(&mut conflated),
                });
                decoded.frames.extend(frames);
            }
            Err(error) => {
                let reason = match error {
                    EnvelopeError::VersionUnknown { .. } => Reason::UnsupportedVersion,
                    EnvelopeError::HeaderMissing(_)
                    | EnvelopeError::HeaderInvalid { .. }
                    | EnvelopeError::BodyInvalid { .. } => Reason::UndecodableEnvelope,
                };
                decoded.malformed.push(park(delivery, reason, &error));
            }
        }
    }
    decoded
}

fn park(delivery: &Delivery, reason: Reason, error: &dyn std::fmt::Display) -> ParkedFrame {
    tracing::warn!(
        message_id = delivery.message_id,
        reason = reason.name(),
        %error,
        "a message is no envelope and is parked whole"
    );
    let content = [delivery.message_id.as_bytes(), &delivery.body].join(&0);
    ParkedFrame {
        identity: format!("message/{:032x}", xxh3_128(&content)),
        origin: None,
        reason: reason.name(),
        detail: error.to_string(),
        headers: Some(delivery.headers.clone()),
        body: delivery.body.to_vec(),
    }
}
