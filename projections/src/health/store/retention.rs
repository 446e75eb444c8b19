//! What is kept no longer: old history, what the core was told long ago, and incidents that are over.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

/// Removes at most `limit` rows of each table that are from before `before`; returns how many in all.
/// What the core was not told stays, however old.
pub(in crate::health) async fn remove_older(
    pg: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let incidents = sqlx::query!(
        "DELETE FROM health.incident WHERE incident IN (
             SELECT incident FROM health.incident
             WHERE closed_at < $1
             ORDER BY incident LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
        before,
        limit,
    )
    .execute(&mut *pg)
    .await?;
    let transitions = sqlx::query!(
        "DELETE FROM health.transition WHERE entry IN (
             SELECT entry FROM health.transition
             WHERE found_at < $1
             ORDER BY found_at LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
        before,
        limit,
    )
    .execute(&mut *pg)
    .await?;
    let findings = sqlx::query!(
        "DELETE FROM health.finding WHERE number IN (
             SELECT number FROM health.finding
             WHERE found_at < $1 AND number <= (SELECT told FROM health.finding_head)
             ORDER BY number LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
        before,
        limit,
    )
    .execute(pg)
    .await?;
    Ok(incidents.rows_affected() + transitions.rows_affected() + findings.rows_affected())
}
