//! Table `session_source`: how many frames the sources have numbered, and since when that is known.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared_model::control::SessionSent;
use sqlx::PgConnection;

use super::StoreError;

/// Keeps what the publisher `instance` says of its sessions. A mark that is older than `age` makes room
/// for the next one.
pub async fn tell(
    pg: &mut PgConnection,
    instance: &str,
    sessions: &[SessionSent],
    age: Duration,
) -> Result<(), StoreError> {
    let (mut ids, mut partitions, mut workspaces) = (Vec::new(), Vec::new(), Vec::new());
    let (mut connections, mut sent, mut ended) = (Vec::new(), Vec::new(), Vec::new());
    for session in sessions {
        for (partition, number) in &session.sent {
            let (Ok(partition), Ok(number)) = (i32::try_from(*partition), i64::try_from(*number))
            else {
                continue;
            };
            ids.push(session.session.0);
            partitions.push(partition);
            workspaces.push(session.workspace.to_string());
            connections.push(session.connection.0);
            sent.push(number);
            ended.push(session.ended);
        }
    }
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO core.session_source AS known
             (session, partition, workspace, connection, instance, sent, sent_at, mark, mark_at, due,
              ended)
         SELECT new.session, new.partition, c.workspace, c.connection, $1, new.sent, now(), new.sent,
                now(), 0, new.ended
         FROM UNNEST($2::uuid[], $3::int[], $4::text[], $5::uuid[], $6::bigint[], $7::boolean[])
              AS new (session, partition, workspace, connection, sent, ended)
         JOIN core.connection AS c
           ON c.connection = new.connection AND c.workspace = new.workspace
         ORDER BY new.session, new.partition
         ON CONFLICT (session, partition) DO UPDATE
         SET instance = EXCLUDED.instance,
             sent = GREATEST(known.sent, EXCLUDED.sent),
             sent_at = CASE WHEN EXCLUDED.sent > known.sent THEN now() ELSE known.sent_at END,
             due = CASE WHEN known.mark_at <= now() - make_interval(secs => $8)
                        THEN known.mark ELSE known.due END,
             mark = CASE WHEN known.mark_at <= now() - make_interval(secs => $8)
                         THEN GREATEST(known.sent, EXCLUDED.sent) ELSE known.mark END,
             mark_at = CASE WHEN known.mark_at <= now() - make_interval(secs => $8)
                            THEN now() ELSE known.mark_at END,
             ended = EXCLUDED.ended",
        instance,
        &ids,
        &partitions,
        &workspaces,
        &connections,
        &sent,
        &ended,
        age.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Forgets what was said before `before` of sessions of which nothing has ever arrived.
pub async fn forget(
    pg: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, StoreError> {
    let forgotten = sqlx::query!(
        "DELETE FROM core.session_source
         WHERE (session, partition) IN (
             SELECT session, partition
             FROM core.session_source AS source
             WHERE sent_at < $1
               AND NOT EXISTS (SELECT FROM core.session AS arrived
                               WHERE arrived.session = source.session
                                 AND arrived.partition = source.partition)
             ORDER BY session, partition
             LIMIT $2
             FOR UPDATE SKIP LOCKED
         )",
        before,
        limit,
    )
    .execute(pg)
    .await?;
    Ok(forgotten.rows_affected())
}

/// The publishers that are alive and have messages on their disks.
pub async fn holding(pg: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    let instances = sqlx::query_scalar!(
        "SELECT instance FROM core.publisher WHERE holding AND lease_until > now() ORDER BY instance",
    )
    .fetch_all(pg)
    .await?;
    Ok(instances)
}
