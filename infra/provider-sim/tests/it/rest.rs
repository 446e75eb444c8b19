//! The REST API of both providers.

use crate::client::{Client, http, soon};
use provider_sim::{
    Flaws, RestFault, Sample, ScriptedConfig, ScriptedProvider, Simulator, SimulatorConfig,
    StatusCode,
};
use serde_json::{Value, json};
use std::time::Duration;

fn sample(time: i64, value: Value) -> Sample {
    Sample { time, value }
}

#[tokio::test]
async fn a_scripted_provider_answers_with_what_it_was_handed() {
    let provider = ScriptedProvider::start(ScriptedConfig::default()).unwrap();
    provider.set_state("bus-1", "soc", sample(5, json!(72.8)));
    provider.add_history(
        "bus-1",
        "soc",
        vec![sample(1000, json!(1)), sample(3500, json!(null))],
    );
    provider.add_history("bus-1", "soc", vec![sample(2000, json!("52|5"))]);

    let (status, state) = http(
        &provider.url(),
        "POST /api/v2/state",
        r#"{"bus-1":["soc","odo"],"bus-2":["soc"]}"#,
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(
        state,
        json!({"bus-1": {"soc": {"time": 5, "value": 72.8}, "odo": null}, "bus-2": {"soc": null}})
    );
    let ask = async |target: &str| http(&provider.url(), &format!("GET {target}"), "").await;
    let all = json!([
        {"time": 1000, "value": 1}, {"time": 2000, "value": "52|5"}, {"time": 3500, "value": null}
    ]);
    let whole = "/api/v1/time/bus-1?label=soc&start=1000&end=3500";
    assert_eq!(ask(whole).await, (200, all));
    let part = "/api/v1/time/bus-1?label=soc&start=1001&end=3499&step=1&bordered=false";
    assert_eq!(ask(part).await.1, json!([{"time": 2000, "value": "52|5"}]));
    let steps = "/api/v1/time/bus-1?label=soc&start=0&end=9000&step=3000";
    assert_eq!(
        ask(steps).await.1,
        json!([{"time": 2000, "value": "52|5"}, {"time": 3500, "value": null}])
    );
    let several = "/api/v1/time/bus-1,bus-2?label=soc&start=0&end=1000";
    assert_eq!(
        ask(several).await.1,
        json!({"bus-1": [{"time": 1000, "value": 1}], "bus-2": []})
    );
    for wrong in [
        "/api/v1/time/bus-1?label=soc&start=0",
        "/api/v1/time/bus-1?label=soc&end=0",
        "/api/v1/time/bus-1?start=0&end=1",
        "/api/v1/time/bus-1?label=soc&start=2&end=1",
        "/api/v1/time/bus-1?label=soc&start=0&end=1&step=0",
        "/api/v1/time/bus-1?label=soc&start=0&end=2678400001",
        "/api/v1/time/a,b,c,d,e,f?label=soc&start=0&end=1",
    ] {
        assert_eq!(ask(wrong).await.0, 400, "{wrong}");
    }
    assert_eq!(
        http(&provider.url(), "POST /api/v2/state", "[]").await.0,
        400
    );
    let asked = provider.rest_requests();
    assert_eq!(asked.len(), 13);
    assert_eq!(asked[0].method, "POST");
    assert!(asked[0].body.contains("bus-2"));
    assert_eq!(asked[1].target, whole);
    assert_eq!(asked[12].status, StatusCode::BAD_REQUEST);
    provider.stop().await;
}

#[tokio::test]
async fn answers_can_be_scripted_and_keys_are_checked() {
    let config = ScriptedConfig {
        api_keys: vec!["another".to_owned()],
        ..ScriptedConfig::default()
    };
    let provider = ScriptedProvider::start(config).unwrap();
    provider.fail_rest(RestFault {
        status: StatusCode::TOO_MANY_REQUESTS,
        retry_after: Some("0.5".to_owned()),
    });
    let ask = async |query: &str| {
        let line = format!("GET /api/v1/time/bus-1?label=soc&start=0&end=1{query}");
        http(&provider.url(), &line, "").await.0
    };
    assert_eq!(ask("").await, 429);
    assert_eq!(ask("").await, 401);
    provider.stop().await;
}

#[tokio::test]
async fn the_simulator_remembers_what_was_not_listened_to() {
    let config = SimulatorConfig {
        vehicles: 3,
        rate: 50.0,
        authorisation_delay: Duration::ZERO,
        parked_every: Duration::from_millis(1),
        disconnect_every: None,
        flaws: Flaws::NONE,
        ..SimulatorConfig::default()
    };
    let simulator = Simulator::start(config).unwrap();
    let subscription = r#"{"vehicles":{"bus-2":["odo"]}}"#;
    let history = async |start: i64, end: i64| {
        let line = format!("GET /api/v1/time/bus-2?label=odo&start={start}&end={end}");
        let (status, body) = http(&simulator.url(), &line, "").await;
        assert_eq!(status, 200, "{body}");
        let samples = body.as_array().unwrap().clone();
        samples
            .into_iter()
            .map(|sample| (sample["time"].as_i64().unwrap(), sample["value"].clone()))
            .collect::<Vec<_>>()
    };
    // What was sent is in the history, and so is what came between two sockets.
    let mut client = Client::subscribed(&simulator.live_url(), subscription).await;
    let before = client.data(10).await;
    drop(client);
    let mut client = Client::subscribed(&simulator.live_url(), subscription).await;
    let after = client.data(10).await;
    let found = history(before[0].time, after[9].time).await;
    for datum in before.iter().chain(&after) {
        assert!(
            found.contains(&(datum.time, datum.value.clone())),
            "{datum:?}"
        );
    }
    let periods = (after[9].time - before[0].time) / 20;
    assert_eq!(found.len() as i64, periods + 1);

    // A paused vehicle has no data, and its state is the last one before the pause.
    simulator.pause(&["bus-2".to_owned()]).unwrap();
    let state = async || {
        let (_, state) = http(
            &simulator.url(),
            "POST /api/v2/state",
            r#"{"bus-2":["odo","oil"],"tram":["odo"]}"#,
        )
        .await;
        state
    };
    let paused = state().await;
    let at = paused["bus-2"]["odo"]["time"].as_i64().unwrap();
    assert_eq!(paused["bus-2"]["oil"], json!(null));
    assert_eq!(paused["tram"]["odo"], json!(null));
    let mut other =
        Client::subscribed(&simulator.live_url(), r#"{"vehicles":{"bus-1":["odo"]}}"#).await;
    let later = other.data(10).await[9].time;
    assert_eq!(state().await, paused);
    assert_eq!(history(at + 1, later).await, []);
    simulator.resume(&["bus-2".to_owned()]).unwrap();
    soon("a state that moves again", async {
        while state().await == paused {
            tokio::task::yield_now().await;
        }
    })
    .await;
    simulator.stop().await;
}
