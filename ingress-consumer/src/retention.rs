//! What is kept no longer: parked frames beyond their age and number, and keys of provider-ingest.
//!
//! Any number of cores may sweep at once. A sweep that fails is put off to the next.

use std::time::Duration;

use runtime::telemetry::chain;
use runtime::{Context, clock, db};
use sqlx::PgPool;

use crate::config::ParkedConfig;
use crate::metrics;
use crate::store::{StoreError, ingest, parked};

/// How many rows one transaction removes.
const AT_ONCE: i64 = 1000;

/// Sweeps until the service is asked to stop.
pub async fn run(
    context: Context,
    pool: PgPool,
    parked: ParkedConfig,
    key_retention: Duration,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(parked.sweep_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = context.stopping();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let sweep = sweep(&pool, parked, key_retention);
        match stop.run_until_cancelled(sweep).await {
            None => break,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "what is old stays until the next sweep");
            }
        }
    }
    Ok(())
}

async fn sweep(
    pool: &PgPool,
    limits: ParkedConfig,
    key_retention: Duration,
) -> Result<(), StoreError> {
    let now = clock::now();
    loop {
        let removed = db::in_tx(pool, "remove_old_parked", |mut tx| async move {
            let removed = parked::remove_older(&mut tx, now - limits.retention, AT_ONCE).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        metrics::unparked("age", removed);
        if removed == 0 {
            break;
        }
    }
    let most = |limit: u64| i64::try_from(limit).unwrap_or(i64::MAX);
    let (rows, bytes) = (most(limits.max_rows), most(limits.max_bytes));
    loop {
        let removed = db::in_tx(pool, "remove_parked_beyond", |mut tx| async move {
            let removed = parked::remove_beyond(&mut tx, rows, bytes, AT_ONCE).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        metrics::unparked("limit", removed);
        if removed == 0 {
            break;
        }
        tracing::warn!(
            frames = removed,
            "parked frames were removed because their connection has too many"
        );
    }
    loop {
        let removed = db::in_tx(pool, "forget_keys", |mut tx| async move {
            let removed = ingest::forget(&mut tx, now - key_retention, AT_ONCE).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        if removed == 0 {
            return Ok(());
        }
    }
}
