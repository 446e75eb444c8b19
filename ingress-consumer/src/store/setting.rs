//! Table `setting`: what is fixed at the first start.

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
