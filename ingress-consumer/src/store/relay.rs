//! Tables `relay` and `relay_checkpoint`: which relays run, which shards each has leased, and how far
//! each shard has been relayed.
//!
//! The clock is the database's. Whoever takes a shard raises its epoch, and every move of a checkpoint
//! names the epoch: a relay that has lost its shard without knowing moves nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, small, unsigned};

/// The channel that announces that relays came or went, or let go of a shard.
pub const CHANNEL: &str = "headrace_relay";

/// A shard that a relay has taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The shard.
    pub shard: u32,
    /// The epoch that it was taken under.
    pub epoch: u64,
    /// Everything up to this offset is relayed.
    pub relayed: u64,
}

/// A shard and whoever relays it under a lease that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leased {
    /// The shard.
    pub shard: u32,
    /// The epoch that it was last taken under.
    pub epoch: u64,
    /// Who relays it.
    pub owner: Option<Uuid>,
}

/// How many shards there are; none before the core's first start.
pub async fn count_shards(pg: &mut PgConnection) -> Result<u32, sqlx::Error> {
    let shards =
        sqlx::query_scalar!(r#"SELECT count(*)::int AS "count!" FROM core.relay_checkpoint"#);
    Ok(small(shards.fetch_one(pg).await?))
}

/// Has the database end the transaction that begins if nothing comes for `lease`: a relay that is frozen
/// in the middle of it would hold up all others, who wait for the same rows.
pub async fn limit_idle(pg: &mut PgConnection, lease: Duration) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT set_config('idle_in_transaction_session_timeout', $1, TRUE)",
        lease.as_millis().to_string(),
    )
    .fetch_one(pg)
    .await?;
    Ok(())
}

/// Says that `relay` runs, for `lease` from now on, and forgets those that have not said so for too
/// long. Returns whether it is new.
pub async fn announce(
    pg: &mut PgConnection,
    relay: Uuid,
    instance: &str,
    lease: Duration,
) -> Result<bool, sqlx::Error> {
    let is_new = sqlx::query_scalar!(
        r#"INSERT INTO core.relay (relay, instance, lease_until)
           VALUES ($1, $2, now() + make_interval(secs => $3))
           ON CONFLICT (relay) DO UPDATE SET lease_until = EXCLUDED.lease_until
           RETURNING xmax = 0 AS "is_new!""#,
        relay,
        instance,
        lease.as_secs_f64(),
    )
    .fetch_one(&mut *pg)
    .await?;
    // Two relays may find one another: neither waits for what the other has locked.
    sqlx::query!(
        "DELETE FROM core.relay
         WHERE relay IN (SELECT relay FROM core.relay WHERE lease_until < now()
                         FOR UPDATE SKIP LOCKED)",
    )
    .execute(pg)
    .await?;
    Ok(is_new)
}

/// How far a shard is relayed.
pub async fn checkpoint(pg: &mut PgConnection, shard: u32) -> Result<u64, sqlx::Error> {
    let offset = sqlx::query_scalar!(
        "SELECT log_offset FROM core.relay_checkpoint WHERE shard = $1",
        shard as i32,
    )
    .fetch_one(pg)
    .await?;
    Ok(unsigned(offset))
}

/// The relays that run.
pub async fn running(pg: &mut PgConnection) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!("SELECT relay FROM core.relay WHERE lease_until >= now() ORDER BY relay")
        .fetch_all(pg)
        .await
}

/// Every shard and who relays it. Until the transaction ends, nobody else takes or gives up any.
pub async fn lock(pg: &mut PgConnection) -> Result<Vec<Leased>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT shard, epoch, CASE WHEN lease_until >= now() THEN owner END AS owner
         FROM core.relay_checkpoint
         -- In the order of their shards, so that two relays never wait for each other.
         ORDER BY shard
         FOR UPDATE",
    )
    .fetch_all(pg)
    .await?;
    let leased = rows.into_iter().map(|row| Leased {
        shard: small(row.shard),
        epoch: unsigned(row.epoch),
        owner: row.owner,
    });
    Ok(leased.collect())
}

/// Holds `shards`, which `relay` has, for `lease` from now on.
pub async fn renew(
    pg: &mut PgConnection,
    relay: Uuid,
    shards: &[u32],
    lease: Duration,
) -> Result<(), sqlx::Error> {
    let shards: Vec<_> = shards.iter().map(|shard| *shard as i32).collect();
    sqlx::query!(
        "UPDATE core.relay_checkpoint
         SET lease_until = now() + make_interval(secs => $3)
         WHERE owner = $1 AND shard = ANY($2)",
        relay,
        &shards,
        lease.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Takes `shards`, which nobody has, each under a new epoch. The rows are locked.
pub async fn take(
    pg: &mut PgConnection,
    relay: Uuid,
    shards: &[u32],
    lease: Duration,
) -> Result<Vec<Grant>, sqlx::Error> {
    let shards: Vec<_> = shards.iter().map(|shard| *shard as i32).collect();
    let rows = sqlx::query!(
        "UPDATE core.relay_checkpoint
         SET owner = $1, epoch = epoch + 1, lease_until = now() + make_interval(secs => $3)
         WHERE shard = ANY($2)
         RETURNING shard, epoch, log_offset",
        relay,
        &shards,
        lease.as_secs_f64(),
    )
    .fetch_all(pg)
    .await?;
    let grants = rows.into_iter().map(|row| Grant {
        shard: small(row.shard),
        epoch: unsigned(row.epoch),
        relayed: unsigned(row.log_offset),
    });
    Ok(grants.collect())
}

/// Moves a shard's checkpoint forward to `offset`; [`StoreError::LeaseLost`] if the shard was taken
/// under another epoch since.
pub async fn advance(
    pg: &mut PgConnection,
    shard: u32,
    epoch: u64,
    offset: u64,
) -> Result<(), StoreError> {
    let moved = sqlx::query!(
        "UPDATE core.relay_checkpoint
         SET log_offset = $3, updated_at = now()
         WHERE shard = $1 AND epoch = $2 AND owner IS NOT NULL AND log_offset <= $3",
        shard as i32,
        epoch as i64,
        offset as i64,
    )
    .execute(pg)
    .await?;
    held(moved.rows_affected())
}

/// Keeps the shard from being taken by another until the transaction ends; [`StoreError::LeaseLost`]
/// if it was taken under another epoch already.
pub async fn hold(pg: &mut PgConnection, shard: u32, epoch: u64) -> Result<(), StoreError> {
    let found = sqlx::query!(
        "SELECT shard FROM core.relay_checkpoint
         WHERE shard = $1 AND epoch = $2 AND owner IS NOT NULL
         FOR UPDATE",
        shard as i32,
        epoch as i64,
    )
    .fetch_all(pg)
    .await?;
    held(found.len() as u64)
}

fn held(rows: u64) -> Result<(), StoreError> {
    if rows == 1 {
        Ok(())
    } else {
        Err(StoreError::LeaseLost)
    }
}

/// Gives a shard up, so that another may take it at once. Nothing changes if it was taken already.
pub async fn release(pg: &mut PgConnection, shard: u32, epoch: u64) -> Result<(), sqlx::Error> {
    let released = sqlx::query!(
        "UPDATE core.relay_checkpoint
         SET owner = NULL, lease_until = NULL
         WHERE shard = $1 AND epoch = $2",
        shard as i32,
        epoch as i64,
    )
    .execute(&mut *pg)
    .await?;
    if released.rows_affected() > 0 {
        tell(pg).await?;
    }
    Ok(())
}

/// Says that `relay` runs no longer; what it still had of shards may be taken at once.
pub async fn leave(pg: &mut PgConnection, relay: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM core.relay WHERE relay = $1", relay)
        .execute(&mut *pg)
        .await?;
    sqlx::query!(
        "WITH had AS (
             SELECT shard FROM core.relay_checkpoint WHERE owner = $1 ORDER BY shard FOR UPDATE
         )
         UPDATE core.relay_checkpoint AS shard
         SET owner = NULL, lease_until = NULL
         FROM had
         WHERE shard.shard = had.shard",
        relay,
    )
    .execute(&mut *pg)
    .await?;
    tell(pg).await
}

/// Has the other relays look at the shards once the transaction ends.
pub async fn tell(pg: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_notify($1, '')", CHANNEL)
        .execute(pg)
        .await?;
    Ok(())
}

/// A relay that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    /// Its id, made anew at each start.
    pub relay: Uuid,
    /// The name of its instance.
    pub instance: String,
    /// Since when it runs.
    pub started_at: DateTime<Utc>,
    /// Until when it is believed to run unless it says so again.
    pub lease_until: DateTime<Utc>,
}

/// Every relay that runs.
pub async fn relays(pg: &mut PgConnection) -> Result<Vec<Relay>, sqlx::Error> {
    sqlx::query_as!(
        Relay,
        "SELECT relay, instance, started_at, lease_until
         FROM core.relay
         WHERE lease_until >= now()
         ORDER BY started_at, relay",
    )
    .fetch_all(pg)
    .await
}

/// How far the relaying of a shard is.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardProgress {
    /// The shard.
    pub shard: u32,
    /// Who relays it, under a lease that has not ended.
    pub owner: Option<Uuid>,
    /// The epoch that it was last taken under.
    pub epoch: u64,
    /// Until when it is the owner's.
    pub lease_until: Option<DateTime<Utc>>,
    /// The checkpoint: up to here everything is confirmed, blocked or dead.
    pub relayed: u64,
    /// The shard's last offset.
    pub head: u64,
    /// When the first event behind the checkpoint was committed.
    pub oldest_at: Option<DateTime<Utc>>,
    /// For how many seconds that event has waited.
    pub waited: f64,
    /// How many events are blocked.
    pub blocked: u64,
    /// How many vehicles and other subjects they are about.
    pub blocked_subjects: u64,
    /// How many events are dead.
    pub dead: u64,
}

/// How far the relaying of every shard is.
pub async fn progress(pg: &mut PgConnection) -> Result<Vec<ShardProgress>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT at.shard, at.epoch, at.log_offset, head.last_offset,
                  CASE WHEN at.lease_until >= now() THEN at.owner END AS owner, at.lease_until,
                  next.logged_at AS "logged_at?",
                  coalesce(extract(epoch FROM now() - next.logged_at), 0)::float8 AS "waited!",
                  blocked.events AS "blocked!", blocked.subjects AS "subjects!",
                  (SELECT count(*) FROM core.event_dead AS dead WHERE dead.shard = at.shard)
                      AS "dead!"
           FROM core.relay_checkpoint AS at
           JOIN core.shard_head AS head USING (shard)
           LEFT JOIN LATERAL (
               SELECT logged_at FROM core.event_log
               WHERE shard = at.shard AND log_offset = at.log_offset + 1
               LIMIT 1
           ) AS next ON TRUE
           CROSS JOIN LATERAL (
               SELECT count(*) AS events, count(DISTINCT subject_key) AS subjects
               FROM core.event_blocked AS blocked
               WHERE blocked.shard = at.shard
           ) AS blocked
           ORDER BY at.shard"#,
    )
    .fetch_all(pg)
    .await?;
    let progress = rows.into_iter().map(|row| ShardProgress {
        shard: small(row.shard),
        lease_until: row.lease_until.filter(|_| row.owner.is_some()),
        owner: row.owner,
        epoch: unsigned(row.epoch),
        relayed: unsigned(row.log_offset),
        head: unsigned(row.last_offset),
        oldest_at: row.logged_at,
        waited: row.waited.max(0.0),
        blocked: unsigned(row.blocked),
        blocked_subjects: unsigned(row.subjects),
        dead: unsigned(row.dead),
    });
    Ok(progress.collect())
}
