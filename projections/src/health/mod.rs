//! The health projection: how recently every vehicle was heard from.
//!
//! A vehicle turns stale, then offline, by the passing of time alone: a sweep finds the deadlines
//! that have passed, whether or not any message arrives. All times are judged by the service's own
//! clock, as are the receipts by the clocks of those who received them.
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
mod store;
mod sweep;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Subcommand;
use runtime::amqp::Link;
use runtime::db::{self, Migrations};
use runtime::{Context, clock, http, service};
use shared_model::topology::{self, Subscriber};
use sqlx::{PgConnection, PgPool};

pub use config::{FreshnessConfig, HealthConfig};
pub use connection_store::ConnectionHealth;
pub use fold::Heard;
pub use freshness::{Freshness, Judgement, Limits, Run, freshness_at};

use crate::applier::Applier;
use crate::checkpoint;
use crate::core_log::CoreLog;
use crate::fill::Filler;
use crate::projection::{self, Projection, Settings};
use crate::rebuild;
use crate::schema::Schema;
use crate::{ConnectionChange, Started, VehicleChange, metrics};

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
    let projection = HealthProjection {
        pool: rebuild::pool(context, config.database, &MIGRATIONS).await?,
        limits: config.freshness.limits(),
    };
    let filler = Filler {
        applier: Applier {
            context,
            projection: &projection,
            tables: None,
        },
        core: &CoreLog::new(&config.core.url)?,
        say,
    };
    let state = filler.read_state().await?;
    // What the worker applies meanwhile and is forgotten here is missing, and is fetched.
    let (pool, schema, applied) = (&projection.pool, projection.schema(), &state);
    db::in_tx(pool, "health_refill", |mut tx| async move {
        checkpoint::replace(&mut tx, schema, applied).await?;
        Ok::<_, sqlx::Error>((tx, ()))
    })
    .await?;
    filler.tell_anew(applied).await;
    Ok(())
}

/// Starts the read API and the worker on `context`. Broker and database may be away.
pub async fn start(context: Context, config: HealthConfig) -> anyhow::Result<Started> {
    let limits = config.freshness.limits();
    let pool = db::open(&context, &config.database)?;
    let schema = context.readiness().add("schema");
    let tables = context.readiness().add("tables");
    let link = Link::open(&context, &config.amqp, topology::events());
    let http = http::serve(&context, &config.http, api::routes(pool.clone(), limits)).await?;
    let worker = context.clone();
    let settings = Settings {
        batch: config.batch,
        gaps: config.gaps,
        core: config.core,
    };
    context.spawn("health-projection", async move {
        db::require_schema(&pool, &MIGRATIONS, worker.stopping()).await?;
        schema.up();
        let projection = HealthProjection {
            pool: pool.clone(),
            limits,
        };
        tokio::try_join!(
            projection::run(&worker, &link, &settings, &tables, &projection),
            sweep::run(&pool, limits, config.freshness.sweep_every, &worker),
        )?;
        Ok(())
    });
    Ok(Started { http })
}

struct HealthProjection {
    pool: PgPool,
    limits: Limits,
}

impl Projection for HealthProjection {
    const NAME: &'static str = "health";
    const SUBSCRIBER: Subscriber = Subscriber::Health;
    const TRANSACTION: &'static str = "health_apply";
    const TABLES: &'static [&'static str] = &["vehicle", "connection", "checkpoint"];
    type Change = Heard;
    type Row = store::Written;

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
    ) -> Result<Vec<store::Written>, sqlx::Error> {
        store::upsert(connection, changes, clock::now(), self.limits).await
    }

    async fn write_connections(
        &self,
        connection: &mut PgConnection,
        changes: &[ConnectionChange],
    ) -> Result<u64, sqlx::Error> {
        connection_store::upsert(connection, changes).await
    }

    fn committed(row: store::Written) -> (String, String) {
        if let Some(before) = row.before.filter(|before| *before != row.after) {
            metrics::health_transitions(before.name(), row.after.name(), 1);
        }
        (row.workspace, row.vehicle)
    }
}
