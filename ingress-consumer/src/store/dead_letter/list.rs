//! Looking at dead letters.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, unsigned};

/// Which: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Those with these ids.
    pub ids: Option<Vec<i64>>,
    /// Of this workspace, as far as it is known beyond the envelope's own word.
    pub workspace: Option<String>,
    /// Of this connection.
    pub connection: Option<Uuid>,
    /// Given up for this reason.
    pub reason: Option<String>,
    /// Whether they were replayed and have not died since.
    pub replayed: Option<bool>,
}

/// A dead letter as stored, without its body.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id.
    pub id: i64,
    /// The key that it was routed by.
    pub routing_key: String,
    /// The sender's id for it.
    pub message_id: String,
    /// The body's media type.
    pub content_type: String,
    /// Its headers, without what the broker added.
    pub headers: Value,
    /// How many bytes its body has.
    pub size: i32,
    /// Why the broker gave it up.
    pub reason: String,
    /// In which queue.
    pub queue: String,
    /// How often, as far as is known.
    pub deaths: i64,
    /// When last.
    pub died_at: Option<DateTime<Utc>>,
    /// When it was taken from the queue of dead letters.
    pub taken_at: DateTime<Utc>,
    /// Whose it is, if that is known.
    pub workspace: Option<String>,
    /// Whose the envelope says that it is.
    pub claimed_workspace: Option<String>,
    /// Its connection.
    pub connection: Option<Uuid>,
    /// Its provider.
    pub provider: Option<String>,
    /// Its session.
    pub session: Option<Uuid>,
    /// The partition that its frames were numbered for.
    pub frame_partition: Option<i32>,
    /// How many frames it holds, as far as is known.
    pub frames: i64,
    /// Since when it is back in the ingress queue.
    pub replayed_at: Option<DateTime<Utc>>,
    /// How often it was put there.
    pub replays: i64,
}

/// Rows in the order of their ids, after the one given.
pub async fn page(
    pg: &mut PgConnection,
    filter: &Filter,
    after: Option<i64>,
    limit: i64,
) -> Result<Vec<Row>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT id, routing_key, message_id, content_type, headers, octet_length(body) AS "size!",
                  reason, queue, deaths, died_at, taken_at, workspace, claimed_workspace, connection,
                  provider, session, frame_partition, frames, replayed_at, replays
         FROM core.dead_letter
         WHERE id > $1
           AND ($2::bigint[] IS NULL OR id = ANY($2))
           AND ($3::text IS NULL OR workspace = $3)
           AND ($4::uuid IS NULL OR connection = $4)
           AND ($5::text IS NULL OR reason = $5)
           AND ($6::boolean IS NULL OR (replayed_at IS NOT NULL) = $6)
         ORDER BY id
         LIMIT $7"#,
        after.unwrap_or_default(),
        filter.ids.as_deref(),
        filter.workspace,
        filter.connection,
        filter.reason,
        filter.replayed,
        limit,
    )
    .fetch_all(pg)
    .await?;
    Ok(rows)
}

/// `rows` with their bodies, byte for byte; without those that were removed in the meantime.
pub async fn with_bodies(
    pg: &mut PgConnection,
    rows: Vec<Row>,
) -> Result<Vec<(Row, Vec<u8>)>, StoreError> {
    let ids: Vec<_> = rows.iter().map(|row| row.id).collect();
    let found = sqlx::query!(
        "SELECT id, body FROM core.dead_letter WHERE id = ANY($1)",
        &ids,
    )
    .fetch_all(pg)
    .await?;
    let mut bodies: std::collections::BTreeMap<_, _> =
        found.into_iter().map(|row| (row.id, row.body)).collect();
    let rows = rows.into_iter();
    Ok(rows
        .filter_map(|row| bodies.remove(&row.id).map(|body| (row, body)))
        .collect())
}

/// How many there are.
pub async fn sum(pg: &mut PgConnection, filter: &Filter) -> Result<u64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
         FROM core.dead_letter
         WHERE ($1::bigint[] IS NULL OR id = ANY($1))
           AND ($2::text IS NULL OR workspace = $2)
           AND ($3::uuid IS NULL OR connection = $3)
           AND ($4::text IS NULL OR reason = $4)
           AND ($5::boolean IS NULL OR (replayed_at IS NOT NULL) = $5)"#,
        filter.ids.as_deref(),
        filter.workspace,
        filter.connection,
        filter.reason,
        filter.replayed,
    )
    .fetch_one(pg)
    .await?;
    Ok(unsigned(count))
}
