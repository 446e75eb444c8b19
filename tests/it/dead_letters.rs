//! Messages that the broker gave up: kept, explained, replayed and discarded.

use std::time::Duration;

use headrace::services::Service;
use runtime::Context;
use runtime::amqp::{Batch, Consumer, Link, Message};
use runtime::config::{AmqpConfig, BatchLimit, SecretUrl};
use serde_json::{Value, json};
use shared_model::{ConnectionId, Envelope, envelope, topology};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

use crate::program::headrace;

const SOON: Duration = Duration::from_mins(1);

fn envelope(connection: ConnectionId, soc: i32) -> Envelope {
    let now = runtime::clock::now().timestamp_millis();
    envelopes("w", connection, &[frame("bus-1", "soc", json!(soc), now)]).remove(0)
}

/// Publishes a message to where the broker puts dead letters.
pub async fn bury(world: &World, envelope: &Envelope, body: Option<&[u8]>) {
    let mut headers = envelope.encode_headers();
    headers.insert(
        "x-first-death-reason".to_owned(),
        "delivery_limit".to_owned(),
    );
    headers.insert("x-first-death-queue".to_owned(), "ingress.0".to_owned());
    let message = Message {
        exchange: topology::DEAD_LETTER_EXCHANGE,
        routing_key: topology::ingress_routing_key(envelope.partition),
        message_id: envelope.message_id(),
        content_type: envelope::CONTENT_TYPE.into(),
        headers,
        body: body.map_or_else(|| envelope.encode_body(), bytes::Bytes::copy_from_slice),
    };
    let (publisher, stop) = world.publisher();
    publisher
        .publish_until_confirmed(&message, &stop)
        .await
        .unwrap();
}

async fn listed(world: &World, query: &str) -> Vec<Value> {
    let (status, page) = world.get(&format!("/v1/dead-letters?{query}")).await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().unwrap().clone()
}

pub async fn letters(world: &World, count: usize) -> Vec<Value> {
    let ask = || listed(world, "");
    eventually(SOON, "dead letters are kept", ask, |found| {
        found.len() == count
    })
    .await
}

pub async fn order(world: &World, verb: &str, order: &Value) -> Value {
    let url = world.url(&format!("/v1/dead-letters/{verb}"));
    let answer = world.http.post(url).json(order).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    answer.json().await.unwrap()
}

async fn soc(world: &World) -> Option<f64> {
    let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-1/snapshot").await;
    snapshot["signals"]["state_of_charge"]["value"].as_f64()
}

async fn length(world: &World, queue: &str) -> Option<u64> {
    let path = format!(
        "queues/{}?disable_stats=true&enable_queue_totals=true",
        world.vhost
    );
    let queues = world.management(&path).await;
    let found = queues
        .as_array()?
        .iter()
        .find(|found| found["name"] == queue)?;
    found["messages"].as_u64()
}

/// Takes the first message of `queue` and goes away with it, as a consumer that ends does, until the
/// broker gives the message up.
async fn come_back_too_often(world: &World, queue: &str) {
    let context = Context::new("tests", "mortal");
    let config = AmqpConfig {
        url: Some(SecretUrl::new(&world.amqp)),
        ..AmqpConfig::default()
    };
    let link = Link::open(&context, &config, topology::Topology::default());
    let stop = context.stopping().clone();
    let limit = BatchLimit::default();
    for _ in 0..=topology::DELIVERY_LIMIT {
        let mut consumer = Consumer::open(&link, queue, &stop).await.unwrap();
        let batch = consumer.next_batch(limit, &stop).await;
        assert!(matches!(batch, Batch::Messages(_)), "{batch:?}");
        consumer.close().await;
    }
    context.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_back_too_often_is_kept_explained_and_replayed() {
    let mut world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    world.stop_service(Service::IngressConsumer).await;
    let envelope = envelope(connection, 42);
    world.publish(std::slice::from_ref(&envelope)).await;
    come_back_too_often(&world, &topology::ingress_queue(envelope.partition)).await;
    world.start_service(Service::IngressConsumer).await;
    world.ready(Service::IngressConsumer).await;

    let found = letters(&world, 1).await.remove(0);
    assert_eq!(found["reason"], "delivery_limit", "{found}");
    assert_eq!(found["queue"], topology::ingress_queue(envelope.partition));
    assert!(found["died_at"].is_string(), "{found}");
    assert_eq!(
        (&found["workspace"], &found["frames"]),
        (&json!("w"), &json!(1))
    );
    assert_eq!(soc(&world).await, None);

    let id = found["id"].as_i64().unwrap();
    let (status, whole) = world.get(&format!("/v1/dead-letters/{id}")).await;
    assert_eq!(status, 200);
    assert_eq!(whole["now"]["verdicts"], json!({"accepted": 1}), "{whole}");
    assert!(
        whole["cause"].as_str().unwrap().contains("came back"),
        "{whole}"
    );
    assert!(
        whole["headers"]
            .as_object()
            .unwrap()
            .keys()
            .all(|name| !name.starts_with("x-")),
        "{whole}"
    );

    let all = json!({"filter": {}});
    let dry = json!({"filter": {}, "dry_run": true});
    let foreseen = order(&world, "replay", &dry).await;
    assert_eq!(foreseen["verdicts"], json!({"accepted": 1}), "{foreseen}");
    assert_eq!(soc(&world).await, None, "a dry run changes nothing");

    let replayed = order(&world, "replay", &all).await;
    assert_eq!(replayed["letters"], 1, "{replayed}");
    eventually(
        SOON,
        "the frame has its effect",
        || soc(&world),
        |soc| *soc == Some(42.0),
    )
    .await;
    let kept = letters(&world, 1).await.remove(0);
    assert!(
        kept["replayed_at"].is_string() && kept["replays"] == 1,
        "{kept}"
    );
    let again = order(&world, "replay", &all).await;
    assert_eq!(again["letters"], 0, "it is replayed already: {again}");

    // By its id it can be replayed once more, which has no further effect.
    let again = order(&world, "replay", &json!({"filter": {"ids": [id]}})).await;
    assert_eq!(again["letters"], 1);
    world.drained().await;
    let revisions: i64 =
        sqlx::query_scalar("SELECT revision FROM core.vehicle WHERE workspace = 'w'")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(revisions, 2, "one for the connection, one for the frame");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_filtered_explained_and_discarded() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let (good, broken) = (envelope(connection, 1), envelope(connection, 2));
    let mut foreign = envelope(connection, 3);
    foreign.attributes.workspace = "theirs".parse().unwrap();
    bury(&world, &good, None).await;
    bury(&world, &good, None).await;
    bury(&world, &broken, Some(b"no frames")).await;
    bury(&world, &foreign, None).await;
    letters(&world, 3).await;

    let theirs = listed(&world, "workspace=theirs").await;
    assert!(
        theirs.is_empty(),
        "an envelope's own word counts for nothing: {theirs:?}"
    );
    assert_eq!(
        listed(&world, "workspace=w&reason=delivery_limit")
            .await
            .len(),
        2
    );
    assert_eq!(listed(&world, "replayed=true").await.len(), 0);
    let (status, _) = world.get("/v1/dead-letters?colour=blue").await;
    assert_eq!(status, 400);
    assert_eq!(world.get("/v1/dead-letters/999999").await.0, 404);

    let of = |letters: &[Value], envelope: &Envelope| -> Value {
        let id = json!(envelope.message_id());
        letters
            .iter()
            .find(|letter| letter["message_id"] == id)
            .unwrap()["id"]
            .clone()
    };
    let all = listed(&world, "").await;
    let explain = async |envelope| {
        let id = of(&all, envelope);
        world.get(&format!("/v1/dead-letters/{id}")).await.1
    };
    let whole = explain(&broken).await;
    let words = whole["now"]["explanation"].as_str().unwrap();
    assert!(words.contains("no envelope"), "{whole}");
    let whole = explain(&foreign).await;
    assert_eq!(whole["claimed_workspace"], "theirs");
    assert_eq!(whole["now"]["verdicts"], json!({"parked": 1}), "{whole}");

    let only = json!({"filter": {"ids": [of(&all, &broken)]}, "dry_run": true});
    assert_eq!(order(&world, "discard", &only).await["letters"], 1);
    assert_eq!(
        listed(&world, "").await.len(),
        3,
        "a dry run changes nothing"
    );
    let only = json!({"filter": {"ids": [of(&all, &broken)]}});
    assert_eq!(order(&world, "discard", &only).await["letters"], 1);
    assert_eq!(listed(&world, "").await.len(), 2);
    assert_eq!(
        order(&world, "discard", &json!({"filter": {}})).await["letters"],
        2
    );
    letters(&world, 0).await;
    assert_eq!(length(&world, topology::DEAD_LETTER_QUEUE).await, Some(0));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_kept_to_a_number_and_stay_in_their_queue_where_that_is_wanted() {
    let mut world = World::with(Options {
        settings: vec![
            ("dead_letters.max_rows", "2"),
            ("parked.sweep_every", "100ms"),
        ],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let all: Vec<_> = (0..5).map(|soc| envelope(connection, soc)).collect();
    for envelope in &all {
        bury(&world, envelope, None).await;
    }
    let ask = || async {
        let found = listed(&world, "").await.into_iter();
        let found: Vec<_> = found.map(|letter| letter["message_id"].clone()).collect();
        found
    };
    let newest: Vec<_> = all[3..].iter().map(|e| json!(e.message_id())).collect();
    eventually(SOON, "the newest two are left", ask, |found| {
        *found == newest
    })
    .await;
    let ask = || async {
        let given_up: i64 =
            sqlx::query_scalar("SELECT count(*) FROM core.session_source WHERE given_up <> '{}'")
                .fetch_one(&world.pool)
                .await
                .unwrap();
        given_up
    };
    eventually(SOON, "the others are accounted for", ask, |given_up| {
        *given_up == 3
    })
    .await;

    world.stop_service(Service::IngressConsumer).await;
    world.set("dead_letters.drain", "false");
    world.start_service(Service::IngressConsumer).await;
    world.ready(Service::IngressConsumer).await;
    bury(&world, &envelope(connection, 9), None).await;
    let ask = || length(&world, topology::DEAD_LETTER_QUEUE);
    eventually(SOON, "it stays in the queue", ask, |length| {
        *length == Some(1)
    })
    .await;
    assert_eq!(listed(&world, "").await.len(), 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_lists_shows_replays_and_discards() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    bury(&world, &envelope(connection, 7), None).await;
    let id = letters(&world, 1).await[0]["id"].to_string();
    let run = async |arguments: &[&str]| {
        let all = [&["dead-letters"], arguments].concat();
        headrace(&world, &all).await
    };
    run(&["list"]).await.says("1 dead letters");
    let list = run(&["list", "--json", "--workspace", "w"]).await.lines();
    assert_eq!(list[0]["id"].to_string(), id);
    run(&["show", &id]).await.says(&id);
    run(&["show", "999999"])
        .await
        .fails_for("no dead letter 999999");
    // All is too much to be meant by nothing.
    run(&["replay"]).await.fails_for("--all");
    run(&["replay", &id, "--dry-run"])
        .await
        .says("1 dead letters would be replayed");
    assert_eq!(listed(&world, "replayed=true").await.len(), 0);
    let replayed = run(&["replay", "--all", "--json"]).await.lines();
    assert_eq!(replayed.last().unwrap()["letters"], 1);
    eventually(
        SOON,
        "the frame has its effect",
        || soc(&world),
        |soc| *soc == Some(7.0),
    )
    .await;
    run(&["discard", "--all"])
        .await
        .says("1 dead letters discarded");
    letters(&world, 0).await;
    world.stop().await;
}
