//! PostgreSQL: the pool, named transactions, and migrations.
//!
//! Transactions are read committed; correctness comes from guards in the statements, never from the
//! isolation level. While the database is away, callers see [`Disposition::Retry`] and wait.

use std::borrow::Cow;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};
use sqlx::migrate::{Migrate, Migrator};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::Context;
use crate::backoff::Backoff;
use crate::config::DatabaseConfig;

const ATTEMPTS: usize = 5;
/// How long an attempt at a transaction may take. The server ends statements that are too slow; this
/// is for a server that does not answer at all. Whether it had committed does not matter: whoever
/// tries again finds the same state.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(45);
/// How long to wait for a connection. Callers try again, and look meanwhile whether to stop.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(3);
/// How long a connection that nobody uses is believed to be there still.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// How long the database may take to answer a readiness probe.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
const MIGRATION_WAIT: Duration = Duration::from_mins(2);
// Any number, as long as it is the same in every version of Headrace.
const MIGRATION_LOCK: i64 = 0x6865_6164_7261_6365;

/// The migrations of one schema, and who owns it.
#[derive(Debug)]
pub struct Migrations {
    /// The schema.
    pub schema: &'static str,
    /// The migrations, embedded at build time with `sqlx::migrate!`.
    pub migrator: fn() -> Migrator,
}

impl Migrations {
    fn migrator(&self) -> Migrator {
        let mut migrator = (self.migrator)();
        migrator.create_schema(self.schema);
        migrator.dangerous_set_table_name(self.table());
        // The lock is taken outside, with a try-lock: sqlx's own blocks all other users.
        migrator.set_locking(false);
        migrator
    }

    fn table(&self) -> String {
        format!("{}.schema_migration", self.schema)
    }
}

/// What to do about a failed database operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// The database is away or busy: the same operation may succeed later.
    Retry,
    /// The data are the problem: the same operation will fail again.
    Poison,
    /// The program or the schema is the problem.
    Fatal,
}

/// What to do about `error`.
#[must_use]
pub fn disposition(error: &sqlx::Error) -> Disposition {
    match error {
        // A row without a partition of the event log to go to breaks no constraint that has a name.
        sqlx::Error::Database(error) if error.code().as_deref() == Some("23514") => {
            if error.constraint().is_some() { Disposition::Poison } else { Disposition::Retry }
        }
        sqlx::Error::Database(error) => sql_state_disposition(error.code()),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        // What a server that dies in the middle of a message leaves behind.
        | sqlx::Error::Protocol(_) => Disposition::Retry,
        sqlx::Error::Encode(_) => Disposition::Poison,
        _ => Disposition::Fatal,
    }
}

/// By class of SQLSTATE (PostgreSQL's manual, appendix A).
fn sql_state_disposition(code: Option<Cow<'_, str>>) -> Disposition {
    let code = code.unwrap_or_default();
    match code.get(..2).unwrap_or_default() {
        // Data exceptions, violated constraints, and program limits, such as a value too large for
        // an index.
        "22" | "23" | "54" => Disposition::Poison,
        // Connections, rollbacks by deadlock or serialisation, resources, operator intervention
        // (shutdown, crash, timeouts), system errors, read-only standby, object in use.
        "08" | "40" | "53" | "57" | "58" | "25" | "55" => Disposition::Retry,
        _ => Disposition::Fatal,
    }
}

static TRANSACTIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    global::meter("headrace")
        .u64_counter("headrace_db_transactions")
        .with_description("Attempts at transactions, by name and how they ended")
        .build()
});

static TRANSACTION_SECONDS: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    global::meter("headrace")
        .f64_histogram("headrace_db_transaction_duration_seconds")
        .with_description("From asking the pool for a connection to the end of the transaction")
        .with_boundaries(vec![
            0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
        ])
        .build()
});

/// Runs `work` in a transaction called `name` and commits what it hands back.
///
/// `work` takes the transaction and returns it with its result, or an error, which rolls back. A
/// deadlock or serialisation failure runs it again, so nothing that it saw is final before the
/// commit.
pub async fn in_tx<T, E, W, F>(pool: &PgPool, name: &'static str, work: W) -> Result<T, E>
where
    E: From<sqlx::Error> + AsSqlError,
    W: Fn(Transaction<'static, Postgres>) -> F,
    F: Future<Output = Result<(Transaction<'static, Postgres>, T), E>>,
{
    let mut attempt = 1;
    loop {
        let started = Instant::now();
        let attempting = async {
            let (transaction, value) = work(pool.begin().await?).await?;
            transaction.commit().await?;
            Ok::<T, E>(value)
        };
        let result = match tokio::time::timeout(ATTEMPT_LIMIT, attempting).await {
            Ok(result) => result,
            Err(_) => Err(silent().into()),
        };
        let status = match &result {
            Ok(_) => "committed",
            Err(error) if error.as_sql_error().is_some_and(is_conflict) => "conflict",
            Err(_) => "failed",
        };
        let labels = [
            KeyValue::new("transaction", name),
            KeyValue::new("status", status),
        ];
        TRANSACTIONS.add(1, &labels);
        TRANSACTION_SECONDS.record(started.elapsed().as_secs_f64(), &labels[..1]);
        if status != "conflict" || attempt == ATTEMPTS {
            return result;
        }
        attempt += 1;
    }
}

fn silent() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        ErrorKind::TimedOut,
        "the database does not answer",
    ))
}

/// An error that may have come from the database.
pub trait AsSqlError {
    /// The database's error, if it is one.
    fn as_sql_error(&self) -> Option<&sqlx::Error>;
}

impl AsSqlError for sqlx::Error {
    fn as_sql_error(&self) -> Option<&sqlx::Error> {
        Some(self)
    }
}

fn is_conflict(error: &sqlx::Error) -> bool {
    has_state(error, &["40001", "40P01"])
}

/// Whether the database refused with one of these SQLSTATEs.
#[must_use]
pub fn has_state(error: &sqlx::Error, states: &[&str]) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    code.is_some_and(|code| states.contains(&code.as_ref()))
}

fn options(config: &DatabaseConfig) -> Result<PgConnectOptions, sqlx::Error> {
    config.url.as_ref().map_or("", |url| url.expose()).parse()
}

/// Opens the service's pool and adds the database to the readiness checks. Connects when first used;
/// the database may be away.
pub fn open(context: &Context, config: &DatabaseConfig) -> Result<PgPool, sqlx::Error> {
    let options = options(config)?
        .application_name(&context.full_name())
        .options([
            (
                "statement_timeout",
                config.statement_timeout.as_millis().to_string(),
            ),
            ("lock_timeout", "10000".to_owned()),
            ("idle_in_transaction_session_timeout", "60000".to_owned()),
            ("timezone", "UTC".to_owned()),
        ]);
    let pool = PgPoolOptions::new()
        .max_connections(config.max_connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        // Whether it still answers was found out when it came back; to ask before every statement would
        // double what a read costs.
        .test_before_acquire(false)
        .before_acquire(|connection, about| {
            Box::pin(async move {
                if about.idle_for > TRUSTED_FOR {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_lazy_with(options);
    let check = context.readiness().add("postgresql");
    let (probed, closing) = (pool.clone(), context.closing().clone());
    context.spawn_infrastructure("postgresql", async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(1));
        while closing.run_until_cancelled(ticks.tick()).await.is_some() {
            let probe = async { probed.acquire().await?.ping().await };
            match closing
                .run_until_cancelled(tokio::time::timeout(PROBE_LIMIT, probe))
                .await
            {
                Some(Ok(Ok(()))) => check.up(),
                Some(Ok(Err(error))) => check.down(&error),
                Some(Err(_)) => check.down(&silent()),
                None => break,
            }
        }
        probed.close().await;
        Ok(())
    });
    Ok(pool)
}

/// Why a schema cannot be used or brought up to date.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// The database does not answer, or a migration's SQL failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// A migration failed or differs from the one that was applied.
    #[error("migrating schema {schema} failed")]
    Migration {
        /// Which schema.
        schema: &'static str,
        /// Why.
        source: sqlx::migrate::MigrateError,
    },
    /// Somebody else has been migrating for too long.
    #[error("another process has held the migration lock for {MIGRATION_WAIT:?}")]
    Locked,
    /// The service is older or newer than the schema.
    #[error(
        "schema {schema} is at version {found:?} and this service needs {needed:?}: run the \
         `migrate` command of the newer of the two"
    )]
    Version {
        /// Which schema.
        schema: &'static str,
        /// The newest migration in the database.
        found: Option<i64>,
        /// The newest migration that the service knows.
        needed: Option<i64>,
    },
}

/// Brings a schema up to date, one process at a time.
pub async fn migrate(config: &DatabaseConfig, migrations: &Migrations) -> Result<(), SchemaError> {
    let mut connection = PgConnection::connect_with(&options(config)?).await?;
    let deadline = Instant::now() + MIGRATION_WAIT;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    while !sqlx::query_scalar::<_, bool>("SELECT pg_try_advisory_lock($1)")
        .bind(MIGRATION_LOCK)
        .fetch_one(&mut connection)
        .await?
    {
        if Instant::now() > deadline {
            return Err(SchemaError::Locked);
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
    let done = migrations
        .migrator()
        .run_direct(None, &mut connection, false)
        .await;
    done.map_err(|source| SchemaError::Migration {
        schema: migrations.schema,
        source,
    })?;
    tracing::info!(schema = migrations.schema, "the schema is up to date");
    // Closing the connection also releases the lock.
    connection.close().await?;
    Ok(())
}

/// Waits until the database answers and checks that its schema is the one this service knows.
pub async fn require_schema(
    pool: &PgPool,
    migrations: &Migrations,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        match check_schema(pool, migrations).await {
            Ok(()) => return Ok(()),
            Err(SchemaError::Database(error)) if disposition(&error) == Disposition::Retry => {
                tracing::warn!(
                    error = %crate::telemetry::chain(&error),
                    "the database is away"
                );
            }
            Err(error) => return Err(error.into()),
        }
        backoff.wait(stop).await?;
    }
}

async fn check_schema(pool: &PgPool, migrations: &Migrations) -> Result<(), SchemaError> {
    let mut connection = pool.acquire().await?;
    let schema = migrations.schema;
    let failed = |source| match source {
        sqlx::migrate::MigrateError::Execute(error) => SchemaError::Database(error),
        source => SchemaError::Migration { schema, source },
    };
    let exists: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
        .bind(migrations.table())
        .fetch_one(&mut *connection)
        .await?;
    let found = if exists {
        let applied = connection
            .list_applied_migrations(&migrations.table())
            .await;
        applied
            .map_err(failed)?
            .iter()
            .map(|migration| migration.version)
            .max()
    } else {
        None
    };
    let needed = migrations
        .migrator()
        .iter()
        .map(|migration| migration.version)
        .max();
    if found == needed {
        Ok(())
    } else {
        Err(SchemaError::Version {
            schema,
            found,
            needed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_do_about_it() {
        let of = |code: &'static str| sql_state_disposition(Some(code.into()));
        for code in [
            "08006", "40001", "40P01", "53300", "57P01", "57014", "55P03", "25006",
        ] {
            assert_eq!(of(code), Disposition::Retry, "{code}");
        }
        for code in ["22021", "22P05", "23514", "54000"] {
            assert_eq!(of(code), Disposition::Poison, "{code}");
        }
        for code in ["42P01", "42703", "28P01", ""] {
            assert_eq!(of(code), Disposition::Fatal, "{code}");
        }
        assert_eq!(disposition(&sqlx::Error::PoolTimedOut), Disposition::Retry);
        assert_eq!(disposition(&sqlx::Error::RowNotFound), Disposition::Fatal);
    }
}
