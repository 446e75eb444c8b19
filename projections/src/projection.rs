//! The loop that all projections share: take what is there, fold it, commit once, acknowledge.
//!
//! * A message is acknowledged only after the commit that holds its effect.
//! * While the database is away, the batch in hand stays unacknowledged and is tried again; when the
//!   broker session is lost, everything in hand is dropped, because it will be delivered again.
//! * What cannot be applied never blocks the queue: it is logged, counted and acknowledged, since the
//!   event log is the truth and the queue can be refilled from it.
//! * On a request to stop, the batch in hand is finished, unless the database is away.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::ControlFlow;
use std::time::Duration;

use runtime::Context;
use runtime::amqp::{Batch, Consumer, Delivery, Link};
use runtime::backoff::Backoff;
use runtime::config::BatchLimit;
use runtime::db::{self, Disposition};
use runtime::{clock, telemetry};
use shared_model::topology::Subscriber;
use tracing::Instrument;

use crate::batch::{Change, ConnectionChange, Folded, VehicleChange, fold};
use crate::metrics::{self, Outcome};

/// The part in which projections differ.
pub(crate) trait Projection: Sync {
    /// The projection's name in logs and metrics.
    const NAME: &'static str;
    /// Whose queue it reads.
    const SUBSCRIBER: Subscriber;
    /// What it remembers about a vehicle.
    type Change: Change;

    /// Writes `changes` in one transaction and returns the workspace and vehicle of each row that
    /// they changed.
    fn write(
        &self,
        changes: &[VehicleChange<Self::Change>],
    ) -> impl Future<Output = Result<Vec<(String, String)>, sqlx::Error>> + Send;

    /// Writes how connections are doing, where the projection cares, and returns how many rows
    /// changed.
    fn write_connections(
        &self,
        changes: &[ConnectionChange],
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send {
        let _ = changes;
        std::future::ready(Ok(0))
    }
}

/// Applies events until the service stops.
pub(crate) async fn run<P: Projection>(
    context: &Context,
    link: &Link,
    limit: BatchLimit,
    projection: &P,
) -> anyhow::Result<()> {
    let stop = context.stopping();
    while let Ok(mut consumer) = Consumer::open(link, P::SUBSCRIBER.queue(), stop).await {
        let worker = Worker {
            context,
            projection,
            limit,
        };
        if worker.consume(&mut consumer).await?.is_break() {
            consumer.close().await;
            break;
        }
    }
    Ok(())
}

struct Worker<'a, P> {
    context: &'a Context,
    projection: &'a P,
    limit: BatchLimit,
}

/// What became of a part of a batch.
enum Written<T> {
    /// Committed; this is what changed.
    Rows(T),
    /// The database refuses the content.
    Refused(sqlx::Error),
    /// The session was lost, or the service stops while the database is away.
    LetGo,
}

impl<P: Projection> Worker<'_, P> {
    /// Consumes until the session is lost (continue) or the service stops (break).
    async fn consume(&self, consumer: &mut Consumer) -> anyhow::Result<ControlFlow<()>> {
        let stop = self.context.stopping();
        loop {
            let deliveries = match consumer.next_batch(self.limit, stop).await {
                Batch::Messages(deliveries) => deliveries,
                Batch::Lost => return Ok(ControlFlow::Continue(())),
                Batch::Stopped => return Ok(ControlFlow::Break(())),
            };
            if self.apply(&deliveries, consumer).await?.is_break() {
                return Ok(if stop.is_cancelled() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                });
            }
            let acknowledged = match deliveries.last() {
                Some(last) => consumer.ack_through(last.tag).await,
                None => Ok(()),
            };
            if acknowledged.is_err() {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// Commits what `deliveries` say; breaks if they must not be acknowledged.
    async fn apply(
        &self,
        deliveries: &[Delivery],
        consumer: &Consumer,
    ) -> anyhow::Result<ControlFlow<()>> {
        let folded = fold::<P::Change>(deliveries);
        for rejection in &folded.rejections {
            let reason = rejection.error.reason();
            tracing::error!(
                projection = P::NAME,
                message_id = rejection.message_id,
                reason,
                error = %runtime::telemetry::chain(&rejection.error),
                "a message cannot be applied and is left out"
            );
            metrics::rejected(P::NAME, reason);
        }
        let span = tracing::info_span!(
            "apply events",
            projection = P::NAME,
            messages = deliveries.len(),
            vehicles = folded.changes.len()
        );
        // A batch may belong to many traces; it continues the first.
        telemetry::continue_trace(&span, folded.traceparent.as_deref());
        let telling = self.write_connections(&folded.connections, consumer);
        let Some(told) = telling.await? else {
            return Ok(ControlFlow::Break(()));
        };
        let writing = self.write_all(&folded.changes, consumer).instrument(span);
        Ok(match writing.await? {
            Some(written) => {
                count::<P>(&folded, &written, told);
                ControlFlow::Continue(())
            }
            None => ControlFlow::Break(()),
        })
    }

    /// Writes all changes, in one transaction if the database takes them together. Content that it
    /// refuses is found by halving, so that it takes nothing else with it.
    async fn write_all(
        &self,
        changes: &[VehicleChange<P::Change>],
        consumer: &Consumer,
    ) -> anyhow::Result<Option<BTreeSet<(String, String)>>> {
        let mut written = BTreeSet::new();
        let mut parts = vec![changes];
        while let Some(part) = parts.pop() {
            match (self.write(part, consumer).await?, part) {
                (Written::Rows(rows), _) => written.extend(rows),
                (Written::LetGo, _) => return Ok(None),
                (Written::Refused(error), [VehicleChange { key, .. }]) => {
                    tracing::error!(
                        projection = P::NAME,
                        workspace = %key.workspace,
                        vehicle = %key.vehicle,
                        error = %runtime::telemetry::chain(&error),
                        "the database refuses what events say about a vehicle; it is left out"
                    );
                    metrics::rejected(P::NAME, "refused_by_database");
                }
                (Written::Refused(_), _) => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
            }
        }
        Ok(Some(written))
    }

    /// Writes how connections are doing, and returns how many rows changed; none if the batch must not
    /// be acknowledged.
    async fn write_connections(
        &self,
        changes: &[ConnectionChange],
        consumer: &Consumer,
    ) -> anyhow::Result<Option<u64>> {
        if changes.is_empty() {
            return Ok(Some(0));
        }
        let write = || self.projection.write_connections(changes);
        match self.persist(write, consumer).await? {
            Written::LetGo => Ok(None),
            Written::Rows(rows) => Ok(Some(rows)),
            Written::Refused(error) => {
                tracing::error!(
                    projection = P::NAME,
                    error = %runtime::telemetry::chain(&error),
                    "the database refuses what events say about connections; it is left out"
                );
                metrics::rejected(P::NAME, "refused_by_database");
                Ok(Some(0))
            }
        }
    }

    /// Writes one part, however long the database is away.
    async fn write(
        &self,
        part: &[VehicleChange<P::Change>],
        consumer: &Consumer,
    ) -> anyhow::Result<Written<Vec<(String, String)>>> {
        if part.is_empty() {
            return Ok(Written::Rows(Vec::new()));
        }
        self.persist(|| self.projection.write(part), consumer).await
    }

    async fn persist<T, F>(
        &self,
        write: impl Fn() -> F,
        consumer: &Consumer,
    ) -> anyhow::Result<Written<T>>
    where
        F: Future<Output = Result<T, sqlx::Error>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        loop {
            let error = match self.context.letting_go().run_until_cancelled(write()).await {
                None => return Ok(Written::LetGo),
                Some(Ok(rows)) => return Ok(Written::Rows(rows)),
                Some(Err(error)) => error,
            };
            match db::disposition(&error) {
                Disposition::Retry => tracing::warn!(
                    projection = P::NAME,
                    error = %runtime::telemetry::chain(&error),
                    "the database is away; the batch waits"
                ),
                Disposition::Poison => return Ok(Written::Refused(error)),
                Disposition::Fatal => return Err(error.into()),
            }
            let waited = consumer
                .lost()
                .run_until_cancelled(backoff.wait(self.context.stopping()))
                .await;
            if !matches!(waited, Some(Ok(()))) {
                return Ok(Written::LetGo);
            }
        }
    }
}

/// Counts the events of a committed batch, by whether they changed anything; `told` rows of connections
/// were.
fn count<P: Projection>(
    folded: &Folded<P::Change>,
    written: &BTreeSet<(String, String)>,
    told: u64,
) {
    let mut applied = BTreeSet::new();
    for VehicleChange { key, events, .. } in &folded.changes {
        if written.contains(&(key.workspace.to_string(), key.vehicle.to_string())) {
            applied.extend(events);
        }
    }
    let unchanged = folded.event_times.len() - applied.len();
    metrics::batch(P::NAME);
    let untold = folded.connection_events.saturating_sub(told);
    metrics::events(P::NAME, Outcome::Applied, applied.len() as u64 + told);
    metrics::events(P::NAME, Outcome::Unchanged, unchanged as u64 + untold);
    metrics::events(P::NAME, Outcome::Ignored, folded.ignored);
    let newest = applied.iter().map(|&&index| folded.event_times[index]);
    if let Some(newest) = newest.max() {
        let lag = clock::now() - newest;
        metrics::lag(P::NAME, lag.as_seconds_f64().max(0.0));
    }
}
