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

use std::ffi::OsString;
use std::process::ExitCode;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use runtime::access::{Access, InternalToken, Turns, in_turn};
use runtime::amqp::Link;
use runtime::db::{self, Migrations};
use runtime::{Context, clock, http, service};
use shared_model::Provider;
use shared_model::log::LogState;
use shared_model::topology::{self, Subscriber};
use sqlx::{PgConnection, PgPool};
use tokio::sync::Notify;
use utoipa::openapi::OpenApi;

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

use crate::applier::Applier;
use crate::checkpoint;
use crate::core_log::CoreLog;
use crate::fill::Filler;
use crate::projection::{self, Projection, Settings};
use crate::rebuild;
use crate::schema::Schema;
use crate::{ConnectionChange, Started, VehicleChange, metrics};
use store::vehicle::{Standards, Written};

/// The migrations of the schema `health`.
pub static MIGRATIONS: Migrations = Migrations {
    schema: "health",
    migrator: || sqlx::migrate!("migrations/health"),
};

/// The service's own commands.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Read all that the core knows into the tables; nothing is removed, and the service goes on
    /// meanwhile.
    Refill,
}

/// The service as a process of its own.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    service::run_with_commands(
        arguments,
        "health-projection",
        Some(&MIGRATIONS),
        |context, config| async { start(context, config).await.map(drop) },
        |context, config, Command::Refill| async move {
            let say = |line: &str| println!("{line}");
            refill(&context, config, &say).await
        },
    )
}

/// Reads all that the core knows into the tables, and tells of it by `say`.
pub async fn refill(
    context: &Context,
    config: HealthConfig,
    say: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<()> {
    let core = CoreLog::new(&config.core.url, &InternalToken::of(&config.access))?;
    let pool = rebuild::pool(context, config.database.clone(), &MIGRATIONS).await?;
    let health = Health::new(pool, &config);
    let filler = Filler {
        applier: Applier {
            context,
            projection: &health,
            tables: None,
        },
        core: &core,
        say,
    };
    let state = filler.read_state().await?;
    // What the worker applies meanwhile and is forgotten here is missing, and is fetched.
    let (pool, schema, applied) = (&health.pool, health.schema(), &state);
    db::in_tx(pool, "health_refill", |mut tx| async move {
        checkpoint::replace(&mut tx, schema, applied).await?;
        Ok::<_, sqlx::Error>((tx, ()))
    })
    .await?;
    filler.tell_anew(applied).await;
    Ok(())
}

/// Starts the read API and the worker on `context`. Broker, database and core may be away.
pub async fn start(context: Context, config: HealthConfig) -> anyhow::Result<Started> {
    let pool = db::open(&context, &config.database)?;
    let schema = context.readiness().add("schema");
    let tables = context.readiness().add("tables");
    let link = Link::open(&context, &config.amqp, topology::events());
    let health = Health::new(pool, &config);
    let access = Access::with_core(&config.access, &config.core.url)?;
    let turns = Turns::on(config.database.max_connections);
    let routes = in_turn(api::routes(&health), turns)?;
    let http = http::serve(&context, &config.http, &access, routes).await?;
    let worker = context.clone();
    let settings = Settings {
        batch: config.batch,
        gaps: config.gaps,
        core: config.core,
        token: InternalToken::of(&config.access),
    };
    context.spawn("health-projection", async move {
        let pool = &health.pool;
        db::require_schema(pool, &MIGRATIONS, worker.stopping()).await?;
        schema.up();
        tokio::try_join!(
            projection::run(&worker, &link, &settings, &tables, &health),
            sweep::run(&health, config.freshness.sweep_every, &worker),
            tell::run(pool, &settings, Arc::clone(&health.found), &worker),
            keep::run(pool, config.history.retention, &worker),
        )?;
        Ok(())
    });
    Ok(Started { http })
}

/// What the service's routes are described as.
#[must_use]
pub fn description() -> OpenApi {
    let mut description = api::router().into_openapi();
    description.merge(connection_api::router().into_openapi());
    description
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
    const TRANSACTION: &'static str = "health_apply";
    const TABLES: &'static [&'static str] = &[
        "vehicle",
        "connection",
        "incident",
        "transition",
        "finding",
        "finding_head",
        "judged_by",
        "checkpoint",
    ];
    type Change = Heard;
    type Row = Written;

    fn pool(&self) -> &PgPool {
        &self.pool
    }

    fn schema(&self) -> Schema {
        Schema(MIGRATIONS.schema)
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        changes: &[VehicleChange<Heard>],
    ) -> Result<Vec<Written>, sqlx::Error> {
        store::vehicle::upsert(connection, changes, self.standards(clock::now())).await
    }

    async fn write_connections(
        &self,
        connection: &mut PgConnection,
        changes: &[ConnectionChange],
    ) -> Result<u64, sqlx::Error> {
        connection_store::upsert(connection, changes).await
    }

    fn committed(&self, row: Written) -> (String, String) {
        self.count(row.transition.as_slice());
        (row.key.workspace.into(), row.key.vehicle.into())
    }

    fn learn(&self, log: &LogState, asked_at: DateTime<Utc>) {
        self.pipeline.learn(log, asked_at);
    }
}
