//! Events that the broker refuses, and a broker that refuses everything.

use std::collections::BTreeMap;
use std::time::Duration;

use headrace::services::Service;
use ingress_consumer::store::event_log::{self, NewEvent};
use runtime::clock;
use serde_json::{Value, json};
use shared_model::event::{Fact, PublishedReading, VehicleSnapshotChanged};
use shared_model::signal::Provenance;
use shared_model::{VehicleId, WorkspaceId};
use tests::bus::{QUEUE, Subscriber};
use tests::harness::{Options, World, eventually};

const SOON: Duration = Duration::from_mins(1);
/// What the broker is told to take at most.
const LARGEST: usize = 512 * 1024;

async fn start() -> World {
    let world = World::with(Options {
        breaks_servers: true,
        settings: vec![
            ("relay.attempts", "3"),
            ("relay.backoff_min", "200ms"),
            ("relay.backoff_max", "400ms"),
        ],
        without: vec![
            Service::OutboxRelay,
            Service::SnapshotProjection,
            Service::HealthProjection,
            Service::IngressPublisher,
        ],
        ..Options::default()
    })
    .await;
    world.ready(Service::IngressConsumer).await;
    world
}

/// A vehicle's event with a value of so many bytes.
fn changed(vehicle: &str, bytes: usize) -> NewEvent {
    let now = clock::now();
    let reading = PublishedReading {
        value: json!("x".repeat(bytes)),
        unit: "%".to_owned(),
        provenance: Provenance {
            observed_at: now,
            received_at: now,
            provider: "viriciti".parse().unwrap(),
            clock_ahead: false,
        },
    };
    NewEvent {
        shard: 0,
        workspace: WorkspaceId::new("w").unwrap(),
        fact: Fact::VehicleSnapshotChanged(VehicleSnapshotChanged {
            vehicle: VehicleId::new(vehicle).unwrap(),
            version: 1,
            revision: 1,
            last_received_at: now,
            changed: Vec::new(),
            signals: BTreeMap::from([("state_of_charge".to_owned(), reading)]),
        }),
    }
}

async fn append(world: &World, events: &[NewEvent]) {
    let mut tx = world.pool.begin().await.unwrap();
    event_log::append(&mut tx, events, None).await.unwrap();
    tx.commit().await.unwrap();
}

/// How many events are blocked, how many are dead, and how many the broker has not been offered.
async fn shard(world: &World) -> (u64, u64, u64) {
    let url = format!("{}/internal/v1/relays", world.core_url());
    let all: Value = world
        .http
        .get(url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let number = |name: &str| all["shards"][0][name].as_u64().unwrap();
    (
        number("blocked_events"),
        number("dead_events"),
        number("lag_events"),
    )
}

async fn shard_is(world: &World, what: &str, wanted: (u64, u64, u64)) {
    eventually(SOON, what, || shard(world), |state| *state == wanted).await;
}

async fn sees(subscriber: &Subscriber, offset: u64) {
    let ask = || async { subscriber.seen().has(0, offset) };
    eventually(SOON, &format!("event {offset} is seen"), ask, |seen| *seen).await;
}

async fn redrive(world: &World, order: Value) -> (u16, Value) {
    let url = world.url("/v1/workspaces/w/dead-events/redrive");
    let answer = world.http.post(url).json(&order).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

async fn set_largest_message(world: &World, bytes: usize) {
    let expression = format!("application:set_env(rabbit, max_message_size, {bytes}).");
    world
        .servers
        .private
        .rabbitmq()
        .evaluate(&expression)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_too_large_blocks_its_vehicle_alone_and_is_redriven_once_it_fits() {
    let mut world = start().await;
    set_largest_message(&world, LARGEST).await;
    let subscriber = Subscriber::start(&world.amqp).await;
    let events = [
        changed("bus-1", 1),
        changed("bus-2", 1),
        changed("bus-1", LARGEST),
        changed("bus-3", 1),
        changed("bus-1", 2),
        changed("bus-2", 2),
    ];
    append(&world, &events).await;
    world.start_service(Service::OutboxRelay).await;
    for offset in [1, 2, 4, 6] {
        sees(&subscriber, offset).await;
    }
    // Others flow on meanwhile; what is of the same vehicle waits for its turn.
    append(&world, &[changed("bus-1", 3), changed("bus-2", 3)]).await;
    sees(&subscriber, 8).await;
    for offset in [5, 7] {
        sees(&subscriber, offset).await;
    }
    shard_is(&world, "one event is dead", (0, 1, 0)).await;
    assert!(!subscriber.seen().has(0, 3));
    assert_eq!(subscriber.seen().out_of_order, Vec::<String>::new());

    let (_, list) = world.get("/v1/workspaces/w/dead-events").await;
    let dead = &list["items"][0];
    assert_eq!(
        (&dead["id"], &dead["subject"], &dead["attempts"]),
        (&json!("0:3"), &json!("bus-1"), &json!(3))
    );
    assert!(
        dead["reason"].as_str().unwrap().contains("larger than"),
        "{dead}"
    );
    assert_eq!(list["next"], Value::Null);
    let (_, shown) = world.get("/v1/workspaces/w/dead-events/0:3").await;
    assert_eq!(shown["event"]["data"]["vehicle"], "bus-1");
    for (path, status) in [
        ("w/dead-events/0:4", 404),
        ("w/dead-events/x", 400),
        ("other/dead-events/0:3", 404),
    ] {
        let (answered, problem) = world.get(&format!("/v1/workspaces/{path}")).await;
        assert_eq!(answered, status, "{path}: {problem}");
    }

    // Not even the log has to hold it any more.
    sqlx::query("DELETE FROM core.event_log")
        .execute(&world.pool)
        .await
        .unwrap();
    set_largest_message(&world, 134_217_728).await;
    let (_, told) = redrive(&world, json!({"all": true, "dry_run": true})).await;
    assert_eq!(told, json!({"dry_run": true, "events": 1, "more": false}));
    let (status, _) = redrive(&world, json!({})).await;
    assert_eq!(status, 400);
    let (_, done) = redrive(&world, json!({"ids": ["0:3", "0:4"]})).await;
    assert_eq!(done, json!({"dry_run": false, "events": 1, "more": false}));
    sees(&subscriber, 3).await;
    shard_is(&world, "nothing is left", (0, 0, 0)).await;
    subscriber.stop().await;
    world.stop().await;
}

/// Sets or, without a definition, removes the policy of the subscriber's queue.
async fn policy(world: &World, definition: Option<Value>) {
    let rabbitmq = world.servers.private.rabbitmq();
    let url = format!(
        "{}/api/policies/{}/test",
        rabbitmq.management_url(),
        world.vhost
    );
    let request = match definition {
        Some(definition) => {
            let body = json!({"pattern": format!("^{QUEUE}$"), "definition": definition, "apply-to": "queues"});
            world.http.put(url).json(&body)
        }
        None => world.http.delete(url),
    };
    let request = request.basic_auth(rabbitmq.user(), Some(rabbitmq.password()));
    let answer = request.send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.status());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_full_is_waited_for_and_no_event_is_to_blame() {
    let mut world = start().await;
    let subscriber = Subscriber::start(&world.amqp).await;
    subscriber.stop().await;
    policy(
        &world,
        Some(json!({"max-length": 1, "overflow": "reject-publish"})),
    )
    .await;
    world.start_service(Service::OutboxRelay).await;
    let refusals = || world.metric("headrace_relay_refusals_total", "answer=\"refused\"");
    let before = refusals();
    // The queue takes some messages more than its bound before it notices.
    let ask = || async {
        append(
            &world,
            &(1..=5)
                .map(|n| changed(&format!("bus-{n}"), 1))
                .collect::<Vec<_>>(),
        )
        .await;
        refusals() - before
    };
    eventually(SOON, "the broker refuses", ask, |refused| *refused >= 10).await;
    let (blocked, dead, behind) = shard(&world).await;
    assert_eq!((blocked, dead), (0, 0));
    assert!(behind > 0);
    policy(&world, None).await;
    let subscriber = Subscriber::start(&world.amqp).await;
    shard_is(&world, "nothing is left", (0, 0, 0)).await;
    let head: i64 = sqlx::query_scalar("SELECT last_offset FROM core.shard_head WHERE shard = 0")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let head = head.cast_unsigned();
    sees(&subscriber, head).await;
    subscriber.seen().assert_sound(&BTreeMap::from([(0, head)]));
    subscriber.stop().await;
    world.stop().await;
}
