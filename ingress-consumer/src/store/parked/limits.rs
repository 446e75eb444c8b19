//! How long and how much is kept.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{StoreError, unsigned};

/// Removes up to `limit` frames whose last copy came before `before`; returns how many, copies
/// included.
pub async fn remove_older(
    pg: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, StoreError> {
    let removed = sqlx::query_scalar!(
        r#"WITH removed AS (
             DELETE FROM core.parked_frame
             WHERE id IN (
                 SELECT id
                 FROM core.parked_frame
                 WHERE last_at < $1
                 ORDER BY last_at
                 LIMIT $2
                 -- Several replicas sweep at once.
                 FOR UPDATE SKIP LOCKED
             )
             RETURNING repeats
         )
         SELECT coalesce(sum(1 + repeats), 0)::bigint AS "removed!" FROM removed"#,
        before,
        limit,
    )
    .fetch_one(pg)
    .await?;
    Ok(unsigned(removed))
}

/// Removes the oldest frames of each connection that has more than `rows` rows or `bytes` bytes of
/// bodies, up to `limit` in all; returns how many, copies included. What belongs to no connection
/// counts as one.
pub async fn remove_beyond(
    pg: &mut PgConnection,
    rows: i64,
    bytes: i64,
    limit: i64,
) -> Result<u64, StoreError> {
    // Only connections that are beyond a limit are looked at row by row.
    let removed = sqlx::query_scalar!(
        r#"WITH beyond AS (
             SELECT connection
             FROM core.parked_frame
             GROUP BY connection
             HAVING count(*) > $1 OR sum(octet_length(body)) > $2
         ), ranked AS (
             SELECT parked.id,
                    row_number() OVER newest AS place,
                    sum(octet_length(parked.body)) OVER newest AS bytes
             FROM core.parked_frame AS parked
             JOIN beyond ON beyond.connection IS NOT DISTINCT FROM parked.connection
             WINDOW newest AS (PARTITION BY parked.connection ORDER BY parked.id DESC)
         ), removed AS (
             DELETE FROM core.parked_frame
             WHERE id IN (
                 SELECT id FROM ranked WHERE place > $1 OR bytes > $2 ORDER BY id LIMIT $3
             )
             RETURNING repeats
         )
         SELECT coalesce(sum(1 + repeats), 0)::bigint AS "removed!" FROM removed"#,
        rows,
        bytes,
        limit,
    )
    .fetch_one(pg)
    .await?;
    Ok(unsigned(removed))
}
