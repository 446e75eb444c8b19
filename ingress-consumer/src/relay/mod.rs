//! The outbox relay: the event log to the event bus, a task a shard.
//!
//! It reads what lies behind the shard's checkpoint, publishes it, and moves the checkpoint once the
//! broker has confirmed all of it. So an event is published at least once, in the order of its
//! shard's offsets except where a message had to be sent again, and readers order by version. No
//! transaction is open while it publishes. While the broker is away it waits, for as long as it
//! takes; the log is the buffer.

mod message;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use runtime::amqp::{Link, Publisher};
use runtime::backoff::{Backoff, Stopped};
use runtime::db::{AsSqlError, Disposition, disposition};
use runtime::{Context, db, http};
use shared_model::topology;
use sqlx::PgPool;
use sqlx::postgres::PgListener;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::Started;
use crate::config::{RelayConfig, RelaySettings};
use crate::metrics;
use crate::store::relay::Checkpoint;
use crate::store::{MIGRATIONS, StoreError, event_log, relay};

/// How many bytes of events one batch holds at most, unless a single event is larger.
const BATCH_MOST_BYTES: i64 = 4 * 1024 * 1024;

/// Starts the relay; returns once its tasks run.
pub async fn start(context: Context, config: RelayConfig) -> anyhow::Result<Started> {
    let address = http::serve(&context, &config.http.0, axum::Router::new()).await?;
    let pool = db::open(&context, &config.database)?;
    let publisher = Publisher::new(Link::open(&context, &config.amqp, topology::events()));
    let worker = context.clone();
    let prepared = context.readiness().add("schema");
    context.spawn("relay", async move {
        db::require_schema(&pool, &MIGRATIONS, worker.stopping()).await?;
        let shards = wait_for_shards(&worker, &pool).await?;
        prepared.up();
        run(worker, pool, publisher, config.relay, shards).await
    });
    Ok(Started { http: address })
}

async fn run(
    context: Context,
    pool: PgPool,
    publisher: Publisher,
    settings: RelaySettings,
    shards: Vec<Checkpoint>,
) -> anyhow::Result<()> {
    let wakers: Arc<Vec<Notify>> = Arc::new(shards.iter().map(|_| Notify::new()).collect());
    for (index, checkpoint) in shards.into_iter().enumerate() {
        let shard = Shard {
            context: context.clone(),
            pool: pool.clone(),
            publisher: publisher.clone(),
            settings: settings.clone(),
            wakers: Arc::clone(&wakers),
            index,
            checkpoint,
        };
        context.spawn("relay shard", shard.run());
    }
    let measuring = measure(context.clone(), pool.clone(), settings.poll_every);
    context.spawn("relay lag", measuring);
    listen(&context, &pool, &wakers).await
}

/// The core makes the shards at its first start, which may come after the relay's.
async fn wait_for_shards(context: &Context, pool: &PgPool) -> anyhow::Result<Vec<Checkpoint>> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    loop {
        let found = async { relay::checkpoints(&mut *pool.acquire().await?).await };
        match found.await {
            Ok(shards) if !shards.is_empty() => return Ok(shards),
            Ok(_) => tracing::info!("waiting for the core's first start"),
            Err(error) if disposition(&error) == Disposition::Retry => {
                tracing::warn!(
                    error = %runtime::telemetry::chain(&error),
                    "the database is away"
                );
            }
            Err(error) => return Err(error.into()),
        }
        backoff.wait(context.stopping()).await?;
    }
}

/// Says how far each shard is behind, whatever its relay is doing.
async fn measure(context: Context, pool: PgPool, every: Duration) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(every.max(Duration::from_secs(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while context
        .stopping()
        .run_until_cancelled(ticks.tick())
        .await
        .is_some()
    {
        let checkpoints = async { relay::checkpoints(&mut *pool.acquire().await?).await };
        match checkpoints.await {
            Ok(checkpoints) => {
                for Checkpoint {
                    shard,
                    relayed,
                    head,
                } in checkpoints
                {
                    metrics::relay_lag(shard, head.saturating_sub(relayed));
                }
            }
            // The shards say so themselves.
            Err(error) => tracing::debug!(%error, "the lag is not known"),
        }
    }
    Ok(())
}

/// Wakes the shards at each notification. A lost listener costs only the time to the next poll.
async fn listen(context: &Context, pool: &PgPool, wakers: &[Notify]) -> anyhow::Result<()> {
    let stop = context.stopping();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let listening = async {
            let mut listener = PgListener::connect_with(pool).await?;
            listener.listen(event_log::CHANNEL).await?;
            backoff.reset();
            loop {
                listener.recv().await?;
                wakers.iter().for_each(Notify::notify_one);
            }
        };
        match stop.run_until_cancelled(listening).await {
            None => return Ok(()),
            Some(Ok(())) => {}
            Some(Err(error)) => {
                let error: &sqlx::Error = &error;
                tracing::warn!(
                    error = %runtime::telemetry::chain(error),
                    "not told of new events"
                );
            }
        }
        backoff.wait(stop).await?;
    }
}

struct Shard {
    context: Context,
    pool: PgPool,
    publisher: Publisher,
    settings: RelaySettings,
    wakers: Arc<Vec<Notify>>,
    index: usize,
    checkpoint: Checkpoint,
}

impl Shard {
    async fn run(mut self) -> anyhow::Result<()> {
        let stop = self.context.stopping().clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        while !stop.is_cancelled() {
            match self.relay_batch().await {
                Ok(relayed) if relayed > 0 => backoff.reset(),
                Ok(_) => {
                    let woken = self.wakers[self.index].notified();
                    // Either way, the next step is to look.
                    tokio::select! {
                        () = woken => {}
                        () = tokio::time::sleep(self.settings.poll_every) => {}
                        () = stop.cancelled() => {}
                    }
                }
                Err(RelayError::Store(error))
                    if error
                        .as_sql_error()
                        .is_some_and(|e| disposition(e) == Disposition::Retry) =>
                {
                    tracing::warn!(
                        shard = self.checkpoint.shard,
                        error = %runtime::telemetry::chain(&error),
                        "relaying waits for the database"
                    );
                    backoff.wait(&stop).await?;
                }
                Err(RelayError::Stopped(Stopped)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Takes the checkpoint as stored: another relay may have moved it, or a restore set it back.
    async fn look_again(&mut self) -> Result<(), StoreError> {
        let mut pg = self.pool.acquire().await?;
        let stored = relay::checkpoints(&mut pg).await?;
        if let Some(stored) = stored
            .into_iter()
            .find(|c| c.shard == self.checkpoint.shard)
        {
            self.checkpoint = stored;
        }
        Ok(())
    }

    /// Relays what lies behind the checkpoint, up to a batch; returns how many events.
    async fn relay_batch(&mut self) -> Result<usize, RelayError> {
        let shard = self.checkpoint.shard;
        let events = {
            let mut pg = self.pool.acquire().await.map_err(StoreError::from)?;
            let limit = i64::from(self.settings.batch_events);
            let after = self.checkpoint.relayed;
            event_log::read(&mut pg, shard, after, limit, BATCH_MOST_BYTES).await?
        };
        let Some((last, _)) = events.last() else {
            self.look_again().await?;
            return Ok(0);
        };
        let (count, last) = (events.len(), *last);
        let messages = message::pack(&events, self.settings.message_events)?;
        // Asked to stop while the broker is away, nothing is at stake: the log has it all.
        let stop = self.context.stopping();
        let publishing = messages
            .iter()
            .map(|message| self.publisher.publish_until_confirmed(message, stop));
        try_join_all(publishing).await?;
        let mut pg = self.pool.acquire().await.map_err(StoreError::from)?;
        relay::advance(&mut pg, shard, last)
            .await
            .map_err(StoreError::from)?;
        self.checkpoint.relayed = last;
        metrics::relayed(count as u64);
        Ok(count)
    }
}

#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("an event cannot be written as JSON")]
    Json(#[from] serde_json::Error),
}
