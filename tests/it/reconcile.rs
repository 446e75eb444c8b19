//! Everything adds up, whatever happens on the way; and what does not is named exactly.

use std::time::Duration;

use headrace::services::Service;
use ingress_consumer::store::session;
use reqwest::Method;
use serde_json::{Value, json};
use shared_model::{ConnectionId, Envelope};
use tests::frames::{drives, frame, subscription, vehicles};
use tests::harness::{Options, World, envelopes, eventually, provider};
use tests::model::{Fold, shown};

use crate::dead_letters::{bury, letters, order};
use crate::program::{Ran, headrace};

const SOON: Duration = Duration::from_mins(1);

async fn report(world: &World, query: &str) -> Value {
    let (status, report) = world.get(&format!("/v1/reconcile{query}")).await;
    assert_eq!(status, 200, "{report}");
    report
}

async fn judged(world: &World, verdict: &str) -> Value {
    let ask = || report(world, "");
    eventually(SOON, verdict, ask, |report: &Value| {
        report["verdict"] == verdict
    })
    .await
}

async fn command(world: &World, arguments: &[&str]) -> Ran {
    headrace(world, &[&["reconcile"], arguments].concat()).await
}

/// What a publisher says of its sessions.
async fn tell(world: &World, sessions: Value) {
    let url = format!("{}/internal/v1/publishers/teller", world.core_url());
    let heartbeat = json!({
        "incarnation": "01890a5d-ac96-774b-bcce-b302099a8057", "capacity": 0, "draining": false,
        "known": null, "reports": [], "released": [], "sessions": sessions,
    });
    let answer = world
        .http
        .request(Method::PUT, url)
        .json(&heartbeat)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
}

async fn sql(world: &World, statement: &'static str) {
    sqlx::query(statement).execute(&world.pool).await.unwrap();
}

/// Envelopes of one session and partition with the numbers 1 to `count`.
fn numbered(connection: ConnectionId, count: i32) -> Vec<Envelope> {
    let now = runtime::clock::now().timestamp_millis();
    let body = |n| frame("bus-1", "soc", json!(n), now + i64::from(n));
    envelopes("w", connection, &(1..=count).map(body).collect::<Vec<_>>())
}

/// A provider sends all along, every message is published twice, the publisher and the core stop, and the
/// broker dies.
#[tokio::test(flavor = "multi_thread")]
async fn everything_adds_up_after_stops_a_dead_broker_and_repeats() {
    let mut world = World::with(Options {
        settings: vec![("canary.republish_percent", "100")],
        breaks_servers: true,
        ..Options::default()
    })
    .await;
    let provider = provider();
    let vehicles = vehicles(10);
    let settings = subscription(&vehicles);
    world.connect("w", &provider.live_url(), settings).await;
    let now = runtime::clock::now().timestamp_millis();
    let frames = drives(7, &vehicles, 600, now);
    let mut parts = frames.chunks(100);
    let mut drive = async || {
        provider.subscribed(1).await;
        let part = parts.next().unwrap_or_default().to_vec();
        assert_eq!(provider.send_all(part).await, 1);
    };
    drive().await;
    world.stop_service(Service::IngressConsumer).await;
    drive().await;
    world.start_service(Service::IngressConsumer).await;
    drive().await;
    world.stop_service(Service::IngressPublisher).await;
    world.start_service(Service::IngressPublisher).await;
    drive().await;
    let rabbitmq = world.servers.private.rabbitmq();
    rabbitmq.kill().await.unwrap();
    rabbitmq.wait_exit().await;
    drive().await;
    rabbitmq.restart().await.unwrap();
    drive().await;
    world.drained().await;
    world.start_gateway().await;

    let sent = (frames.len() + provider.subscriptions().len()) as u64;
    let ask = || report(&world, "");
    let is_complete = |report: &Value| {
        report["verdict"] == "ok" && report["connections"][0]["sent"] == json!(sent)
    };
    let found = eventually(SOON, "everything adds up", ask, is_complete).await;
    let connection = &found["connections"][0];
    assert_eq!(connection["seen"], json!(sent), "{found}");
    for short in [
        "parked",
        "conflated",
        "dead",
        "discarded",
        "late",
        "missing",
    ] {
        assert_eq!(connection[short], 0, "{short}: {found}");
    }
    let told: i64 = sqlx::query_scalar("SELECT sum(sent)::bigint FROM core.session_source")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(told, sent as i64, "the publisher has said so itself");
    for shard in found["shards"].as_array().unwrap() {
        assert_eq!(shard["logged"], shard["published"], "{found}");
    }
    command(&world, &[]).await.says("connection");
    let report = command(&world, &["--json", "--workspace", "w"]).await;
    assert_eq!(report.json()["verdict"], "ok");

    let repeated = world.metric("headrace_acceptance_repeated_frames_total", "viriciti");
    assert!(repeated >= sent, "{repeated} of {sent} frames came again");
    let fold = Fold::of(&frames);
    for vehicle in &vehicles {
        let path = format!("/v1/workspaces/w/vehicles/{vehicle}/snapshot");
        let ask = || async { shown(&world.get(&path).await.1) };
        let expected = fold.signals(vehicle);
        eventually(SOON, vehicle, ask, |found| *found == expected).await;
    }
    world.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_do_not_add_up_are_named() {
    let world = World::with(Options {
        settings: vec![("reconcile.late_after", "2s"), ("reconcile.every", "200ms")],
        without: vec![Service::IngressPublisher],
        alone: true,
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let all = numbered(connection, 11);
    let (session, partition) = (all[0].attributes.session, all[0].partition);
    let said = |last: u64| {
        json!([{"session": session, "connection": connection, "workspace": "w",
                "sent": {partition.to_string(): last}, "ended": false}])
    };
    world.send(&all[..10]).await;
    world.drained().await;
    tell(&world, said(10)).await;
    let found = judged(&world, "ok").await;
    assert_eq!(found["connections"][0]["sent"], 10, "{found}");

    // Two more were sent, and do not come.
    tell(&world, said(12)).await;
    let found = report(&world, "").await;
    assert_eq!(found["verdict"], "late", "{found}");
    let gap = &found["connections"][0]["gaps"][0];
    assert_eq!(
        (&gap["late"], &gap["missing"]),
        (&json!(["11-12"]), &json!([]))
    );
    let late = command(&world, &["--wait", "0s"]).await;
    assert!(late.code == 3 && late.out.contains("11-12"), "{late:?}");
    let found = judged(&world, "missing").await;
    let gap = &found["connections"][0]["gaps"][0];
    assert_eq!(
        (&gap["late"], &gap["missing"]),
        (&json!([]), &json!(["11-12"]))
    );
    assert_eq!(gap["publisher"], "teller");
    let missing = command(&world, &["--wait", "1s"]).await;
    assert!(
        missing.code == 1 && missing.out.contains("11-12"),
        "{missing:?}"
    );

    // A number is lost, one of the two is a dead letter, the other cannot be read.
    sql(&world, "UPDATE core.session SET seen = seen - '{[4,5)}'").await;
    bury(&world, &all[10], None).await;
    letters(&world, 1).await;
    let mut unreadable = all[10].clone();
    unreadable.frames[0].number = 12;
    unreadable.frames[0].body = bytes::Bytes::from_static(b"not JSON");
    world.send(&[unreadable]).await;
    let ask = || report(&world, "?workspace=w");
    let only_four = |report: &Value| report["connections"][0]["gaps"][0]["missing"] == json!(["4"]);
    let found = eventually(SOON, "only 4 is missing", ask, only_four).await;
    let sums = &found["connections"][0];
    let expected = [
        ("sent", 12),
        ("seen", 9),
        ("parked", 1),
        ("dead", 1),
        ("missing", 1),
    ];
    for (sum, count) in expected {
        assert_eq!(sums[sum], count, "{sum}: {found}");
    }
    assert_eq!(found["shards"], json!([]));
    let ask = async || world.metric("headrace_reconcile_missing", "of=\"frames\"");
    eventually(SOON, "operators see it", ask, |missing| *missing == 1).await;

    sql(&world, "UPDATE core.session SET seen = seen + '{[4,5)}'").await;
    judged(&world, "ok").await;
    // What is replayed is seen; what is discarded is not missing.
    assert_eq!(
        order(&world, "replay", &json!({"filter": {}})).await["letters"],
        1
    );
    let ask = || report(&world, "");
    let is_seen =
        |report: &Value| report["connections"][0]["seen"] == 11 && report["verdict"] == "ok";
    let found = eventually(SOON, "the replayed is seen", ask, is_seen).await;
    assert_eq!(
        (&found["verdict"], &found["connections"][0]["dead"]),
        (&json!("ok"), &json!(0))
    );
    let mut given_up = all[10].clone();
    given_up.frames[0].number = 13;
    bury(&world, &given_up, None).await;
    letters(&world, 2).await;
    assert_eq!(
        order(&world, "discard", &json!({"filter": {}})).await["letters"],
        2
    );
    let found = judged(&world, "ok").await;
    assert_eq!(found["connections"][0]["discarded"], 1, "{found}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_do_not_add_up_are_named() {
    let mut world = World::with(Options {
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let names = vehicles(40);
    world.connect_nowhere("w", &names).await;
    world.drained().await;
    let found = judged(&world, "ok").await;
    let heads: serde_json::Map<_, _> = found["shards"]
        .as_array()
        .unwrap()
        .iter()
        .map(|shard| (shard["shard"].to_string(), shard["logged"].clone()))
        .collect();
    let progress = async |applied: Value| {
        let url = format!("{}/internal/v1/subscribers/reports", world.core_url());
        let answer = world
            .http
            .put(url)
            .json(&json!({"applied": applied}))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    };
    // One behind in one shard.
    let mut behind = heads.clone();
    let (shard, head) = heads
        .iter()
        .find(|(_, head)| head.as_u64() > Some(3))
        .unwrap();
    let (shard, head): (usize, u64) = (shard.parse().unwrap(), head.as_u64().unwrap());
    behind.insert(shard.to_string(), json!(head - 1));
    progress(Value::Object(behind)).await;
    let found = judged(&world, "late").await;
    let of_reports = |found: &Value| {
        let all = found["shards"][shard]["subscribers"]
            .as_array()
            .unwrap()
            .clone();
        all.into_iter()
            .find(|subscriber| subscriber["name"] == "reports")
            .unwrap()
    };
    let subscriber = of_reports(&found);
    assert_eq!(
        (&subscriber["behind"], &subscriber["applied"]),
        (&json!(1), &json!(head - 1))
    );
    assert!(subscriber["waiting_since"].is_string(), "{found}");
    progress(Value::Object(heads.clone())).await;
    judged(&world, "ok").await;

    // What the relay does not carry waits, and since when is known.
    world.stop_service(Service::OutboxRelay).await;
    world.connect_nowhere("w", &["bus-41".to_owned()]).await;
    let found = judged(&world, "late").await;
    let short = found["shards"].as_array().unwrap().iter();
    let short: Vec<_> = short
        .filter(|shard| shard["logged"] != shard["published"])
        .collect();
    assert_eq!(short.len(), 1, "{found}");
    assert!(short[0]["waiting_since"].is_string(), "{found}");
    world.start_service(Service::OutboxRelay).await;
    world.drained().await;

    // An event is gone from the log.
    let gone = sqlx::query("DELETE FROM core.event_log WHERE shard = $1 AND log_offset = $2")
        .bind(i32::try_from(shard).unwrap())
        .bind(i64::try_from(head - 1).unwrap())
        .execute(&world.pool)
        .await
        .unwrap();
    assert_eq!(gone.rows_affected(), 1);
    let found = judged(&world, "missing").await;
    assert_eq!(
        found["shards"][shard]["holes"],
        json!([(head - 1).to_string()]),
        "{found}"
    );
    let missing = command(&world, &[]).await;
    let hole = (head - 1).to_string();
    assert!(
        missing.code == 1 && missing.out.contains(&hole),
        "{missing:?}"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_archived_is_in_no_sum() {
    let world = World::with(Options {
        settings: vec![("reconcile.late_after", "100ms")],
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let (old, new) = (numbered(connection, 5), numbered(connection, 3));
    world.send(&old[..4]).await;
    world.send(&new).await;
    let said = |of: &Envelope, last: u64| {
        json!({"session": of.attributes.session, "connection": connection, "workspace": "w",
               "sent": {of.partition.to_string(): last}, "ended": true})
    };
    tell(&world, json!([said(&old[0], 5), said(&new[0], 3)])).await;
    bury(&world, &old[4], None).await;
    letters(&world, 1).await;
    world.drained().await;
    let found = judged(&world, "ok").await;
    assert_eq!(
        (
            &found["connections"][0]["sent"],
            &found["connections"][0]["dead"]
        ),
        (&json!(8), &json!(1))
    );

    sqlx::query("UPDATE core.session SET last_at = now() - interval '1 year' WHERE session = $1")
        .bind(old[0].attributes.session.0)
        .execute(&world.pool)
        .await
        .unwrap();
    let before = runtime::clock::now() - chrono::Duration::days(30);
    let mut pg = world.pool.acquire().await.unwrap();
    let first = shared_model::SessionId(uuid::Uuid::default());
    let archived = session::archive(&mut pg, first, before, 1000)
        .await
        .unwrap();
    assert_eq!(archived.rows, 1);
    // Of the old one only its dead letter is left, which says nothing of the numbers before.
    let found = judged(&world, "ok").await;
    let sums = &found["connections"][0];
    assert_eq!(
        (&sums["sent"], &sums["seen"], &sums["dead"]),
        (&json!(4), &json!(3), &json!(1))
    );
    assert_eq!(
        order(&world, "discard", &json!({"filter": {}})).await["letters"],
        1
    );
    let found = judged(&world, "ok").await;
    assert_eq!(found["connections"][0]["discarded"], 1, "{found}");
    drop(pg);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_which_nothing_has_ever_come_is_missing() {
    let world = World::with(Options {
        settings: vec![("reconcile.late_after", "200ms")],
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let session = shared_model::SessionId(runtime::clock::new_id());
    let silent = json!([{"session": session, "connection": connection, "workspace": "w",
        "sent": {"2": 3}, "ended": true}]);
    tell(&world, silent).await;
    let found = judged(&world, "missing").await;
    let gap = &found["connections"][0]["gaps"][0];
    assert_eq!(
        (&gap["session"], &gap["missing"]),
        (&json!(session), &json!(["1-3"]))
    );

    let nobody = report(&world, "?workspace=nobody").await;
    assert_eq!(
        (&nobody["verdict"], &nobody["connections"]),
        (&json!("ok"), &json!([]))
    );
    assert_eq!(world.get("/v1/reconcile?workspace=NO%20NAME").await.0, 400);
    assert_eq!(world.get("/v1/reconcile?colour=blue").await.0, 400);
    world.stop().await;
}
