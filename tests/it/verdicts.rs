//! Why a value is not the state: each observation's verdict, and what it lost against.

use std::time::Duration;

use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

const SOON: Duration = Duration::from_mins(1);
const PATH: &str = "/v1/workspaces/w/vehicles/bus-1/verdicts";

/// Waits for `count` verdicts of `verdict`; returns those, the newest first.
async fn verdicts(world: &World, verdict: &str, count: usize) -> Vec<Value> {
    let ask = || async { world.get(PATH).await.1 };
    let of_kind = |answer: &Value| -> Vec<Value> {
        let items = answer["items"].as_array().cloned().unwrap_or_default();
        items
            .into_iter()
            .filter(|item| item["verdict"] == verdict)
            .collect()
    };
    let answer = eventually(SOON, verdict, ask, |answer| of_kind(answer).len() == count).await;
    of_kind(&answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_observation_that_is_not_the_state_says_what_it_lost_against() {
    let world = World::with(Options {
        settings: vec![("acceptance.verdicts_kept", "4")],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let now = runtime::clock::now().timestamp_millis();
    let send = async |label: &str, value: Value, at: i64| {
        let body = [frame("bus-1", label, value, at)];
        world.send(&envelopes("w", connection, &body)).await;
    };
    send("soc", json!(80), now).await;
    let accepted = verdicts(&world, "accepted", 1).await;
    assert_eq!(accepted[0]["signal"], "state_of_charge");
    assert_eq!(accepted[0]["reading"]["value"], 80.0);

    send("soc", json!(70), now - 1000).await;
    let stale = verdicts(&world, "stale", 1).await;
    assert_eq!(stale[0]["reading"]["value"], 70.0);
    assert_eq!(stale[0]["against"]["value"], 80.0);
    assert_eq!(stale[0]["connection"], json!(connection));

    send("soc", json!(60), now).await;
    let conflict = verdicts(&world, "conflict", 1).await;
    assert_eq!(conflict[0]["reading"]["value"], 60.0);
    assert_eq!(conflict[0]["against"]["value"], 80.0);

    send("soc", json!(80), now).await;
    assert_eq!(
        verdicts(&world, "duplicate", 1).await[0]["against"]["value"],
        80.0
    );

    send("gps", json!("0|0"), now).await;
    let none = verdicts(&world, "no_value", 1).await;
    assert_eq!(none[0]["signal"], "position");
    assert_eq!(none[0]["reading"], Value::Null);

    // The oldest makes room for the newest.
    send("soc", json!(50), now - 2000).await;
    send("soc", json!(51), now - 2000).await;
    let stale = verdicts(&world, "stale", 2).await;
    assert_eq!(stale[0]["reading"]["value"], 51.0);
    assert_eq!(stale[1]["reading"]["value"], 50.0);
    let all = world.get(PATH).await.1["items"].as_array().unwrap().len();
    assert_eq!(all, 4 + 1, "four are kept beside the state");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_shows_and_a_workspace_sees_its_own_vehicles_only() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let ahead = runtime::clock::now() + Duration::from_hours(2);
    let body = [frame("bus-1", "soc", json!(42), ahead.timestamp_millis())];
    world.send(&envelopes("w", connection, &body)).await;
    let accepted = verdicts(&world, "accepted", 1).await;
    assert_eq!(accepted[0]["reading"]["clock_ahead"], true);
    for path in [
        "/v1/workspaces/other/vehicles/bus-1/verdicts",
        "/v1/workspaces/w/vehicles/bus-2/verdicts",
    ] {
        let (status, problem) = world.get(path).await;
        assert_eq!(status, 404);
        assert!(
            problem["detail"]
                .as_str()
                .unwrap()
                .contains("has no vehicle")
        );
    }
    let (status, _) = world.get("/v1/workspaces/w/vehicles/%20/verdicts").await;
    assert_eq!(status, 400);
    world.stop().await;
}
