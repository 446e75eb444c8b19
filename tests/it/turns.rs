//! Whoever reads leaves a service the connections that its own work needs.

use std::time::Duration;

use runtime::access::Scope;
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, eventually};
use tokio::task::JoinSet;

use crate::ingest::{envelope, post, push_connection};

const SOON: Duration = Duration::from_secs(30);

/// How many statements wait for the lock.
async fn waiting(world: &World) -> i64 {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event_type = 'Lock'";
    sqlx::query_scalar(waiting)
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_hang_leave_the_core_to_its_frames() {
    let world = World::with(Options::core_only()).await;
    let connection = push_connection(&world, "w", json!({"vehicles": {"bus-1": ["soc"]}})).await;
    let mut locked = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE core.parked_frame IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *locked)
        .await
        .unwrap();
    let mut reads = JoinSet::new();
    for _ in 0..2 {
        let key = world.key(&["w"], &[Scope::Read]).await;
        for _ in 0..10 {
            let url = world.url("/v1/workspaces/w/parked");
            let request = world.http.get(url).bearer_auth(&key);
            reads.spawn(async move { request.send().await.unwrap().status().as_u16() });
        }
    }
    // Half of the core's six connections.
    eventually(
        SOON,
        "reads hang",
        || waiting(&world),
        |waiting| *waiting == 3,
    )
    .await;

    let at = runtime::clock::now().timestamp_millis();
    let frames = [frame("bus-1", "soc", json!(51), at)];
    let answer = post(&world, &envelope("w", connection, &frames)).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["frames"][0]["verdict"], "accepted", "{answer}");
    assert_eq!(waiting(&world).await, 3, "the reads do not hang any more");

    locked.rollback().await.unwrap();
    let statuses = reads.join_all().await;
    assert!(statuses.contains(&200), "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [200, 503].contains(status)),
        "{statuses:?}"
    );
    world.stop().await;
}
