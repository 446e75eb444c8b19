//! The loop that all reactions share: take events from the bus, write what they ask for, acknowledge.
//!
//! * A message is acknowledged only after the commit that holds what the reaction made of it.
//! * While the database is away, the batch in hand stays unacknowledged and is tried again; when the
//!   broker session is lost, it is dropped, because it will be delivered again. So a reaction sees an
//!   event at least once, and [`Reaction::react`] has to make the second time harmless.
//! * What cannot be read, and what the database refuses, never blocks the queue: it is logged, counted
//!   and left out.
//! * What goes out of the system is not done here, but by whoever reads what was written: a receiver
//!   that is slow must not hold up the queue.

use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context as _;
use runtime::Context;
use runtime::amqp::{Batch, Consumer, Delivery, Link};
use runtime::backoff::Backoff;
use runtime::config::BatchLimit;
use runtime::db::{self, Disposition};
use runtime::telemetry;
use shared_model::CloudEvent;
use shared_model::topology::Subscriber;
use sqlx::{PgConnection, PgPool};
use tracing::Instrument;

use crate::applier::disposition;
use crate::batch::Unreadable;
use crate::metrics;

/// Something that happens because of events.
pub trait Reaction: Sync {
    /// Its name in logs and metrics.
    const NAME: &'static str;
    /// The name of its transactions in metrics.
    const TRANSACTION: &'static str;
    /// Whose queue it reads.
    const SUBSCRIBER: Subscriber;

    /// Whether it cares about `event`; the others are acknowledged and forgotten.
    fn wants(&self, event: &CloudEvent) -> bool;

    /// Writes what `events` ask for and returns how many rows it made.
    ///
    /// It runs in one transaction for a batch, and may run again for the same events: after a conflict,
    /// after a redelivery, and in smaller parts if the database refuses a part of the batch.
    fn react(
        &self,
        connection: &mut PgConnection,
        events: &[CloudEvent],
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;

    /// Is told after a commit how many rows it made.
    fn committed(&self, rows: u64) {
        let _ = rows;
    }
}

/// Reacts to events until the service stops.
pub async fn run<R: Reaction>(
    context: &Context,
    link: &Link,
    pool: &PgPool,
    limit: BatchLimit,
    reaction: &R,
) -> anyhow::Result<()> {
    let stop = context.stopping();
    let worker = Worker {
        context,
        pool,
        reaction,
    };
    while let Ok(mut consumer) = Consumer::open(link, R::SUBSCRIBER.queue(), stop).await {
        loop {
            let deliveries = match consumer.next_batch(limit, stop).await {
                Batch::Messages(deliveries) => deliveries,
                Batch::Lost => break,
                Batch::Stopped => {
                    consumer.close().await;
                    return Ok(());
                }
            };
            if worker.take(&deliveries, &consumer).await?.is_break() {
                break;
            }
            let acknowledged = match deliveries.last() {
                Some(last) => consumer.ack_through(last.tag).await,
                None => Ok(()),
            };
            if acknowledged.is_err() {
                break;
            }
        }
    }
    Ok(())
}

struct Worker<'a, R> {
    context: &'a Context,
    pool: &'a PgPool,
    reaction: &'a R,
}

impl<R: Reaction> Worker<'_, R> {
    /// Commits what `deliveries` ask for; breaks if they must not be acknowledged.
    async fn take(
        &self,
        deliveries: &[Delivery],
        consumer: &Consumer,
    ) -> anyhow::Result<ControlFlow<()>> {
        let all = read::<R>(deliveries);
        let total = all.len();
        let wanted: Vec<_> = all
            .into_iter()
            .filter(|event| self.reaction.wants(event))
            .collect();
        metrics::reaction_events(R::NAME, "ignored", (total - wanted.len()) as u64);
        let span = tracing::info_span!("react", reaction = R::NAME, events = wanted.len());
        // A batch may belong to many traces; it continues the first.
        let traceparent = wanted.iter().find_map(|event| event.traceparent.as_deref());
        telemetry::continue_trace(&span, traceparent);
        self.react(&wanted, consumer).instrument(span).await
    }

    /// Reacts to all, in one transaction if the database takes them together. What it refuses is found
    /// by halving, so that it takes nothing else with it.
    async fn react(
        &self,
        events: &[CloudEvent],
        consumer: &Consumer,
    ) -> anyhow::Result<ControlFlow<()>> {
        let mut parts = vec![events];
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while let Some(part) = parts.pop() {
            if part.is_empty() {
                continue;
            }
            let writing = self.commit(part);
            let error = match self.context.letting_go().run_until_cancelled(writing).await {
                None => return Ok(ControlFlow::Break(())),
                Some(Ok(rows)) => {
                    backoff.reset();
                    metrics::reaction_events(R::NAME, "handled", part.len() as u64);
                    self.reaction.committed(rows);
                    continue;
                }
                Some(Err(error)) => error,
            };
            match (disposition(&error), part) {
                (Disposition::Fatal, _) => return Err(error).context(R::NAME),
                (Disposition::Poison, [event]) => {
                    tracing::error!(
                        reaction = R::NAME,
                        event = event.id,
                        workspace = %event.workspace,
                        error = %telemetry::chain(&error),
                        "the database refuses what is made of an event; it is left out"
                    );
                    metrics::reaction_rejected(R::NAME, "refused_by_database");
                }
                (Disposition::Poison, _) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                (Disposition::Retry, _) => {
                    tracing::warn!(
                        reaction = R::NAME,
                        error = %telemetry::chain(&error),
                        "the database is away; the batch waits"
                    );
                    parts.push(part);
                    let waited = consumer
                        .lost()
                        .run_until_cancelled(backoff.wait(self.context.stopping()))
                        .await;
                    if !matches!(waited, Some(Ok(()))) {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    async fn commit(&self, events: &[CloudEvent]) -> Result<u64, sqlx::Error> {
        db::in_tx(self.pool, R::TRANSACTION, |mut transaction| async move {
            let rows = self.reaction.react(&mut transaction, events).await?;
            Ok::<_, sqlx::Error>((transaction, rows))
        })
        .await
    }
}

/// The events in `deliveries`; what cannot be read is logged and counted.
fn read<R: Reaction>(deliveries: &[Delivery]) -> Vec<CloudEvent> {
    let mut events = Vec::new();
    for delivery in deliveries {
        let decoded = CloudEvent::decode(&delivery.content_type, &delivery.body);
        let each = decoded.unwrap_or_else(|error| vec![Err(error)]);
        for event in each {
            match event {
                Ok(event) => events.push(event),
                Err(error) => {
                    let error = Unreadable::from(error);
                    tracing::error!(
                        reaction = R::NAME,
                        message_id = delivery.message_id,
                        reason = error.reason(),
                        error = %telemetry::chain(&error),
                        "an event cannot be read and is left out"
                    );
                    metrics::reaction_rejected(R::NAME, error.reason());
                }
            }
        }
    }
    events
}
