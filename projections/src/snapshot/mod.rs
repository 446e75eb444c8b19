//! The snapshot projection: the latest published value of every signal of every vehicle.
//!
//! Values follow the newest `version` that any event told of, times the newest `revision`; so a
//! vehicle's values and times are those of the core, as soon as its newest events have arrived.
//!
//! How fresh a vehicle is, no event has to tell: it is judged when it is asked for, by the rule and the
//! limits of the health projection.

mod answer;
mod api;
mod compare;
mod config;
mod cursor;
mod cutoffs;
mod etag;
mod fields;
mod filter;
mod finder;
mod fold;
#[cfg(test)]
mod service_tests;
mod store;
mod waits;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Subcommand;
use runtime::access::{Access, InternalToken};
use runtime::amqp::Link;
use runtime::db::{self, Migrations};
use runtime::{Context, http, service};
use shared_model::topology::{self, Subscriber};
use sqlx::{PgConnection, PgPool};
use utoipa::openapi::OpenApi;

pub use config::{FreshnessConfig, SnapshotConfig};
#[cfg(test)]
pub(crate) use fold::tests::any_fact;
pub use fold::{Quantity, Snapshot};

use crate::comparison::{Comparison, Rows};
use crate::core_log::CoreLog;
use crate::projection::{self, Projection, Settings};
use crate::rebuild::{self, RebuildArguments, Rebuilt};
use crate::schema::Schema;
use crate::table_set::TableSets;
use crate::{Started, VehicleChange};
use api::Api;
use finder::Finder;
use store::Written;
use waits::Waits;

/// The migrations of the schema `snapshot`.
pub static MIGRATIONS: Migrations = Migrations {
    schema: "snapshot",
    migrator: || sqlx::migrate!("migrations/snapshot"),
};

/// The tables that are answered from.
const LIVE: Schema = Schema("snapshot");

/// The service's own commands.
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum Command {
    /// Build the tables anew from the core's state and log, compare them with the live ones, and switch;
    /// the service goes on meanwhile.
    Rebuild(RebuildArguments),
}

/// The service as a process of its own.
#[must_use]
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    service::run_with_commands(
        arguments,
        "snapshot-projection",
        Some(&MIGRATIONS),
        |context, config| async { start(context, config).await.map(drop) },
        |context, config, Command::Rebuild(arguments)| async move {
            let say = |line: &str| println!("{line}");
            rebuild(&context, config, arguments, &say).await
        },
    )
}

/// Builds the tables anew, and tells of it by `say`.
pub async fn rebuild(
    context: &Context,
    config: SnapshotConfig,
    arguments: RebuildArguments,
    say: &(dyn Fn(&str) + Sync),
) -> anyhow::Result<()> {
    let pool = rebuild::pool(context, config.database, &MIGRATIONS).await?;
    let core = CoreLog::new(&config.core.url, &InternalToken::of(&config.access))?;
    rebuild::rebuild::<SnapshotProjection>(context, pool, &core, arguments, say).await
}

/// What the service's routes are described as.
#[must_use]
pub fn description() -> OpenApi {
    api::router().into_openapi()
}

/// Starts the read API and the worker on `context`. Broker, database and core may be away.
pub async fn start(context: Context, config: SnapshotConfig) -> anyhow::Result<Started> {
    let pool = db::open(&context, &config.database)?;
    let schema = context.readiness().add("schema");
    let tables = context.readiness().add("tables");
    let link = Link::open(&context, &config.amqp, topology::events());
    let access = Access::with_core(&config.access, &config.core.url)?;
    let waits = Waits::default();
    let connections = config.database.max_connections;
    let api = Api::new(
        pool.clone(),
        connections,
        Finder::start(&context, &pool, (connections / 4).max(1)),
        config.freshness.limits(),
        waits.clone(),
        context.stopping().clone(),
    );
    let routes = api::router().with_state(api);
    let http = http::serve(&context, &config.http, &access, routes).await?;
    let worker = context.clone();
    let settings = Settings {
        batch: config.batch,
        gaps: config.gaps,
        core: config.core,
        token: InternalToken::of(&config.access),
    };
    context.spawn("snapshot-projection", async move {
        db::require_schema(&pool, &MIGRATIONS, worker.stopping()).await?;
        schema.up();
        let projection = SnapshotProjection {
            pool: pool.clone(),
            schema: LIVE,
            waits: waits.clone(),
        };
        tokio::try_join!(
            Box::pin(projection::run(
                &worker,
                &link,
                &settings,
                &tables,
                &projection
            )),
            waits.look(&pool, &worker),
        )?;
        Ok(())
    });
    Ok(Started { http })
}

pub(crate) struct SnapshotProjection {
    pool: PgPool,
    schema: Schema,
    waits: Waits,
}

impl Projection for SnapshotProjection {
    const NAME: &'static str = "snapshot";
    const SUBSCRIBER: Subscriber = Subscriber::Snapshot;
    const TRANSACTION: &'static str = "snapshot_apply";
    const TABLES: &'static [&'static str] = &["vehicle", "checkpoint"];
    type Change = Snapshot;
    type Row = Written;

    fn pool(&self) -> &PgPool {
        &self.pool
    }

    fn schema(&self) -> Schema {
        self.schema
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        changes: &[VehicleChange<Snapshot>],
    ) -> Result<Vec<Written>, sqlx::Error> {
        store::upsert(connection, self.schema, changes).await
    }

    fn committed(&self, row: Written) -> (String, String) {
        self.waits.committed(&row);
        (row.workspace, row.vehicle)
    }
}

impl Rebuilt for SnapshotProjection {
    const SETS: TableSets = TableSets {
        migrations: &MIGRATIONS,
        second: "snapshot_rebuild",
        tables: Self::TABLES,
    };

    fn on(pool: PgPool, schema: Schema) -> Self {
        Self {
            pool,
            schema,
            waits: Waits::default(),
        }
    }

    async fn compare(
        connection: &mut PgConnection,
        rows: Rows<'_>,
    ) -> Result<Comparison, sqlx::Error> {
        compare::compare(connection, rows).await
    }
}
