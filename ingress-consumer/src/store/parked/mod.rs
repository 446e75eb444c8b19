//! Table `parked_frame`: what could not be interpreted, with the reason.
//!
//! A flood of the same frame is a few rows and a count: further copies, byte for byte the same, raise
//! `repeats` of the newest row. Nothing is lost by that, since a copy says what the row says.

mod limits;
mod list;
mod settle;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use shared_model::{ConnectionId, FrameOrigin, Provider, SessionId, WorkspaceId};
use sqlx::PgConnection;
use xxhash_rust::xxh3::xxh3_128;

use super::{StoreError, unsigned};

pub use limits::{remove_beyond, remove_older};
pub use list::{Body, Filter, Row, Scope, Sum, bodies, discard, page, sum};
pub use settle::{park_again, remove, settle};

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
    /// The partition that it was numbered for.
    pub partition: u32,
    /// Its number in the session.
    pub number: u64,
    /// When it was received.
    pub received_at: DateTime<Utc>,
    /// How it came to be read.
    pub origin: FrameOrigin,
    /// Whether an earlier commit has seen its number: a copy of it was counted then.
    pub seen: bool,
    /// Its workspace by the envelope's own word.
    pub claimed_workspace: WorkspaceId,
}

/// How many copies of a frame are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    /// So many; further ones are counted.
    pub stored: u32,
    /// For how long after the last copy.
    pub window: Duration,
}

/// What copies have in common.
type Fingerprint = Vec<u8>;

impl ParkedFrame {
    fn fingerprint(&self) -> Fingerprint {
        let connection = self
            .origin
            .as_ref()
            .map_or_else(String::new, |origin| origin.connection.to_string());
        let parts = [connection.as_bytes(), self.reason.as_bytes(), &self.body];
        xxh3_128(&parts.join(&0)).to_be_bytes().to_vec()
    }
}

/// Parks `frames` at the time `now`, or counts them as copies; returns the identities of those that
/// were not parked before. [`StoreError::Conflict`] if a row was removed that was to count copies.
pub async fn insert(
    pg: &mut PgConnection,
    frames: &[ParkedFrame],
    copies: Copies,
    now: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    if frames.is_empty() {
        return Ok(Vec::new());
    }
    let fingerprints: Vec<_> = frames.iter().map(ParkedFrame::fingerprint).collect();
    let mut stored = stored(pg, &fingerprints, now - copies.window).await?;
    let mut known = known(pg, frames).await?;
    let mut new = Vec::new();
    let mut counted = BTreeMap::<Fingerprint, i64>::new();
    let mut counted_identities = Vec::new();
    for (frame, fingerprint) in frames.iter().zip(fingerprints) {
        if !known.insert(frame.identity.clone()) {
            continue;
        }
        let stored = stored.entry(fingerprint.clone()).or_default();
        if *stored < u64::from(copies.stored) {
            *stored += 1;
            new.push((frame, fingerprint));
        } else if !frame.origin.as_ref().is_some_and(|origin| origin.seen) {
            *counted.entry(fingerprint).or_default() += 1;
            counted_identities.push(frame.identity.clone());
        }
    }
    let mut parked = store(pg, &new, now).await?;
    count(pg, &counted, now).await?;
    parked.extend(counted_identities);
    Ok(parked)
}

/// How many rows there are of each of `fingerprints` that had a copy after `since`.
async fn stored(
    pg: &mut PgConnection,
    fingerprints: &[Fingerprint],
    since: DateTime<Utc>,
) -> Result<HashMap<Fingerprint, u64>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT fingerprint AS "fingerprint!", count(*) AS "count!"
         FROM core.parked_frame
         WHERE fingerprint = ANY($1) AND last_at > $2
         GROUP BY fingerprint"#,
        fingerprints,
        since,
    )
    .fetch_all(pg)
    .await?;
    let counts = rows.into_iter();
    Ok(counts
        .map(|row| (row.fingerprint, unsigned(row.count)))
        .collect())
}

/// Identities of those of `frames` that are parked.
async fn known(
    pg: &mut PgConnection,
    frames: &[ParkedFrame],
) -> Result<HashSet<String>, StoreError> {
    let identities: Vec<_> = frames.iter().map(|frame| frame.identity.clone()).collect();
    let known = sqlx::query_scalar!(
        "SELECT identity FROM core.parked_frame WHERE identity = ANY($1)",
        &identities,
    )
    .fetch_all(pg)
    .await?;
    Ok(known.into_iter().collect())
}

/// Counts copies at the newest row of each.
async fn count(
    pg: &mut PgConnection,
    copies: &BTreeMap<Fingerprint, i64>,
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    if copies.is_empty() {
        return Ok(());
    }
    let (fingerprints, counts): (Vec<_>, Vec<_>) = copies
        .iter()
        .map(|(of, count)| (of.clone(), *count))
        .unzip();
    let counted = sqlx::query!(
        "UPDATE core.parked_frame AS kept
         SET repeats = kept.repeats + more.copies, last_at = GREATEST(kept.last_at, $3)
         FROM (
             SELECT copy.copies, max(parked.id) AS id
             FROM UNNEST($1::bytea[], $2::bigint[]) AS copy (fingerprint, copies)
             JOIN core.parked_frame AS parked USING (fingerprint)
             GROUP BY copy.fingerprint, copy.copies
         ) AS more
         WHERE kept.id = more.id",
        &fingerprints,
        &counts,
        now,
    )
    .execute(pg)
    .await?;
    if counted.rows_affected() == copies.len() as u64 {
        Ok(())
    } else {
        // Somebody discarded or replayed the row in the meantime.
        Err(StoreError::Conflict)
    }
}

/// Stores `frames`; returns the identities of those that were not stored before.
async fn store(
    pg: &mut PgConnection,
    frames: &[(&ParkedFrame, Fingerprint)],
    now: DateTime<Utc>,
) -> Result<Vec<String>, StoreError> {
    if frames.is_empty() {
        return Ok(Vec::new());
    }
    let origins: Vec<_> = frames
        .iter()
        .map(|(frame, _)| frame.origin.as_ref())
        .collect();
    let text = |of: fn(&Origin) -> String| -> Vec<Option<String>> {
        origins.iter().map(|origin| origin.map(of)).collect()
    };
    let workspaces: Vec<_> = origins
        .iter()
        .map(|origin| Some(origin.as_ref()?.workspace.as_ref()?.to_string()))
        .collect();
    let numbers: Vec<_> = origins
        .iter()
        .map(|origin| origin.map(|o| o.number as i64))
        .collect();
    let partitions: Vec<_> = origins
        .iter()
        .map(|origin| origin.map(|o| o.partition as i32))
        .collect();
    let received: Vec<_> = origins
        .iter()
        .map(|origin| origin.map(|o| o.received_at))
        .collect();
    let of = |part: fn(&ParkedFrame) -> String| -> Vec<String> {
        frames.iter().map(|(frame, _)| part(frame)).collect()
    };
    let headers: Vec<_> = frames
        .iter()
        .map(|(frame, _)| frame.headers.as_ref().map(to_json))
        .collect();
    let bodies: Vec<_> = frames.iter().map(|(frame, _)| frame.body.clone()).collect();
    let fingerprints: Vec<_> = frames.iter().map(|(_, of)| of.clone()).collect();
    let stored = sqlx::query_scalar!(
        "INSERT INTO core.parked_frame
             (identity, workspace, connection, provider, session, frame_number, received_at,
              reason, detail, headers, body, frame_partition, frame_origin, claimed_workspace,
              fingerprint, parked_at, last_at)
         SELECT new.identity, new.workspace, new.connection::uuid, new.provider,
                new.session::uuid, new.frame_number, new.received_at, new.reason, new.detail,
                new.headers, new.body, new.frame_partition, new.frame_origin,
                new.claimed_workspace, new.fingerprint, $16, $16
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[],
                     $7::timestamptz[], $8::text[], $9::text[], $10::jsonb[],
                     $11::bytea[], $12::int[], $13::text[], $14::text[], $15::bytea[])
              AS new (identity, workspace, connection, provider, session, frame_number,
                      received_at, reason, detail, headers, body, frame_partition, frame_origin,
                      claimed_workspace, fingerprint)
         ORDER BY new.session, new.frame_partition, new.frame_number, new.identity
         ON CONFLICT (identity) DO NOTHING
         RETURNING identity",
        &of(|frame| frame.identity.clone()),
        &workspaces as &[Option<String>],
        &text(|origin| origin.connection.to_string()) as &[Option<String>],
        &text(|origin| origin.provider.to_string()) as &[Option<String>],
        &text(|origin| origin.session.to_string()) as &[Option<String>],
        &numbers as &[Option<i64>],
        &received as &[Option<DateTime<Utc>>],
        &of(|frame| frame.reason.to_owned()),
        &of(|frame| without_nul(&frame.detail)),
        &headers as &[Option<Value>],
        &bodies,
        &partitions as &[Option<i32>],
        &text(|origin| origin.origin.name().to_owned()) as &[Option<String>],
        &text(|origin| origin.claimed_workspace.to_string()) as &[Option<String>],
        &fingerprints,
        now,
    )
    .fetch_all(pg)
    .await?;
    Ok(stored)
}

/// PostgreSQL's text holds no NUL.
pub(super) fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

pub(super) fn to_json(headers: &BTreeMap<String, String>) -> Value {
    headers
        .iter()
        .map(|(name, value)| (without_nul(name), json!(without_nul(value))))
        .collect()
}
