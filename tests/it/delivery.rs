//! Deliveries may come again and in any order.

use serde_json::Value;
use tests::EventLog;
use tests::frames::{drives, shuffled, vehicles};
use tests::harness::{Options, World, envelopes};
use tests::model::{Fold, shown};

const OBSERVATIONS: &str = "headrace_acceptance_observations_total";

async fn read_models(world: &World, vehicles: &[String]) -> Vec<Value> {
    let mut found = Vec::new();
    for vehicle in vehicles {
        let mut snapshot = world
            .get(&format!("/v1/workspaces/w/vehicles/{vehicle}/snapshot"))
            .await
            .1;
        // The one thing that changes by itself.
        snapshot["age_seconds"].take();
        found.push(snapshot);
        found.push(
            world
                .get(&format!("/v1/workspaces/w/vehicles/{vehicle}/health"))
                .await
                .1,
        );
    }
    found
}

async fn stored(world: &World) -> Vec<(String, i64, i64, Value)> {
    let query = "SELECT vehicle, version, revision, signals FROM core.vehicle ORDER BY vehicle";
    sqlx::query_as(query).fetch_all(&world.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_envelopes_again_in_any_order_change_nothing_but_the_duplicate_count() {
    // Counts in the process's metrics, which are every world's.
    let world = World::with(Options {
        alone: true,
        ..Options::default()
    })
    .await;
    let vehicles = vehicles(8);
    let connection = world.connect_nowhere("w", &vehicles).await;
    let frames = drives(1, &vehicles, 400, runtime::clock::now().timestamp_millis());
    let envelopes = envelopes("w", connection, &frames);

    let count = |verdict: &str| world.metric(OBSERVATIONS, &format!("verdict=\"{verdict}\""));
    let counts = || ["accepted", "stale", "duplicate"].map(count);
    let before = counts();
    world.send(&envelopes).await;
    world.drained().await;
    let once = (
        stored(&world).await,
        EventLog::read(&world.pool).await,
        read_models(&world, &vehicles).await,
    );
    let after_once = counts();
    assert_eq!(after_once[0] + after_once[1] - before[0] - before[1], 400);
    assert_eq!(after_once[2], before[2]);

    let fold = Fold::of(&frames);
    for (vehicle, snapshot) in vehicles.iter().zip(once.2.iter().step_by(2)) {
        assert_eq!(shown(snapshot), fold.signals(vehicle));
    }

    for seed in [2, 3] {
        world.send(&shuffled(seed, &envelopes)).await;
        world.drained().await;
    }
    let thrice = (
        stored(&world).await,
        EventLog::read(&world.pool).await,
        read_models(&world, &vehicles).await,
    );
    assert_eq!(thrice, once);
    let [accepted, stale, duplicate] = counts();
    assert_eq!([accepted, stale], after_once[..2]);
    assert_eq!(duplicate, after_once[2] + 800);
    once.1.assert_dense();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_arrival_ends_in_the_same_state() {
    let world = World::start().await;
    let vehicles = vehicles(5);
    let frames = drives(7, &vehicles, 200, runtime::clock::now().timestamp_millis());
    let mut states = Vec::new();
    for (seed, workspace) in [(10, "order-a"), (11, "order-b"), (12, "order-c")] {
        let connection = world.connect_nowhere(workspace, &vehicles).await;
        let envelopes = envelopes(workspace, connection, &frames);
        world.send(&shuffled(seed, &envelopes)).await;
        world.drained().await;
        let mut state = Vec::new();
        for vehicle in &vehicles {
            let path = format!("/v1/workspaces/{workspace}/vehicles/{vehicle}/snapshot");
            state.push(shown(&world.get(&path).await.1));
        }
        states.push(state);
    }
    let fold = Fold::of(&frames);
    let expected: Vec<_> = vehicles
        .iter()
        .map(|vehicle| fold.signals(vehicle))
        .collect();
    assert_eq!(states, vec![expected; 3]);
    world.stop().await;
}
