//! What makes silence a fact: every so often, vehicles whose deadline has passed are judged again.
//!
//! It needs no message to arrive. Several replicas may sweep at once; each vehicle moves once. While
//! the database is away nothing moves, and the first sweep afterwards gets everything right.

use std::time::Duration;

use runtime::db::{self, Disposition};
use runtime::{Context, clock};
use sqlx::PgPool;
use tokio::time::{Instant, MissedTickBehavior};

use super::freshness::{Freshness, Limits};
use super::store::{self, Transition};
use crate::metrics;

/// Counting reads every vehicle's row, so it is done less often than sweeping.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// Sweeps until the service stops.
pub(super) async fn run(
    pool: &PgPool,
    limits: Limits,
    every: Duration,
    context: &Context,
) -> anyhow::Result<()> {
    let mut sweeper = Sweeper {
        pool,
        limits,
        limits_checked: false,
        counted_at: None,
    };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = context.stopping();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match stop.run_until_cancelled(sweeper.sweep()).await {
            None | Some(Ok(())) => {}
            Some(Err(error)) if db::disposition(&error) == Disposition::Retry => tracing::warn!(
                error = %runtime::telemetry::chain(&error),
                "the database is away; freshness stands still"
            ),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

struct Sweeper<'a> {
    pool: &'a PgPool,
    limits: Limits,
    limits_checked: bool,
    counted_at: Option<Instant>,
}

impl Sweeper<'_> {
    async fn sweep(&mut self) -> Result<(), sqlx::Error> {
        let (now, limits) = (clock::now(), self.limits);
        if !self.limits_checked {
            let mut connection = self.pool.acquire().await?;
            let vehicles = store::expire_other_limits(&mut connection, now, limits).await?;
            if vehicles > 0 {
                tracing::info!(vehicles, "the limits of freshness have changed");
            }
            self.limits_checked = true;
        }
        let transitions = db::in_tx(self.pool, "health_sweep", |mut transaction| async move {
            let transitions = store::sweep(&mut transaction, now, limits).await?;
            Ok::<_, sqlx::Error>((transaction, transitions))
        })
        .await?;
        for Transition { from, to, vehicles } in &transitions {
            let (from, to) = (from.name(), to.name());
            tracing::info!(from, to, vehicles, "vehicles changed their freshness");
            metrics::health_transitions(from, to, vehicles.unsigned_abs());
        }
        let due = self
            .counted_at
            .is_none_or(|counted_at| counted_at.elapsed() >= COUNT_EVERY);
        if due || !transitions.is_empty() {
            self.count().await?;
            self.counted_at = Some(Instant::now());
        }
        Ok(())
    }

    async fn count(&self) -> Result<(), sqlx::Error> {
        let counts = store::count_all(&mut *self.pool.acquire().await?).await?;
        for freshness in Freshness::ALL {
            let of = counts.iter().find(|count| count.freshness == freshness);
            let vehicles = of.map_or(0, |count| count.vehicles.unsigned_abs());
            metrics::health_vehicles(freshness.name(), vehicles);
        }
        Ok(())
    }
}
