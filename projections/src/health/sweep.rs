//! What makes silence a fact: every so often, outages are looked at, and then the vehicles whose
//! judgement may not hold any more.
//!
//! After a start, events that came meanwhile are waited for, up to a minute: a vehicle that only seems to be
//! silent, and a connection that only seems to be out, are not told of.
//!
//! It needs no message to arrive. Several replicas may sweep at once; each vehicle moves once. While
//! the database is away nothing moves, and the first sweep afterwards gets everything right.

use std::time::Duration;

use runtime::{Context, clock, db};
use tokio::time::{Instant, MissedTickBehavior};

use super::Health;
use super::freshness::Freshness;
use super::judgement::Cause;
use super::store::incident::{self, IncidentChange};
use super::store::{vehicle, view};
use crate::applier::is_passing;
use crate::metrics;

/// Counting reads every vehicle's row, so it is done less often than sweeping.
const COUNT_EVERY: Duration = Duration::from_secs(10);
/// How long to wait, after a start, for what came before it.
const CATCH_UP_LIMIT: Duration = Duration::from_mins(1);
/// How many vehicles one transaction judges.
const AT_ONCE: i64 = 2000;

/// Sweeps until the service stops.
pub(super) async fn run(health: &Health, every: Duration, context: &Context) -> anyhow::Result<()> {
    let mut sweeper = Sweeper {
        health,
        limits_checked: false,
        counted_at: None,
        started_at: Instant::now(),
        has_caught_up: false,
    };
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let stop = context.stopping();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        match stop.run_until_cancelled(sweeper.sweep()).await {
            None | Some(Ok(())) => {}
            Some(Err(error)) if is_passing(&error) => tracing::warn!(
                error = %runtime::telemetry::chain(&error),
                "the database is away or a table is missing; freshness stands still"
            ),
            Some(Err(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

struct Sweeper<'a> {
    health: &'a Health,
    limits_checked: bool,
    counted_at: Option<Instant>,
    started_at: Instant,
    has_caught_up: bool,
}

impl Sweeper<'_> {
    async fn sweep(&mut self) -> Result<(), sqlx::Error> {
        if !self.limits_checked {
            self.check_limits().await?;
            self.limits_checked = true;
        }
        let mut has_changed = false;
        self.has_caught_up = self.has_caught_up || self.catches_up();
        if self.has_caught_up {
            // Outages first: what is behind one is judged by it.
            has_changed |= self.sweep_incidents().await?;
            has_changed |= self.sweep_vehicles().await?;
        }
        let due = self
            .counted_at
            .is_none_or(|counted_at| counted_at.elapsed() >= COUNT_EVERY);
        if due || has_changed {
            self.count().await?;
            self.counted_at = Some(Instant::now());
        }
        Ok(())
    }

    /// Whether what came before the start was applied, or has been waited for long enough.
    fn catches_up(&self) -> bool {
        let late_after = self.health.late_after;
        let lag = self.health.pipeline.lag(clock::now());
        lag.is_some_and(|lag| lag <= late_after) || self.started_at.elapsed() >= CATCH_UP_LIMIT
    }

    async fn check_limits(&self) -> Result<(), sqlx::Error> {
        let (limits, now) = (&*self.health.limits, clock::now());
        let checked = db::in_tx(&self.health.pool, "health_limits", |mut tx| async move {
            let vehicles = vehicle::expire_other_limits(&mut tx, limits, now).await?;
            Ok::<_, sqlx::Error>((tx, vehicles))
        });
        let vehicles = checked.await?;
        if vehicles > 0 {
            tracing::info!(vehicles, "the limits of freshness have changed");
        }
        Ok(())
    }

    async fn sweep_incidents(&self) -> Result<bool, sqlx::Error> {
        let health = self.health;
        let now = clock::now();
        let proven_until = health.proven_until(now);
        let changes = db::in_tx(&health.pool, "health_incidents", |mut tx| async move {
            let patience = |provider: &_| health.patience(provider);
            let changes = incident::sweep(&mut tx, patience, proven_until, now).await?;
            Ok::<_, sqlx::Error>((tx, changes))
        })
        .await?;
        for IncidentChange { workspace, fact } in &changes {
            tracing::warn!(
                %workspace,
                connection = %fact.connection,
                provider = %fact.provider,
                incident = %fact.incident,
                state = fact.state,
                reason = fact.reason,
                vehicles = fact.vehicles,
                "a provider's outage has begun or ended"
            );
            metrics::health_incident(if fact.closed_at.is_none() {
                "opened"
            } else {
                "closed"
            });
        }
        if !changes.is_empty() {
            health.found.notify_one();
        }
        Ok(!changes.is_empty())
    }

    async fn sweep_vehicles(&self) -> Result<bool, sqlx::Error> {
        let health = self.health;
        let mut has_changed = false;
        loop {
            let standards = health.standards(clock::now());
            let sweep = db::in_tx(&health.pool, "health_sweep", |mut tx| async move {
                let swept = vehicle::sweep(&mut tx, standards, AT_ONCE).await?;
                Ok::<_, sqlx::Error>((tx, swept))
            });
            let (vehicles, transitions) = sweep.await?;
            if !transitions.is_empty() {
                let vehicles = transitions.len();
                tracing::info!(vehicles, "vehicles changed their health");
                has_changed = true;
            }
            health.count(&transitions);
            if (vehicles as u64) < AT_ONCE.unsigned_abs() {
                return Ok(has_changed);
            }
        }
    }

    async fn count(&self) -> Result<(), sqlx::Error> {
        let mut pg = self.health.pool.acquire().await?;
        let counts = view::count_all(&mut pg).await?;
        let causes = Cause::ALL.map(Some);
        for freshness in Freshness::ALL {
            let causes = if freshness.has_cause() {
                &causes[..]
            } else {
                &[None]
            };
            for &cause in causes {
                let alike = counts
                    .iter()
                    .find(|count| (count.freshness, count.cause) == (freshness, cause));
                let vehicles = alike.map_or(0, |count| count.vehicles.unsigned_abs());
                let cause = cause.map_or("none", Cause::name);
                metrics::health_vehicles(freshness.name(), cause, vehicles);
            }
        }
        let open = incident::count_open(&mut pg).await?;
        metrics::health_incidents_open(open.unsigned_abs());
        if let Some(lag) = self.health.pipeline.lag(clock::now()) {
            metrics::health_pipeline_lag(lag.as_seconds_f64());
        }
        Ok(())
    }
}
