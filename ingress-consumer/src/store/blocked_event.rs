//! Tables `event_blocked` and `event_dead`: events that the broker refused, those of the same vehicle
//! that wait for them, and those that were given up on.
//!
//! Whoever writes `event_blocked` for a shard holds the shard's checkpoint; only a redrive does not,
//! which brings back what nobody else works on.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::event_log::{EventRow, LoggedEvent};
use super::{StoreError, small, storable, unsigned};

/// An event that is to be blocked.
#[derive(Debug, Clone)]
pub struct NewBlocked {
    /// Its offset.
    pub offset: u64,
    /// The event.
    pub event: LoggedEvent,
    /// Why the broker refused it; none of one that only waits for another.
    pub reason: Option<String>,
}

/// A blocked event.
#[derive(Debug, Clone)]
pub struct Blocked {
    /// Its offset.
    pub offset: u64,
    /// The event.
    pub event: LoggedEvent,
    /// How often the broker has refused it.
    pub attempts: u32,
}

/// What waits for one another: the events of one subject of one workspace. An event without a subject
/// waits for none, and none for it.
#[must_use]
pub fn subject_key(event: &LoggedEvent) -> String {
    match &event.subject {
        Some(subject) => format!("{}/{subject}", event.workspace),
        // No workspace has a colon in its name.
        None => event.id.clone(),
    }
}

/// Blocks `events` of `shard`; those with a reason count as refused once and wait for `pause`.
pub async fn block(
    pg: &mut PgConnection,
    shard: u32,
    events: &[NewBlocked],
    pause: Duration,
) -> Result<(), sqlx::Error> {
    let offsets: Vec<_> = events.iter().map(|new| new.offset as i64).collect();
    let keys: Vec<_> = events.iter().map(|new| subject_key(&new.event)).collect();
    let workspaces: Vec<_> = events
        .iter()
        .map(|new| new.event.workspace.to_string())
        .collect();
    let types: Vec<_> = events.iter().map(|new| new.event.kind.clone()).collect();
    let subjects: Vec<_> = events.iter().map(|new| new.event.subject.clone()).collect();
    let parents: Vec<_> = events
        .iter()
        .map(|new| new.event.traceparent.clone())
        .collect();
    let times: Vec<_> = events.iter().map(|new| new.event.time).collect();
    let data: Vec<_> = events
        .iter()
        .map(|new| new.event.data.get().to_owned())
        .collect();
    let reasons: Vec<_> = events
        .iter()
        .map(|new| new.reason.as_deref().map(storable))
        .collect();
    sqlx::query!(
        "INSERT INTO core.event_blocked
             (shard, log_offset, subject_key, workspace, event_type, subject, traceparent, logged_at,
              data, reason, attempts, next_attempt_at)
         SELECT $1, new.log_offset, new.subject_key, new.workspace, new.event_type, new.subject,
                new.traceparent, new.logged_at, new.data::jsonb, new.reason,
                CASE WHEN new.reason IS NULL THEN 0 ELSE 1 END,
                CASE WHEN new.reason IS NULL THEN now() ELSE now() + make_interval(secs => $11) END
         FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[],
                     $8::timestamptz[], $9::text[], $10::text[])
              AS new (log_offset, subject_key, workspace, event_type, subject, traceparent, logged_at,
                      data, reason)
         -- The answer to the commit before may have been lost.
         ON CONFLICT (shard, log_offset) DO NOTHING",
        shard as i32,
        &offsets,
        &keys,
        &workspaces,
        &types,
        &subjects as &[Option<String>],
        &parents as &[Option<String>],
        &times,
        &data,
        &reasons as &[Option<String>],
        pause.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// What is blocked of `shard`: the key of every subject.
pub async fn keys(pg: &mut PgConnection, shard: u32) -> Result<HashSet<String>, sqlx::Error> {
    let keys = sqlx::query_scalar!(
        "SELECT DISTINCT subject_key FROM core.event_blocked WHERE shard = $1",
        shard as i32,
    );
    Ok(keys.fetch_all(pg).await?.into_iter().collect())
}

/// The subjects of `shard` whose first blocked event is due, those first that have been due longest.
pub async fn due(
    pg: &mut PgConnection,
    shard: u32,
    limit: i64,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT subject_key
         FROM (
             SELECT DISTINCT ON (subject_key) subject_key, next_attempt_at
             FROM core.event_blocked
             WHERE shard = $1
             ORDER BY subject_key, log_offset
         ) AS first
         WHERE next_attempt_at <= now()
         ORDER BY next_attempt_at, subject_key
         LIMIT $2",
        shard as i32,
        limit,
    )
    .fetch_all(pg)
    .await
}

/// The first blocked event of a subject, if it is due.
pub async fn first(
    pg: &mut PgConnection,
    shard: u32,
    key: &str,
) -> Result<Option<Blocked>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT log_offset, logged_at, workspace, event_type, subject, traceparent,
                  data::text AS "data!", attempts, next_attempt_at <= now() AS "is_due!"
           FROM core.event_blocked
           WHERE shard = $1 AND subject_key = $2
           ORDER BY log_offset
           LIMIT 1"#,
        shard as i32,
        key,
    )
    .fetch_optional(pg)
    .await?;
    let Some(row) = row.filter(|row| row.is_due) else {
        return Ok(None);
    };
    let attempts = small(row.attempts);
    let row = EventRow {
        log_offset: row.log_offset,
        logged_at: row.logged_at,
        workspace: row.workspace,
        event_type: row.event_type,
        subject: row.subject,
        traceparent: row.traceparent,
        data: row.data,
    };
    let (offset, event) = row.into_event("core.event_blocked", shard)?;
    Ok(Some(Blocked {
        offset,
        event,
        attempts,
    }))
}

/// The broker has taken it: it is blocked no longer.
pub async fn unblock(pg: &mut PgConnection, shard: u32, offset: u64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM core.event_blocked WHERE shard = $1 AND log_offset = $2",
        shard as i32,
        offset as i64,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// The broker has refused it again, or said nothing of it that counts: it waits for `pause`.
pub async fn put_off(
    pg: &mut PgConnection,
    shard: u32,
    offset: u64,
    attempts: u32,
    reason: &str,
    pause: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE core.event_blocked
         SET attempts = $3, reason = $4, next_attempt_at = now() + make_interval(secs => $5)
         WHERE shard = $1 AND log_offset = $2",
        shard as i32,
        offset as i64,
        attempts as i32,
        storable(reason),
        pause.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Gives up on it.
pub async fn bury(pg: &mut PgConnection, shard: u32, offset: u64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH given_up AS (
             DELETE FROM core.event_blocked WHERE shard = $1 AND log_offset = $2 RETURNING *
         )
         INSERT INTO core.event_dead
             (shard, log_offset, subject_key, workspace, event_type, subject, traceparent, logged_at,
              data, blocked_at, attempts, reason)
         SELECT shard, log_offset, subject_key, workspace, event_type, subject, traceparent, logged_at,
                data, blocked_at, attempts, coalesce(reason, '')
         FROM given_up",
        shard as i32,
        offset as i64,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Where an event is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The shard.
    pub shard: u32,
    /// The offset in it.
    pub offset: u64,
}

/// A dead event, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dead {
    /// Where it is in the log.
    pub place: Place,
    /// Its type.
    pub event_type: String,
    /// What it is about.
    pub subject: Option<String>,
    /// When it was committed.
    pub logged_at: DateTime<Utc>,
    /// How many bytes its data have as JSON.
    pub bytes: u64,
    /// When the broker first refused it, or one that it waited for.
    pub blocked_at: DateTime<Utc>,
    /// When it was given up on.
    pub died_at: DateTime<Utc>,
    /// How often the broker refused it.
    pub attempts: u32,
    /// What the broker said.
    pub reason: String,
}

/// Dead events of a workspace behind `after`, in the order of the log, at most `limit`; only the one at
/// `at`, if it is given.
pub async fn dead(
    pg: &mut PgConnection,
    workspace: &str,
    at: Option<Place>,
    after: Option<Place>,
    limit: i64,
) -> Result<Vec<Dead>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT shard, log_offset, logged_at, event_type, subject,
                  octet_length(data::text) AS "bytes!", blocked_at, died_at, attempts, reason
           FROM core.event_dead
           WHERE workspace = $1
             AND ($2::int IS NULL OR (shard, log_offset) = ($2, $3))
             AND ($4::int IS NULL OR (shard, log_offset) > ($4, $5))
           ORDER BY shard, log_offset
           LIMIT $6"#,
        workspace,
        at.map(|at| at.shard as i32),
        at.map(|at| at.offset as i64),
        after.map(|after| after.shard as i32),
        after.map(|after| after.offset as i64),
        limit,
    )
    .fetch_all(pg)
    .await?;
    let dead = rows.into_iter().map(|row| Dead {
        place: Place {
            shard: small(row.shard),
            offset: unsigned(row.log_offset),
        },
        event_type: row.event_type,
        subject: row.subject,
        logged_at: row.logged_at,
        bytes: u64::from(small(row.bytes)),
        blocked_at: row.blocked_at,
        died_at: row.died_at,
        attempts: small(row.attempts),
        reason: row.reason,
    });
    Ok(dead.collect())
}

/// The whole dead event of a workspace at `at`.
pub async fn dead_event(
    pg: &mut PgConnection,
    workspace: &str,
    at: Place,
) -> Result<Option<LoggedEvent>, StoreError> {
    let row = sqlx::query_as!(
        EventRow,
        r#"SELECT log_offset, logged_at, workspace, event_type, subject, traceparent,
                  data::text AS "data!"
           FROM core.event_dead
           WHERE workspace = $1 AND shard = $2 AND log_offset = $3"#,
        workspace,
        at.shard as i32,
        at.offset as i64,
    )
    .fetch_optional(pg)
    .await?;
    row.map(|row| Ok(row.into_event("core.event_dead", at.shard)?.1))
        .transpose()
}

/// How many dead events of a workspace there are, those at `places` or all.
pub async fn count_dead(
    pg: &mut PgConnection,
    workspace: &str,
    places: Option<&[Place]>,
) -> Result<u64, sqlx::Error> {
    let (shards, offsets) = columns(places);
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM core.event_dead
           WHERE workspace = $1
             AND ($2 OR (shard, log_offset) IN (SELECT * FROM UNNEST($3::int[], $4::bigint[])))"#,
        workspace,
        places.is_none(),
        &shards,
        &offsets,
    );
    count.fetch_one(pg).await.map(unsigned)
}

/// Has the relay publish dead events of a workspace once more, those at `places` or all, at most
/// `limit`; returns how many. Their attempts count from the start.
pub async fn redrive(
    pg: &mut PgConnection,
    workspace: &str,
    places: Option<&[Place]>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let (shards, offsets) = columns(places);
    let redriven = sqlx::query!(
        "WITH chosen AS (
             SELECT shard, log_offset FROM core.event_dead
             WHERE workspace = $1
               AND ($2 OR (shard, log_offset) IN (SELECT * FROM UNNEST($3::int[], $4::bigint[])))
             ORDER BY shard, log_offset
             LIMIT $5
             FOR UPDATE
         ),
         taken AS (
             DELETE FROM core.event_dead AS dead USING chosen
             WHERE dead.shard = chosen.shard AND dead.log_offset = chosen.log_offset
             RETURNING dead.*
         )
         INSERT INTO core.event_blocked
             (shard, log_offset, subject_key, workspace, event_type, subject, traceparent, logged_at,
              data, blocked_at)
         SELECT shard, log_offset, subject_key, workspace, event_type, subject, traceparent, logged_at,
                data, blocked_at
         FROM taken",
        workspace,
        places.is_none(),
        &shards,
        &offsets,
        limit,
    )
    .execute(pg)
    .await?;
    Ok(redriven.rows_affected())
}

fn columns(places: Option<&[Place]>) -> (Vec<i32>, Vec<i64>) {
    let places = places.unwrap_or_default().iter();
    places
        .map(|place| (place.shard as i32, place.offset as i64))
        .unzip()
}
