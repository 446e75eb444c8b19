//! Table `parked_frame`: what could not be interpreted, with the reason.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared_model::{ConnectionId, Provider, SessionId, WorkspaceId};
use sqlx::PgConnection;

/// A frame to park, or a whole message that is no envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedFrame {
    /// The same for the same frame however often it is delivered.
    pub identity: String,
    /// What is known of where it came from.
    pub origin: Option<Origin>,
    /// Why, as a name of [`crate::interpret::Reason`].
    pub reason: &'static str,
    /// Why exactly.
    pub detail: String,
    /// Of a message that is no envelope: what else it came with.
    pub headers: Option<BTreeMap<String, String>>,
    /// The frame, byte for byte.
    pub body: Vec<u8>,
}

/// Where a frame came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Its workspace, if that is known beyond the envelope's own word.
    pub workspace: Option<WorkspaceId>,
    /// Its connection.
    pub connection: ConnectionId,
    /// Its provider.
    pub provider: Provider,
    /// Its session.
    pub session: SessionId,
    /// Its number in the session.
    pub number: u64,
    /// When it was received.
    pub received_at: DateTime<Utc>,
}

/// Parks `frames`; returns the identities of those that were not parked before.
pub async fn insert(
    pg: &mut PgConnection,
    frames: &[ParkedFrame],
) -> Result<Vec<String>, sqlx::Error> {
    if frames.is_empty() {
        return Ok(Vec::new());
    }
    let origin = |of: fn(&Origin) -> String| -> Vec<Option<String>> {
        frames
            .iter()
            .map(|frame| frame.origin.as_ref().map(of))
            .collect()
    };
    let identities: Vec<_> = frames.iter().map(|frame| frame.identity.clone()).collect();
    let workspaces: Vec<_> = frames
        .iter()
        .map(|frame| Some(frame.origin.as_ref()?.workspace.as_ref()?.to_string()))
        .collect();
    let providers = origin(|origin| origin.provider.to_string());
    let connections = origin(|origin| origin.connection.to_string());
    let sessions = origin(|origin| origin.session.to_string());
    let numbers: Vec<_> = frames
        .iter()
        .map(|frame| frame.origin.as_ref().map(|o| o.number as i64))
        .collect();
    let received: Vec<_> = frames
        .iter()
        .map(|frame| frame.origin.as_ref().map(|o| o.received_at))
        .collect();
    let reasons: Vec<_> = frames.iter().map(|frame| frame.reason.to_owned()).collect();
    let details: Vec<_> = frames
        .iter()
        .map(|frame| without_nul(&frame.detail))
        .collect();
    let headers: Vec<_> = frames
        .iter()
        .map(|frame| frame.headers.as_ref().map(to_json))
        .collect();
    let bodies: Vec<_> = frames.iter().map(|frame| frame.body.clone()).collect();
    sqlx::query_scalar!(
        "INSERT INTO core.parked_frame
             (identity, workspace, connection, provider, session, frame_number, received_at,
              reason, detail, headers, body)
         SELECT new.identity, new.workspace, new.connection::uuid, new.provider,
                new.session::uuid, new.frame_number, new.received_at, new.reason, new.detail,
                new.headers, new.body
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                     $7::timestamptz[], $8::text[], $9::text[], $10::jsonb[],
                     $11::bytea[])
              AS new (identity, workspace, connection, provider, session, frame_number,
                      received_at, reason, detail, headers, body)
         ORDER BY new.identity
         ON CONFLICT (identity) DO NOTHING
         RETURNING identity",
        &identities,
        &workspaces as &[Option<String>],
        &connections as &[Option<String>],
        &providers as &[Option<String>],
        &sessions as &[Option<String>],
        &numbers as &[Option<i64>],
        &received as &[Option<DateTime<Utc>>],
        &reasons,
        &details,
        &headers as &[Option<Value>],
        &bodies,
    )
    .fetch_all(pg)
    .await
}

/// PostgreSQL's text holds no NUL.
fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

fn to_json(headers: &BTreeMap<String, String>) -> Value {
    headers
        .iter()
        .map(|(name, value)| (without_nul(name), json!(without_nul(value))))
        .collect()
}
