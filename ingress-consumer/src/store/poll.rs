//! Tables `poll` and `poll_feed`: which connections are due, who asks for them, and how far each feed
//! has been read.
//!
//! Time is the database's. A claim raises the epoch; whatever is written of a run names the epoch that it
//! was claimed under, and has no effect once there is a later one.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared_model::{ConnectionId, SessionId};
use sqlx::PgConnection;

use super::{StoreError, storable, unsigned};

/// The right to ask for a connection, until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The connection.
    pub connection: ConnectionId,
    /// The epoch that it was claimed under.
    pub epoch: u64,
    /// For how long it had been due.
    pub late: Duration,
    /// What others were told last of how it is doing.
    pub told: Option<String>,
}

/// A feed as a run finds it.
#[derive(Debug, Clone, PartialEq)]
pub struct FeedRow {
    /// Its name.
    pub feed: String,
    /// Where to read on.
    pub cursor: Option<Value>,
    /// The session that its records are numbered in.
    pub session: SessionId,
    /// The next record's number.
    pub next_number: u64,
    /// How often in a row it could not be read.
    pub failures: u32,
}

/// What a run has read of a feed.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress<'a> {
    /// The feed.
    pub feed: &'a str,
    /// From where to read on; `None` leaves it as it is.
    pub cursor: Option<&'a Value>,
    /// Whether there is more already.
    pub behind: bool,
    /// When to ask again.
    pub due_in: Duration,
    /// Pages of this run.
    pub pages: u64,
    /// Records of this run.
    pub rows: u64,
    /// Up to when it has been read, by the provider's clock.
    pub read_until: Option<DateTime<Utc>>,
}

/// Makes a connection due, with its feeds.
pub async fn insert(
    pg: &mut PgConnection,
    connection: ConnectionId,
    feeds: &[(String, SessionId)],
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO core.poll (connection) VALUES ($1)",
        connection.0
    )
    .execute(&mut *pg)
    .await?;
    ensure(pg, connection, feeds).await
}

/// Adds those of `feeds` that the connection does not have yet: a newer version may know more.
pub async fn ensure(
    pg: &mut PgConnection,
    connection: ConnectionId,
    feeds: &[(String, SessionId)],
) -> Result<(), StoreError> {
    let names: Vec<_> = feeds.iter().map(|(name, _)| name.clone()).collect();
    let sessions: Vec<_> = feeds.iter().map(|(_, session)| session.0).collect();
    sqlx::query!(
        "INSERT INTO core.poll_feed (connection, feed, session)
         SELECT p.connection, new.feed, new.session
         FROM UNNEST($2::text[], $3::uuid[]) AS new (feed, session)
         -- A connection that was removed meanwhile gets none.
         JOIN core.poll AS p ON p.connection = $1
         ORDER BY new.feed
         ON CONFLICT (connection, feed) DO NOTHING",
        connection.0,
        &names,
        &sessions,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Forgets a removed connection; a run that goes on has no effect any more.
pub async fn remove(pg: &mut PgConnection, connection: ConnectionId) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM core.poll WHERE connection = $1", connection.0)
        .execute(pg)
        .await?;
    Ok(())
}

/// Claims up to `limit` connections that are due, the latest first, for `owner` until `lease` has passed.
pub async fn claim(
    pg: &mut PgConnection,
    owner: &str,
    lease: Duration,
    limit: i64,
) -> Result<Vec<Claim>, StoreError> {
    let rows = sqlx::query!(
        r#"WITH due AS (
             SELECT connection, due_at
             FROM core.poll
             WHERE due_at <= now() AND NOT paused AND (lease_until IS NULL OR lease_until < now())
             ORDER BY due_at
             LIMIT $3
             -- Others claim at the same time: each takes what the rest has not.
             FOR UPDATE SKIP LOCKED
         )
         UPDATE core.poll AS p
         SET owner = $1, lease_until = now() + make_interval(secs => $2), epoch = p.epoch + 1,
             asked = false
         FROM due
         WHERE p.connection = due.connection
         RETURNING p.connection, p.epoch, p.told,
                   EXTRACT(EPOCH FROM now() - due.due_at)::float8 AS "late!""#,
        owner,
        lease.as_secs_f64(),
        limit,
    )
    .fetch_all(pg)
    .await?;
    let claims = rows.into_iter().map(|row| Claim {
        connection: ConnectionId(row.connection),
        epoch: unsigned(row.epoch),
        late: seconds(row.late),
        told: row.told,
    });
    Ok(claims.collect())
}

/// How soon the next connection is due that nobody has; `None` if there is none.
pub async fn next_due(pg: &mut PgConnection) -> Result<Option<Duration>, StoreError> {
    let next = sqlx::query_scalar!(
        "SELECT EXTRACT(EPOCH FROM min(GREATEST(due_at, lease_until)) - now())::float8
         FROM core.poll
         WHERE NOT paused",
    )
    .fetch_one(pg)
    .await?;
    Ok(next.map(seconds))
}

/// Keeps a claim for another `lease`; false if it is lost, or the connection paused.
pub async fn renew(
    pg: &mut PgConnection,
    claim: &Claim,
    lease: Duration,
) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "UPDATE core.poll
         SET lease_until = now() + make_interval(secs => $3)
         WHERE connection = $1 AND epoch = $2 AND owner IS NOT NULL AND NOT paused",
        claim.connection.0,
        claim.epoch as i64,
        lease.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Those of the connection's feeds called `names` that are due, the latest first.
pub async fn due_feeds(
    pg: &mut PgConnection,
    claim: &Claim,
    names: &[String],
) -> Result<Vec<FeedRow>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT f.feed, f.cursor, f.session, f.consecutive_failures,
                  COALESCE(upper(s.seen), 1) AS "next_number!"
         FROM core.poll AS p
         JOIN core.poll_feed AS f USING (connection)
         LEFT JOIN core.session AS s ON s.session = f.session AND s.partition = 0
         WHERE p.connection = $1 AND p.epoch = $2 AND f.feed = ANY ($3) AND f.due_at <= now()
         ORDER BY f.due_at, f.feed"#,
        claim.connection.0,
        claim.epoch as i64,
        names,
    )
    .fetch_all(pg)
    .await?;
    let feeds = rows.into_iter().map(|row| FeedRow {
        feed: row.feed,
        cursor: row.cursor,
        session: SessionId(row.session),
        next_number: unsigned(row.next_number),
        failures: u32::try_from(row.consecutive_failures).unwrap_or(u32::MAX),
    });
    Ok(feeds.collect())
}

/// Makes sure that the claim holds until the transaction ends.
pub async fn hold(pg: &mut PgConnection, claim: &Claim) -> Result<(), StoreError> {
    // The lock keeps others from claiming; that the lease has ended does not matter while nobody has.
    let held = sqlx::query_scalar!(
        "SELECT connection FROM core.poll WHERE connection = $1 AND epoch = $2 FOR SHARE",
        claim.connection.0,
        claim.epoch as i64,
    )
    .fetch_optional(pg)
    .await?;
    held.map(drop).ok_or(StoreError::ClaimLost)
}

/// Notes what was read, in the transaction that gives it its effect.
pub async fn advance(
    pg: &mut PgConnection,
    claim: &Claim,
    progress: &Progress<'_>,
) -> Result<(), StoreError> {
    hold(pg, claim).await?;
    let done = sqlx::query!(
        "UPDATE core.poll_feed
         SET cursor = COALESCE($3, cursor), behind = $4, due_at = now() + make_interval(secs => $5),
             run_pages = $6, run_rows = $7, read_until = COALESCE($8, read_until),
             limited = false, consecutive_failures = 0, last_success_at = now()
         WHERE connection = $1 AND feed = $2",
        claim.connection.0,
        progress.feed,
        progress.cursor,
        progress.behind,
        progress.due_in.as_secs_f64(),
        progress.pages as i64,
        progress.rows as i64,
        progress.read_until,
    )
    .execute(pg)
    .await?;
    match done.rows_affected() {
        1 => Ok(()),
        _ => Err(StoreError::ClaimLost),
    }
}

/// Puts a feed off for which there is no budget now. That is no failure.
pub async fn postpone(
    pg: &mut PgConnection,
    claim: &Claim,
    feed: &str,
    due_in: Duration,
) -> Result<(), StoreError> {
    hold(pg, claim).await?;
    sqlx::query!(
        "UPDATE core.poll_feed
         SET limited = true, due_at = now() + make_interval(secs => $3)
         WHERE connection = $1 AND feed = $2",
        claim.connection.0,
        feed,
        due_in.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Notes that a feed could not be read.
pub async fn fail(
    pg: &mut PgConnection,
    claim: &Claim,
    feed: &str,
    error: &str,
    due_in: Duration,
) -> Result<(), StoreError> {
    hold(pg, claim).await?;
    sqlx::query!(
        "UPDATE core.poll_feed
         SET consecutive_failures = consecutive_failures + 1, last_error = $3, last_error_at = now(),
             limited = false, due_at = now() + make_interval(secs => $4)
         WHERE connection = $1 AND feed = $2",
        claim.connection.0,
        feed,
        storable(error),
        due_in.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// How a run left a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending<'a> {
    /// The connection's feeds.
    pub feeds: &'a [String],
    /// For how long nothing is asked, where the provider has refused.
    pub refused_for: Option<Duration>,
    /// Whether something else came of it than a refusal.
    pub answered: bool,
    /// What others were told of how it is doing.
    pub told: Option<&'a str>,
}

/// Gives a claim back; the connection is due when the first of its feeds is.
pub async fn release(
    pg: &mut PgConnection,
    claim: &Claim,
    ending: Ending<'_>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE core.poll AS p
         SET owner = NULL, lease_until = NULL, told = COALESCE($6, told),
             refused = CASE WHEN $4::float8 IS NOT NULL THEN true WHEN $5 THEN false ELSE refused END,
             due_at = CASE
                 WHEN asked THEN now()
                 WHEN $4::float8 IS NOT NULL THEN now() + make_interval(secs => $4)
                 ELSE COALESCE((SELECT min(f.due_at)
                                FROM core.poll_feed AS f
                                WHERE f.connection = p.connection AND f.feed = ANY ($3)), now())
             END
         WHERE connection = $1 AND epoch = $2",
        claim.connection.0,
        claim.epoch as i64,
        ending.feeds,
        ending.refused_for.map(|wait| wait.as_secs_f64()),
        ending.answered,
        ending.told,
    )
    .execute(&mut *pg)
    .await?;
    // Whoever asked meanwhile wants all feeds to be read again.
    sqlx::query!(
        "UPDATE core.poll_feed AS f
         SET due_at = now()
         FROM core.poll AS p
         WHERE p.connection = f.connection AND p.connection = $1 AND p.epoch = $2 AND p.asked",
        claim.connection.0,
        claim.epoch as i64,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// A number of seconds that PostgreSQL has counted.
fn seconds(count: f64) -> Duration {
    Duration::try_from_secs_f64(count).unwrap_or_default()
}
