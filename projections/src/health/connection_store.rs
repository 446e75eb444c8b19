//! SQL of the table `health.connection`: how connections are doing.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_model::event::ConnectionStatusChanged;
use shared_model::{ConnectionId, ConnectionStatus, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::ConnectionChange;

/// Keeps what `changes` say, at most one a connection, where it is news; returns how many were.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    changes: &[ConnectionChange],
) -> Result<u64, sqlx::Error> {
    let workspaces: Vec<_> = changes.iter().map(|c| c.workspace.to_string()).collect();
    let facts = || changes.iter().map(|change| &change.fact);
    let connections: Vec<_> = facts().map(|fact| fact.connection.0).collect();
    let providers: Vec<_> = facts().map(|fact| fact.provider.to_string()).collect();
    let revisions: Vec<_> = facts().map(|fact| fact.revision as i64).collect();
    let statuses: Vec<_> = facts().map(|fact| fact.status.clone()).collect();
    let since: Vec<_> = facts().map(|fact| fact.since).collect();
    let reasons: Vec<_> = facts().map(|fact| fact.reason.clone()).collect();
    let errors: Vec<_> = facts().map(|fact| fact.error.clone()).collect();
    let owners: Vec<_> = facts().map(|fact| fact.owner.clone()).collect();
    let epochs: Vec<_> = facts().map(|fact| fact.epoch as i64).collect();
    let rates: Vec<_> = facts().map(|fact| fact.frames_per_minute as i64).collect();
    let reconnects: Vec<_> = facts().map(|fact| fact.reconnects as i64).collect();
    let done = sqlx::query!(
        r#"
        INSERT INTO health.connection AS stored
            (workspace, connection, provider, revision, status, since, reason, last_error, owner, epoch,
             frames_per_minute, reconnects, removed, out_since, out_reason, well_since)
        SELECT change.*, change.status = $13,
            CASE WHEN change.status IN ('disconnected', 'silent') THEN change.since END,
            CASE change.status
                WHEN 'disconnected' THEN COALESCE(change.reason, change.status)
                WHEN 'silent' THEN change.status
            END,
            CASE WHEN change.status = 'subscribed' THEN change.since END
        FROM UNNEST(
            $1::text[], $2::uuid[], $3::text[], $4::bigint[], $5::text[], $6::timestamptz[], $7::text[],
            $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[]
        ) AS change
            (workspace, connection, provider, revision, status, since, reason, last_error, owner, epoch,
             frames_per_minute, reconnects)
        -- Everybody locks rows in the same order, so nobody waits in a circle.
        ORDER BY change.workspace COLLATE "C", change.connection
        ON CONFLICT (workspace, connection) DO UPDATE
        SET provider = excluded.provider, revision = excluded.revision, status = excluded.status,
            since = excluded.since, reason = excluded.reason,
            last_error = excluded.last_error,
            owner = excluded.owner, epoch = excluded.epoch,
            frames_per_minute = excluded.frames_per_minute, reconnects = excluded.reconnects,
            removed = excluded.removed,
            -- A socket that opens has not ended an outage: only what comes over it does.
            out_since = CASE
                WHEN excluded.status = 'connected' THEN stored.out_since
                WHEN excluded.out_since IS NOT NULL
                    THEN COALESCE(stored.out_since, excluded.out_since)
            END,
            out_reason = CASE
                WHEN excluded.status = 'connected' THEN stored.out_reason
                ELSE excluded.out_reason
            END,
            well_since = CASE
                WHEN excluded.well_since IS NOT NULL
                    THEN COALESCE(stored.well_since, excluded.well_since)
            END
        WHERE excluded.revision > stored.revision
        "#,
        &workspaces,
        &connections,
        &providers,
        &revisions,
        &statuses,
        &since,
        &reasons as &[Option<String>],
        &errors as &[Option<String>],
        &owners,
        &epochs,
        &rates,
        &reconnects,
        ConnectionStatusChanged::REMOVED,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// A connection's health as answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ConnectionHealth {
    /// The connection.
    pub connection: Uuid,
    /// Its provider.
    pub provider: String,
    /// `connected`, `subscribed`, `silent` or `disconnected`.
    pub status: String,
    /// Since when (UTC).
    pub since: DateTime<Utc>,
    /// Why, as a word.
    pub reason: Option<String>,
    /// What went wrong last, even if all is well since.
    pub last_error: Option<String>,
    /// The publisher that reads it, or did last.
    pub owner: String,
    /// The owner epoch.
    pub epoch: i64,
    /// Frames in the last minute that was counted.
    pub frames_per_minute: i64,
    /// How often its owner had to connect again.
    pub reconnects: i64,
}

/// A workspace's connections in the order of their ids, after the one given.
pub(super) async fn list(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ConnectionHealth>, sqlx::Error> {
    sqlx::query_as!(
        ConnectionHealth,
        "
        SELECT connection, provider, status, since, reason, last_error, owner, epoch,
            frames_per_minute, reconnects
        FROM health.connection
        WHERE workspace = $1 AND NOT removed AND ($2::uuid IS NULL OR connection > $2)
        ORDER BY connection
        LIMIT $3
        ",
        workspace.as_str(),
        after,
        limit,
    )
    .fetch_all(connection)
    .await
}

/// One connection, if anything was heard of it and it was not removed.
pub(super) async fn find(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    id: ConnectionId,
) -> Result<Option<ConnectionHealth>, sqlx::Error> {
    sqlx::query_as!(
        ConnectionHealth,
        "
        SELECT connection, provider, status, since, reason, last_error, owner, epoch,
            frames_per_minute, reconnects
        FROM health.connection
        WHERE workspace = $1 AND connection = $2 AND NOT removed
        ",
        workspace.as_str(),
        id.0,
    )
    .fetch_optional(connection)
    .await
}

/// A workspace's connections by status.
#[derive(Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[schema(as = ConnectionsByStatus)]
pub(super) struct Summary {
    /// The socket is open, and nothing has come over it yet.
    connected: i64,
    /// Frames come.
    subscribed: i64,
    /// The socket is open, and nothing has come for too long.
    silent: i64,
    /// There is no socket.
    disconnected: i64,
}

/// Counts a workspace's connections.
pub(super) async fn count(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
) -> Result<Summary, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT status, count(*) AS "connections!"
        FROM health.connection
        WHERE workspace = $1 AND NOT removed
        GROUP BY status
        "#,
        workspace.as_str(),
    )
    .fetch_all(connection)
    .await?;
    let mut summary = Summary::default();
    for row in rows {
        // A status of a newer core is none of these.
        let count = match ConnectionStatus::from_name(&row.status) {
            Some(ConnectionStatus::Connected) => &mut summary.connected,
            Some(ConnectionStatus::Subscribed) => &mut summary.subscribed,
            Some(ConnectionStatus::Silent) => &mut summary.silent,
            Some(ConnectionStatus::Disconnected) => &mut summary.disconnected,
            None => continue,
        };
        *count += row.connections;
    }
    Ok(summary)
}
