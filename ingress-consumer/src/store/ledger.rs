//! What reconciliation adds up: the view `numbering`, and where the event log stands.
//!
//! To be read in one snapshot ([`begin`]), or what moves meanwhile would not add up.

use chrono::{DateTime, Utc};
use rangemap::RangeInclusiveSet;
use shared_model::ConnectionId;
use sqlx::PgConnection;
use sqlx::postgres::types::PgRange;

use super::subscriber::{self, Place};
use super::{StoreError, small, unsigned};
use crate::reconcile::{Account, Gap, ShardAccount, Source, SubscriberAccount};

/// How many of a shard's latest offsets are looked at for holes.
const LATEST: i64 = 10_000;

/// Makes what follows in the transaction see one state of the database, at the time that is returned.
pub async fn begin(pg: &mut PgConnection) -> Result<DateTime<Utc>, StoreError> {
    sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        .execute(&mut *pg)
        .await?;
    let now = sqlx::query_scalar!(r#"SELECT now() AS "now!""#);
    Ok(now.fetch_one(pg).await?)
}

/// The sums of every connection of `workspace`, or of all.
pub async fn accounts(
    pg: &mut PgConnection,
    workspace: Option<&str>,
) -> Result<Vec<Account>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT c.connection, c.workspace, c.provider, c.kind,
                  coalesce(frames.sent, 0) AS "sent!", coalesce(frames.seen, 0) AS "seen!",
                  coalesce(frames.conflated, 0) AS "conflated!", coalesce(frames.dead, 0) AS "dead!",
                  coalesce(frames.given_up, 0) AS "given_up!", coalesce(frames.stray, 0) AS "stray!",
                  coalesce(parked.frames, 0) AS "parked!"
           FROM core.connection AS c
           LEFT JOIN (
               SELECT connection,
                      sum(sent)::bigint AS sent,
                      sum(core.size(seen))::bigint AS seen,
                      sum(core.size(conflated))::bigint AS conflated,
                      sum(core.size(dead))::bigint AS dead,
                      sum(core.size(given_up))::bigint AS given_up,
                      sum(core.size(stray))::bigint AS stray
               FROM core.numbering
               WHERE $1::text IS NULL OR workspace = $1
               GROUP BY connection
           ) AS frames USING (connection)
           LEFT JOIN (
               SELECT connection, sum(1 + repeats)::bigint AS frames
               FROM core.parked_frame
               WHERE workspace IS NOT NULL AND frame_number IS NOT NULL
               GROUP BY connection
           ) AS parked USING (connection)
           WHERE ($1::text IS NULL OR c.workspace = $1)
             AND (c.removed_at IS NULL OR frames.connection IS NOT NULL)
           ORDER BY c.workspace, c.connection"#,
        workspace,
    )
    .fetch_all(pg)
    .await?;
    let accounts = rows.into_iter().map(|row| Account {
        connection: ConnectionId(row.connection),
        workspace: row.workspace,
        provider: row.provider,
        kind: row.kind,
        sent: unsigned(row.sent),
        seen: unsigned(row.seen),
        conflated: unsigned(row.conflated),
        dead: unsigned(row.dead),
        given_up: unsigned(row.given_up),
        stray: unsigned(row.stray),
        parked: unsigned(row.parked),
    });
    Ok(accounts.collect())
}

/// Where numbers have not arrived.
pub async fn gaps(pg: &mut PgConnection, workspace: Option<&str>) -> Result<Vec<Gap>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT connection AS "connection!", session AS "session!", partition AS "partition!",
                  sent AS "sent!", ARRAY(SELECT unnest(missing)) AS "missing!: Vec<PgRange<i64>>",
                  sent_at, mark, mark_at, due, instance, last_at
           FROM core.numbering
           WHERE missing <> '{}' AND ($1::text IS NULL OR workspace = $1)
           ORDER BY connection, session, partition"#,
        workspace,
    )
    .fetch_all(pg)
    .await?;
    let gaps = rows.into_iter().map(|row| Gap {
        connection: ConnectionId(row.connection),
        session: row.session,
        partition: small(row.partition),
        sent: unsigned(row.sent),
        missing: ranges(&row.missing),
        source: source(
            row.sent_at,
            row.mark.zip(row.mark_at),
            row.due,
            row.instance,
        ),
        last_at: row.last_at,
    });
    Ok(gaps.collect())
}

fn source(
    sent_at: Option<DateTime<Utc>>,
    mark: Option<(i64, DateTime<Utc>)>,
    due: Option<i64>,
    instance: Option<String>,
) -> Option<Source> {
    let (mark, mark_at) = mark?;
    let instance = instance.filter(|instance| !instance.is_empty())?;
    Some(Source {
        sent_at: sent_at?,
        mark: unsigned(mark),
        mark_at,
        due: unsigned(due?),
        instance,
    })
}

/// Where each shard of the event log stands.
pub async fn shards(pg: &mut PgConnection) -> Result<Vec<ShardAccount>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT h.shard, h.last_offset AS logged, coalesce(r.log_offset, 0) AS "relayed!",
                  (SELECT count(*) FROM core.event_blocked WHERE shard = h.shard) AS "blocked!",
                  (SELECT count(*) FROM core.event_dead WHERE shard = h.shard) AS "dead!",
                  LEAST(
                      (SELECT min(logged_at) FROM core.event_log
                       WHERE shard = h.shard AND log_offset = coalesce(r.log_offset, 0) + 1),
                      (SELECT min(logged_at) FROM core.event_blocked WHERE shard = h.shard)
                  ) AS waiting_since,
                  ARRAY(
                      SELECT unnest(
                          int8multirange(int8range(
                              GREATEST(h.first_offset, h.last_offset - $1 + 1), h.last_offset + 1))
                          - COALESCE(range_agg(int8range(log_offset, log_offset + 1)), '{}')
                      )
                      FROM core.event_log
                      WHERE shard = h.shard AND log_offset >= h.first_offset
                        AND log_offset > h.last_offset - $1
                  ) AS "holes!: Vec<PgRange<i64>>"
           FROM core.shard_head AS h
           LEFT JOIN core.relay_checkpoint AS r USING (shard)
           ORDER BY h.shard"#,
        LATEST,
    )
    .fetch_all(&mut *pg)
    .await?;
    let shards = rows.into_iter().map(|row| ShardAccount {
        shard: small(row.shard),
        logged: unsigned(row.logged),
        relayed: unsigned(row.relayed),
        blocked: unsigned(row.blocked),
        dead: unsigned(row.dead),
        waiting_since: row.waiting_since,
        holes: ranges(&row.holes),
        subscribers: Vec::new(),
    });
    let mut shards: Vec<_> = shards.collect();
    for place in subscriber::places(pg, None).await? {
        let shard = shards.iter_mut().find(|shard| shard.shard == place.shard);
        if let Some(shard) = shard {
            shard.subscribers.push(account(&place));
        }
    }
    Ok(shards)
}

fn account(place: &Place) -> SubscriberAccount {
    SubscriberAccount {
        name: place.name.clone(),
        applied: place.applied,
        waiting_since: place.waiting_since,
    }
}

/// Ranges as PostgreSQL has them, with their ends.
fn ranges(found: &[PgRange<i64>]) -> RangeInclusiveSet<u64> {
    use std::ops::Bound::{Excluded, Included, Unbounded};
    let range = |range: &PgRange<i64>| {
        // PostgreSQL writes ranges of integers as [start, end).
        let start = match range.start {
            Included(start) => start,
            Excluded(start) => start + 1,
            Unbounded => return None,
        };
        let end = match range.end {
            Included(end) => end,
            Excluded(end) => end - 1,
            Unbounded => return None,
        };
        (start <= end).then(|| unsigned(start)..=unsigned(end))
    };
    found.iter().filter_map(range).collect()
}
