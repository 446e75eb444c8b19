//! How connections are doing: what publishers say comes out in the health API, and what nobody can
//! say any more is said by the core.

use std::time::Duration;

use headrace::services::Service;
use provider_sim::{Closing, StatusCode};
use runtime::amqp::{Message, Outcome};
use rustix::process::Signal;
use serde_json::{Value, json};
use shared_model::connection_status::{CONTENT_TYPE, VERSION};
use shared_model::{ConnectionId, ConnectionStatus, StatusReport, partition, topology};
use tests::frames::frame;
use tests::harness::{Options, PublisherProcess, World, eventually, provider};

use crate::program::program;

const SOON: Duration = Duration::from_mins(1);

async fn health(world: &World, connection: ConnectionId) -> Value {
    let path = format!("/v1/workspaces/w/health/connections/{connection}");
    world.get(&path).await.1
}

async fn becomes(world: &World, connection: ConnectionId, status: &str) -> Value {
    let ask = || health(world, connection);
    eventually(SOON, status, ask, |health: &Value| {
        health["status"] == status
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connections_life_shows_in_its_health() {
    let settings = vec![
        ("stream.silent_after", "1s"),
        ("stream.refused_wait", "300ms"),
    ];
    let world = World::with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let provider = provider();
    let settings = json!({"vehicles": {"bus-1": ["soc"]}});
    let connection = world.connect("w", &provider.live_url(), settings).await;
    provider.subscribed(1).await;
    let now = runtime::clock::now().timestamp_millis();
    provider
        .send_text(frame("bus-1", "soc", json!(50), now))
        .await;
    // The echo and the frame have come; then nothing does.
    let silent = becomes(&world, connection, "silent").await;
    assert_eq!(silent["provider"], "viriciti");
    assert_eq!(silent["epoch"], 1);
    assert_eq!(silent["last_error"], Value::Null);
    provider
        .send_text(frame("bus-1", "soc", json!(51), now + 1))
        .await;
    becomes(&world, connection, "subscribed").await;

    // A provider may say anything.
    provider.close_all(&Closing::Frame {
        code: 1013,
        reason: "busy\0".to_owned(),
    });
    let streams = || async {
        let (_, page) = world.get("/v1/workspaces/w/streams").await;
        page["items"][0].clone()
    };
    let stream = eventually(SOON, "it is read again", streams, |stream: &Value| {
        stream["reconnects"] == 1 && stream["state"] == "subscribed"
    })
    .await;
    let error = stream["last_error"].as_str().unwrap();
    assert!(error.contains("1013 busy\u{fffd}"), "{error}");

    provider.refuse_with(StatusCode::UNAUTHORIZED);
    provider.close_all(&Closing::Abrupt);
    let refused = || health(&world, connection);
    let refused = eventually(SOON, "it is refused", refused, |health: &Value| {
        health["status"] == "disconnected" && health["reason"] == "refused"
    })
    .await;
    let error = refused["last_error"].as_str().unwrap();
    assert!(error.contains("401"), "{error}");
    assert!(refused["reconnects"].as_u64().unwrap() >= 1);
    let (_, summary) = world.get("/v1/workspaces/w/health").await;
    assert_eq!(summary["connections"]["disconnected"], 1, "{summary}");

    provider.accept();
    let again = || health(&world, connection);
    let again = eventually(SOON, "it is well again", again, |health: &Value| {
        health["status"] != "disconnected"
    })
    .await;
    assert_eq!(again["last_error"], error, "what went wrong last is kept");

    let url = world.url(&format!("/v1/workspaces/w/connections/{connection}"));
    let removed = world.http.delete(url).send().await.unwrap();
    assert_eq!(removed.status().as_u16(), 204);
    let ask = || async {
        let path = format!("/v1/workspaces/w/health/connections/{connection}");
        world.get(&path).await.0
    };
    eventually(SOON, "it is gone", ask, |status| *status == 404).await;
    world.stop().await;
}

fn report(
    connection: ConnectionId,
    epoch: u64,
    number: u64,
    status: ConnectionStatus,
) -> StatusReport {
    StatusReport {
        version: VERSION.to_string(),
        connection,
        workspace: "w".parse().unwrap(),
        provider: "viriciti".parse().unwrap(),
        owner: format!("publisher-{epoch}"),
        epoch,
        number,
        status,
        since: runtime::clock::now(),
        reason: None,
        error: None,
        session: None,
        frames_per_minute: number,
        reconnects: 0,
    }
}

async fn say(world: &World, report: &StatusReport) {
    let partition = partition::partition(&report.workspace, report.connection, "", 4);
    let message = Message {
        exchange: topology::INGRESS_EXCHANGE,
        routing_key: topology::ingress_routing_key(partition),
        message_id: report.message_id(),
        content_type: CONTENT_TYPE.into(),
        headers: std::collections::BTreeMap::default(),
        body: report.encode(),
    };
    let (publisher, stop) = world.publisher();
    let outcome = publisher.publish(&message, &stop).await;
    assert_eq!(outcome, Ok(Outcome::Confirmed));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_owner_says_late_changes_nothing() {
    use ConnectionStatus::{Disconnected, Silent, Subscribed};
    let world = World::with(Options {
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    world.ready(Service::IngressConsumer).await;
    say(&world, &report(connection, 3, 2, Subscribed)).await;
    // Late, late and of an earlier owner, twice, in the name of another workspace; then news.
    say(&world, &report(connection, 3, 1, Disconnected)).await;
    say(&world, &report(connection, 2, 9, Disconnected)).await;
    say(&world, &report(connection, 3, 2, Disconnected)).await;
    let mut foreign = report(connection, 4, 1, Disconnected);
    foreign.workspace = "other".parse().unwrap();
    say(&world, &foreign).await;
    becomes(&world, connection, "subscribed").await;
    say(&world, &report(connection, 3, 3, Silent)).await;
    let silent = becomes(&world, connection, "silent").await;
    assert_eq!(silent["owner"], "publisher-3");
    assert_eq!(silent["frames_per_minute"], 3);
    world.drained().await;
    let events = "SELECT data ->> 'status' FROM core.event_log
                  WHERE event_type = 'connection.status.changed' ORDER BY log_offset";
    let events: Vec<String> = sqlx::query_scalar(events)
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert_eq!(events, ["subscribed", "silent"]);
    let (_, other) = world.get("/v1/workspaces/other/health/connections").await;
    assert_eq!(other, json!({"items": [], "next": null}));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_whose_owner_is_lost_is_disconnected_although_nobody_says_so() {
    let world = World::with(Options {
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let provider = provider();
    let settings = json!({"vehicles": {"bus-1": ["soc"]}});
    let connection = world.connect("w", &provider.live_url(), settings).await;
    let mut publisher = PublisherProcess::start(&world, program(), &[]);
    becomes(&world, connection, "subscribed").await;
    publisher.signal(Signal::KILL);
    publisher.ended().await;
    let lost = becomes(&world, connection, "disconnected").await;
    assert_eq!(lost["reason"], "unowned");
    world.stop().await;
}
