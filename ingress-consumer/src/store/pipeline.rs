//! What the pipeline's overview counts across tables: publishers with what they read, parked frames by
//! reason. Bounded, so that looking costs little however much there is.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::unsigned;

/// Of how many parked frames, the newest, the reasons are counted.
pub const COUNTED_PARKED: i64 = 100_000;

/// A publisher whose lease has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherLoad {
    /// Its name.
    pub instance: String,
    /// Whether it is about to stop.
    pub draining: bool,
    /// How many streams it owns.
    pub streams: u64,
    /// When it was last heard of.
    pub seen_at: DateTime<Utc>,
}

/// Streams of one publisher whose sockets are not read, for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paused {
    /// The publisher.
    pub instance: String,
    /// Why.
    pub reason: String,
    /// How many.
    pub streams: u64,
}

/// Parked frames of one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedReason {
    /// Why they are parked.
    pub reason: String,
    /// How many.
    pub frames: u64,
}

/// The publishers that are there, by name.
pub async fn publishers(pg: &mut PgConnection) -> Result<Vec<PublisherLoad>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT p.instance, p.draining, p.seen_at,
                  (SELECT count(*) FROM core.stream AS s
                   WHERE s.owner = p.instance AND s.lease_until > now()) AS "streams!"
           FROM core.publisher AS p
           WHERE p.lease_until > now()
           ORDER BY p.instance"#,
    )
    .fetch_all(pg)
    .await?;
    let publishers = rows.into_iter().map(|row| PublisherLoad {
        instance: row.instance,
        draining: row.draining,
        streams: unsigned(row.streams),
        seen_at: row.seen_at,
    });
    Ok(publishers.collect())
}

/// The streams that their owners do not read at the moment, by owner and reason.
pub async fn paused(pg: &mut PgConnection) -> Result<Vec<Paused>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT owner AS "owner!", report ->> 'paused' AS "reason!", count(*) AS "streams!"
           FROM core.stream
           WHERE owner IS NOT NULL AND lease_until > now() AND report ->> 'paused' IS NOT NULL
           GROUP BY 1, 2
           ORDER BY 1, 2"#,
    )
    .fetch_all(pg)
    .await?;
    let paused = rows.into_iter().map(|row| Paused {
        instance: row.owner,
        reason: row.reason,
        streams: unsigned(row.streams),
    });
    Ok(paused.collect())
}

/// How many of the newest parked frames were parked for which reason, the most frequent first.
pub async fn parked(pg: &mut PgConnection) -> Result<Vec<ParkedReason>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT reason, count(*) AS "frames!"
           FROM (SELECT reason FROM core.parked_frame ORDER BY id DESC LIMIT $1) AS newest
           GROUP BY reason
           ORDER BY 2 DESC, reason"#,
        COUNTED_PARKED,
    )
    .fetch_all(pg)
    .await?;
    let parked = rows.into_iter().map(|row| ParkedReason {
        reason: row.reason,
        frames: unsigned(row.frames),
    });
    Ok(parked.collect())
}
