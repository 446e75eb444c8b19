//! From a provider's socket to the read APIs.

use std::time::Duration;

use serde_json::{Value, json};
use tests::harness::{World, eventually, provider};
use tests::model::{Fold, shown};

const SOON: Duration = Duration::from_secs(30);

fn frame(vehicle: &str, label: &str, value: Value, time: i64) -> String {
    json!({"type": "vehicles", "payload":
        {"vid": vehicle, "label": label, "value": value, "time": time}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_at_the_socket_come_out_right_in_both_read_apis() {
    let world = World::start().await;
    let provider = provider();
    let settings = json!({"vehicles": {
        "bus-1": ["soc", "odo", "speed", "gps", "power"], "bus-2": ["soc", "gps"], "bus-3": ["soc"],
    }});
    world
        .connect("depot", &provider.live_url(), settings.clone())
        .await;
    let subscriptions = provider.subscriptions_received(1).await;
    let subscribed: Value = serde_json::from_str(&subscriptions[0].text).unwrap();
    assert_eq!(subscribed, json!({"vehicles": settings["vehicles"]}));
    provider.subscribed(1).await;

    let now = runtime::clock::now().timestamp_millis();
    let frames = vec![
        frame(
            "bus-1",
            "gps",
            json!("52.093360900878906|5.120636463165283"),
            now - 3000,
        ),
        frame("bus-1", "odo", json!(88527.902), now - 3000),
        frame("bus-1", "speed", json!(30.0), now - 3000),
        frame("bus-1", "soc", json!(66.0), now - 3000),
        frame("bus-1", "speed", json!(27), now - 2000),
        // A late one, which must not win.
        frame("bus-1", "speed", json!(99), now - 9000),
        // No values, which must not erase one.
        frame("bus-1", "soc", json!(null), now - 1000),
        frame("bus-1", "soc", json!(""), now - 900),
        frame("bus-1", "gps", json!("0|0"), now - 800),
        frame("bus-1", "power", json!(-41.5), now - 700),
        frame(
            "bus-2",
            "gps",
            json!({"lat": 51.5, "lon": -0.12}),
            now - 600,
        ),
        frame("bus-2", "soc", json!(0), now - 500),
    ];
    assert_eq!(provider.send_all(frames.clone()).await, 1);

    let fold = Fold::of(&frames);
    for vehicle in ["bus-1", "bus-2"] {
        let path = format!("/v1/workspaces/depot/vehicles/{vehicle}/snapshot");
        let ask = || async { world.get(&path).await.1 };
        let expected = fold.signals(vehicle);
        let snapshot = eventually(SOON, vehicle, ask, |found| shown(found) == expected).await;
        assert_eq!(snapshot["workspace"], "depot");
        assert_eq!(snapshot["vehicle"], vehicle);
        assert!(snapshot["version"].as_u64() >= Some(1), "{snapshot}");
        assert!(
            snapshot["age_seconds"]
                .as_f64()
                .is_some_and(|age| age < 60.0),
            "{snapshot}"
        );
        assert_eq!(
            snapshot["signals"]["state_of_charge"]["provider"],
            "viriciti"
        );

        let ask = || async { world.get(&path.replace("snapshot", "health")).await.1 };
        let health = eventually(SOON, "fresh", ask, |health| health["freshness"] == "fresh").await;
        assert!(
            health["last_received_at"].is_string() && health["since"].is_string(),
            "{health}"
        );
    }

    // A vehicle that is only named in the settings is known, and was never seen.
    let ask = || async { world.get("/v1/workspaces/depot/health").await.1 };
    let counts = |health: &Value| (health["fresh"].as_u64(), health["never_seen"].as_u64());
    eventually(SOON, "2 fresh, 1 never seen", ask, |h| {
        counts(h) == (Some(2), Some(1))
    })
    .await;
    let (_, health) = world
        .get("/v1/workspaces/depot/vehicles/bus-3/health")
        .await;
    assert_eq!(
        (&health["freshness"], &health["last_received_at"]),
        (&json!("never_seen"), &Value::Null)
    );

    world.stop().await;
    provider.stop().await;
}
