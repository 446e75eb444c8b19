//! The health projection: how recently every vehicle was heard from, and why one is silent.
//!
//! A vehicle turns stale, then offline, by the passing of time alone: a sweep finds the deadlines
//! that have passed, whether or not any message arrives. All times are judged by the service's own
//! clock, as are the receipts by the clocks of those who received them. A silence is put down to the
//! vehicle itself, to a pipeline that is late, or to an outage of its provider, which is one incident
//! however many vehicles it silences.
//!
//! What it finds goes to a history, and to the core, which makes events of it. While the core is away
//! it waits to be told.
//!
//! When a vehicle was last heard from, and since when it has been silent, does not depend on the order
//! in which events arrive. Since when it has been *fresh* is exact as long as its events arrive in
//! the order of the log; a receipt that arrives after a later one does not move it back.

mod api;
mod config;
mod connection_api;
mod connection_store;
mod fold;
mod freshness;
mod incident;
mod judgement;
mod keep;
mod limits;
mod pipeline;
mod situation;
mod store;
mod sweep;
mod tell;
#[cfg(test)]
mod tests;
mod vehicle;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use runtime::amqp::Link;
use runtime::db::{self, Migrations};
use runtime::{Context, clock, http};
use shared_model::Provider;
use shared_model::topology::{self, Subscriber};
use sqlx::PgPool;
use tokio::sync::Notify;

pub use config::{
    FreshnessConfig, HealthConfig, HistoryConfig, IncidentsConfig, ProviderFreshness,
};
pub use connection_store::ConnectionHealth;
pub use fold::{Heard, Registration};
pub use freshness::{Freshness, Judgement, Limits, Run, freshness_at};
pub use incident::{Condition, Patience, Step, step};
pub use judgement::{Cause, Evidence, Outage, Verdict, Why, judge, proven_until};
pub use limits::LimitsByProvider;
pub use pipeline::Pipeline;
pub use situation::Situation;
pub use vehicle::{News, Transition, Vehicle};

use crate::projection::{self, Projection};
use crate::{ConnectionChange, Started, VehicleChange, metrics};
use store::vehicle::Standards;

/// The migrations of the schema `health`.
pub static MIGRATIONS: Migrations = Migrations {
    schema: "health",
    migrator: || sqlx::migrate!("migrations/health"),
};

/// Starts the read API and the worker on `context`. Broker, database and core may be away.
pub async fn start(context: Context, config: HealthConfig) -> anyhow::Result<Started> {
    let pool = db::open(&context, &config.database)?;
    let schema = context.readiness().add("schema");
    let link = Link::open(&context, &config.amqp, topology::events());
    let health = Health::new(pool, &config);
    let http = http::serve(&context, &config.http, api::routes(&health)).await?;
    let worker = context.clone();
    context.spawn("health-projection", async move {
        let pool = &health.pool;
        db::require_schema(pool, &MIGRATIONS, worker.stopping()).await?;
        schema.up();
        tokio::try_join!(
            projection::run(&worker, &link, config.batch, &health),
            sweep::run(&health, config.freshness.sweep_every, &worker),
            tell::run(pool, &config.core, Arc::clone(&health.found), &worker),
            keep::run(pool, config.history.retention, &worker),
        )?;
        Ok(())
    });
    Ok(Started { http })
}

/// What the parts of the projection share.
#[derive(Debug, Clone)]
struct Health {
    pool: PgPool,
    limits: Arc<LimitsByProvider>,
    late_after: TimeDelta,
    patience: Patience,
    pipeline: Arc<Pipeline>,
    /// Something is there to be told.
    found: Arc<Notify>,
}

impl Health {
    fn new(pool: PgPool, config: &HealthConfig) -> Self {
        Self {
            pool,
            limits: Arc::new(config.freshness.limits()),
            late_after: config.freshness.late_after(),
            patience: config.incidents.patience(),
            pipeline: Arc::default(),
            found: Arc::default(),
        }
    }

    /// Until when everything that was said has been applied.
    fn proven_until(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        proven_until(self.pipeline.lag(now), self.late_after, now)
    }

    fn standards(&self, now: DateTime<Utc>) -> Standards<'_> {
        Standards {
            limits: &self.limits,
            proven_until: self.proven_until(now),
            now,
        }
    }

    /// An outage is an incident before its vehicles can be stale, or each of them would be told of.
    fn patience(&self, provider: &Provider) -> Patience {
        let stale_after = self.limits.of(Some(provider)).stale_after;
        Patience {
            open_after: self.patience.open_after.min(stale_after / 2),
            ..self.patience
        }
    }

    /// Counts changes that were committed, and has them told.
    fn count(&self, transitions: &[Transition]) {
        for transition in transitions {
            let from = transition.previous.map_or("none", Freshness::name);
            let cause = transition.cause.map_or("none", Cause::name);
            metrics::health_transition(from, transition.freshness.name(), cause);
        }
        if transitions
            .iter()
            .any(|transition| transition.said.is_some())
        {
            self.found.notify_one();
        }
    }
}

impl Projection for Health {
    const NAME: &'static str = "health";
    const SUBSCRIBER: Subscriber = Subscriber::Health;
    type Change = Heard;

    async fn write(
        &self,
        changes: &[VehicleChange<Heard>],
    ) -> Result<Vec<(String, String)>, sqlx::Error> {
        let standards = self.standards(clock::now());
        let written = db::in_tx(&self.pool, "health_apply", |mut transaction| async move {
            let written = store::vehicle::upsert(&mut transaction, changes, standards).await?;
            Ok::<_, sqlx::Error>((transaction, written))
        })
        .await?;
        self.count(&written.transitions);
        let keys = written.vehicles.into_iter();
        Ok(keys
            .map(|key| (key.workspace.into(), key.vehicle.into()))
            .collect())
    }

    async fn write_connections(&self, changes: &[ConnectionChange]) -> Result<u64, sqlx::Error> {
        db::in_tx(
            &self.pool,
            "health_apply_connections",
            |mut transaction| async move {
                let written = connection_store::upsert(&mut transaction, changes).await?;
                Ok::<_, sqlx::Error>((transaction, written))
            },
        )
        .await
    }
}
