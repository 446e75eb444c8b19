//! The outbox relay: the event log to the event bus.
//!
//! Any number of relays share the shards: each is leased to one of them at a time, under an epoch that
//! every move of its checkpoint names ([`member`]). A relay reads what lies behind the checkpoint of a
//! shard, publishes it, many messages at a time, and moves the checkpoint as far as the broker has
//! confirmed everything ([`stream`]). So an event is published at least once, in the order of its shard's
//! offsets, and readers order by version. No transaction is open while it publishes. While the broker is
//! away it waits, for as long as it takes; the log is the buffer.
//!
//! An event that the broker itself refuses is found ([`search`]), put aside with the later ones of its
//! vehicle, and tried again ([`retry`]) until it is given up on.

mod hold;
mod member;
mod message;
mod pace;
mod retry;
mod search;
mod share;
mod stream;
mod window;
mod worker;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use runtime::access::{Access, NoKeys};
use runtime::amqp::Link;
use runtime::backoff::{Backoff, Stopped};
use runtime::db::{Disposition, disposition};
use runtime::{Context, clock, db, http, notifications};
use shared_model::topology;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use crate::Started;
use crate::config::{RelayConfig, RelaySettings};
use crate::metrics;
use crate::store::{MIGRATIONS, StoreError, event_log, relay};

use member::Member;

/// Starts the relay; returns once its tasks run.
pub async fn start(context: Context, config: RelayConfig) -> anyhow::Result<Started> {
    let access = Access::new(&config.access, Arc::new(NoKeys));
    let routes = OpenApiRouter::new();
    let address = http::serve(&context, &config.http.0, &access, routes).await?;
    let pool = db::open(&context, &config.database)?;
    let link = Link::open(&context, &config.amqp, topology::events());
    let shared = Arc::new(Shared {
        relay: clock::new_id(),
        context: context.clone(),
        pool,
        link,
        settings: config.relay,
        confirmed: AtomicU64::new(0),
    });
    let prepared = context.readiness().add("schema");
    context.spawn("relay", async move {
        let (context, pool) = (&shared.context, &shared.pool);
        db::require_schema(pool, &MIGRATIONS, context.stopping()).await?;
        let shards = wait_for_shards(context, pool).await?;
        prepared.up();
        run(Arc::clone(&shared), shards).await
    });
    Ok(Started { http: address })
}

/// What the relay's tasks share.
#[derive(Debug)]
struct Shared {
    /// The relay's id, which no other process has.
    relay: Uuid,
    context: Context,
    pool: PgPool,
    link: Link,
    settings: RelaySettings,
    /// How many messages the broker has confirmed.
    confirmed: AtomicU64,
}

async fn run(shared: Arc<Shared>, shards: u32) -> anyhow::Result<()> {
    let wakers: Arc<Vec<Notify>> = Arc::new((0..shards).map(|_| Notify::new()).collect());
    let look = Arc::new(Notify::new());
    let (held, of_held) = watch::channel(BTreeSet::new());
    let context = shared.context.clone();
    let member = Member::new(
        Arc::clone(&shared),
        Arc::clone(&wakers),
        Arc::clone(&look),
        held,
    );
    context.spawn("relay shards", member.run());
    context.spawn("relay lag", measure(Arc::clone(&shared), of_held));
    listen(&shared, &wakers, &look).await;
    Ok(())
}

/// The core makes the shards at its first start, which may come after the relay's.
async fn wait_for_shards(context: &Context, pool: &PgPool) -> anyhow::Result<u32> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));
    loop {
        let found = async { relay::count_shards(&mut *pool.acquire().await?).await };
        match found.await {
            Ok(0) => tracing::info!("waiting for the core's first start"),
            Ok(shards) => return Ok(shards),
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

/// Says how far each shard is behind that this relay has, whatever its task is doing.
async fn measure(
    shared: Arc<Shared>,
    mut held: watch::Receiver<BTreeSet<u32>>,
) -> anyhow::Result<()> {
    let stop = shared.context.stopping();
    let every = shared.settings.poll_every.max(Duration::from_secs(1));
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = BTreeSet::new();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let held = held.borrow_and_update().clone();
        metrics::relay_shards(held.len());
        // Another relay says how far behind these are.
        for shard in told.difference(&held) {
            metrics::relay_lag(*shard, 0, 0, 0);
        }
        let progress = async { relay::progress(&mut *shared.pool.acquire().await?).await };
        match progress.await {
            Ok(shards) => {
                for shard in shards.iter().filter(|shard| held.contains(&shard.shard)) {
                    let lag = shard.head.saturating_sub(shard.relayed);
                    let waited = Duration::try_from_secs_f64(shard.waited).unwrap_or_default();
                    metrics::relay_lag(shard.shard, lag, waited.as_secs(), shard.blocked);
                }
            }
            // The shards' tasks say so themselves.
            Err(error) => tracing::debug!(%error, "the lag is not known"),
        }
        told = held;
    }
    Ok(())
}

/// Wakes whoever an announcement is for, and everybody where some may not have been heard. A lost listener
/// costs only the time to the next poll.
async fn listen(shared: &Shared, wakers: &[Notify], look: &Notify) {
    let channels = [event_log::CHANNEL, relay::CHANNEL];
    let listening = notifications::listen(&shared.pool, &channels, |channel| {
        if channel != Some(event_log::CHANNEL) {
            look.notify_one();
        }
        if channel != Some(relay::CHANNEL) {
            wakers.iter().for_each(Notify::notify_one);
        }
    });
    let stop = shared.context.stopping();
    stop.run_until_cancelled(listening).await;
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

impl From<sqlx::Error> for RelayError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}
