//! The snapshot projection: the latest published value of every signal of every vehicle.
//!
//! Values follow the newest `version` that any event told of, times the newest `revision`; so a
//! vehicle's values and times are those of the core, as soon as its newest events have arrived.

mod api;
mod config;
mod fold;
mod store;

use runtime::amqp::Link;
use runtime::db::{self, Migrations};
use runtime::{Context, http};
use shared_model::topology::{self, Subscriber};
use sqlx::PgPool;

pub use config::SnapshotConfig;
#[cfg(test)]
pub(crate) use fold::tests::any_fact;
pub use fold::{Quantity, Snapshot};

use crate::projection::{self, Projection};
use crate::{Started, VehicleChange};

/// The migrations of the schema `snapshot`.
pub static MIGRATIONS: Migrations = Migrations {
    schema: "snapshot",
    migrator: || sqlx::migrate!("migrations/snapshot"),
};

/// Starts the read API and the worker on `context`. Broker and database may be away.
pub async fn start(context: Context, config: SnapshotConfig) -> anyhow::Result<Started> {
    let pool = db::open(&context, &config.database)?;
    let schema = context.readiness().add("schema");
    let link = Link::open(&context, &config.amqp, topology::events());
    let http = http::serve(&context, &config.http, api::routes(pool.clone())).await?;
    let (worker, limit) = (context.clone(), config.batch);
    context.spawn("snapshot-projection", async move {
        db::require_schema(&pool, &MIGRATIONS, worker.stopping()).await?;
        schema.up();
        projection::run(&worker, &link, limit, &SnapshotProjection { pool }).await
    });
    Ok(Started { http })
}

struct SnapshotProjection {
    pool: PgPool,
}

impl Projection for SnapshotProjection {
    const NAME: &'static str = "snapshot";
    const SUBSCRIBER: Subscriber = Subscriber::Snapshot;
    type Change = Snapshot;

    async fn write(
        &self,
        changes: &[VehicleChange<Snapshot>],
    ) -> Result<Vec<(String, String)>, sqlx::Error> {
        db::in_tx(&self.pool, "snapshot_apply", |mut transaction| async move {
            let written = store::upsert(&mut transaction, changes).await?;
            Ok((transaction, written))
        })
        .await
    }
}
