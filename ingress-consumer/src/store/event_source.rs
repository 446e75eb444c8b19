//! Table `event_source`: how many of the facts that other services find are in the event log.

use sqlx::PgConnection;

use super::unsigned;

/// Up to which number the facts of `source` were appended; locks that until the transaction ends.
pub async fn lock(pg: &mut PgConnection, source: &str) -> Result<u64, sqlx::Error> {
    // The row that is there already is locked by the update that changes nothing.
    let appended = sqlx::query_scalar!(
        "INSERT INTO core.event_source AS known (source, appended) VALUES ($1, 0)
         ON CONFLICT (source) DO UPDATE SET appended = known.appended
         RETURNING appended",
        source,
    )
    .fetch_one(pg)
    .await?;
    Ok(unsigned(appended))
}

/// Up to which number the facts of `source` were appended.
pub async fn appended(pg: &mut PgConnection, source: &str) -> Result<u64, sqlx::Error> {
    let appended = sqlx::query_scalar!(
        "SELECT appended FROM core.event_source WHERE source = $1",
        source,
    )
    .fetch_optional(pg)
    .await?;
    Ok(unsigned(appended.unwrap_or_default()))
}

/// Notes that the facts of `source` were appended up to `number`.
pub async fn advance(pg: &mut PgConnection, source: &str, number: u64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE core.event_source SET appended = $2 WHERE source = $1",
        source,
        number as i64,
    )
    .execute(pg)
    .await?;
    Ok(())
}
