//! Tables `workspace` and `connection`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared_model::{ConnectionId, ConnectionKind, Provider, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// A connection as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    /// Its id.
    pub id: ConnectionId,
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The provider's protocol.
    pub provider: Provider,
    /// How its data come.
    pub kind: ConnectionKind,
    /// Where to connect; empty for a connection that is only delivered to.
    pub endpoint: String,
    /// Where the credential is.
    pub credential: Option<String>,
    /// Settings in the provider's own terms.
    pub settings: Value,
    /// When it was added.
    pub created_at: DateTime<Utc>,
}

struct Row {
    connection: Uuid,
    workspace: String,
    provider: String,
    kind: String,
    endpoint: String,
    credential: Option<String>,
    settings: Value,
    created_at: DateTime<Utc>,
}

impl TryFrom<Row> for Connection {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let broken = |column| {
            let id = row.connection.to_string();
            move |error| StoreError::inconsistent("core.connection", column, id, error)
        };
        Ok(Self {
            id: ConnectionId(row.connection),
            workspace: row.workspace.try_into().map_err(broken("workspace"))?,
            provider: row.provider.try_into().map_err(broken("provider"))?,
            kind: ConnectionKind::from_name(&row.kind).ok_or_else(|| {
                let error = format!("{:?} is not known", row.kind);
                StoreError::inconsistent(
                    "core.connection",
                    "kind",
                    row.connection.to_string(),
                    error,
                )
            })?,
            endpoint: row.endpoint,
            credential: row.credential,
            settings: row.settings,
            created_at: row.created_at,
        })
    }
}

/// Adds a connection, and its workspace if this is its first.
pub async fn insert(pg: &mut PgConnection, connection: &Connection) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO core.workspace (workspace) VALUES ($1) ON CONFLICT (workspace) DO NOTHING",
        connection.workspace.as_str(),
    )
    .execute(&mut *pg)
    .await?;
    sqlx::query!(
        "INSERT INTO core.connection
             (connection, workspace, provider, kind, endpoint, credential, settings, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        connection.id.0,
        connection.workspace.as_str(),
        connection.provider.as_str(),
        connection.kind.name(),
        connection.endpoint,
        connection.credential,
        connection.settings,
        connection.created_at,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// The connection `id`, removed ones included: their frames may still be under way.
pub async fn find(
    pg: &mut PgConnection,
    id: ConnectionId,
) -> Result<Option<Connection>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT connection, workspace, provider, kind, endpoint, credential, settings, created_at
         FROM core.connection
         WHERE connection = $1",
        id.0,
    )
    .fetch_optional(pg)
    .await?;
    row.map(Connection::try_from).transpose()
}

/// A workspace's connections in the order of their ids, after the one given.
pub async fn list(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    after: Option<ConnectionId>,
    limit: i64,
) -> Result<Vec<Connection>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT connection, workspace, provider, kind, endpoint, credential, settings, created_at
         FROM core.connection
         WHERE workspace = $1 AND removed_at IS NULL AND ($2::uuid IS NULL OR connection > $2)
         ORDER BY connection
         LIMIT $3",
        workspace.as_str(),
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter().map(Connection::try_from).collect()
}

/// Removes a connection; false if the workspace has none with this id.
pub async fn remove(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    id: ConnectionId,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE core.connection
         SET removed_at = now()
         WHERE workspace = $1 AND connection = $2 AND removed_at IS NULL",
        workspace.as_str(),
        id.0,
    )
    .execute(pg)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The workspace's connection `id`, unless it was removed.
pub async fn find_live(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    id: ConnectionId,
) -> Result<Option<Connection>, StoreError> {
    let row = sqlx::query_as!(
        Row,
        "SELECT connection, workspace, provider, kind, endpoint, credential, settings, created_at
         FROM core.connection
         WHERE workspace = $1 AND connection = $2 AND removed_at IS NULL",
        workspace.as_str(),
        id.0,
    )
    .fetch_optional(pg)
    .await?;
    row.map(Connection::try_from).transpose()
}

/// The providers of `connections`, removed ones included.
pub async fn providers(
    pg: &mut PgConnection,
    connections: &[ConnectionId],
) -> Result<BTreeMap<ConnectionId, Provider>, StoreError> {
    let ids: Vec<_> = connections.iter().map(|connection| connection.0).collect();
    let rows = sqlx::query!(
        "SELECT connection, provider FROM core.connection WHERE connection = ANY($1)",
        &ids,
    )
    .fetch_all(pg)
    .await?;
    let providers = rows.into_iter().map(|row| {
        let provider = row.provider.try_into().map_err(|error| {
            let id = row.connection.to_string();
            StoreError::inconsistent("core.connection", "provider", id, error)
        })?;
        Ok((ConnectionId(row.connection), provider))
    });
    providers.collect()
}
