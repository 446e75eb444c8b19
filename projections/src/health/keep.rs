//! What is kept no longer: history beyond its retention.
//!
//! Any number of replicas may do it at once. What fails is put off to the next time.

use std::time::Duration;

use runtime::telemetry::chain;
use runtime::{Context, clock, db};
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use super::store::retention;

const EVERY: Duration = Duration::from_mins(1);
/// How many rows of a table one transaction removes.
const AT_ONCE: i64 = 5000;

/// Removes what is older than `retention` until the service stops.
pub(super) async fn run(
    pool: &PgPool,
    retention: Duration,
    context: &Context,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = context.stopping();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match stop.run_until_cancelled(remove(pool, retention)).await {
            None => break,
            Some(Ok(())) => {}
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "old history stays until the next time");
            }
        }
    }
    Ok(())
}

async fn remove(pool: &PgPool, retention: Duration) -> Result<(), sqlx::Error> {
    let before = clock::now() - retention;
    loop {
        let removed = db::in_tx(pool, "health_forget", |mut tx| async move {
            let removed = retention::remove_older(&mut tx, before, AT_ONCE).await?;
            Ok::<_, sqlx::Error>((tx, removed))
        })
        .await?;
        if removed == 0 {
            return Ok(());
        }
    }
}
