//! Table `connection_status`: how each stream connection is doing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared_model::event::ConnectionStatusChanged;
use shared_model::{ConnectionId, ConnectionStatus, Provider, StatusReport, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, storable, unsigned};

/// A connection's status as it is now, and whose connection it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// What to tell others.
    pub fact: ConnectionStatusChanged,
}

struct Row {
    connection: Uuid,
    workspace: String,
    provider: String,
    epoch: i64,
    revision: i64,
    status: String,
    since: DateTime<Utc>,
    reason: Option<String>,
    error: Option<String>,
    owner: String,
    frames_per_minute: i64,
    reconnects: i64,
}

impl TryFrom<Row> for Changed {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let broken = |column| {
            let id = row.connection.to_string();
            move |error| StoreError::inconsistent("core.connection_status", column, id, error)
        };
        Ok(Self {
            workspace: row.workspace.try_into().map_err(broken("workspace"))?,
            fact: ConnectionStatusChanged {
                connection: ConnectionId(row.connection),
                provider: Provider::try_from(row.provider).map_err(broken("provider"))?,
                revision: unsigned(row.revision),
                status: row.status,
                since: row.since,
                reason: row.reason,
                error: row.error,
                owner: row.owner,
                epoch: unsigned(row.epoch),
                frames_per_minute: unsigned(row.frames_per_minute),
                reconnects: unsigned(row.reconnects),
            },
        })
    }
}

/// Keeps what `reports` say, at most one a connection, and returns those that were news.
///
/// No news is what an earlier epoch says, or the same epoch said before; what comes from an epoch
/// that has been succeeded, unless its owner reads on beside its successor; and what is said in the
/// name of a workspace or provider that the connection is not of.
pub async fn apply(
    pg: &mut PgConnection,
    reports: &[StatusReport],
) -> Result<Vec<Changed>, StoreError> {
    let connections: Vec<_> = reports.iter().map(|r| r.connection.0).collect();
    let workspaces: Vec<_> = reports.iter().map(|r| r.workspace.to_string()).collect();
    let providers: Vec<_> = reports.iter().map(|r| r.provider.to_string()).collect();
    let epochs: Vec<_> = reports.iter().map(|r| r.epoch as i64).collect();
    let numbers: Vec<_> = reports.iter().map(|r| r.number as i64).collect();
    let statuses: Vec<_> = reports.iter().map(|r| r.status.name().to_owned()).collect();
    let since: Vec<_> = reports.iter().map(|r| r.since).collect();
    let reasons: Vec<_> = reports
        .iter()
        .map(|r| r.reason.as_deref().map(storable))
        .collect();
    let errors: Vec<_> = reports
        .iter()
        .map(|r| r.error.as_deref().map(storable))
        .collect();
    let owners: Vec<_> = reports.iter().map(|r| storable(&r.owner)).collect();
    let sessions: Vec<_> = reports.iter().map(|r| r.session.map(|s| s.0)).collect();
    let rates: Vec<_> = reports.iter().map(|r| r.frames_per_minute as i64).collect();
    let reconnects: Vec<_> = reports.iter().map(|r| r.reconnects as i64).collect();
    let rows = sqlx::query_as!(
        Row,
        "INSERT INTO core.connection_status AS known
             (connection, workspace, provider, epoch, number, revision, status, since, reason, error,
              owner, session, frames_per_minute, reconnects)
         SELECT said.connection, said.workspace, said.provider, said.epoch, said.number, 1,
                said.status, said.since, said.reason, said.error, said.owner, said.session,
                said.frames_per_minute, said.reconnects
         FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[],
                     $7::timestamptz[], $8::text[], $9::text[], $10::text[], $11::uuid[],
                     $12::bigint[], $13::bigint[])
              AS said (connection, workspace, provider, epoch, number, status, since, reason, error,
                       owner, session, frames_per_minute, reconnects)
         JOIN core.connection AS c
              ON c.connection = said.connection AND c.workspace = said.workspace
             AND c.provider = said.provider AND c.removed_at IS NULL
         LEFT JOIN core.stream AS s ON s.connection = said.connection
         WHERE s.connection IS NULL OR said.epoch >= s.epoch OR said.epoch = s.outgoing_epoch
         -- Everybody locks rows in the same order, so nobody waits in a circle.
         ORDER BY said.connection
         ON CONFLICT (connection) DO UPDATE
         SET epoch = EXCLUDED.epoch, number = EXCLUDED.number, revision = known.revision + 1,
             status = EXCLUDED.status, since = EXCLUDED.since, reason = EXCLUDED.reason,
             error = EXCLUDED.error, owner = EXCLUDED.owner, session = EXCLUDED.session,
             frames_per_minute = EXCLUDED.frames_per_minute, reconnects = EXCLUDED.reconnects
         WHERE (EXCLUDED.epoch, EXCLUDED.number) > (known.epoch, known.number)
         RETURNING connection, workspace, provider, epoch, revision, status, since, reason, error,
                   owner, frames_per_minute, reconnects",
        &connections,
        &workspaces,
        &providers,
        &epochs,
        &numbers,
        &statuses,
        &since,
        &reasons as &[Option<String>],
        &errors as &[Option<String>],
        &owners,
        &sessions as &[Option<Uuid>],
        &rates,
        &reconnects,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter().map(Changed::try_from).collect()
}

/// Up to `limit` connections' statuses behind the one given, in the order of their ids.
pub async fn page(
    pg: &mut PgConnection,
    after: Option<ConnectionId>,
    limit: i64,
) -> Result<Vec<Changed>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT connection, workspace, provider, epoch, revision, status, since, reason, error,
                owner, frames_per_minute, reconnects
         FROM core.connection_status
         WHERE $1::uuid IS NULL OR connection > $1
         ORDER BY connection
         LIMIT $2",
        after.map(|after| after.0),
        limit,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter().map(Changed::try_from).collect()
}

/// Notes that nobody reads the streams whose owners' leases ended more than `grace` ago, which those
/// owners cannot say any more; returns them.
pub async fn disown(pg: &mut PgConnection, grace: Duration) -> Result<Vec<Changed>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "UPDATE core.connection_status AS known
         SET status = $1, since = now(), reason = 'unowned', frames_per_minute = 0,
             revision = known.revision + 1
         FROM core.stream AS s
         WHERE s.connection = known.connection
           AND known.status <> $1
           AND (s.lease_until IS NULL OR s.lease_until < now() - make_interval(secs => $2))
           AND (s.outgoing_until IS NULL OR s.outgoing_until < now() - make_interval(secs => $2))
         RETURNING known.connection, known.workspace, known.provider, known.epoch, known.revision,
                   known.status, known.since, known.reason, known.error, known.owner,
                   known.frames_per_minute, known.reconnects",
        ConnectionStatus::Disconnected.name(),
        grace.as_secs_f64(),
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter().map(Changed::try_from).collect()
}

/// The streams of `instance` of which it was said in its absence that nobody reads them.
pub async fn to_be_said_again(
    pg: &mut PgConnection,
    instance: &str,
) -> Result<Vec<ConnectionId>, sqlx::Error> {
    let connections = sqlx::query_scalar!(
        "SELECT known.connection
         FROM core.connection_status AS known
         JOIN core.stream AS s USING (connection)
         WHERE known.reason = 'unowned' AND s.owner = $1",
        instance,
    )
    .fetch_all(pg)
    .await?;
    Ok(connections.into_iter().map(ConnectionId).collect())
}

/// Forgets how a removed connection was doing; returns what to tell others, if anything was known.
pub async fn remove(
    pg: &mut PgConnection,
    connection: ConnectionId,
) -> Result<Option<Changed>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "DELETE FROM core.connection_status
         WHERE connection = $1
         RETURNING connection, workspace, provider, epoch, revision + 1 AS \"revision!\",
                   $2::text AS \"status!\", now() AS \"since!\", NULL::text AS reason,
                   NULL::text AS error, owner, 0::bigint AS \"frames_per_minute!\", reconnects",
        connection.0,
        ConnectionStatusChanged::REMOVED,
    )
    .fetch_optional(pg)
    .await?;
    row.map(Changed::try_from).transpose()
}
