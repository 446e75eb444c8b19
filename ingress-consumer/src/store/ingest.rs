//! What HTTP provider-ingest looks up and writes: the connections that its requests name, and table
//! `ingest_key`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared_model::{ConnectionId, ConnectionKind, Provider, WorkspaceId};
use sqlx::PgConnection;

use super::StoreError;

/// What is to be known of a connection before frames are taken for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The provider's protocol.
    pub provider: Provider,
    /// How its data come.
    pub kind: ConnectionKind,
}

/// Those of `ids` that are connections and were not removed.
pub async fn recipients(
    pg: &mut PgConnection,
    ids: &[ConnectionId],
) -> Result<HashMap<ConnectionId, Recipient>, StoreError> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query!(
        "SELECT connection, workspace, provider, kind
         FROM core.connection
         WHERE connection = ANY($1) AND removed_at IS NULL",
        &ids,
    )
    .fetch_all(pg)
    .await?;
    let read = rows.into_iter().map(|row| {
        let broken = |column| {
            move |error| {
                let id = row.connection.to_string();
                StoreError::inconsistent("core.connection", column, id, error)
            }
        };
        let kind = ConnectionKind::from_name(&row.kind).ok_or_else(|| {
            let (id, error) = (row.connection.to_string(), "the kind is not known");
            StoreError::inconsistent("core.connection", "kind", id, error)
        });
        let recipient = Recipient {
            workspace: row.workspace.try_into().map_err(broken("workspace"))?,
            provider: row.provider.try_into().map_err(broken("provider"))?,
            kind: kind?,
        };
        Ok((ConnectionId(row.connection), recipient))
    });
    read.collect()
}

/// Whose request it is, and the key that it carries.
pub type RequestKey = (WorkspaceId, String);

/// A request that was done.
#[derive(Debug, Clone, PartialEq)]
pub struct DoneRequest {
    /// Hash of its body.
    pub fingerprint: Vec<u8>,
    /// What it was answered.
    pub answer: Value,
}

/// Those of `keys` whose requests were done after `since`.
pub async fn done(
    pg: &mut PgConnection,
    keys: &[RequestKey],
    since: DateTime<Utc>,
) -> Result<HashMap<RequestKey, DoneRequest>, StoreError> {
    let (workspaces, names) = columns(keys);
    let rows = sqlx::query!(
        "SELECT done.workspace, done.key, done.fingerprint, done.answer
         FROM UNNEST($1::text[], $2::text[]) AS asked (workspace, key)
         JOIN core.ingest_key AS done USING (workspace, key)
         WHERE done.created_at > $3",
        &workspaces,
        &names,
        since,
    )
    .fetch_all(pg)
    .await?;
    let read = rows.into_iter().map(|row| {
        let workspace = WorkspaceId::new(row.workspace).map_err(|error| {
            StoreError::inconsistent("core.ingest_key", "workspace", row.key.clone(), error)
        })?;
        let done = DoneRequest {
            fingerprint: row.fingerprint,
            answer: row.answer,
        };
        Ok(((workspace, row.key), done))
    });
    read.collect()
}

/// Writes that `requests` were done at `now`. Waits for other replicas that do the same requests;
/// [`StoreError::Done`] if one of them has, after `since`.
pub async fn remember(
    pg: &mut PgConnection,
    requests: &[(RequestKey, DoneRequest)],
    now: DateTime<Utc>,
    since: DateTime<Utc>,
) -> Result<(), StoreError> {
    let keys: Vec<_> = requests.iter().map(|(key, _)| key.clone()).collect();
    let (workspaces, names) = columns(&keys);
    let fingerprints: Vec<_> = requests
        .iter()
        .map(|(_, r)| r.fingerprint.clone())
        .collect();
    let answers: Vec<_> = requests.iter().map(|(_, r)| r.answer.clone()).collect();
    let written = sqlx::query!(
        "INSERT INTO core.ingest_key (workspace, key, fingerprint, answer, created_at)
         SELECT new.workspace, new.key, new.fingerprint, new.answer, $5
         FROM UNNEST($1::text[], $2::text[], $3::bytea[], $4::jsonb[])
              AS new (workspace, key, fingerprint, answer)
         ORDER BY new.workspace, new.key
         -- A key that is forgotten may be used again before a sweep has removed it.
         ON CONFLICT (workspace, key) DO UPDATE
         SET fingerprint = EXCLUDED.fingerprint,
             answer = EXCLUDED.answer,
             created_at = EXCLUDED.created_at
         WHERE core.ingest_key.created_at <= $6",
        &workspaces,
        &names,
        &fingerprints,
        &answers,
        now,
        since,
    )
    .execute(pg)
    .await?;
    if written.rows_affected() == requests.len() as u64 {
        Ok(())
    } else {
        Err(StoreError::Done)
    }
}

/// Removes up to `limit` keys of before `since`; returns how many.
pub async fn forget(
    pg: &mut PgConnection,
    since: DateTime<Utc>,
    limit: i64,
) -> Result<u64, StoreError> {
    let removed = sqlx::query!(
        "DELETE FROM core.ingest_key
         WHERE (workspace, key) IN (
             SELECT workspace, key
             FROM core.ingest_key
             WHERE created_at <= $1
             ORDER BY workspace, key
             LIMIT $2
             -- Several replicas sweep at once.
             FOR UPDATE SKIP LOCKED
         )",
        since,
        limit,
    )
    .execute(pg)
    .await?;
    Ok(removed.rows_affected())
}

fn columns(keys: &[RequestKey]) -> (Vec<String>, Vec<String>) {
    keys.iter()
        .map(|(workspace, key)| (workspace.to_string(), key.clone()))
        .unzip()
}
