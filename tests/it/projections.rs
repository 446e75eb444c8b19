//! Projections know how far they are, fetch what they miss, and are rebuilt while they run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use headrace::services::Service;
use projections::{RebuildArguments, snapshot};
use runtime::{Context, config};
use serde_json::Value;
use shared_model::topology::Subscriber;
use tests::EventLog;
use tests::frames::{drives, vehicles};
use tests::harness::{World, envelopes, eventually};
use tests::model::{Fold, shown};

const SOON: Duration = Duration::from_mins(1);
const QUEUE: &str = Subscriber::Snapshot.queue();

/// Every row of the snapshots, as text.
async fn rows(world: &World) -> Vec<String> {
    let query = "SELECT v::text FROM snapshot.vehicle AS v ORDER BY workspace, vehicle";
    let rows = sqlx::query_scalar(query).fetch_all(&world.pool).await;
    rows.unwrap()
}

/// Rebuilds the snapshots, and returns what was said.
async fn rebuild(world: &World) -> String {
    let settings = world.settings_of(Service::SnapshotProjection);
    let config = config::load_from(settings).unwrap();
    let context = Context::new("snapshot-projection", "rebuild");
    let said = Mutex::new(String::new());
    let say = |line: &str| {
        let mut said = said.lock().unwrap();
        said.push_str(line);
        said.push('\n');
    };
    let arguments = RebuildArguments::default();
    let done = snapshot::rebuild(&context, config, arguments, &say).await;
    context.stop().await.unwrap();
    done.unwrap();
    said.into_inner().unwrap()
}

/// Waits until both projections have applied every event of every shard, and the core knows it.
async fn assert_caught_up(world: &World) {
    let heads: i64 = sqlx::query_scalar("SELECT sum(last_offset)::bigint FROM core.shard_head")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let ask = || async {
        let (_, listed) = world.get("/v1/subscribers").await;
        let items = listed["items"].as_array().cloned().unwrap_or_default();
        let of = |subscriber: &Value| {
            let shards = subscriber["shards"].as_array().into_iter().flatten();
            let applied = shards.filter_map(|shard| shard["applied"].as_i64());
            let lag = subscriber["lag_events"].as_i64();
            (subscriber["name"].clone(), applied.sum::<i64>(), lag)
        };
        items.iter().map(of).collect::<Vec<_>>()
    };
    let wanted = ["health", "snapshot"].map(|name| (name.into(), heads, Some(0)));
    let all = |found: &Vec<_>| wanted.iter().all(|of| found.contains(of));
    eventually(SOON, "everything is applied", ask, all).await;
    for schema in ["snapshot", "health"] {
        let query = format!(
            "SELECT applied::text FROM {schema}.checkpoint
             JOIN core.shard_head USING (shard)
             WHERE applied <> int8multirange(int8range(1, last_offset + 1))"
        );
        let torn: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_all(&world.pool)
            .await
            .unwrap();
        assert_eq!(torn, Vec::<String>::new(), "{schema}");
    }
}

async fn assert_snapshots(world: &World, frames: &[String]) {
    let fold = Fold::of(frames);
    for vehicle in fold.vehicles() {
        let path = format!("/v1/workspaces/w/vehicles/{vehicle}/snapshot");
        let ask = || async { shown(&world.get(&path).await.1) };
        let expected = fold.signals(vehicle);
        eventually(SOON, vehicle, ask, |found| *found == expected).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_queue_that_are_gone_come_back_byte_for_byte() {
    let mut world = World::start().await;
    let vehicles = vehicles(20);
    let connection = world.connect_nowhere("w", &vehicles).await;
    let frames = drives(1, &vehicles, 600, runtime::clock::now().timestamp_millis());
    world.send(&envelopes("w", connection, &frames)).await;
    world.drained().await;
    assert_snapshots(&world, &frames).await;
    assert_caught_up(&world).await;
    let live = rows(&world).await;
    assert_eq!(live.len(), 20);

    sqlx::raw_sql("DROP TABLE snapshot.vehicle, snapshot.checkpoint")
        .execute(&world.pool)
        .await
        .unwrap();
    let path = format!("queues/{}/{QUEUE}", world.vhost);
    assert_eq!(world.management_delete(&path).await, Some(204));
    let said = rebuild(&world).await;
    assert!(said.contains("no live tables"), "{said}");
    assert_eq!(rows(&world).await, live);
    world.ready(Service::SnapshotProjection).await;
    assert_caught_up(&world).await;

    // Once more beside live tables that are right, by another process's cursor than the worker's.
    let said = rebuild(&world).await;
    assert!(
        said.contains("equal                                         20"),
        "{said}"
    );
    assert_eq!(rows(&world).await, live);
    world.start_gateway().await;
    assert_snapshots(&world, &frames).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_purged_under_load_costs_nothing() {
    let mut world = World::start().await;
    let vehicles = vehicles(30);
    let connection = world.connect_nowhere("w", &vehicles).await;
    let frames = drives(
        2,
        &vehicles,
        1_500,
        runtime::clock::now().timestamp_millis(),
    );
    let envelopes = envelopes("w", connection, &frames);
    let parts: Vec<_> = envelopes.chunks(500).collect();
    let contents = format!("queues/{}/{QUEUE}/contents", world.vhost);
    world.send(parts[0]).await;

    // What waits while nobody takes it is thrown away.
    world.stop_service(Service::SnapshotProjection).await;
    world.send(parts[1]).await;
    let relayed = || async {
        let query = "SELECT coalesce(sum(last_offset - log_offset), 0)::bigint
             FROM core.shard_head JOIN core.relay_checkpoint USING (shard)";
        sqlx::query_scalar::<_, i64>(query)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    eventually(SOON, "relayed", relayed, |behind| *behind == 0).await;
    assert_eq!(world.management_delete(&contents).await, Some(204));
    world.start_service(Service::SnapshotProjection).await;

    // So is some of what comes while it is taken.
    let sending = async {
        for part in parts[2].chunks(25) {
            world.send(part).await;
        }
    };
    let purging = async {
        for _ in 0..10 {
            assert_eq!(world.management_delete(&contents).await, Some(204));
        }
    };
    tokio::join!(sending, purging);
    // And all that comes last, after which nothing follows.
    world.drained().await;
    assert_caught_up(&world).await;
    world.start_gateway().await;
    assert_snapshots(&world, &frames).await;
    EventLog::read(&world.pool).await.assert_dense();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_is_not_seen_by_those_who_read_and_write() {
    let world = World::start().await;
    let vehicles = vehicles(40);
    let connection = world.connect_nowhere("w", &vehicles).await;
    let now = runtime::clock::now().timestamp_millis();
    let frames = drives(3, &vehicles, 1_200, now);
    let envelopes = envelopes("w", connection, &frames);
    let (before, meanwhile) = envelopes.split_at(400);
    world.send(before).await;
    world.drained().await;
    let known = Fold::of(&frames[..400]).vehicles().count();

    let is_done = AtomicBool::new(false);
    let writing = async {
        for part in meanwhile.chunks(20) {
            world.send(part).await;
        }
        is_done.store(true, Ordering::Relaxed);
    };
    let rebuilding = async {
        let mut rebuilds = 0;
        while !is_done.load(Ordering::Relaxed) || rebuilds < 2 {
            let said = rebuild(&world).await;
            assert!(said.contains("switched"), "{said}");
            assert!(
                said.contains("missing in what was built                      0"),
                "{said}"
            );
            rebuilds += 1;
        }
    };
    let reading = async {
        loop {
            let (status, page) = world.get("/v1/workspaces/w/vehicles?limit=1000").await;
            assert_eq!(status, 200, "{page}");
            let found = page["items"].as_array().unwrap().len();
            assert!(found >= known, "{found} of {known} vehicles");
        }
    };
    tokio::select! {
        () = reading => {}
        _ = async { tokio::join!(rebuilding, writing) } => {}
    }
    world.drained().await;
    assert_caught_up(&world).await;
    assert_snapshots(&world, &frames).await;
    world.stop().await;
}
