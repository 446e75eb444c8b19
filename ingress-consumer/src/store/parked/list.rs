//! Looking at parked frames, and discarding them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared_model::WorkspaceId;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, unsigned};

/// Whose parked frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// A workspace's.
    Workspace(WorkspaceId),
    /// Those that belong to no workspace, as far as is known.
    Unattributed,
}

impl Scope {
    fn workspace(&self) -> Option<&str> {
        match self {
            Self::Workspace(workspace) => Some(workspace.as_str()),
            Self::Unattributed => None,
        }
    }
}

/// Which of them: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// The one with this id.
    pub id: Option<i64>,
    /// Of this provider.
    pub provider: Option<String>,
    /// Of this connection.
    pub connection: Option<Uuid>,
    /// Parked for this reason.
    pub reason: Option<String>,
    /// Parked then or later.
    pub from: Option<DateTime<Utc>>,
    /// Parked before.
    pub to: Option<DateTime<Utc>>,
}

/// A parked frame as stored, without its body.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: i64,
    /// The same for the same frame however often it is delivered.
    pub identity: String,
    /// Whose it is, if that is known.
    pub workspace: Option<String>,
    /// Whose the envelope said that it is.
    pub claimed_workspace: Option<String>,
    /// Its connection.
    pub connection: Option<Uuid>,
    /// Its provider.
    pub provider: Option<String>,
    /// Its session.
    pub session: Option<Uuid>,
    /// The partition that it was numbered for.
    pub frame_partition: Option<i32>,
    /// Its number in the session.
    pub frame_number: Option<i64>,
    /// How it came to be read.
    pub frame_origin: Option<String>,
    /// When it was received.
    pub received_at: Option<DateTime<Utc>>,
    /// When it was parked.
    pub parked_at: DateTime<Utc>,
    /// When its last copy came.
    pub last_at: DateTime<Utc>,
    /// Why it was parked.
    pub reason: String,
    /// Why exactly.
    pub detail: String,
    /// Of a message that is no envelope: what else it came with.
    pub headers: Option<Value>,
    /// How many bytes its body has.
    pub size: i32,
    /// How many replays parked it again.
    pub attempts: i64,
    /// How many further copies came.
    pub repeats: i64,
}

/// The body of the row `id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Body {
    /// The row.
    pub id: i64,
    /// Byte for byte.
    pub body: Vec<u8>,
}

/// So many parked frames.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum {
    /// Rows.
    pub frames: u64,
    /// Frames that they stand for, themselves included.
    pub copies: u64,
    /// The last row's id.
    pub last: Option<i64>,
}

/// Rows in the order of their ids, after the one given.
pub async fn page(
    pg: &mut PgConnection,
    scope: &Scope,
    filter: &Filter,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Row>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, identity, workspace, claimed_workspace, connection, provider, session,
                  frame_partition, frame_number, frame_origin, received_at, parked_at, last_at,
                  reason, detail, headers, octet_length(body) AS "size!", attempts, repeats
         FROM core.parked_frame
         WHERE (workspace = $1 OR ($1 IS NULL AND workspace IS NULL))
           AND id > $2
           AND ($3::bigint IS NULL OR id = $3)
           AND ($4::text IS NULL OR provider = $4)
           AND ($5::uuid IS NULL OR connection = $5)
           AND ($6::text IS NULL OR reason = $6)
           AND ($7::timestamptz IS NULL OR parked_at >= $7)
           AND ($8::timestamptz IS NULL OR parked_at < $8)
         ORDER BY id
         LIMIT $9"#,
        scope.workspace(),
        after.unwrap_or_default(),
        filter.id,
        filter.provider,
        filter.connection,
        filter.reason,
        filter.from,
        filter.to,
        limit,
    )
    .fetch_all(pg)
    .await?;
    Ok(rows)
}

/// The bodies of those of `ids` that are parked still, in the order of their ids.
pub async fn bodies(pg: &mut PgConnection, ids: &[i64]) -> Result<Vec<Body>, StoreError> {
    let bodies = sqlx::query_as!(
        Body,
        "SELECT id, body FROM core.parked_frame WHERE id = ANY($1) ORDER BY id",
        ids,
    )
    .fetch_all(pg)
    .await?;
    Ok(bodies)
}

/// How many there are.
pub async fn sum(pg: &mut PgConnection, scope: &Scope, filter: &Filter) -> Result<Sum, StoreError> {
    let row = sqlx::query!(
        r#"SELECT count(*) AS "frames!", coalesce(sum(1 + repeats), 0)::bigint AS "copies!",
                  max(id) AS last
         FROM core.parked_frame
         WHERE (workspace = $1 OR ($1 IS NULL AND workspace IS NULL))
           AND ($2::bigint IS NULL OR id = $2)
           AND ($3::text IS NULL OR provider = $3)
           AND ($4::uuid IS NULL OR connection = $4)
           AND ($5::text IS NULL OR reason = $5)
           AND ($6::timestamptz IS NULL OR parked_at >= $6)
           AND ($7::timestamptz IS NULL OR parked_at < $7)"#,
        scope.workspace(),
        filter.id,
        filter.provider,
        filter.connection,
        filter.reason,
        filter.from,
        filter.to,
    )
    .fetch_one(pg)
    .await?;
    Ok(Sum {
        frames: unsigned(row.frames),
        copies: unsigned(row.copies),
        last: row.last,
    })
}

/// Discards up to `limit` of them, lowest ids first.
pub async fn discard(
    pg: &mut PgConnection,
    scope: &Scope,
    filter: &Filter,
    limit: i64,
) -> Result<Sum, StoreError> {
    let row = sqlx::query!(
        r#"WITH discarded AS (
             DELETE FROM core.parked_frame
             WHERE id IN (
                 SELECT id
                 FROM core.parked_frame
                 WHERE (workspace = $1 OR ($1 IS NULL AND workspace IS NULL))
                   AND ($2::bigint IS NULL OR id = $2)
                   AND ($3::text IS NULL OR provider = $3)
                   AND ($4::uuid IS NULL OR connection = $4)
                   AND ($5::text IS NULL OR reason = $5)
                   AND ($6::timestamptz IS NULL OR parked_at >= $6)
                   AND ($7::timestamptz IS NULL OR parked_at < $7)
                 ORDER BY id
                 LIMIT $8
                 FOR UPDATE
             )
             RETURNING id, repeats
         )
         SELECT count(*) AS "frames!", coalesce(sum(1 + repeats), 0)::bigint AS "copies!",
                max(id) AS last
         FROM discarded"#,
        scope.workspace(),
        filter.id,
        filter.provider,
        filter.connection,
        filter.reason,
        filter.from,
        filter.to,
        limit,
    )
    .fetch_one(pg)
    .await?;
    Ok(Sum {
        frames: unsigned(row.frames),
        copies: unsigned(row.copies),
        last: row.last,
    })
}
