//! Dead letters that were replayed, that are discarded, and that are kept no longer.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::list::{Filter, page};
use super::{StoreError, unsigned};

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Removed {
    /// How many.
    pub letters: u64,
    /// How many of them had not been replayed.
    pub given_up: u64,
    /// The last one's id.
    pub last: Option<i64>,
}

/// The letter `id` is back in the ingress queue at the time `now`, unless it has died again since its
/// death number `deaths` was looked at.
pub async fn replayed(
    pg: &mut PgConnection,
    id: i64,
    deaths: i64,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE core.dead_letter
         SET replays = replays + 1,
             replayed_at = CASE WHEN deaths = $2 THEN $3 ELSE replayed_at END
         WHERE id = $1",
        id,
        deaths,
        now,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Discards up to `limit` of them, lowest ids first.
pub async fn discard(
    pg: &mut PgConnection,
    filter: &Filter,
    limit: i64,
) -> Result<Removed, StoreError> {
    let rows = page(pg, filter, None, limit).await?;
    let ids: Vec<_> = rows.into_iter().map(|row| row.id).collect();
    remove(pg, &ids).await
}

/// Removes up to `limit` that were taken from the queue before `before`.
pub async fn remove_older(
    pg: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<Removed, StoreError> {
    let ids = sqlx::query_scalar!(
        "SELECT id
         FROM core.dead_letter
         WHERE taken_at < $1
         ORDER BY taken_at
         LIMIT $2",
        before,
        limit,
    )
    .fetch_all(&mut *pg)
    .await?;
    remove(pg, &ids).await
}

/// Removes the oldest if there are more than `rows` rows or `bytes` bytes of bodies, up to `limit`.
pub async fn remove_beyond(
    pg: &mut PgConnection,
    rows: i64,
    bytes: i64,
    limit: i64,
) -> Result<Removed, StoreError> {
    let ids = sqlx::query_scalar!(
        "WITH ranked AS (
             SELECT id,
                    row_number() OVER newest AS place,
                    sum(octet_length(body)) OVER newest AS bytes
             FROM core.dead_letter
             WINDOW newest AS (ORDER BY id DESC)
         )
         SELECT id FROM ranked WHERE place > $1 OR bytes > $2 ORDER BY id LIMIT $3",
        rows,
        bytes,
        limit,
    )
    .fetch_all(&mut *pg)
    .await?;
    remove(pg, &ids).await
}

/// Removes them. The numbers of those that were not replayed are given up.
async fn remove(pg: &mut PgConnection, ids: &[i64]) -> Result<Removed, StoreError> {
    if ids.is_empty() {
        return Ok(Removed::default());
    }
    let row = sqlx::query!(
        r#"WITH removed AS (
             DELETE FROM core.dead_letter
             WHERE id IN (
                 SELECT id FROM core.dead_letter WHERE id = ANY($1) ORDER BY id FOR UPDATE
             )
             RETURNING id, workspace, connection, session, frame_partition, numbers, replayed_at
         ), given_up AS (
             INSERT INTO core.session_source
                 (session, partition, workspace, connection, instance, sent, sent_at, mark, mark_at,
                  due, ended, given_up)
             SELECT session, frame_partition, workspace, connection, '', 0, now(), 0, now(), 0, true,
                    range_agg(numbers)
             FROM removed
             -- What belongs to no workspace is in no account.
             WHERE replayed_at IS NULL AND workspace IS NOT NULL AND session IS NOT NULL
               AND frame_partition IS NOT NULL
             GROUP BY session, frame_partition, workspace, connection
             ORDER BY session, frame_partition
             ON CONFLICT (session, partition) DO UPDATE
             SET given_up = core.session_source.given_up + EXCLUDED.given_up
         )
         SELECT count(*) AS "letters!",
                count(*) FILTER (WHERE replayed_at IS NULL) AS "given_up!",
                max(id) AS last
         FROM removed"#,
        ids,
    )
    .fetch_one(pg)
    .await?;
    Ok(Removed {
        letters: unsigned(row.letters),
        given_up: unsigned(row.given_up),
        last: row.last,
    })
}

/// How many wait for somebody to decide about them.
pub async fn waiting(pg: &mut PgConnection) -> Result<u64, StoreError> {
    let filter = Filter {
        replayed: Some(false),
        ..Filter::default()
    };
    super::sum(pg, &filter).await
}
