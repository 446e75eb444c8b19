//! Tables `publisher` and `stream`: who is there, and who reads what.
//!
//! Whoever changes ownership holds [`lock`] until the commit, so that no two placements cross. Time is
//! the database's: a publisher's clock is never compared with anything.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared_model::control::{Heartbeat, Release, StreamAssignment, StreamReport, StreamState};
use shared_model::stream_settings::Handover;
use shared_model::{ConnectionId, Provider, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, storable, unsigned};
use crate::placement::{PublisherView, StreamView};

/// What a provider sent only to the socket before is read from that one within this time.
const SETTLED: Duration = Duration::from_secs(1);
/// How long a publisher that is gone is remembered.
const REMEMBERED: Duration = Duration::from_hours(1);

/// Keeps others from placing streams until the transaction ends.
pub async fn lock(pg: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('core.stream_placement'))")
        .fetch_one(pg)
        .await?;
    Ok(())
}

/// Notes that `instance` is alive for another `lease`, with everything that it owns; returns its
/// epoch. What an earlier start of it owned is free. None if it was superseded: a process that goes
/// by the same name was started later and has been heard of.
pub async fn beat(
    pg: &mut PgConnection,
    instance: &str,
    heartbeat: &Heartbeat,
    lease: Duration,
) -> Result<Option<u64>, sqlx::Error> {
    let before = sqlx::query!(
        "SELECT incarnation, superseded FROM core.publisher WHERE instance = $1",
        instance,
    )
    .fetch_optional(&mut *pg)
    .await?;
    if let Some(before) = before {
        if before.superseded == Some(heartbeat.incarnation) {
            return Ok(None);
        }
        if before.incarnation != heartbeat.incarnation {
            release_all(pg, instance).await?;
        }
    }
    let epoch = sqlx::query_scalar!(
        "INSERT INTO core.publisher AS known (instance, incarnation, capacity, draining, lease_until, holding)
         VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5), $6)
         ON CONFLICT (instance) DO UPDATE
         SET incarnation = EXCLUDED.incarnation,
             superseded = CASE WHEN known.incarnation = EXCLUDED.incarnation
                               THEN known.superseded ELSE known.incarnation END,
             epoch = CASE WHEN known.incarnation = EXCLUDED.incarnation
                          THEN known.epoch ELSE EXCLUDED.epoch END,
             started_at = CASE WHEN known.incarnation = EXCLUDED.incarnation
                               THEN known.started_at ELSE now() END,
             capacity = EXCLUDED.capacity,
             draining = EXCLUDED.draining,
             holding = EXCLUDED.holding,
             seen_at = now(),
             lease_until = EXCLUDED.lease_until
         RETURNING epoch",
        instance,
        heartbeat.incarnation,
        i32::try_from(heartbeat.capacity).unwrap_or(i32::MAX),
        heartbeat.draining,
        lease.as_secs_f64(),
        heartbeat.holding,
    )
    .fetch_one(&mut *pg)
    .await?;
    // An owner that comes late and finds nobody in its place goes on under the epoch that it has.
    sqlx::query!(
        "UPDATE core.stream
         SET lease_until = now() + make_interval(secs => $2)
         WHERE owner = $1",
        instance,
        lease.as_secs_f64(),
    )
    .execute(&mut *pg)
    .await?;
    sqlx::query!(
        "DELETE FROM core.publisher WHERE lease_until < now() - make_interval(secs => $1)",
        REMEMBERED.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(Some(unsigned(epoch)))
}

/// Frees everything that `instance` reads.
pub async fn release_all(pg: &mut PgConnection, instance: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE core.stream SET owner = NULL, lease_until = NULL WHERE owner = $1",
        instance,
    )
    .execute(&mut *pg)
    .await?;
    sqlx::query!(
        "UPDATE core.stream
         SET outgoing = NULL, outgoing_epoch = NULL, outgoing_until = NULL, asked_back = false
         WHERE outgoing = $1",
        instance,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Notes that `instance` has stopped, unless it was started anew meanwhile.
pub async fn leave(
    pg: &mut PgConnection,
    instance: &str,
    incarnation: Uuid,
) -> Result<bool, sqlx::Error> {
    let gone = sqlx::query!(
        "DELETE FROM core.publisher WHERE instance = $1 AND incarnation = $2",
        instance,
        incarnation,
    )
    .execute(&mut *pg)
    .await?;
    if gone.rows_affected() == 0 {
        return Ok(false);
    }
    release_all(pg, instance).await?;
    Ok(true)
}

/// Notes which streams `instance` has closed.
pub async fn closed(
    pg: &mut PgConnection,
    instance: &str,
    released: &[Release],
) -> Result<(), sqlx::Error> {
    if released.is_empty() {
        return Ok(());
    }
    let connections: Vec<_> = released
        .iter()
        .map(|release| release.connection.0)
        .collect();
    let epochs: Vec<_> = released
        .iter()
        .map(|release| release.epoch as i64)
        .collect();
    sqlx::query!(
        "UPDATE core.stream
         SET outgoing = NULL, outgoing_epoch = NULL, outgoing_until = NULL, asked_back = false
         FROM UNNEST($2::uuid[], $3::bigint[]) AS closed (connection, epoch)
         WHERE core.stream.connection = closed.connection
           AND outgoing = $1
           AND outgoing_epoch = closed.epoch",
        instance,
        &connections,
        &epochs,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Keeps what `instance` says of the streams that it owns. What an earlier owner says is no news.
///
/// Once the owner is subscribed, the one before it is to let go: soon after the provider has begun to
/// send, or after `overlap`, as a parked fleet may be silent for long.
pub async fn report(
    pg: &mut PgConnection,
    instance: &str,
    reports: &[StreamReport],
    overlap: Duration,
) -> Result<(), sqlx::Error> {
    if reports.is_empty() {
        return Ok(());
    }
    let connections: Vec<_> = reports.iter().map(|report| report.connection.0).collect();
    let epochs: Vec<_> = reports.iter().map(|report| report.epoch as i64).collect();
    let lets_go_after: Vec<_> = reports
        .iter()
        .map(|report| match report.state {
            StreamState::Subscribed if report.receiving => Some(overlap.min(SETTLED)),
            StreamState::Subscribed => Some(overlap),
            _ => None,
        })
        .map(|after| after.map(|after| after.as_secs_f64()))
        .collect();
    let contents: Vec<_> = reports
        .iter()
        .map(|report| StreamReport {
            last_error: report.last_error.as_deref().map(storable),
            paused: report.paused.as_deref().map(storable),
            ..report.clone()
        })
        .map(|report| serde_json::to_value(report).unwrap_or_default())
        .collect();
    sqlx::query!(
        "UPDATE core.stream
         SET report = said.report,
             reported_at = now(),
             outgoing_until = CASE WHEN outgoing IS NOT NULL
                 THEN LEAST(outgoing_until, now() + make_interval(secs => said.lets_go_after)) END
         FROM UNNEST($2::uuid[], $3::bigint[], $4::float8[], $5::jsonb[])
              AS said (connection, epoch, lets_go_after, report)
         WHERE core.stream.connection = said.connection
           AND owner = $1
           AND core.stream.epoch = said.epoch",
        instance,
        &connections,
        &epochs,
        &lets_go_after as &[Option<f64>],
        &contents,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// The publishers whose lease has not ended.
pub async fn publishers(pg: &mut PgConnection) -> Result<Vec<PublisherView>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT instance, capacity, draining
         FROM core.publisher
         WHERE lease_until > now()
         ORDER BY instance",
    )
    .fetch_all(pg)
    .await?;
    let publishers = rows.into_iter().map(|row| PublisherView {
        instance: row.instance,
        capacity: u32::try_from(row.capacity).unwrap_or_default(),
        draining: row.draining,
    });
    Ok(publishers.collect())
}

/// Every stream with those who hold it under a lease that has not ended.
pub async fn views(pg: &mut PgConnection) -> Result<Vec<StreamView>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT c.connection,
                  c.settings ->> 'handover' = 'exclusive' AS exclusive,
                  CASE WHEN s.lease_until > now() THEN s.owner END AS owner,
                  CASE WHEN s.outgoing_until > now() THEN s.outgoing END AS outgoing,
                  s.asked_back AS "asked_back?"
           FROM core.connection AS c
           LEFT JOIN core.stream AS s USING (connection)
           WHERE c.kind = 'stream' AND c.removed_at IS NULL
           ORDER BY c.connection"#,
    )
    .fetch_all(pg)
    .await?;
    let views = rows.into_iter().map(|row| StreamView {
        connection: ConnectionId(row.connection),
        handover: if row.exclusive == Some(true) {
            Handover::Exclusive
        } else {
            Handover::Overlap
        },
        owner: row.owner,
        outgoing: row.outgoing,
        asked_back: row.asked_back == Some(true),
    });
    Ok(views.collect())
}

/// How many rows of `core.session` are looked at for when a connection was last heard from: more than
/// its latest sessions have in all partitions.
const LATEST_SESSIONS: i64 = 64;

/// Gives each stream, which nobody reads, a new owner under a new epoch.
pub async fn grant(
    pg: &mut PgConnection,
    granted: &[(ConnectionId, String)],
) -> Result<(), sqlx::Error> {
    if granted.is_empty() {
        return Ok(());
    }
    let (connections, owners) = columns(granted);
    // The lease ends with what is known of the publisher's life: it hears of it with its next heartbeat.
    sqlx::query!(
        "INSERT INTO core.stream AS s (connection, epoch, owner, lease_until, heard_until)
         SELECT given.connection, 1, given.owner, p.lease_until,
                (SELECT max(latest.last_at)
                 FROM (SELECT last_at
                       FROM core.session
                       WHERE core.session.connection = given.connection
                       ORDER BY session DESC
                       LIMIT $3) AS latest)
         FROM UNNEST($1::uuid[], $2::text[]) AS given (connection, owner)
         JOIN core.publisher AS p ON p.instance = given.owner
         ON CONFLICT (connection) DO UPDATE
         SET epoch = s.epoch + 1,
             owner = EXCLUDED.owner,
             lease_until = EXCLUDED.lease_until,
             heard_until = EXCLUDED.heard_until,
             outgoing = NULL, outgoing_epoch = NULL, outgoing_until = NULL, asked_back = false,
             report = NULL, reported_at = NULL",
        &connections,
        &owners,
        LATEST_SESSIONS,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Gives each stream a new owner, under a new epoch, beside the one that reads it. That one has
/// `limit` to let go; nothing is missed as long as it reads, so there is no gap to close.
pub async fn hand_over(
    pg: &mut PgConnection,
    handed: &[(ConnectionId, String)],
    limit: Duration,
) -> Result<(), sqlx::Error> {
    if handed.is_empty() {
        return Ok(());
    }
    let (connections, owners) = columns(handed);
    // Where the last successor was lost before it was subscribed, the one before it is who reads.
    sqlx::query!(
        "UPDATE core.stream AS s
         SET epoch = s.epoch + 1,
             owner = given.owner,
             lease_until = p.lease_until,
             heard_until = NULL,
             outgoing = CASE WHEN s.outgoing_until > now() THEN s.outgoing ELSE s.owner END,
             outgoing_epoch = CASE WHEN s.outgoing_until > now() THEN s.outgoing_epoch ELSE s.epoch END,
             outgoing_until = now() + make_interval(secs => $3),
             report = NULL,
             reported_at = NULL
         FROM UNNEST($1::uuid[], $2::text[]) AS given (connection, owner)
         JOIN core.publisher AS p ON p.instance = given.owner
         WHERE s.connection = given.connection
           AND (s.outgoing_until > now() OR s.owner IS NOT NULL)",
        &connections,
        &owners,
        limit.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}

fn columns(given: &[(ConnectionId, String)]) -> (Vec<Uuid>, Vec<String>) {
    let given = given.iter().cloned();
    given
        .map(|(connection, owner)| (connection.0, owner))
        .unzip()
}

/// Takes each stream from its owner, who has to close it before its lease ends.
pub async fn ask_back(
    pg: &mut PgConnection,
    connections: &[ConnectionId],
) -> Result<(), sqlx::Error> {
    if connections.is_empty() {
        return Ok(());
    }
    let connections: Vec<_> = connections.iter().map(|connection| connection.0).collect();
    sqlx::query!(
        "UPDATE core.stream
         SET outgoing = owner, outgoing_epoch = epoch, outgoing_until = lease_until, asked_back = true,
             owner = NULL, lease_until = NULL
         WHERE connection = ANY($1) AND owner IS NOT NULL",
        &connections,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// What `instance` is to read: what it owns, and what it reads on until its successor is subscribed.
pub async fn assigned(
    pg: &mut PgConnection,
    instance: &str,
) -> Result<Vec<(ConnectionId, u64)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT connection AS "connection!", epoch AS "epoch!"
           FROM core.stream
           WHERE owner = $1
           UNION ALL
           SELECT connection, outgoing_epoch
           FROM core.stream
           WHERE outgoing = $1 AND outgoing_until > now() AND NOT asked_back
           ORDER BY 1"#,
        instance,
    )
    .fetch_all(pg)
    .await?;
    let assigned = rows
        .into_iter()
        .map(|row| (ConnectionId(row.connection), unsigned(row.epoch)));
    Ok(assigned.collect())
}

/// The same streams with all that is needed to read them.
pub async fn assignments(
    pg: &mut PgConnection,
    assigned: &[(ConnectionId, u64)],
) -> Result<Vec<StreamAssignment>, StoreError> {
    let connections: Vec<_> = assigned
        .iter()
        .map(|(connection, _)| connection.0)
        .collect();
    let epochs: Vec<_> = assigned.iter().map(|(_, epoch)| *epoch as i64).collect();
    let rows = sqlx::query!(
        r#"SELECT c.connection, c.workspace, c.provider, c.endpoint, c.credential, c.settings,
                  s.heard_until, given.epoch AS "epoch!"
           FROM UNNEST($1::uuid[], $2::bigint[]) AS given (connection, epoch)
           JOIN core.connection AS c USING (connection)
           JOIN core.stream AS s USING (connection)
           ORDER BY c.connection"#,
        &connections,
        &epochs,
    )
    .fetch_all(pg)
    .await?;
    let mut assignments = Vec::with_capacity(rows.len());
    for row in rows {
        let broken = |column| {
            let id = row.connection.to_string();
            move |error| StoreError::inconsistent("core.connection", column, id, error)
        };
        assignments.push(StreamAssignment {
            connection: ConnectionId(row.connection),
            workspace: WorkspaceId::try_from(row.workspace).map_err(broken("workspace"))?,
            provider: Provider::try_from(row.provider).map_err(broken("provider"))?,
            endpoint: row.endpoint,
            credential: row.credential,
            settings: row.settings,
            epoch: unsigned(row.epoch),
            heard_until: row.heard_until,
        });
    }
    Ok(assignments)
}

/// How long until the first lease of another publisher than `instance` ends, if it is not renewed.
pub async fn next_end(
    pg: &mut PgConnection,
    instance: &str,
) -> Result<Option<Duration>, sqlx::Error> {
    let seconds = sqlx::query_scalar!(
        r#"SELECT extract(epoch FROM min(lease_until) - now())::float8
           FROM core.publisher
           WHERE lease_until > now() AND instance <> $1"#,
        instance,
    )
    .fetch_one(pg)
    .await?;
    Ok(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()))
}

/// Whether a stream is on its way to or from `instance`.
pub async fn is_moving(pg: &mut PgConnection, instance: &str) -> Result<bool, sqlx::Error> {
    let moving = sqlx::query_scalar!(
        r#"SELECT EXISTS (
               SELECT FROM core.stream
               WHERE outgoing_until > now() AND (owner = $1 OR outgoing = $1)
           ) AS "moving!""#,
        instance,
    )
    .fetch_one(pg)
    .await?;
    Ok(moving)
}

/// A stream as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamRow {
    /// The connection.
    pub connection: ConnectionId,
    /// The provider's protocol.
    pub provider: String,
    /// The epoch; 0 if nobody ever read it.
    pub epoch: u64,
    /// Who reads it, under a lease that has not ended.
    pub owner: Option<String>,
    /// Until when.
    pub lease_until: Option<DateTime<Utc>>,
    /// Who read it before and has not let go yet.
    pub outgoing: Option<String>,
    /// What the owner last said of it.
    pub report: Option<Value>,
    /// When it did.
    pub reported_at: Option<DateTime<Utc>>,
}

/// A workspace's streams in the order of their connections' ids, after the one given.
pub async fn list(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    after: Option<ConnectionId>,
    limit: i64,
) -> Result<Vec<StreamRow>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT c.connection, c.provider, COALESCE(s.epoch, 0) AS "epoch!",
                  CASE WHEN s.lease_until > now() THEN s.owner END AS owner,
                  CASE WHEN s.lease_until > now() THEN s.lease_until END AS lease_until,
                  CASE WHEN s.outgoing_until > now() THEN s.outgoing END AS outgoing,
                  s.report AS "report?", s.reported_at AS "reported_at?"
           FROM core.connection AS c
           LEFT JOIN core.stream AS s USING (connection)
           WHERE c.workspace = $1 AND c.kind = 'stream' AND c.removed_at IS NULL
             AND ($2::uuid IS NULL OR c.connection > $2)
           ORDER BY c.connection
           LIMIT $3"#,
        workspace.as_str(),
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(pg)
    .await?;
    let streams = rows.into_iter().map(|row| StreamRow {
        connection: ConnectionId(row.connection),
        provider: row.provider,
        epoch: unsigned(row.epoch),
        owner: row.owner,
        lease_until: row.lease_until,
        outgoing: row.outgoing,
        report: row.report,
        reported_at: row.reported_at,
    });
    Ok(streams.collect())
}

/// Forgets a stream whose connection is removed.
pub async fn forget(pg: &mut PgConnection, connection: ConnectionId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM core.stream WHERE connection = $1",
        connection.0
    )
    .execute(pg)
    .await?;
    Ok(())
}
