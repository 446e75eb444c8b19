//! Tables `event_log` and `shard_head`: the append-only log of events, which is the outbox.
//!
//! Hot queries: [`append`] inserts into one partition; [`read`] is a merge append over the primary keys
//! of all partitions, of which each is looked into once and read only as far as it has what comes next:
//! with 16 partitions, 500 of 100,000 events in 0.2 ms, as from one. So a reader needs no knowledge of
//! days: the offsets of a transaction over midnight are in order although their days are not.

use std::collections::BTreeMap;

use serde_json::value::RawValue;
use shared_model::event::{Fact, LogPosition};
use shared_model::{CloudEvent, EventType, WorkspaceId};
use sqlx::PgConnection;

use super::{StoreError, small, unsigned};

/// The channel that announces new events.
pub const CHANNEL: &str = "headrace_event_log";

/// An event to append.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// The vehicle's or connection's shard.
    pub shard: u32,
    /// Whose data it carries.
    pub workspace: WorkspaceId,
    /// What happened.
    pub fact: Fact,
}

/// Where a shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The shard.
    pub shard: u32,
    /// The first offset that is kept.
    pub first: u64,
    /// The last offset that was committed.
    pub last: u64,
    /// Up to here the relay is done.
    pub relayed: u64,
    /// The last offset when the database was last found to have been restored.
    pub restored: u64,
}

/// An event as the log holds it, its data left as text.
pub type LoggedEvent = CloudEvent<Box<RawValue>>;

/// Creates the shards that do not exist yet.
pub async fn create_shards(pg: &mut PgConnection, shards: u32) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "WITH created AS (
             INSERT INTO core.shard_head (shard, last_offset)
             SELECT n, 0 FROM generate_series(0, $1::int - 1) AS n
             ON CONFLICT (shard) DO NOTHING
             RETURNING shard
         )
         INSERT INTO core.relay_checkpoint (shard, log_offset) SELECT shard, 0 FROM created",
        shards as i32,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Makes the log's partitions for today and the `days` after, by the database's clock.
pub async fn create_partitions(pg: &mut PgConnection, days: u16) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "SELECT core.make_event_log_partitions((now() AT TIME ZONE 'utc')::date, $1::int + 1)",
        i32::from(days),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Appends `events` in their order and announces them. Comes last in a transaction: from here to the
/// commit, nobody else appends to the same shards.
pub async fn append(
    pg: &mut PgConnection,
    events: &[NewEvent],
    traceparent: Option<&str>,
) -> Result<(), sqlx::Error> {
    if events.is_empty() {
        return Ok(());
    }
    let mut offsets = take_offsets(pg, events).await?;
    let mut next_offset = |shard: u32| {
        let offset = offsets.entry(shard).or_default();
        *offset += 1;
        *offset
    };
    let shards: Vec<_> = events.iter().map(|event| event.shard as i32).collect();
    let positions: Vec<_> = events
        .iter()
        .map(|event| next_offset(event.shard))
        .collect();
    let workspaces: Vec<_> = events
        .iter()
        .map(|event| event.workspace.to_string())
        .collect();
    let types: Vec<_> = events
        .iter()
        .map(|event| event.fact.event_type().name().to_owned())
        .collect();
    let subjects: Vec<_> = events.iter().map(|event| event.fact.subject()).collect();
    let data: Vec<_> = events.iter().map(|event| event.fact.to_data()).collect();
    sqlx::query!(
        "INSERT INTO core.event_log
             (shard, log_offset, workspace, event_type, subject, traceparent, data)
         SELECT new.shard, new.log_offset, new.workspace, new.event_type, new.subject, $7, new.data
         FROM UNNEST($1::int[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::jsonb[])
              AS new (shard, log_offset, workspace, event_type, subject, data)",
        &shards,
        &positions,
        &workspaces,
        &types,
        &subjects as &[Option<String>],
        &data,
        traceparent,
    )
    .execute(&mut *pg)
    .await?;
    sqlx::query!("SELECT pg_notify($1, '')", CHANNEL)
        .execute(pg)
        .await?;
    Ok(())
}

/// Where every shard stands, by number. `restored` is the head when the database was last found to have
/// been restored.
pub async fn heads(pg: &mut PgConnection) -> Result<Vec<Head>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT head.shard, head.first_offset, head.last_offset, head.restored_offset, relay.log_offset
         FROM core.shard_head AS head
         JOIN core.relay_checkpoint AS relay USING (shard)
         ORDER BY head.shard",
    )
    .fetch_all(pg)
    .await?;
    let heads = rows.into_iter().map(|row| Head {
        shard: small(row.shard),
        first: unsigned(row.first_offset),
        last: unsigned(row.last_offset),
        relayed: unsigned(row.log_offset),
        restored: unsigned(row.restored_offset),
    });
    Ok(heads.collect())
}

/// Notes that the database was restored. What is in the log was in it before, if `shared`.
pub async fn mark_restored(pg: &mut PgConnection, shared: bool) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE core.shard_head AS head
         SET restored_offset = CASE WHEN $1 THEN last_offset ELSE 0 END
         FROM (SELECT shard FROM core.shard_head ORDER BY shard FOR UPDATE) AS locked
         WHERE head.shard = locked.shard",
        shared,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Raises the shards' heads by as many as `events` need; returns the heads before.
async fn take_offsets(
    pg: &mut PgConnection,
    events: &[NewEvent],
) -> Result<BTreeMap<u32, i64>, sqlx::Error> {
    let mut counts = BTreeMap::<i32, i64>::new();
    for event in events {
        *counts.entry(event.shard as i32).or_default() += 1;
    }
    let (shards, counts): (Vec<_>, Vec<_>) = counts.into_iter().unzip();
    let rows = sqlx::query!(
        // The heads are locked in the order of their shards, so that two transactions never wait
        // for each other, and stay locked until the commit, so that offsets are in commit order.
        r#"WITH locked AS (
             SELECT shard FROM core.shard_head WHERE shard = ANY($1) ORDER BY shard FOR UPDATE
         )
         UPDATE core.shard_head AS head
         SET last_offset = head.last_offset + taken.count
         FROM locked
         JOIN UNNEST($1::int[], $2::bigint[]) AS taken (shard, count) USING (shard)
         WHERE head.shard = locked.shard
         RETURNING head.shard, head.last_offset - taken.count AS "before!""#,
        &shards,
        &counts,
    )
    .fetch_all(pg)
    .await?;
    if rows.len() != shards.len() {
        // A shard without a head would lose its events silently.
        return Err(sqlx::Error::RowNotFound);
    }
    Ok(rows
        .into_iter()
        .map(|row| (small(row.shard), row.before))
        .collect())
}

/// The events of `shard` behind offset `after`, in order: at least one if there is any, and at most
/// `limit` of them and `most_bytes`.
pub async fn read(
    pg: &mut PgConnection,
    shard: u32,
    after: u64,
    limit: i64,
    most_bytes: i64,
) -> Result<Vec<(u64, LoggedEvent)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT log_offset, logged_at, workspace, event_type, subject, traceparent,
                data AS "data!"
         FROM (
             SELECT log_offset, logged_at, workspace, event_type, subject, traceparent,
                    data::text AS data,
                    sum(octet_length(data::text)) OVER (ORDER BY log_offset) AS total_bytes,
                    row_number() OVER (ORDER BY log_offset) AS position
             FROM (
                 SELECT *
                 FROM core.event_log
                 WHERE shard = $1 AND log_offset > $2
                 ORDER BY log_offset
                 LIMIT $3
             ) AS next
         ) AS measured
         WHERE total_bytes <= $4 OR position = 1
         ORDER BY log_offset"#,
        shard as i32,
        after as i64,
        limit,
        most_bytes,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter()
        .map(|row| {
            let broken = |column, error: String| {
                let id = format!("{shard}:{}", row.log_offset);
                StoreError::inconsistent("core.event_log", column, id, error)
            };
            let kind = EventType::from_name(&row.event_type)
                .ok_or_else(|| broken("event_type", row.event_type.clone()))?;
            let workspace = WorkspaceId::new(row.workspace.as_str())
                .map_err(|error| broken("workspace", error.to_string()))?;
            let data = RawValue::from_string(row.data)
                .map_err(|error| broken("data", error.to_string()))?;
            let offset = unsigned(row.log_offset);
            let at = LogPosition {
                shard,
                offset,
                logged_at: row.logged_at,
            };
            Ok((
                offset,
                CloudEvent::new(&at, kind, workspace, row.subject, row.traceparent, data),
            ))
        })
        .collect()
}
