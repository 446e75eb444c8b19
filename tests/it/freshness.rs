//! Absence is a fact: time passing changes a vehicle's health, without any message.

use std::time::Duration;

use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_vehicle_turns_stale_and_then_offline_by_itself_and_fresh_again() {
    let settings = vec![
        ("freshness.stale_after", "3s"),
        ("freshness.offline_after", "6s"),
    ];
    let world = World::with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let health = || async { world.get("/v1/workspaces/w/vehicles/bus-1/health").await.1 };
    let is = |freshness: &'static str| move |health: &Value| health["freshness"] == freshness;

    eventually(SOON, "never seen", health, is("never_seen")).await;
    let soc = |value: i32| {
        let now = runtime::clock::now().timestamp_millis();
        envelopes("w", connection, &[frame("bus-1", "soc", json!(value), now)])
    };
    world.send(&soc(50)).await;
    let fresh = eventually(SOON, "fresh", health, is("fresh")).await;
    let stale = eventually(SOON, "stale", health, is("stale")).await;
    assert_eq!(stale["last_received_at"], fresh["last_received_at"]);
    assert!(
        stale["since"].as_str() > fresh["since"].as_str(),
        "{stale} {fresh}"
    );
    let offline = eventually(SOON, "offline", health, is("offline")).await;
    assert!(
        offline["since"].as_str() > stale["since"].as_str(),
        "{offline} {stale}"
    );
    let (_, fleet) = world.get("/v1/workspaces/w/health").await;
    assert_eq!(fleet["offline"], 1, "{fleet}");

    world.send(&soc(51)).await;
    eventually(SOON, "fresh again", health, is("fresh")).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicle_that_repeats_the_same_values_stays_fresh() {
    let settings = vec![
        ("freshness.stale_after", "4s"),
        ("freshness.offline_after", "60s"),
    ];
    let world = World::with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let health = || async { world.get("/v1/workspaces/w/vehicles/bus-1/health").await.1 };
    let first = runtime::clock::now();
    // Noise all along, for longer than the limit: only the sweep tells the projection.
    loop {
        let now = runtime::clock::now();
        let body = frame("bus-1", "soc", json!(50), now.timestamp_millis());
        world.send(&envelopes("w", connection, &[body])).await;
        let seen_again = eventually(SOON, "seen again", health, |health: &Value| {
            let at = health["last_received_at"].as_str().unwrap_or_default();
            at.parse()
                .is_ok_and(|at: chrono::DateTime<chrono::Utc>| at >= now)
        })
        .await;
        assert_eq!(seen_again["freshness"], "fresh");
        if (now - first).num_seconds() >= 6 {
            break;
        }
    }
    let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-1/snapshot").await;
    assert_eq!(snapshot["version"], 1, "{snapshot}");
    world.stop().await;
}
