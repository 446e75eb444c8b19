//! What is done now and then: deliveries are forgotten that were done long ago, what waits for disabled
//! endpoints is skipped, and what there is of everything is counted.

use std::future::Future;

use runtime::{Context, telemetry};
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::config::DeliveriesConfig;
use super::store::{CHUNK, upkeep};
use crate::applier::is_passing;
use crate::metrics;

/// Looks after the tables until the service stops.
pub(super) async fn run(
    context: &Context,
    pool: &PgPool,
    config: DeliveriesConfig,
) -> anyhow::Result<()> {
    let stop = context.stopping();
    let mut ticks = tokio::time::interval(config.sweep_every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match stop.run_until_cancelled(sweep(pool, config)).await {
            None | Some(Ok(())) => {}
            Some(Err(error)) if is_passing(&error) => tracing::warn!(
                error = %telemetry::chain(&error),
                "the database is away; nothing is forgotten"
            ),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn sweep(pool: &PgPool, config: DeliveriesConfig) -> Result<(), sqlx::Error> {
    // Each statement is a transaction of its own.
    let skip = || async { upkeep::skip(&mut *pool.acquire().await?).await };
    metrics::webhook_deliveries("skipped", all(skip).await?);
    all(|| async { upkeep::forget(&mut *pool.acquire().await?, config.retention).await }).await?;
    all(|| async { upkeep::forget_removed(&mut *pool.acquire().await?).await }).await?;
    upkeep::forget_endpoints(&mut *pool.acquire().await?).await?;
    let counts = upkeep::count(&mut *pool.acquire().await?).await?;
    metrics::webhook_endpoints("enabled", counts.enabled.unsigned_abs());
    metrics::webhook_endpoints("failing", counts.failing.unsigned_abs());
    metrics::webhook_endpoints("disabled", counts.disabled.unsigned_abs());
    metrics::webhook_pending(counts.pending.unsigned_abs(), counts.oldest_seconds);
    Ok(())
}

/// Does a chunk after the other until one is not full; returns how many rows there were.
async fn all<F>(chunk: impl Fn() -> F) -> Result<u64, sqlx::Error>
where
    F: Future<Output = Result<u64, sqlx::Error>>,
{
    let mut sum = 0;
    loop {
        let rows = chunk().await?;
        sum += rows;
        if rows < CHUNK.unsigned_abs() {
            return Ok(sum);
        }
    }
}
