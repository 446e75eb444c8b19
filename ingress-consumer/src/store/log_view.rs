//! Table `event_log` as those see it who look for one workspace or one vehicle.
//!
//! Hot queries: both walk the primary keys of the days' tables over a range of offsets that the caller
//! bounds. 2000 offsets of which few are the workspace's take 1.4 ms, and 10,000 offsets backwards in
//! search of a vehicle 4 ms, of a log that is in memory (see `docs/adr/0022-live-updates-read-the-log.md`).

use shared_model::WorkspaceId;
use sqlx::PgConnection;

use super::event_log::{EventRow, LoggedEvent};
use super::vehicle::VehicleKey;
use super::{StoreError, unsigned};

/// The events of `shard` behind offset `after`, in order, as [`super::event_log::read`] has them, but only
/// those of `workspace`: of others nothing but the offset is read, so that a reader can tell that none is
/// missing.
pub async fn read_of(
    pg: &mut PgConnection,
    shard: u32,
    after: u64,
    limit: i64,
    most_bytes: i64,
    workspace: &WorkspaceId,
) -> Result<Vec<(u64, Option<LoggedEvent>)>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT log_offset, logged_at, event_type, subject, traceparent, data
         FROM (
             SELECT log_offset, logged_at, event_type, subject, traceparent, data,
                    sum(coalesce(octet_length(data), 0)) OVER (ORDER BY log_offset) AS total_bytes,
                    row_number() OVER (ORDER BY log_offset) AS position
             FROM (
                 SELECT log_offset, logged_at, event_type, subject, traceparent,
                        CASE WHEN workspace = $5 THEN data::text END AS data
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
        workspace.as_str(),
    )
    .fetch_all(pg)
    .await?;
    let events = rows.into_iter().map(|row| {
        let Some(data) = row.data else {
            return Ok((unsigned(row.log_offset), None));
        };
        let row = EventRow {
            log_offset: row.log_offset,
            logged_at: row.logged_at,
            workspace: workspace.to_string(),
            event_type: row.event_type,
            subject: row.subject,
            traceparent: row.traceparent,
            data,
        };
        let (offset, event) = row.into_event("core.event_log", shard)?;
        Ok((offset, Some(event)))
    });
    events.collect()
}

/// The newest events about `key`, which is in `shard`, of `types`, among those of the offsets `from` up to
/// and without `before`: at most `limit`, the newest first.
///
/// A scan of the primary key backwards: the log has no index by subject, see ADR 22.
pub async fn about(
    pg: &mut PgConnection,
    shard: u32,
    key: &VehicleKey,
    types: &[String],
    (from, before): (u64, u64),
    limit: i64,
) -> Result<Vec<(u64, LoggedEvent)>, StoreError> {
    let rows = sqlx::query_as!(
        EventRow,
        r#"SELECT log_offset, logged_at, workspace, event_type, subject, traceparent,
                data::text AS "data!"
         FROM core.event_log
         WHERE shard = $1 AND log_offset >= $2 AND log_offset < $3
           AND workspace = $4 AND subject = $5 AND event_type = ANY($6)
         ORDER BY log_offset DESC
         LIMIT $7"#,
        shard as i32,
        from as i64,
        i64::try_from(before).unwrap_or(i64::MAX),
        key.workspace.as_str(),
        key.vehicle.as_str(),
        types,
        limit,
    )
    .fetch_all(pg)
    .await?;
    let events = rows.into_iter();
    events
        .map(|row| row.into_event("core.event_log", shard))
        .collect()
}
