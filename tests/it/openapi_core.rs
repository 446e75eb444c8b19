//! What the core describes of its API is what it does.

use std::time::Duration;

use headrace::services::Service;
use serde_json::{Value, json};
use shared_model::ConnectionId;
use tests::described::{Asked, Described};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

use crate::dead_letters::{bury, letters};
use crate::ingest::envelope;

const SOON: Duration = Duration::from_mins(1);

pub fn get(operation: &str, path: impl Into<String>) -> Asked<'_> {
    Asked {
        operation,
        path: path.into(),
        body: None,
    }
}

pub fn order(operation: &str, path: impl Into<String>, body: Value) -> Asked<'_> {
    Asked {
        operation,
        path: path.into(),
        body: Some(body),
    }
}

async fn add(core: &Described, world: &World, connection: Value) -> String {
    let asked = order("addConnection", "/v1/workspaces/w/connections", connection);
    let added = core.succeeds(world, asked).await;
    added["id"].as_str().unwrap().to_owned()
}

pub async fn world(options: Options) -> (World, Described) {
    let world = World::with(options).await;
    world.ready(Service::IngressConsumer).await;
    let core = Described::new(&ingress_consumer::description());
    (world, core)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_core_answers_by_its_schema() {
    let options = Options {
        without: vec![Service::IngressPublisher],
        ..Options::default()
    };
    let (started, core) = world(options).await;
    let (core, world) = (&core, &started);
    let push = json!({"provider": "viriciti", "kind": "push",
        "settings": {"vehicles": {"bus-1": ["soc"]}, "register_unknown": false}});
    let push = add(core, world, push).await;
    connections(core, world).await;
    frames(core, world, &push).await;
    dead_letters(core, world, &push).await;
    dead_events(core, world).await;
    subscribers(core, world).await;
    for path in ["/v1/reconcile", "/v1/reconcile?workspace=w"] {
        let report = core.succeeds(world, get("reconcile", path)).await;
        assert!(
            !report["connections"].as_array().unwrap().is_empty(),
            "{report}"
        );
    }
    let path = format!("/v1/workspaces/w/connections/{push}");
    core.succeeds(world, get("removeConnection", path)).await;
    keys(core, world).await;
    let events = "/v1/workspaces/w/vehicles/bus-1/events?limit=5";
    let page = core.succeeds(world, get("listVehicleEvents", events)).await;
    assert!(!page["items"].as_array().unwrap().is_empty(), "{page}");
    let pipeline = core
        .succeeds(world, get("showPipeline", "/v1/pipeline"))
        .await;
    assert_eq!(
        pipeline["ingress"]["partitions"].as_array().map(Vec::len),
        Some(4)
    );
    let untried = core.untried();
    assert!(untried.is_empty(), "{untried:?} were not called");
    started.stop().await;
}

/// API keys, and what the audit log tells of them.
async fn keys(core: &Described, world: &World) {
    let me = core.succeeds(world, get("getMe", "/v1/me")).await;
    assert_eq!(me["workspaces"], Value::Null, "it may do everything");
    let new = json!({"name": "board", "scopes": ["read"], "expires_at": "2099-01-01T00:00:00Z"});
    let base = "/v1/workspaces/w/api-keys";
    let made = core.succeeds(world, order("createApiKey", base, new)).await;
    let one = format!("{base}/{}", made["id"].as_str().unwrap());
    core.succeeds(world, get("listApiKeys", base)).await;
    core.succeeds(world, get("getApiKey", &one)).await;
    core.succeeds(world, get("revokeApiKey", one)).await;
    let new = json!({"name": "two", "scopes": ["read", "operate"], "workspaces": ["w", "v"]});
    let base = "/v1/api-keys";
    let asked = order("createInstallationApiKey", base, new);
    let made = core.succeeds(world, asked).await;
    let one = format!("{base}/{}", made["id"].as_str().unwrap());
    core.succeeds(world, get("listInstallationApiKeys", base))
        .await;
    core.succeeds(world, get("getInstallationApiKey", &one))
        .await;
    core.succeeds(world, get("revokeInstallationApiKey", one))
        .await;
    let audit = get("listAudit", "/v1/workspaces/w/audit?limit=1");
    let page = core.succeeds(world, audit).await;
    let next = page["next"].as_str().unwrap();
    let audit = get("listInstallationAudit", format!("/v1/audit?after={next}"));
    core.succeeds(world, audit).await;
}

async fn connections(core: &Described, world: &World) {
    let base = "/v1/workspaces/w/connections";
    let stream = json!({"provider": "viriciti", "kind": "stream", "endpoint": "ws://127.0.0.1:9/x",
        "credential": "file:/nowhere", "settings": {"vehicles": {"bus-2": ["soc"]}}});
    add(core, world, stream).await;
    let poll = json!({"provider": "rfms", "kind": "poll", "endpoint": "http://127.0.0.1:9",
        "credential": "file:/nowhere", "settings": {"feeds": ["positions"], "interval": "1h"}});
    let poll = add(core, world, poll).await;
    let page = core
        .succeeds(world, get("listConnections", format!("{base}?limit=2")))
        .await;
    let next = page["next"].as_str().unwrap();
    let page = core
        .succeeds(
            world,
            get("listConnections", format!("{base}?after={next}")),
        )
        .await;
    assert_eq!(
        (page["items"].as_array().unwrap().len(), &page["next"]),
        (1, &Value::Null)
    );
    core.succeeds(world, get("showConnection", format!("{base}/{poll}")))
        .await;
    let streams = core
        .succeeds(world, get("listStreams", "/v1/workspaces/w/streams"))
        .await;
    assert_eq!(streams["items"][0]["state"], "unowned");
    core.succeeds(world, get("listPolls", "/v1/workspaces/w/polls"))
        .await;
    for (action, operation) in [
        ("poll", "pollConnection"),
        ("pause", "pauseConnection"),
        ("resume", "resumeConnection"),
    ] {
        core.succeeds(world, get(operation, format!("{base}/{poll}/{action}")))
            .await;
    }
    let ask = || core.succeeds(world, get("showPolls", format!("{base}/{poll}/polls")));
    // Its credential is nowhere, so it fails and says so.
    eventually(SOON, "a feed has an error", ask, |details| {
        details["feeds"][0]["last_error"].is_string()
    })
    .await;
}

async fn frames(core: &Described, world: &World, push: &str) {
    let now = runtime::clock::now().timestamp_millis();
    let bodies = [
        "not JSON".to_owned(),
        frame("bus-1", "soc", json!(61), now),
        frame("bus-1", "soc", json!(61), now),
        frame("bus-1", "soc", json!(60), now),
        frame("bus-1", "soc", json!(50), now - 1000),
        frame("bus-1", "soc", Value::Null, now),
        frame("bus-1", "soc", json!("full"), now),
        frame("stray", "soc", json!(1), now),
    ];
    let envelope = envelope("w", push.parse().unwrap(), &bodies);
    let answer = order("ingestFrames", "/v1/provider-ingest", envelope.clone());
    let answer = core.succeeds(world, answer).await;
    let verdicts: Vec<_> = answer["frames"]
        .as_array()
        .unwrap()
        .iter()
        .map(|frame| frame["verdict"].clone())
        .collect();
    for verdict in [
        "accepted",
        "duplicate",
        "stale",
        "conflict",
        "no_value",
        "parked",
    ] {
        assert!(verdicts.contains(&json!(verdict)), "{verdict}: {answer}");
    }
    let several = order(
        "ingestFrames",
        "/v1/provider-ingest",
        json!([envelope, envelope]),
    );
    core.succeeds(world, several).await;
    let path = "/v1/workspaces/w/vehicles/bus-1/verdicts";
    let judged = core.succeeds(world, get("listVerdicts", path)).await;
    assert!(judged["items"].as_array().unwrap().len() >= 5, "{judged}");

    // Of a connection that there is not, so that it is nobody's.
    let stray = ConnectionId(runtime::clock::new_id());
    world.send(&envelopes("w", stray, &bodies[..2])).await;
    let nobodys = || async { world.get("/v1/parked").await.1["items"][1].clone() };
    eventually(SOON, "what is nobody's", nobodys, Value::is_object).await;
    parked(core, world, "Parked", "/v1/workspaces/w/parked", push).await;
    let stray = stray.to_string();
    parked(core, world, "UnattributedParked", "/v1/parked", &stray).await;
}

/// Parked frames at `base`, whose operations end in `what`.
async fn parked(core: &Described, world: &World, what: &str, base: &str, connection: &str) {
    let query = format!(
        "{base}?limit=1&after=0&provider=viriciti&connection={connection}&from=2000-01-01T00:00:00Z&to=9999-12-31T23:59:59Z"
    );
    let page = core
        .succeeds(world, get(&format!("list{what}"), query))
        .await;
    assert!(page["next"].is_i64(), "{page}");
    let id = &page["items"][0]["id"];
    core.succeeds(world, get(&format!("show{what}"), format!("{base}/{id}")))
        .await;
    let reason = &page["items"][0]["reason"];
    for verb in ["replay", "discard"] {
        for dry_run in [true, false] {
            let body = json!({"filter": {"reason": reason, "id": id}, "dry_run": dry_run,
                "limit": 10, "after": null});
            let operation = format!("{verb}{what}");
            let outcome = core
                .succeeds(world, order(&operation, format!("{base}/{verb}"), body))
                .await;
            assert_eq!(outcome["frames"], 1, "{operation}: {outcome}");
        }
    }
}

async fn dead_letters(core: &Described, world: &World, push: &str) {
    let now = runtime::clock::now().timestamp_millis();
    let body = [frame("bus-1", "soc", json!(70), now)];
    let envelope = envelopes("w", push.parse().unwrap(), &body).remove(0);
    bury(world, &envelope, None).await;
    letters(world, 1).await;
    let base = "/v1/dead-letters";
    let query = format!("{base}?limit=1&after=0&workspace=w&reason=delivery_limit&replayed=false");
    let page = core.succeeds(world, get("listDeadLetters", query)).await;
    let id = &page["items"][0]["id"];
    let whole = core
        .succeeds(world, get("showDeadLetter", format!("{base}/{id}")))
        .await;
    assert_eq!(whole["now"]["verdicts"], json!({"accepted": 1}));
    for (operation, verb) in [
        ("replayDeadLetters", "replay"),
        ("discardDeadLetters", "discard"),
    ] {
        for dry_run in [true, false] {
            let body = json!({"filter": {"ids": [id]}, "dry_run": dry_run});
            let outcome = core
                .succeeds(world, order(operation, format!("{base}/{verb}"), body))
                .await;
            assert_eq!(outcome["letters"], 1, "{operation}: {outcome}");
        }
    }
}

async fn dead_events(core: &Described, world: &World) {
    // As the relay keeps an event that the broker refused too often.
    sqlx::query(
        "INSERT INTO core.event_dead (shard, log_offset, subject_key, workspace, event_type, subject,
                                      logged_at, data, blocked_at, attempts, reason)
         VALUES (0, 900000, 'bus-1', 'w', 'vehicle.registered', 'bus-1', now(), '{}', now(), 8, 'too large')",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let base = "/v1/workspaces/w/dead-events";
    let page = core
        .succeeds(world, get("listDeadEvents", format!("{base}?after=0:1")))
        .await;
    assert_eq!(page["items"][0]["id"], "0:900000");
    core.succeeds(world, get("showDeadEvent", format!("{base}/0:900000")))
        .await;
    for body in [
        json!({"ids": ["0:900000"], "dry_run": true}),
        json!({"all": true, "dry_run": true}),
    ] {
        let asked = order("redriveDeadEvents", format!("{base}/redrive"), body);
        assert_eq!(core.succeeds(world, asked).await["events"], 1);
    }
}

async fn subscribers(core: &Described, world: &World) {
    core.succeeds(world, get("resetSubscriber", "/v1/subscribers/gone/reset"))
        .await;
    let all = core
        .succeeds(world, get("listSubscribers", "/v1/subscribers"))
        .await;
    let names = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subscriber| &subscriber["name"]);
    assert!(names.into_iter().any(|name| name == "gone"), "{all}");
    core.succeeds(world, get("forgetSubscriber", "/v1/subscribers/gone"))
        .await;
}
