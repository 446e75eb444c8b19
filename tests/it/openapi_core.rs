//! What the core describes of its API is what it does.

use std::time::Duration;

use headrace::services::Service;
use serde_json::{Value, json};
use tests::described::{Asked, Described};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

use crate::dead_letters::{bury, letters};
use crate::ingest::envelope;

const SOON: Duration = Duration::from_mins(1);
const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8001";

fn get(operation: &str, path: impl Into<String>) -> Asked<'_> {
    Asked {
        operation,
        path: path.into(),
        body: None,
    }
}

fn order(operation: &str, path: impl Into<String>, body: Value) -> Asked<'_> {
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

async fn world() -> (World, Described) {
    let world = World::with(Options {
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    world.ready(Service::IngressConsumer).await;
    let core = Described::new(&ingress_consumer::description());
    (world, core)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_core_answers_by_its_schema() {
    let (world, core) = world().await;
    let (core, world) = (&core, &world);
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
    assert_eq!(core.untried(), Vec::<String>::new());
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

    let base = "/v1/workspaces/w/parked";
    let query = format!(
        "{base}?limit=2&after=0&provider=viriciti&connection={push}&from=2000-01-01T00:00:00Z&to=9999-12-31T23:59:59Z"
    );
    let page = core.succeeds(world, get("listParked", query)).await;
    assert!(page["next"].is_i64(), "{page}");
    let id = &page["items"][0]["id"];
    core.succeeds(world, get("showParked", format!("{base}/{id}")))
        .await;
    for (operation, verb) in [("replayParked", "replay"), ("discardParked", "discard")] {
        for dry_run in [true, false] {
            let body = json!({"filter": {"reason": "invalid_syntax", "id": id}, "dry_run": dry_run,
                "limit": 10, "after": null});
            let outcome = core
                .succeeds(world, order(operation, format!("{base}/{verb}"), body))
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

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schemas_do_not_allow_is_refused_with_a_problem() {
    let (world, core) = world().await;
    let w = "/v1/workspaces/w";
    let far = "99999999999999999999";
    for (operation, path, status, name) in [
        (
            "listConnections",
            format!("{w}/connections?limit=0"),
            400,
            "invalid-limit",
        ),
        (
            "listConnections",
            format!("{w}/connections?limit=-1"),
            400,
            "invalid-limit",
        ),
        (
            "listConnections",
            format!("{w}/connections?limit={far}"),
            400,
            "invalid-query",
        ),
        (
            "listConnections",
            format!("{w}/connections?after=x"),
            400,
            "invalid-query",
        ),
        (
            "listConnections",
            format!("{w}/connections?colour=blue"),
            400,
            "invalid-query",
        ),
        (
            "listConnections",
            "/v1/workspaces/W/connections".to_owned(),
            400,
            "invalid-workspace",
        ),
        (
            "listConnections",
            "/v1/workspaces/w%00/connections".to_owned(),
            400,
            "invalid-workspace",
        ),
        (
            "showConnection",
            format!("{w}/connections/x"),
            400,
            "invalid-path",
        ),
        (
            "showConnection",
            format!("{w}/connections/{NOBODY}"),
            404,
            "connection-not-found",
        ),
        (
            "removeConnection",
            format!("{w}/connections/{NOBODY}"),
            404,
            "connection-not-found",
        ),
        (
            "pollConnection",
            format!("{w}/connections/{NOBODY}/poll"),
            404,
            "connection-not-found",
        ),
        (
            "listPolls",
            format!("{w}/polls?limit=1001"),
            400,
            "invalid-limit",
        ),
        (
            "listStreams",
            format!("{w}/streams?after="),
            400,
            "invalid-query",
        ),
        (
            "listVerdicts",
            format!("{w}/vehicles/%00/verdicts"),
            400,
            "invalid-vehicle",
        ),
        (
            "listVerdicts",
            format!("{w}/vehicles/{}/verdicts", "x".repeat(129)),
            400,
            "invalid-vehicle",
        ),
        (
            "listVerdicts",
            format!("{w}/vehicles/nobody/verdicts"),
            404,
            "vehicle-not-found",
        ),
        (
            "listParked",
            format!("{w}/parked?after=-1"),
            400,
            "invalid-query",
        ),
        (
            "listParked",
            format!("{w}/parked?after={far}"),
            400,
            "invalid-query",
        ),
        (
            "listParked",
            format!("{w}/parked?reason=a%00"),
            400,
            "invalid-query",
        ),
        (
            "listParked",
            format!("{w}/parked?provider=A"),
            400,
            "invalid-query",
        ),
        (
            "listParked",
            format!("{w}/parked?connection=%00"),
            400,
            "invalid-query",
        ),
        (
            "listParked",
            format!("{w}/parked?from=yesterday"),
            400,
            "invalid-query",
        ),
        (
            "listParked",
            format!("{w}/parked?from=%2B300000-01-01T00:00:00Z"),
            400,
            "invalid-query",
        ),
        (
            "listParked",
            format!("{w}/parked?to=-9999-01-01T00:00:00Z"),
            400,
            "invalid-query",
        ),
        ("showParked", format!("{w}/parked/x"), 400, "invalid-path"),
        (
            "showParked",
            format!("{w}/parked/-1"),
            404,
            "parked-frame-not-found",
        ),
        (
            "showParked",
            format!("{w}/parked/{far}"),
            400,
            "invalid-path",
        ),
        (
            "listDeadEvents",
            format!("{w}/dead-events?after=1"),
            400,
            "invalid-event-id",
        ),
        (
            "listDeadEvents",
            format!("{w}/dead-events?after=1:{far}"),
            400,
            "invalid-event-id",
        ),
        (
            "showDeadEvent",
            format!("{w}/dead-events/%2B1:1"),
            400,
            "invalid-event-id",
        ),
        (
            "showDeadEvent",
            format!("{w}/dead-events/1:1"),
            404,
            "dead-event-not-found",
        ),
        (
            "listDeadLetters",
            "/v1/dead-letters?workspace=%00".to_owned(),
            400,
            "invalid-query",
        ),
        (
            "listDeadLetters",
            "/v1/dead-letters?replayed=maybe".to_owned(),
            400,
            "invalid-query",
        ),
        (
            "showDeadLetter",
            "/v1/dead-letters/-1".to_owned(),
            404,
            "dead-letter-not-found",
        ),
        (
            "showDeadLetter",
            format!("/v1/dead-letters/{far}"),
            400,
            "invalid-path",
        ),
        (
            "reconcile",
            "/v1/reconcile?workspace=W".to_owned(),
            400,
            "invalid-query",
        ),
        (
            "resetSubscriber",
            "/v1/subscribers/%00/reset".to_owned(),
            400,
            "invalid-subscriber",
        ),
        (
            "forgetSubscriber",
            "/v1/subscribers/%00".to_owned(),
            400,
            "invalid-subscriber",
        ),
        (
            "forgetSubscriber",
            "/v1/subscribers/nobody".to_owned(),
            404,
            "subscriber-not-found",
        ),
    ] {
        core.refuses(&world, get(operation, path), status, name)
            .await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_its_schema_does_not_allow_is_refused_with_a_problem() {
    let (world, core) = world().await;
    let orders = [
        json!({}),
        json!([]),
        json!({"filter": {}, "colour": "blue"}),
        json!({"filter": {"colour": "blue"}}),
        json!({"filter": {}, "limit": -1}),
        json!({"filter": {}, "after": -1}),
        json!({"filter": {}, "dry_run": "yes"}),
        json!({"filter": {"reason": "a\u{0}"}}),
        json!({"filter": {"connection": "x"}}),
    ];
    let w = "/v1/workspaces/w";
    for (operation, path) in [
        ("replayParked", format!("{w}/parked/replay")),
        ("discardParked", format!("{w}/parked/discard")),
        ("replayDeadLetters", "/v1/dead-letters/replay".to_owned()),
        ("discardDeadLetters", "/v1/dead-letters/discard".to_owned()),
    ] {
        for body in &orders {
            let asked = order(operation, path.as_str(), body.clone());
            core.refuses(&world, asked, 422, "invalid-body").await;
        }
        for limit in [0, 10_001] {
            let asked = order(
                operation,
                path.as_str(),
                json!({"filter": {}, "limit": limit}),
            );
            core.refuses(&world, asked, 400, "invalid-limit").await;
        }
    }
    for (operation, path, body, status, name) in [
        (
            "discardParked",
            "parked/discard",
            json!({"filter": {"id": u64::MAX}}),
            422,
            "invalid-body",
        ),
        (
            "discardParked",
            "parked/discard",
            json!({"filter": {"provider": "A"}}),
            422,
            "invalid-body",
        ),
        (
            "addConnection",
            "connections",
            json!({"provider": "viriciti"}),
            422,
            "invalid-body",
        ),
        (
            "addConnection",
            "connections",
            json!({"provider": "viriciti", "kind": "push", "settings": 7}),
            400,
            "invalid-connection",
        ),
        (
            "addConnection",
            "connections",
            json!({"provider": "viriciti", "kind": "push", "settings": {"vehicles": {"a\u{0}": ["soc"]}}}),
            400,
            "invalid-connection",
        ),
        (
            "redriveDeadEvents",
            "dead-events/redrive",
            json!({"ids": [7]}),
            422,
            "invalid-body",
        ),
        (
            "redriveDeadEvents",
            "dead-events/redrive",
            json!({"ids": ["1:99999999999999999999"]}),
            400,
            "invalid-event-id",
        ),
        (
            "redriveDeadEvents",
            "dead-events/redrive",
            json!({}),
            400,
            "invalid-order",
        ),
    ] {
        let asked = order(operation, format!("{w}/{path}"), body);
        core.refuses(&world, asked, status, name).await;
    }
    let frame = |frame: Value| json!({"workspace": "w", "connection": NOBODY, "frames": [frame]});
    for body in [
        json!([]),
        json!({}),
        json!({"workspace": "w", "connection": NOBODY, "frames": []}),
        json!({"workspace": "W", "connection": NOBODY, "frames": [{"body": "x"}]}),
        frame(json!({})),
        frame(json!({"body": 7})),
        frame(json!({"body": "x", "colour": "blue"})),
        frame(json!({"body": "x", "received_at": "1999-01-01T00:00:00Z"})),
    ] {
        let asked = order("ingestFrames", "/v1/provider-ingest", body);
        core.refuses(&world, asked, 400, "invalid-body").await;
    }
    let asked = order(
        "ingestFrames",
        "/v1/provider-ingest",
        frame(json!({"body": "x"})),
    );
    core.refuses(&world, asked, 404, "connection-not-found")
        .await;
    world.stop().await;
}
