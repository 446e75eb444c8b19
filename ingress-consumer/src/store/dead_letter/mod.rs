//! Table `dead_letter`: messages that the broker gave up, to be looked at, replayed or discarded.
//!
//! A message has one row, however often it is delivered and however often it dies. The numbers of one
//! that is removed before it was replayed go to `session_source.given_up`, so that they are accounted for.

mod list;
mod upkeep;

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use rangemap::RangeInclusiveSet;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::parked::{to_json, without_nul};
use super::session::ranges;
use super::{StoreError, unsigned};

pub use list::{Filter, Row, page, sum, with_bodies};
pub use upkeep::{Removed, discard, remove_beyond, remove_older, replayed, waiting};

/// A message that the broker gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The same for the same message however often it is delivered.
    pub identity: String,
    /// The key that it was routed by.
    pub routing_key: String,
    /// The sender's id for it.
    pub message_id: String,
    /// The body's media type.
    pub content_type: String,
    /// Its headers, without what the broker added.
    pub headers: BTreeMap<String, String>,
    /// The content.
    pub body: Vec<u8>,
    /// Why the broker gave it up; empty if it does not say.
    pub reason: String,
    /// In which queue; empty if the broker does not say.
    pub queue: String,
    /// When; none if the broker does not say.
    pub died_at: Option<DateTime<Utc>>,
    /// Where its frames came from, as far as its headers say.
    pub source: Source,
    /// The numbers that it accounts for.
    pub numbers: RangeInclusiveSet<u64>,
    /// How many frames it holds, as far as is known.
    pub frames: u64,
}

/// Where a message's frames came from by the message's own word.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// The workspace.
    pub workspace: Option<String>,
    /// The connection.
    pub connection: Option<Uuid>,
    /// The provider.
    pub provider: Option<String>,
    /// The session.
    pub session: Option<Uuid>,
    /// The partition that they were numbered for.
    pub partition: Option<i32>,
}

/// Keeps `letters`; returns how many of them had not died, or have died again since they were replayed.
pub async fn keep(
    pg: &mut PgConnection,
    letters: &[DeadLetter],
    now: DateTime<Utc>,
) -> Result<u64, StoreError> {
    let mut known = HashSet::new();
    // In the order in which they died, so that ids say which is older. A deadlock with somebody who has
    // the same letters in hand is tried again.
    let letters: Vec<_> = letters
        .iter()
        .filter(|letter| known.insert(letter.identity.as_str()))
        .collect();
    let text = |of: fn(&DeadLetter) -> &str| -> Vec<String> {
        letters
            .iter()
            .map(|letter| without_nul(of(letter)))
            .collect()
    };
    let headers: Vec<Value> = letters.iter().map(|l| to_json(&l.headers)).collect();
    let bodies: Vec<_> = letters.iter().map(|l| l.body.clone()).collect();
    let died: Vec<_> = letters.iter().map(|l| l.died_at).collect();
    let workspaces: Vec<_> = letters.iter().map(|l| l.source.workspace.clone()).collect();
    let connections: Vec<_> = letters.iter().map(|l| l.source.connection).collect();
    let providers: Vec<_> = letters.iter().map(|l| l.source.provider.clone()).collect();
    let sessions: Vec<_> = letters.iter().map(|l| l.source.session).collect();
    let partitions: Vec<_> = letters.iter().map(|l| l.source.partition).collect();
    let numbers: Vec<_> = letters.iter().map(|l| ranges(&l.numbers)).collect();
    let frames: Vec<_> = letters.iter().map(|l| l.frames as i64).collect();
    let kept = sqlx::query_scalar!(
        "INSERT INTO core.dead_letter AS known
             (identity, routing_key, message_id, content_type, headers, body, reason, queue, deaths,
              died_at, taken_at, workspace, claimed_workspace, connection, provider, session,
              frame_partition, numbers, frames)
         SELECT new.identity, new.routing_key, new.message_id, new.content_type, new.headers, new.body,
                new.reason, new.queue, 1, new.died_at, $17, c.workspace, new.workspace,
                new.connection, new.provider, new.session, new.frame_partition,
                new.numbers::int8multirange, new.frames
         FROM UNNEST($1::text[], $2::text[], $3::text[], $4::text[], $5::jsonb[], $6::bytea[],
                     $7::text[], $8::text[], $9::timestamptz[], $10::text[], $11::uuid[], $12::text[],
                     $13::uuid[], $14::int[], $15::text[], $16::bigint[]) WITH ORDINALITY
              AS new (identity, routing_key, message_id, content_type, headers, body, reason, queue,
                      died_at, workspace, connection, provider, session, frame_partition, numbers,
                      frames, place)
         -- An envelope's own word puts nothing into a workspace.
         LEFT JOIN core.connection AS c
                ON c.connection = new.connection AND c.workspace = new.workspace
               AND c.provider = new.provider
         ORDER BY new.place
         ON CONFLICT (identity) DO UPDATE
         SET reason = EXCLUDED.reason,
             queue = EXCLUDED.queue,
             died_at = EXCLUDED.died_at,
             taken_at = EXCLUDED.taken_at,
             deaths = known.deaths + 1,
             replayed_at = NULL
         -- Without a time, the death of one that was not replayed is the one that is known.
         WHERE EXCLUDED.died_at > known.died_at
            -- The broker tells whole seconds.
            OR (known.replayed_at IS NOT NULL
                AND (EXCLUDED.died_at IS NULL OR known.died_at IS NULL
                     OR EXCLUDED.died_at >= date_trunc('second', known.replayed_at)))
         RETURNING id",
        &text(|l| &l.identity),
        &text(|l| &l.routing_key),
        &text(|l| &l.message_id),
        &text(|l| &l.content_type),
        &headers,
        &bodies,
        &text(|l| &l.reason),
        &text(|l| &l.queue),
        &died as &[Option<DateTime<Utc>>],
        &workspaces as &[Option<String>],
        &connections as &[Option<Uuid>],
        &providers as &[Option<String>],
        &sessions as &[Option<Uuid>],
        &partitions as &[Option<i32>],
        &numbers,
        &frames,
        now,
    )
    .fetch_all(pg)
    .await?;
    Ok(kept.len() as u64)
}
