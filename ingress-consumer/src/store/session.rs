//! Table `session`: which frames have had their effect, and which never come because newer ones
//! replaced them at their source.

use std::collections::{BTreeMap, HashSet};

use chrono::{DateTime, Utc};
use rangemap::RangeInclusiveSet;
use shared_model::{ConnectionId, SessionId, WorkspaceId};
use sqlx::PgConnection;

use super::{StoreError, small, unsigned};

/// What numbers are counted in: a session's frames of one partition. Each is dense at its source, so
/// what was seen of it is one range unless something is missing or still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Numbering {
    /// The session.
    pub session: SessionId,
    /// The partition.
    pub partition: u32,
}

/// Frames of one numbering that one commit covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenFrames {
    /// The session's workspace.
    pub workspace: WorkspaceId,
    /// The session's connection.
    pub connection: ConnectionId,
    /// The frames' numbers.
    pub numbers: RangeInclusiveSet<u64>,
    /// Numbers of frames that were replaced at their source.
    pub conflated: RangeInclusiveSet<u64>,
    /// When the first of them was received.
    pub first_at: DateTime<Utc>,
    /// When the last of them was received.
    pub last_at: DateTime<Utc>,
}

/// Which of `frames` have had their effect in an earlier commit.
pub async fn seen(
    pg: &mut PgConnection,
    frames: &BTreeMap<Numbering, SeenFrames>,
) -> Result<HashSet<(Numbering, u64)>, StoreError> {
    let mut sessions = Vec::new();
    let mut partitions = Vec::new();
    let mut numbers = Vec::new();
    for (of, seen) in frames {
        for number in seen.numbers.iter().cloned().flatten() {
            sessions.push(of.session.0);
            partitions.push(of.partition as i32);
            numbers.push(number as i64);
        }
    }
    let rows = sqlx::query!(
        r#"SELECT frame.session AS "session!", frame.partition AS "partition!",
                  frame.number AS "number!"
         FROM UNNEST($1::uuid[], $2::int[], $3::bigint[]) AS frame (session, partition, number)
         JOIN core.session ON core.session.session = frame.session
                          AND core.session.partition = frame.partition
                          AND core.session.seen @> frame.number"#,
        &sessions,
        &partitions,
        &numbers,
    )
    .fetch_all(pg)
    .await?;
    let seen = rows.into_iter().map(|row| {
        let of = Numbering {
            session: SessionId(row.session),
            partition: small(row.partition),
        };
        (of, unsigned(row.number))
    });
    Ok(seen.collect())
}

/// Adds `frames` to what was seen.
pub async fn add(
    pg: &mut PgConnection,
    frames: &BTreeMap<Numbering, SeenFrames>,
) -> Result<(), StoreError> {
    let sessions: Vec<_> = frames.keys().map(|of| of.session.0).collect();
    let partitions: Vec<_> = frames.keys().map(|of| of.partition as i32).collect();
    let workspaces: Vec<_> = frames
        .values()
        .map(|seen| seen.workspace.to_string())
        .collect();
    let connections: Vec<_> = frames.values().map(|seen| seen.connection.0).collect();
    let numbers: Vec<_> = frames.values().map(|seen| ranges(&seen.numbers)).collect();
    let conflated: Vec<_> = frames
        .values()
        .map(|seen| ranges(&seen.conflated))
        .collect();
    let first: Vec<_> = frames.values().map(|seen| seen.first_at).collect();
    let last: Vec<_> = frames.values().map(|seen| seen.last_at).collect();
    sqlx::query!(
        "INSERT INTO core.session
             (session, partition, workspace, connection, seen, conflated, first_at, last_at)
         SELECT new.session, new.partition, new.workspace, new.connection,
                new.seen::int8multirange, new.conflated::int8multirange, new.first_at, new.last_at
         FROM UNNEST($1::uuid[], $2::int[], $3::text[], $4::uuid[], $5::text[], $6::text[],
                     $7::timestamptz[], $8::timestamptz[])
              AS new (session, partition, workspace, connection, seen, conflated, first_at, last_at)
         ORDER BY new.session, new.partition
         ON CONFLICT (session, partition) DO UPDATE
         SET seen = core.session.seen + EXCLUDED.seen,
             conflated = core.session.conflated + EXCLUDED.conflated,
             first_at = LEAST(core.session.first_at, EXCLUDED.first_at),
             last_at = GREATEST(core.session.last_at, EXCLUDED.last_at)",
        &sessions,
        &partitions,
        &workspaces,
        &connections,
        &numbers,
        &conflated,
        &first,
        &last,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// What [`archive`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archived {
    /// How many rows were removed.
    pub rows: u64,
    /// The last session that was looked at; none if there was none.
    pub last: Option<SessionId>,
}

/// Looks at up to `limit` rows of sessions behind `after`. Sessions that were last seen before `before`
/// are removed, and what they counted is added to their connections' archives.
///
/// A connection's newest session stays, so the session of a live stream does, and so does the one that a
/// polled feed is numbered in. Rows that somebody is writing are left for the next time.
pub async fn archive(
    pg: &mut PgConnection,
    after: SessionId,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<Archived, StoreError> {
    let row = sqlx::query!(
        r#"WITH looked AS (
               SELECT session FROM core.session WHERE session > $1 ORDER BY session LIMIT $3
           ),
           old AS (
               SELECT s.session, s.partition
               FROM core.session AS s
               WHERE s.session IN (SELECT session FROM looked)
                 AND s.last_at < $2
                 AND NOT EXISTS (SELECT FROM core.session AS other
                                 WHERE other.session = s.session AND other.last_at >= $2)
                 AND EXISTS (SELECT FROM core.session AS newer
                             WHERE newer.connection = s.connection AND newer.session > s.session)
                 AND NOT EXISTS (SELECT FROM core.poll_feed AS f WHERE f.session = s.session)
               ORDER BY s.session, s.partition
               FOR UPDATE OF s SKIP LOCKED
           ),
           removed AS (
               DELETE FROM core.session AS s
               USING old
               WHERE s.session = old.session AND s.partition = old.partition
               RETURNING s.connection, s.workspace,
                         (SELECT sum(upper(r) - lower(r)) FROM unnest(s.seen) AS r) AS seen,
                         (SELECT sum(upper(r) - lower(r)) FROM unnest(s.conflated) AS r) AS conflated,
                         upper(s.seen + s.conflated) - 1 AS numbered
           ),
           kept AS (
               INSERT INTO core.session_archive AS known
                   (connection, workspace, seen, conflated, numbered)
               SELECT connection, min(workspace), COALESCE(sum(seen), 0), COALESCE(sum(conflated), 0),
                      COALESCE(sum(numbered), 0)
               FROM removed
               GROUP BY connection
               ORDER BY connection
               ON CONFLICT (connection) DO UPDATE
               SET seen = known.seen + EXCLUDED.seen,
                   conflated = known.conflated + EXCLUDED.conflated,
                   numbered = known.numbered + EXCLUDED.numbered
           )
           SELECT (SELECT count(*) FROM removed) AS "rows!",
                  (SELECT session FROM looked ORDER BY session DESC LIMIT 1) AS last"#,
        after.0,
        before,
        limit,
    )
    .fetch_one(pg)
    .await?;
    Ok(Archived {
        rows: unsigned(row.rows),
        last: row.last.map(SessionId),
    })
}

/// Numbers as PostgreSQL writes a multirange.
fn ranges(numbers: &RangeInclusiveSet<u64>) -> String {
    // The greatest number of a frame is below the greatest of the type.
    let ranges = numbers
        .iter()
        .map(|range| format!("[{},{})", range.start(), range.end() + 1));
    format!("{{{}}}", ranges.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_share_a_range() {
        let of =
            |numbers: &[u64]| ranges(&numbers.iter().map(|number| *number..=*number).collect());
        assert_eq!(of(&[]), "{}");
        assert_eq!(of(&[3]), "{[3,4)}");
        assert_eq!(of(&[1, 2, 3, 7, 9, 10]), "{[1,4),[7,8),[9,11)}");
    }
}
