//! Building a projection's tables anew while the live ones are in use.
//!
//! A second set of tables is filled from the core's state and log, compared with the live one and put in
//! its place. Until then the worker goes on with the live set and the API answers from it. The switch is
//! one transaction: writers wait for it, readers for its last moment.
//!
//! Whatever ends a rebuild early leaves the live set as it was. What is left of the second set is
//! dropped when the next begins.

use std::future::Future;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use runtime::Context;
use runtime::config::DatabaseConfig;
use runtime::db::{self, Migrations};
use sqlx::{Connection, PgConnection, PgPool};

use crate::applier::Applier;
use crate::checkpoint;
use crate::comparison::{Comparison, Rows};
use crate::core_log::CoreLog;
use crate::fill::{Filler, Say};
use crate::projection::Projection;
use crate::schema::Schema;
use crate::table_set::TableSets;

/// What is behind the log by fewer events than this can be caught up with while writers wait.
const NEARLY: u64 = 1_000;
/// How long writers may wait for the last events.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(5);
const SWITCH_ATTEMPTS: usize = 10;
/// One holds the lock while another writes, and one is for the readiness check.
const LEAST_CONNECTIONS: u32 = 3;

/// How to rebuild.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct RebuildArguments {
    /// Compare what was built with the live tables, and leave those as they are.
    #[arg(long, conflicts_with = "force")]
    pub compare_only: bool,
    /// Switch even if vehicles are missing, or older, in what was built.
    #[arg(long)]
    pub force: bool,
}

/// A projection that can be built in a second set of tables.
pub(crate) trait Rebuilt: Projection {
    /// Its two sets.
    const SETS: TableSets;

    /// The projection on the tables in `schema`.
    fn on(pool: PgPool, schema: Schema) -> Self;

    /// Compares the second set with the live one.
    fn compare(
        connection: &mut PgConnection,
        rows: Rows<'_>,
    ) -> impl Future<Output = Result<Comparison, sqlx::Error>> + Send;
}

/// Connections for a command that fills tables: enough of them, and to a schema that it knows.
pub(crate) async fn pool(
    context: &Context,
    mut config: DatabaseConfig,
    migrations: &Migrations,
) -> anyhow::Result<PgPool> {
    config.max_connections = config.max_connections.max(LEAST_CONNECTIONS);
    let pool = db::open(context, &config)?;
    db::require_schema(&pool, migrations, context.stopping()).await?;
    Ok(pool)
}

/// Rebuilds the tables of `P`, and tells of it by `say`.
pub(crate) async fn rebuild<P: Rebuilt>(
    context: &Context,
    pool: PgPool,
    core: &CoreLog,
    arguments: RebuildArguments,
    say: Say<'_>,
) -> anyhow::Result<()> {
    let sets = P::SETS;
    let mut connection = pool.acquire().await?;
    if !lock(&mut connection, &sets).await? {
        bail!("another rebuild of {} is under way", P::NAME);
    }
    // It compares all rows, however many there are.
    sqlx::query!("SET statement_timeout = 0")
        .execute(&mut *connection)
        .await?;
    sets.make_second(&mut connection)
        .await
        .context("the second set of tables cannot be made")?;
    let second = P::on(pool, Schema(sets.second));
    let filler = Filler {
        applier: Applier {
            context,
            projection: &second,
            tables: None,
        },
        core,
        say,
    };
    let state = filler.read_state().await?;
    checkpoint::record(&mut connection, second.schema(), &state).await?;
    let mut attempt = 1;
    let comparison = loop {
        while filler.catch_up().await? >= NEARLY {}
        let before = compare::<P>(&mut connection, Rows::All).await?;
        // Comparing takes its time as well.
        while filler.catch_up().await? >= NEARLY {}
        match finish(&mut connection, &filler, before, arguments).await {
            Ok(comparison) => break comparison,
            Err(error) if attempt < SWITCH_ATTEMPTS && is_passing(&error) => {
                attempt += 1;
                say(&format!("trying again: {error:#}"));
            }
            Err(error) => return Err(error),
        }
    };
    tell(comparison.as_ref(), say);
    let is_behind = comparison.is_some_and(|comparison| comparison.behind() > 0);
    if is_behind && !arguments.force {
        sets.drop_second(&mut connection).await?;
        bail!(
            "vehicles are missing, or older, in what was built, so the live tables stay; find out why, or \
             switch with --force"
        );
    }
    if arguments.compare_only {
        sets.drop_second(&mut connection).await?;
        say("the live tables stay, as asked");
    } else {
        say("switched: the new tables are live and the old ones are dropped");
        let live = Schema(sets.migrations.schema);
        let applied = checkpoint::load(&mut connection, live).await?;
        filler.tell_anew(&applied).await;
    }
    // The lock belongs to the session.
    connection.close().await?;
    Ok(())
}

/// Takes the lock that keeps two rebuilds of one projection apart, for the life of the session.
pub(crate) async fn lock(
    connection: &mut PgConnection,
    sets: &TableSets,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_lock(hashtextextended($1, 0)) AS "locked!""#,
        format!("headrace rebuild {}", sets.second)
    )
    .fetch_one(connection)
    .await
}

/// Compares the sets as they are, if there are two.
async fn compare<P: Rebuilt>(
    connection: &mut PgConnection,
    rows: Rows<'_>,
) -> Result<Option<Comparison>, sqlx::Error> {
    let live = Schema(P::SETS.migrations.schema);
    let absent = checkpoint::missing(connection, live, P::SETS.tables).await?;
    if absent.iter().any(|table| !table.ends_with(".checkpoint")) {
        return Ok(None);
    }
    P::compare(connection, rows).await.map(Some)
}

/// Stops the writers, catches up with what they have applied, looks again at what was behind, and
/// switches unless something speaks against it.
async fn finish<P: Rebuilt>(
    connection: &mut PgConnection,
    filler: &Filler<'_, P>,
    before: Option<Comparison>,
    arguments: RebuildArguments,
) -> anyhow::Result<Option<Comparison>> {
    let sets = P::SETS;
    let live = Schema(sets.migrations.schema);
    let mut tx = connection.begin().await?;
    let absent = checkpoint::missing(&mut tx, live, &["checkpoint"]).await?;
    // Without it, nobody can write.
    if absent.is_empty() {
        checkpoint::stop_writers(&mut tx, live).await?;
    }
    tokio::time::timeout(CATCH_UP_LIMIT, filler.catch_up())
        .await
        .map_err(|_| TooSlow)??;
    let comparison = match before {
        Some(before) if before.behind() > 0 => {
            let again = compare::<P>(&mut tx, before.rows_behind()).await?;
            again.map(|again| before.corrected(again))
        }
        before => before,
    };
    let is_behind = comparison.as_ref().is_some_and(|of| of.behind() > 0);
    if arguments.compare_only || (is_behind && !arguments.force) {
        tx.rollback().await?;
    } else {
        sets.switch(&mut tx).await?;
        tx.commit().await?;
    }
    Ok(comparison)
}

/// Writers had to wait for too long.
#[derive(Debug, thiserror::Error)]
#[error("the last events took longer than {CATCH_UP_LIMIT:?}, and writers wait")]
struct TooSlow;

/// Whether another attempt to switch may succeed.
fn is_passing(error: &anyhow::Error) -> bool {
    // Somebody reads for long, or waits in a circle with us.
    let is_locked = |error: &sqlx::Error| db::has_state(error, &["55P03", "40P01"]);
    error.is::<TooSlow>() || error.downcast_ref().is_some_and(is_locked)
}

fn tell(comparison: Option<&Comparison>, say: Say<'_>) {
    match comparison {
        Some(comparison) => say(&comparison.to_string()),
        None => say("there are no live tables to compare with"),
    }
    tracing::info!(
        comparison = %comparison.map_or_else(|| "none".to_owned(), ToString::to_string),
        "compared"
    );
}
