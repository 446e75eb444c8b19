//! Table `setting`: what is fixed at the first start, and what the core notes of its database.

use sqlx::PgConnection;

/// Stores `value` under `key` unless there is one.
pub async fn fix(pg: &mut PgConnection, key: &str, value: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO core.setting (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING",
        key,
        value,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// The value of `key`.
pub async fn get(pg: &mut PgConnection, key: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!("SELECT value FROM core.setting WHERE key = $1", key)
        .fetch_optional(pg)
        .await
}

/// Stores `value` under `key`, whatever was there.
pub async fn set(pg: &mut PgConnection, key: &str, value: i64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO core.setting (key, value) VALUES ($1, $2)
         ON CONFLICT (key) DO UPDATE SET value = EXCLUDED.value",
        key,
        value,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// The value of `key`, which must be there; locks it until the transaction ends.
pub async fn lock(pg: &mut PgConnection, key: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT value FROM core.setting WHERE key = $1 FOR UPDATE",
        key,
    )
    .fetch_one(pg)
    .await
}

/// By what a database can be told from one that was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The event log's number among all tables: another one wherever a dump is restored.
    pub relation: u32,
    /// The timeline: another one after a recovery to a point in time, and after a replica took over.
    pub timeline: i32,
}

/// The identity of this database.
pub async fn identity(pg: &mut PgConnection) -> Result<Identity, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT 'core.event_log'::regclass::oid::bigint AS "relation!",
                  ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int AS "timeline!""#,
    )
    .fetch_one(pg)
    .await?;
    Ok(Identity {
        relation: u32::try_from(row.relation).unwrap_or_default(),
        timeline: row.timeline,
    })
}
