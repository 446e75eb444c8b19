//! Reading vehicles through the gateway, as those who have just written do.

use std::time::Duration;

use headrace::services::Service;
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, eventually};

use crate::ingest::{envelope, post, push_connection};

const SOON: Duration = Duration::from_secs(30);
const ONE: &str = "/v1/workspaces/w/vehicles/bus-1/snapshot";

#[tokio::test(flavor = "multi_thread")]
async fn who_has_ingested_a_value_reads_it_with_the_next_version() {
    let world = World::start().await;
    let settings = json!({"vehicles": {"bus-1": ["soc"]}});
    let connection = push_connection(&world, "w", settings).await;
    world.ready(Service::SnapshotProjection).await;
    let mut version = 0;
    for soc in [50, 60, 70, 80] {
        let now = runtime::clock::now().timestamp_millis();
        let body = frame("bus-1", "soc", json!(soc), now);
        let answer = post(&world, &envelope("w", connection, &[body])).await;
        let answer: Value = answer.json().await.unwrap();
        assert_eq!(answer["frames"][0]["verdict"], "accepted", "{answer}");
        // At once, and without asking again and again.
        let path = format!("{ONE}?min_version={}&wait=10&fields=signals", version + 1);
        let (status, snapshot) = world.get(&path).await;
        assert_eq!(status, 200, "{snapshot}");
        let read = &snapshot["signals"]["state_of_charge"]["value"];
        assert_eq!(read.as_f64(), Some(f64::from(soc)), "{snapshot}");
        version = snapshot["version"].as_i64().unwrap();
    }
    let (status, problem) = world
        .get(&format!("{ONE}?min_version={}&wait=0.1", version + 1))
        .await;
    assert_eq!(
        (status, &problem["version"]),
        (409, &json!(version)),
        "{problem}"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_health_agree_on_how_fresh_vehicles_are() {
    let options = Options {
        settings: vec![
            ("freshness.stale_after", "3s"),
            ("freshness.offline_after", "6s"),
            ("freshness.sweep_every", "50ms"),
        ],
        ..Options::default()
    };
    let world = World::with(options).await;
    let settings = json!({"vehicles": {"bus-1": ["soc"], "bus-2": ["soc"]}});
    let connection = push_connection(&world, "w", settings).await;
    let now = runtime::clock::now().timestamp_millis();
    let body = frame("bus-1", "soc", json!(50), now);
    post(&world, &envelope("w", connection, &[body])).await;
    for freshness in ["fresh", "stale", "offline"] {
        // Each lasts for 3 s, in which all three must say so.
        let said = || async {
            let health = world.get("/v1/workspaces/w/vehicles/bus-1/health").await.1;
            let one = world.get(ONE).await.1;
            let list = format!("/v1/workspaces/w/vehicles?freshness={freshness}&limit=1");
            let page = world.get(&list).await.1;
            [health, one, page["items"][0].clone()]
        };
        let is = |all: &[Value; 3]| {
            let of_bus = all.iter().all(|of| of["vehicle"] == "bus-1");
            of_bus && all.iter().all(|of| of["freshness"] == freshness)
        };
        let [health, one, _] = eventually(SOON, freshness, said, is).await;
        assert_eq!(one["last_received_at"], health["last_received_at"]);
    }
    let (_, page) = world
        .get("/v1/workspaces/w/vehicles?freshness=never_seen")
        .await;
    assert_eq!(page["items"][0]["vehicle"], "bus-2", "{page}");
    world.stop().await;
}
