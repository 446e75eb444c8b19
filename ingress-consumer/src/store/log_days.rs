//! The event log's partitions, one a day (UTC), and who has read them.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use sqlx::PgConnection;

use super::{small, unsigned};
use crate::upkeep::plan::{Day, Holder, Reader};

/// The days that have a partition, in order, and what time it is by the database's clock.
pub async fn days(pg: &mut PgConnection) -> Result<(DateTime<Utc>, Vec<NaiveDate>), sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT now() AS "now!",
                  COALESCE(array_agg(to_date(right(relname, 8), 'YYYYMMDD') ORDER BY relname)
                           FILTER (WHERE relname IS NOT NULL), '{}') AS "days!: Vec<NaiveDate>"
           FROM pg_inherits
           JOIN pg_class ON pg_class.oid = pg_inherits.inhrelid
                        AND relname ~ '^event_log_[0-9]{8}$'
           WHERE inhparent = 'core.event_log'::regclass"#,
    )
    .fetch_one(pg)
    .await?;
    Ok((row.now, row.days))
}

/// The last offset of each shard on each of `days`: a look into the primary key of that day's partition
/// each.
pub async fn ends(pg: &mut PgConnection, days: &[NaiveDate]) -> Result<Vec<Day>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT d.day AS "day!", head.shard,
                  (SELECT log_offset
                   FROM core.event_log AS e
                   WHERE e.shard = head.shard
                     AND e.logged_at >= d.day::timestamp AT TIME ZONE 'UTC'
                     AND e.logged_at < (d.day + 1)::timestamp AT TIME ZONE 'UTC'
                   ORDER BY log_offset DESC
                   LIMIT 1) AS last_offset
           FROM UNNEST($1::date[]) AS d (day)
           CROSS JOIN core.shard_head AS head
           ORDER BY d.day, head.shard"#,
        days,
    )
    .fetch_all(pg)
    .await?;
    let mut ends: BTreeMap<NaiveDate, BTreeMap<u32, u64>> =
        days.iter().map(|day| (*day, BTreeMap::new())).collect();
    for row in rows {
        if let Some(offset) = row.last_offset {
            let day = ends.entry(row.day).or_default();
            day.insert(small(row.shard), unsigned(offset));
        }
    }
    let day = |(day, ends)| Day { day, ends };
    Ok(ends.into_iter().map(day).collect())
}

/// Who reads the log: the relay, and every subscriber.
pub async fn readers(pg: &mut PgConnection) -> Result<Vec<Reader>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT NULL::text AS name, shard AS "shard!", log_offset AS "applied!"
           FROM core.relay_checkpoint
           UNION ALL
           SELECT s.name, head.shard, COALESCE(c.applied, 0)
           FROM core.subscriber AS s
           CROSS JOIN core.shard_head AS head
           LEFT JOIN core.subscriber_checkpoint AS c ON c.name = s.name AND c.shard = head.shard"#,
    )
    .fetch_all(pg)
    .await?;
    let mut readers = BTreeMap::<Holder, BTreeMap<u32, u64>>::new();
    for row in rows {
        let holder = row.name.map_or(Holder::Relay, Holder::Subscriber);
        let applied = readers.entry(holder).or_default();
        applied.insert(small(row.shard), unsigned(row.applied));
    }
    let reader = |(holder, applied)| Reader { holder, applied };
    Ok(readers.into_iter().map(reader).collect())
}

/// When the oldest event that is kept was committed.
pub async fn oldest(pg: &mut PgConnection) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT min(first.logged_at)
         FROM core.shard_head AS head
         CROSS JOIN LATERAL (
             SELECT logged_at
             FROM core.event_log AS e
             WHERE e.shard = head.shard AND e.log_offset >= head.first_offset
             ORDER BY e.log_offset
             LIMIT 1
         ) AS first",
    )
    .fetch_one(pg)
    .await
}

/// Keeps all others away from the log until the transaction ends, or fails soon: nobody who writes waits
/// for longer than that.
pub async fn lock(pg: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SET LOCAL lock_timeout = '200ms'")
        .execute(&mut *pg)
        .await?;
    // Heads first, as those do who append.
    sqlx::query!("SELECT shard FROM core.shard_head ORDER BY shard FOR UPDATE")
        .fetch_all(&mut *pg)
        .await?;
    sqlx::query!("LOCK TABLE core.event_log IN ACCESS EXCLUSIVE MODE")
        .execute(pg)
        .await?;
    Ok(())
}

/// Drops a day, whose events are kept no longer; whether there was one. Needs [`lock`].
pub async fn drop_day(pg: &mut PgConnection, day: NaiveDate) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT core.drop_event_log_partition($1) AS "dropped!""#,
        day,
    )
    .fetch_one(pg)
    .await
}
