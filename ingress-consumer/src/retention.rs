//! What is kept no longer: parked frames and dead letters beyond their age and number, keys of
//! provider-ingest, and old entries of the audit log.
//!
//! Any number of cores may sweep at once. A sweep that fails is put off to the next.

use std::time::Duration;

use runtime::telemetry::chain;
use runtime::{Context, clock, db};
use sqlx::PgPool;

use crate::config::{DeadLettersConfig, ParkedConfig};
use crate::metrics;
use crate::store::dead_letter::{self, Removed};
use crate::store::{StoreError, audit, ingest, parked};

/// How many rows one transaction removes.
const AT_ONCE: i64 = 1000;

/// How long and how much is kept.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    /// Parked frames, and how often to sweep.
    pub parked: ParkedConfig,
    /// Dead letters.
    pub dead_letters: DeadLettersConfig,
    /// Keys of provider-ingest.
    pub keys: Duration,
    /// Entries of the audit log.
    pub audit: Duration,
}

/// Sweeps until the service is asked to stop.
pub async fn run(context: Context, pool: PgPool, kept: Kept) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(kept.parked.sweep_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = context.stopping();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let sweep = sweep(&pool, kept);
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

async fn sweep(pool: &PgPool, kept: Kept) -> Result<(), StoreError> {
    parked_frames(pool, kept.parked).await?;
    dead_letters(pool, kept.dead_letters).await?;
    keys(pool, kept.keys).await?;
    audit_entries(pool, kept.audit).await
}

async fn parked_frames(pool: &PgPool, limits: ParkedConfig) -> Result<(), StoreError> {
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
    Ok(())
}

async fn dead_letters(pool: &PgPool, limits: DeadLettersConfig) -> Result<(), StoreError> {
    let now = clock::now();
    loop {
        let removed = db::in_tx(pool, "remove_old_dead_letters", |mut tx| async move {
            let before = now - limits.retention;
            let removed = dead_letter::remove_older(&mut tx, before, AT_ONCE).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        if !told("age", removed) {
            break;
        }
    }
    let (rows, bytes) = (most(limits.max_rows), most(limits.max_bytes));
    loop {
        let removed = db::in_tx(pool, "remove_dead_letters_beyond", |mut tx| async move {
            let removed = dead_letter::remove_beyond(&mut tx, rows, bytes, AT_ONCE).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        if !told("limit", removed) {
            break;
        }
    }
    let waiting = dead_letter::waiting(&mut *pool.acquire().await?).await?;
    metrics::dead_letters_waiting(waiting);
    Ok(())
}

/// Whether anything was removed, which is told.
fn told(cause: &'static str, removed: Removed) -> bool {
    metrics::dead_letters_removed(cause, removed.letters);
    if removed.given_up > 0 {
        tracing::warn!(
            cause,
            letters = removed.given_up,
            "dead letters that nobody has replayed were removed"
        );
    }
    removed.letters > 0
}

fn most(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

async fn keys(pool: &PgPool, retention: Duration) -> Result<(), StoreError> {
    let now = clock::now();
    loop {
        let removed = db::in_tx(pool, "forget_keys", |mut tx| async move {
            let removed = ingest::forget(&mut tx, now - retention, AT_ONCE).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        if removed == 0 {
            return Ok(());
        }
    }
}

async fn audit_entries(pool: &PgPool, retention: Duration) -> Result<(), StoreError> {
    let now = clock::now();
    loop {
        let removed = db::in_tx(pool, "remove_old_audit", |mut tx| async move {
            let removed = audit::remove_older(&mut tx, now - retention, AT_ONCE).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        if removed == 0 {
            return Ok(());
        }
    }
}
