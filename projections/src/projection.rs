//! The loop that all projections share: take what is there, fold it, commit once, acknowledge.
//!
//! * A message is acknowledged only after the commit that holds its effect.
//! * The commit also holds which events of the log it applied, so a projection knows exactly how far it
//!   is, and what it misses; see [`crate::keeper`].
//! * The next batch is taken and read while the one in hand is committed.
//! * While the database is away, the batch in hand stays unacknowledged and is tried again; when the
//!   broker session is lost, everything in hand is dropped, because it will be delivered again.
//! * What cannot be applied never blocks the queue: it is logged, counted and acknowledged, since the
//!   event log is the truth and the queue can be refilled from it.
//! * On a request to stop, the batches in hand are finished, unless the database is away.

use std::future::Future;
use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use runtime::Context;
use runtime::access::InternalToken;
use runtime::amqp::{Acknowledger, Batch, Consumer, Link};
use runtime::config::BatchLimit;
use runtime::http::Check;
use shared_model::log::LogState;
use shared_model::topology::Subscriber;
use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc;

use crate::activity::Activity;
use crate::applier::{Applied, Applier};
use crate::batch::{Change, ConnectionChange, Folded, Message, VehicleChange, fold};
use crate::core_config::CoreConfig;
use crate::core_log::CoreLog;
use crate::gaps_config::GapsConfig;
use crate::keeper::Keeper;
use crate::schema::Schema;

/// The part in which projections differ.
pub(crate) trait Projection: Sync {
    /// The projection's name in logs and metrics, and as a subscriber of the log.
    const NAME: &'static str;
    /// Whose queue it reads.
    const SUBSCRIBER: Subscriber;
    /// The name of the transaction that applies events.
    const TRANSACTION: &'static str;
    /// The tables that it writes, without their schema.
    const TABLES: &'static [&'static str];
    /// What it remembers about a vehicle.
    type Change: Change;
    /// What is known of a row that was written.
    type Row: Send;

    /// The database.
    fn pool(&self) -> &PgPool;

    /// Where the tables are.
    fn schema(&self) -> Schema;

    /// Writes `changes` in the caller's transaction, and returns the rows that they changed.
    fn write(
        &self,
        connection: &mut PgConnection,
        changes: &[VehicleChange<Self::Change>],
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;

    /// Writes how connections are doing, where the projection cares, and returns how many rows
    /// changed.
    fn write_connections(
        &self,
        connection: &mut PgConnection,
        changes: &[ConnectionChange],
    ) -> impl Future<Output = Result<u64, sqlx::Error>> + Send {
        let _ = (connection, changes);
        std::future::ready(Ok(0))
    }

    /// Takes note of a row whose transaction was committed, and returns its workspace and vehicle.
    fn committed(&self, row: Self::Row) -> (String, String);

    /// Takes note of where the log stands, and what of it waits for this projection, which asked at
    /// `asked_at` (UTC).
    fn learn(&self, log: &LogState, asked_at: DateTime<Utc>) {
        let _ = (log, asked_at);
    }
}

/// What the loop needs to know.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) batch: BatchLimit,
    pub(crate) gaps: GapsConfig,
    pub(crate) core: CoreConfig,
    pub(crate) token: InternalToken,
}

/// Applies events, and fetches those that do not arrive, until the service stops. `tables` is down while
/// one of the projection's tables is missing.
pub(crate) async fn run<P: Projection>(
    context: &Context,
    link: &Link,
    settings: &Settings,
    tables: &Check,
    projection: &P,
) -> anyhow::Result<()> {
    let activity = Activity::default();
    let applier = Applier {
        context,
        projection,
        tables: Some(tables),
    };
    let core = CoreLog::new(&settings.core.url, &settings.token)?;
    let mut keeper = Keeper::new(&applier, &core, &activity, settings.gaps);
    let worker = Worker {
        applier: &applier,
        activity: &activity,
        limit: settings.batch,
    };
    tokio::try_join!(Box::pin(worker.run(link)), Box::pin(keeper.run()))?;
    Ok(())
}

struct Worker<'a, P> {
    applier: &'a Applier<'a, P>,
    activity: &'a Activity,
    limit: BatchLimit,
}

/// A batch that was taken from the queue and read.
struct Taken<C> {
    folded: Folded<C>,
    messages: usize,
    last_tag: u64,
}

impl<P: Projection> Worker<'_, P> {
    async fn run(&self, link: &Link) -> anyhow::Result<()> {
        let stop = self.applier.context.stopping();
        while let Ok(mut consumer) = Consumer::open(link, P::SUBSCRIBER.queue(), stop).await {
            self.activity.opened();
            let consumed = self.consume(&mut consumer).await;
            self.activity.closed();
            if consumed?.is_break() {
                consumer.close().await;
                break;
            }
        }
        Ok(())
    }

    /// Consumes until the session is lost (continue) or the service stops (break).
    async fn consume(&self, consumer: &mut Consumer) -> anyhow::Result<ControlFlow<()>> {
        let acknowledger = consumer.acknowledger();
        let (sender, receiver) = mpsc::channel(1);
        let applying = self.apply(receiver, &acknowledger);
        let taking = self.take(consumer, sender);
        tokio::pin!(applying, taking);
        tokio::select! {
            taken = &mut taking => {
                let end = taken?;
                // What was taken is finished first.
                applying.await?;
                Ok(end)
            }
            applied = &mut applying => {
                applied?;
                Ok(if self.applier.context.stopping().is_cancelled() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            }
        }
    }

    /// Takes and reads batches until the session is lost (continue) or the service stops (break).
    async fn take(
        &self,
        consumer: &mut Consumer,
        sender: mpsc::Sender<Taken<P::Change>>,
    ) -> anyhow::Result<ControlFlow<()>> {
        let stop = self.applier.context.stopping();
        loop {
            let deliveries = match consumer.next_batch(self.limit, stop).await {
                Batch::Messages(deliveries) => deliveries,
                Batch::Lost => return Ok(ControlFlow::Continue(())),
                Batch::Stopped => return Ok(ControlFlow::Break(())),
            };
            self.activity.took();
            let Some(last_tag) = deliveries.last().map(|last| last.tag) else {
                continue;
            };
            let messages: Vec<_> = deliveries.into_iter().map(Message::from).collect();
            let count = messages.len();
            // Reading a large batch would keep the one before from being committed.
            let folded = tokio::task::spawn_blocking(move || fold(&messages)).await?;
            let taken = Taken {
                folded,
                messages: count,
                last_tag,
            };
            if sender.send(taken).await.is_err() {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }

    /// Commits and acknowledges what is taken, until nothing more is or one must not be acknowledged.
    async fn apply(
        &self,
        mut receiver: mpsc::Receiver<Taken<P::Change>>,
        acknowledger: &Acknowledger,
    ) -> anyhow::Result<()> {
        while let Some(taken) = receiver.recv().await {
            let lost = acknowledger.lost();
            let applied = self
                .applier
                .apply(&taken.folded, taken.messages, lost)
                .await?;
            if applied == Applied::LetGo {
                break;
            }
            if acknowledger.ack_through(taken.last_tag).await.is_err() {
                break;
            }
            self.activity.done();
        }
        Ok(())
    }
}
