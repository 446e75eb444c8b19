//! Tables `subscriber` and `subscriber_checkpoint`: who reads the event log, and how far each has come.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{small, unsigned};

/// A subscriber as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscriber {
    /// Its name.
    pub name: String,
    /// When it was first heard of.
    pub registered_at: DateTime<Utc>,
    /// When it was last heard of.
    pub seen_at: DateTime<Utc>,
}

/// How far a subscriber has come in one shard.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    /// The subscriber.
    pub name: String,
    /// The shard.
    pub shard: u32,
    /// Up to here it has applied every event.
    pub applied: u64,
    /// The shard's last offset.
    pub head: u64,
    /// When the first event was committed that it has not applied.
    pub waiting_since: Option<DateTime<Utc>>,
    /// How many seconds ago that was.
    pub waiting_seconds: Option<f64>,
}

/// The generation of the log that a subscriber last confirmed to read; locks it.
pub async fn lock_generation(
    pg: &mut PgConnection,
    name: &str,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT generation FROM core.subscriber WHERE name = $1 FOR UPDATE",
        name,
    )
    .fetch_optional(pg)
    .await
}

/// Keeps that the subscriber was heard of and how far it has come: forward only, so a shard that
/// `applied` leaves out stays where it is. With `reset`, what `applied` says is all that it has applied.
pub async fn keep(
    pg: &mut PgConnection,
    name: &str,
    generation: i64,
    applied: &BTreeMap<u32, u64>,
    reset: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO core.subscriber (name, generation) VALUES ($1, $2)
         ON CONFLICT (name) DO UPDATE SET generation = EXCLUDED.generation, seen_at = now()",
        name,
        generation,
    )
    .execute(&mut *pg)
    .await?;
    let shards: Vec<_> = applied.keys().map(|shard| *shard as i32).collect();
    let offsets: Vec<_> = applied.values().map(|offset| *offset as i64).collect();
    sqlx::query!(
        "INSERT INTO core.subscriber_checkpoint AS known (name, shard, applied)
         SELECT $1, head.shard, COALESCE(given.applied, 0)
         FROM core.shard_head AS head
         LEFT JOIN UNNEST($2::int[], $3::bigint[]) AS given (shard, applied) USING (shard)
         ORDER BY head.shard
         ON CONFLICT (name, shard) DO UPDATE
         SET applied = EXCLUDED.applied, updated_at = now()
         WHERE EXCLUDED.applied > known.applied OR $4",
        name,
        &shards,
        &offsets,
        reset,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Forgets a subscriber; whether there was one.
pub async fn forget(pg: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!("DELETE FROM core.subscriber WHERE name = $1", name)
        .execute(pg)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Every subscriber, by name.
pub async fn all(pg: &mut PgConnection) -> Result<Vec<Subscriber>, sqlx::Error> {
    sqlx::query_as!(
        Subscriber,
        "SELECT name, registered_at, seen_at FROM core.subscriber ORDER BY name",
    )
    .fetch_all(pg)
    .await
}

/// How far every subscriber has come, or the one called `only`, by name and shard.
pub async fn places(pg: &mut PgConnection, only: Option<&str>) -> Result<Vec<Place>, sqlx::Error> {
    let rows = sqlx::query!(
        // The first event behind a checkpoint: one look into the primary key of each partition.
        r#"SELECT c.name, c.shard, c.applied, head.last_offset, next.logged_at AS "waiting_since?",
                  extract(epoch FROM now() - next.logged_at)::float8 AS waiting_seconds
           FROM core.subscriber_checkpoint AS c
           JOIN core.shard_head AS head USING (shard)
           LEFT JOIN LATERAL (
               SELECT logged_at
               FROM core.event_log AS e
               WHERE e.shard = c.shard AND e.log_offset > GREATEST(c.applied, head.first_offset - 1)
               ORDER BY e.log_offset
               LIMIT 1
           ) AS next ON head.last_offset > c.applied
           WHERE $1::text IS NULL OR c.name = $1
           ORDER BY c.name, c.shard"#,
        only,
    )
    .fetch_all(pg)
    .await?;
    let places = rows.into_iter().map(|row| Place {
        name: row.name,
        shard: small(row.shard),
        applied: unsigned(row.applied),
        head: unsigned(row.last_offset),
        waiting_since: row.waiting_since,
        waiting_seconds: row.waiting_seconds,
    });
    Ok(places.collect())
}
