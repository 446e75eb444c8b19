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

/// Numbers as PostgreSQL writes a multirange.
pub(super) fn ranges(numbers: &RangeInclusiveSet<u64>) -> String {
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
