//! The event log's upkeep: days that come, days that go, and sessions that become sums.

use std::time::Duration;

use headrace::services::Service;
use serde_json::{Value, json};
use shared_model::log::LogState;
use tests::EventLog;
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};
use uuid::Uuid;

const SOON: Duration = Duration::from_mins(1);

/// A world with the core, and nobody behind it.
async fn core_only(settings: Vec<(&'static str, &'static str)>) -> World {
    let world = World::with(Options {
        settings,
        without: vec![
            Service::OutboxRelay,
            Service::SnapshotProjection,
            Service::HealthProjection,
            Service::IngressPublisher,
        ],
        ..Options::default()
    })
    .await;
    world.ready(Service::IngressConsumer).await;
    world
}

async fn execute(world: &World, sql: &'static str) {
    sqlx::query(sql).execute(&world.pool).await.unwrap();
}

/// Appends `count` events to shard 0 as a transaction does that began so many seconds after the midnight
/// `days` days ago.
async fn log_at(world: &World, days: i32, seconds: f64, count: i64) {
    sqlx::query(
        "WITH head AS (
             UPDATE core.shard_head SET last_offset = last_offset + $3 WHERE shard = 0
             RETURNING last_offset
         )
         INSERT INTO core.event_log (shard, log_offset, logged_at, workspace, event_type, data)
         SELECT 0, last_offset - $3 + n,
                date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'
                    + make_interval(days => -$1, secs => $2),
                'w', 'vehicles.seen', '{\"vehicles\": []}'
         FROM head, generate_series(1, $3) AS n",
    )
    .bind(days)
    .bind(seconds)
    .bind(count)
    .execute(&world.pool)
    .await
    .unwrap();
}

async fn relayed(world: &World, offset: i64) {
    sqlx::query("UPDATE core.relay_checkpoint SET log_offset = $1 WHERE shard = 0")
        .bind(offset)
        .execute(&world.pool)
        .await
        .unwrap();
}

async fn put(world: &World, name: &str, applied: u64) {
    let url = format!("{}/internal/v1/subscribers/{name}", world.core_url());
    let body = json!({"applied": {"0": applied}});
    let answer = world.http.put(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

/// How many days ago there is a partition of the log for, today and later left out.
async fn past(world: &World) -> Vec<i32> {
    sqlx::query_scalar(
        "SELECT (now() AT TIME ZONE 'UTC')::date - to_date(right(relname, 8), 'YYYYMMDD') AS ago
         FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
         WHERE inhparent = 'core.event_log'::regclass
           AND to_date(right(relname, 8), 'YYYYMMDD') < (now() AT TIME ZONE 'UTC')::date
         ORDER BY ago DESC",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap()
}

const DROP_LAST_DAY: &str = "DO $$ BEGIN
    EXECUTE 'DROP TABLE core.event_log_' || to_char((now() AT TIME ZONE 'utc')::date + 7, 'YYYYMMDD');
END $$";
const DROP_TODAY: &str = "DO $$ BEGIN
    EXECUTE 'DROP TABLE core.event_log_' || to_char((now() AT TIME ZONE 'utc')::date, 'YYYYMMDD');
END $$";

async fn has_day(world: &World, ahead: i32) -> bool {
    sqlx::query_scalar(
        "SELECT to_regclass('core.event_log_' ||
             to_char((now() AT TIME ZONE 'utc')::date + $1, 'YYYYMMDD')) IS NOT NULL",
    )
    .bind(ahead)
    .fetch_one(&world.pool)
    .await
    .unwrap()
}

/// Waits until an upkeep has begun and ended: it makes the last day first, so the second one that is
/// made shows that the upkeep of the first is over.
async fn upkeep(world: &World) {
    for _ in 0..2 {
        execute(world, DROP_LAST_DAY).await;
        eventually(SOON, "made again", || has_day(world, 7), |there| *there).await;
    }
}

async fn first(world: &World) -> u64 {
    let url = format!("{}/internal/v1/log", world.core_url());
    let state: LogState = world
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    state.shards[0].first
}

/// The status and the offsets, or the problem's, of what lies behind an offset.
async fn read(world: &World, after: u64) -> (u16, Vec<u64>, String) {
    let url = format!("{}/internal/v1/log/0?after={after}", world.core_url());
    let answer = world.http.get(url).send().await.unwrap();
    let status = answer.status().as_u16();
    let text = answer.text().await.unwrap();
    if status != 200 {
        return (status, vec![], text);
    }
    let offset = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        event["sequence"].as_str().unwrap().parse().unwrap()
    };
    (status, text.lines().map(offset).collect(), String::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_goes_once_everybody_has_read_it() {
    let settings = vec![("log.upkeep_every", "200ms"), ("log.retention", "1h")];
    let world = core_only(settings).await;
    put(&world, "gone", 0).await;
    execute(
        &world,
        "SELECT core.make_event_log_partitions((now() AT TIME ZONE 'utc')::date - 4, 3)",
    )
    .await;
    log_at(&world, 4, 60.0, 5).await;
    // Two transactions over midnight: the one that began later took its offset first.
    log_at(&world, 3, 0.001, 1).await;
    log_at(&world, 4, 86_399.999, 1).await;
    log_at(&world, 3, 3600.0, 3).await;
    log_at(&world, 0, 0.001, 2).await;
    assert_eq!(
        read(&world, 0).await.1,
        (1..=12).collect::<Vec<_>>(),
        "days are no matter"
    );
    EventLog::read(&world.pool).await.assert_dense();

    relayed(&world, 6).await;
    put(&world, "slow", 7).await;
    upkeep(&world).await;
    assert_eq!(
        past(&world).await,
        [4, 3, 2],
        "offset 7 is of the first day and not relayed"
    );

    relayed(&world, 12).await;
    upkeep(&world).await;
    assert_eq!(
        past(&world).await,
        [4, 3, 2],
        "a subscriber has read nothing"
    );

    let url = world.url("/v1/subscribers/gone");
    assert_eq!(world.http.delete(url).send().await.unwrap().status(), 204);
    eventually(
        SOON,
        "one day goes",
        || past(&world),
        |past| *past == [3, 2],
    )
    .await;
    upkeep(&world).await;
    assert_eq!(
        past(&world).await,
        [3, 2],
        "the other subscriber has not read the next"
    );
    assert_eq!(
        first(&world).await,
        8,
        "6 lies on the next day, but 7 is gone"
    );
    assert_eq!(read(&world, 7).await.1, [8, 9, 10, 11, 12]);
    for after in [0, 5, 6] {
        let (status, _, problem) = read(&world, after).await;
        assert_eq!(status, 410);
        assert!(
            problem.contains("log-truncated") && problem.contains("first offset is 8"),
            "{problem}"
        );
    }

    // Who reads the log keeps a day for as long as that takes, and nobody waits for it meanwhile.
    let mut reader = world.pool.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM core.event_log")
        .execute(&mut *reader)
        .await
        .unwrap();
    put(&world, "slow", 12).await;
    let rolled_back =
        "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let failed = || async {
        sqlx::query_scalar::<_, i64>(rolled_back)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    let before = failed().await;
    eventually(SOON, "the drop gives way", failed, |now| *now >= before + 2).await;
    log_at(&world, 0, 0.002, 1).await;
    assert_eq!(past(&world).await, [3, 2]);
    reader.rollback().await.unwrap();
    eventually(SOON, "the rest goes", || past(&world), Vec::is_empty).await;
    assert_eq!(first(&world).await, 11);
    assert_eq!(read(&world, 10).await.1, [11, 12, 13]);
    world.stop().await;
}

/// Frames of three vehicles.
fn bodies() -> Vec<String> {
    let now = runtime::clock::now().timestamp_millis();
    (0..3)
        .map(|n| frame(&format!("bus-{n}"), "soc", json!(50), now))
        .collect()
}

async fn logged(world: &World) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM core.event_log")
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_day_that_is_missing_costs_nothing() {
    let world = core_only(vec![("log.upkeep_every", "1day")]).await;
    let names: Vec<_> = (0..3).map(|n| format!("bus-{n}")).collect();
    let connection = world.connect_nowhere("w", &names).await;
    let before = logged(&world).await;
    execute(&world, "DELETE FROM core.event_log").await;
    execute(&world, "UPDATE core.shard_head SET last_offset = 0").await;
    execute(&world, DROP_TODAY).await;
    assert!(before > 0 && !has_day(&world, 0).await);
    let rolled_back =
        "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
    let failed = || async {
        sqlx::query_scalar::<_, i64>(rolled_back)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    let failures = failed().await;
    world.send(&envelopes("w", connection, &bodies())).await;
    eventually(SOON, "commits fail", failed, |now| *now > failures).await;
    assert_eq!(logged(&world).await, 0);

    // The start of a core repairs it, as the next upkeep would.
    let (other, _) = world.another_core().await;
    eventually(SOON, "all logged", || logged(&world), |count| *count == 3).await;
    EventLog::read(&world.pool).await.assert_dense();
    let parked: i64 = sqlx::query_scalar("SELECT count(*) FROM core.parked_frame")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(parked, 0, "the frames are not to blame");
    other.stop().await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_sessions_become_sums() {
    let settings = vec![
        ("log.upkeep_every", "200ms"),
        ("acceptance.session_retention", "1s"),
    ];
    let world = core_only(settings).await;
    let names: Vec<_> = (0..3).map(|n| format!("bus-{n}")).collect();
    let connection = world.connect_nowhere("w", &names).await;
    // A feed's session is as old as it likes.
    let feed = Uuid::from_u128(1);
    sqlx::query("INSERT INTO core.poll (connection, paused) VALUES ($1, true)")
        .bind(connection.0)
        .execute(&world.pool)
        .await
        .unwrap();
    sqlx::query("INSERT INTO core.poll_feed (connection, feed, session) VALUES ($1, 'f', $2)")
        .bind(connection.0)
        .bind(feed)
        .execute(&world.pool)
        .await
        .unwrap();
    // Numbers 2 and 5 are missing, and 4 was replaced.
    for (session, partition, seen, conflated) in [
        (feed, 0, "{[1,10)}", "{}"),
        (Uuid::from_u128(2), 0, "{[1,2),[3,4),[6,7)}", "{[4,5)}"),
        (Uuid::from_u128(2), 1, "{[1,3)}", "{}"),
    ] {
        sqlx::query(
            "INSERT INTO core.session (session, partition, workspace, connection, seen, conflated,
                 first_at, last_at)
             VALUES ($1, $2, 'w', $3, $4::int8multirange, $5::int8multirange, 'epoch', 'epoch')",
        )
        .bind(session)
        .bind(partition)
        .bind(connection.0)
        .bind(seen)
        .bind(conflated)
        .execute(&world.pool)
        .await
        .unwrap();
    }
    let sums = || async {
        sqlx::query_as::<_, (i64, i64, i64)>(
            "SELECT seen, conflated, numbered FROM core.session_archive WHERE workspace = 'w'",
        )
        .fetch_optional(&world.pool)
        .await
        .unwrap()
    };
    let sessions = || async {
        sqlx::query_scalar::<_, Uuid>("SELECT DISTINCT session FROM core.session ORDER BY session")
            .fetch_all(&world.pool)
            .await
            .unwrap()
    };
    upkeep(&world).await;
    assert_eq!(sums().await, None, "it is the newest of its connection");
    world.send(&envelopes("w", connection, &bodies())).await;
    eventually(SOON, "archived", sums, |found| *found == Some((5, 1, 8))).await;
    let mut left = sessions().await;
    assert_eq!((left.len(), left.remove(0)), (2, feed), "and the newest");
    // The next one makes an old one of it.
    world.send(&envelopes("w", connection, &bodies())).await;
    eventually(SOON, "archived", sums, |found| *found == Some((8, 1, 11))).await;
    assert_eq!(sessions().await.len(), 2);
    world.stop().await;
}
