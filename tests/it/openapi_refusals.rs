//! What the core's schemas do not allow is refused, with a problem and never with a failure.

use serde_json::{Value, json};
use tests::described::Described;
use tests::harness::{Options, World};

use crate::openapi_core::{get, order, world};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8001";
/// Operation, path, and the status and problem that it is refused with; `{long}` is longer than any id.
const REFUSED: &str = "
    listConnections /v1/workspaces/w/connections?limit=0 400 invalid-limit
    listConnections /v1/workspaces/w/connections?limit=-1 400 invalid-limit
    listConnections /v1/workspaces/w/connections?limit=99999999999999999999 400 invalid-query
    listConnections /v1/workspaces/w/connections?after=x 400 invalid-query
    listConnections /v1/workspaces/w/connections?colour=blue 400 invalid-query
    listConnections /v1/workspaces/W/connections 400 invalid-workspace
    listConnections /v1/workspaces/w%00/connections 400 invalid-workspace
    showConnection /v1/workspaces/w/connections/x 400 invalid-path
    showConnection /v1/workspaces/w/connections/01890a5d-ac96-774b-bcce-b302099a8001 404 connection-not-found
    removeConnection /v1/workspaces/w/connections/01890a5d-ac96-774b-bcce-b302099a8001 404 connection-not-found
    pollConnection /v1/workspaces/w/connections/01890a5d-ac96-774b-bcce-b302099a8001/poll 404 connection-not-found
    listPolls /v1/workspaces/w/polls?limit=1001 400 invalid-limit
    listStreams /v1/workspaces/w/streams?after= 400 invalid-query
    listVerdicts /v1/workspaces/w/vehicles/%00/verdicts 400 invalid-vehicle
    listVerdicts /v1/workspaces/w/vehicles/{long}/verdicts 400 invalid-vehicle
    listVerdicts /v1/workspaces/w/vehicles/nobody/verdicts 404 vehicle-not-found
    listParked /v1/workspaces/w/parked?after=-1 400 invalid-query
    listParked /v1/workspaces/w/parked?after=99999999999999999999 400 invalid-query
    listParked /v1/workspaces/w/parked?reason=a%00 400 invalid-query
    listParked /v1/workspaces/w/parked?provider=A 400 invalid-query
    listParked /v1/workspaces/w/parked?connection=%00 400 invalid-query
    listParked /v1/workspaces/w/parked?from=yesterday 400 invalid-query
    listParked /v1/workspaces/w/parked?from=%2B300000-01-01T00:00:00Z 400 invalid-query
    listParked /v1/workspaces/w/parked?to=-9999-01-01T00:00:00Z 400 invalid-query
    showParked /v1/workspaces/w/parked/x 400 invalid-path
    showParked /v1/workspaces/w/parked/-1 404 parked-frame-not-found
    showParked /v1/workspaces/w/parked/99999999999999999999 400 invalid-path
    listDeadEvents /v1/workspaces/w/dead-events?after=1 400 invalid-event-id
    listDeadEvents /v1/workspaces/w/dead-events?after=1:99999999999999999999 400 invalid-event-id
    showDeadEvent /v1/workspaces/w/dead-events/%2B1:1 400 invalid-event-id
    showDeadEvent /v1/workspaces/w/dead-events/1:1 404 dead-event-not-found
    listDeadLetters /v1/dead-letters?workspace=%00 400 invalid-query
    listDeadLetters /v1/dead-letters?replayed=maybe 400 invalid-query
    showDeadLetter /v1/dead-letters/-1 404 dead-letter-not-found
    showDeadLetter /v1/dead-letters/99999999999999999999 400 invalid-path
    reconcile /v1/reconcile?workspace=W 400 invalid-query
    resetSubscriber /v1/subscribers/%00/reset 400 invalid-subscriber
    forgetSubscriber /v1/subscribers/%00 400 invalid-subscriber
    forgetSubscriber /v1/subscribers/nobody 404 subscriber-not-found
";

#[tokio::test(flavor = "multi_thread")]
async fn what_the_schemas_do_not_allow_is_refused_with_a_problem() {
    let (world, core) = world(Options::core_only()).await;
    let long = "x".repeat(129);
    for line in REFUSED.lines().filter(|line| !line.is_empty()) {
        let parts: Vec<_> = line.split_whitespace().collect();
        let [operation, path, status, name] = parts.as_slice() else {
            panic!("{line:?} has not four parts");
        };
        let asked = get(operation, path.replace("{long}", &long));
        let status = status.parse().unwrap();
        core.refuses(&world, asked, status, name).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_its_schema_does_not_allow_is_refused_with_a_problem() {
    let (world, core) = world(Options::core_only()).await;
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
    frames_that_are_none(&core, &world).await;
    world.stop().await;
}

async fn frames_that_are_none(core: &Described, world: &World) {
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
        core.refuses(world, asked, 400, "invalid-body").await;
    }
    let asked = order(
        "ingestFrames",
        "/v1/provider-ingest",
        frame(json!({"body": "x"})),
    );
    core.refuses(world, asked, 404, "connection-not-found")
        .await;
}
