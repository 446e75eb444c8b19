//! Webhooks from a provider's frame to the receiver, and through the gateway and the command line.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use headrace::services::Service;
use ring::hmac;
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

use crate::program::headrace;

const SOON: Duration = Duration::from_secs(30);

type Calls = Arc<Mutex<Vec<(HeaderMap, String)>>>;

/// A receiver that takes everything; returns its URL.
async fn receiver(calls: Calls) -> String {
    async fn take(State(calls): State<Calls>, headers: HeaderMap, body: String) {
        calls.lock().unwrap().push((headers, body));
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let app = Router::new().fallback(take).with_state(calls);
    tokio::spawn(async move { axum::serve(listener, app).await });
    url
}

async fn world() -> World {
    let settings = vec![
        ("webhooks.allow_http", "true"),
        ("webhooks.allow_private", "true"),
        ("webhooks.look_every", "50ms"),
    ];
    World::with(Options {
        settings,
        ..Options::default()
    })
    .await
}

/// The signature that a receiver computes for itself.
fn signature(secret: &str, id: &str, timestamp: &str, body: &str) -> String {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let signature = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(signature))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_frame_changes_arrives_signed_at_the_receiver() {
    let world = world().await;
    world.ready(Service::Reactions).await;
    let calls = Calls::default();
    let hook = receiver(Arc::clone(&calls)).await;
    let new = json!({"url": hook, "event_types": ["vehicle.snapshot.changed"]});
    let url = world.url("/v1/workspaces/w/webhooks");
    let answer = world.http.post(&url).json(&new).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    let webhook: Value = answer.json().await.unwrap();

    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let now = runtime::clock::now().timestamp_millis();
    let frames = [frame("bus-1", "soc", json!(50), now)];
    world.send(&envelopes("w", connection, &frames)).await;
    let came = || async { calls.lock().unwrap().clone() };
    let came = eventually(SOON, "a call", came, |calls| !calls.is_empty()).await;
    let (headers, body) = &came[0];
    let header = |name: &str| headers[name].to_str().unwrap();
    let expected = signature(
        webhook["secret"].as_str().unwrap(),
        header("webhook-id"),
        header("webhook-timestamp"),
        body,
    );
    assert_eq!(header("webhook-signature"), expected);
    let event: Value = serde_json::from_str(body).unwrap();
    assert_eq!(event["type"], "vehicle.snapshot.changed");
    assert_eq!(
        (&event["workspace"], &event["subject"]),
        (&json!("w"), &json!("bus-1"))
    );
    assert_eq!(event["data"]["signals"]["state_of_charge"]["value"], 50.0);

    // All of the API is reachable through the gateway.
    let id = webhook["id"].as_str().unwrap();
    let path = format!("/v1/workspaces/w/webhooks/{id}");
    let deliveries = || async { world.get(&format!("{path}/deliveries")).await.1 };
    let done = |page: &Value| page["items"][0]["status"] == "succeeded";
    let page = eventually(SOON, "recorded", deliveries, done).await;
    let delivery = format!(
        "{path}/deliveries/{}",
        page["items"][0]["id"].as_str().unwrap()
    );
    assert_eq!(world.get(&delivery).await.1["log"][0]["status"], 200);
    assert_eq!(
        world.get(&format!("{path}/secret")).await.1["secret"],
        webhook["secret"]
    );
    for (path, body, expected) in [
        (format!("{delivery}/redeliver"), json!({}), 202),
        (
            format!("{path}/recover"),
            json!({"since": "2017-11-23T11:31:34Z"}),
            202,
        ),
        (format!("{path}/test"), json!({}), 202),
        (format!("{path}/secret/rotate"), json!({}), 200),
    ] {
        let answer = world
            .http
            .post(world.url(&path))
            .json(&body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), expected, "{path}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_reactions_loses_no_event() {
    let mut world = world().await;
    world.ready(Service::Reactions).await;
    let calls = Calls::default();
    let hook = receiver(Arc::clone(&calls)).await;
    let url = world.url("/v1/workspaces/w/webhooks");
    let new = json!({"url": hook, "event_types": ["vehicle.registered"]});
    let answer = world.http.post(&url).json(&new).send().await.unwrap();
    assert_eq!(answer.status().as_u16(), 201);
    world.stop_service(Service::Reactions).await;
    let vehicles: Vec<_> = (0..10).map(|number| format!("bus-{number}")).collect();
    world.connect_nowhere("w", &vehicles).await;
    world.start_service(Service::Reactions).await;
    let subjects = || async {
        let calls = calls.lock().unwrap();
        let bodies = calls
            .iter()
            .map(|(_, body)| serde_json::from_str::<Value>(body).unwrap());
        let mut subjects: Vec<_> = bodies
            .map(|of| of["subject"].as_str().unwrap().to_owned())
            .collect();
        subjects.sort();
        subjects.dedup();
        subjects
    };
    eventually(SOON, "all vehicles", subjects, |subjects| {
        *subjects == vehicles
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_managed_from_the_command_line() {
    let world = world().await;
    world.ready(Service::Reactions).await;
    let calls = Calls::default();
    let hook = receiver(Arc::clone(&calls)).await;
    let run = async |arguments: &[&str]| {
        let all = [&["webhook"], arguments, &["--workspace=w"]].concat();
        headrace(&world, &all).await
    };
    let listed = || async { world.get("/v1/workspaces/w/webhooks").await.1["items"].clone() };
    let types = [
        "--event-type",
        "vehicle.registered",
        "--vehicle",
        "bus-1",
        "--provider",
        "viriciti",
    ];
    run(&[&["add", &hook], &types[..]].concat())
        .await
        .says("\"secret\"");
    run(&["add", "gopher://example.com"])
        .await
        .fails_for("http");
    let items = listed().await;
    assert_eq!(items.as_array().unwrap().len(), 1);
    assert_eq!(
        items[0]["filters"],
        json!({"vehicles": ["bus-1"], "providers": ["viriciti"]})
    );
    let id = items[0]["id"].as_str().unwrap();
    run(&["disable", id]).await.says("\"enabled\": false");
    assert_eq!(listed().await[0]["enabled"], false);
    run(&["test", id]).await.fails_for("disabled");
    run(&["enable", id]).await.says("\"enabled\": true");
    run(&["test", id]).await.succeeds();
    let came = || async { calls.lock().unwrap().len() };
    eventually(SOON, "the test", came, |calls| *calls == 1).await;
    let path = format!("/v1/workspaces/w/webhooks/{id}/deliveries");
    let deliveries = || async { world.get(&path).await.1 };
    let done = |page: &Value| page["items"][0]["status"] == "succeeded";
    let page = eventually(SOON, "recorded", deliveries, done).await;
    let delivery = page["items"][0]["id"].as_str().unwrap();
    run(&["redeliver", id, "--delivery", delivery])
        .await
        .succeeds();
    eventually(SOON, "the test again", came, |calls| *calls == 2).await;
    run(&["redeliver", id, "--since", "2017-11-23T11:31:34Z"])
        .await
        .succeeds();
    run(&["list"]).await.says(id);
    run(&["show", id, "--secret"]).await.says("\"secret\"");
    run(&["rotate", id]).await.says("\"secret\"");
    for filter in [["--status", "succeeded"], ["--delivery", delivery]] {
        run(&[&["deliveries", id], &filter[..]].concat())
            .await
            .says(delivery);
    }
    run(&["deliveries", id, "--status", "lost"])
        .await
        .fails_for("lost");
    run(&["remove", id]).await.succeeds();
    run(&["show", id]).await.fails_for("no webhook");
    world.stop().await;
}
