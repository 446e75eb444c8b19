//! What a broker may do to its clients: close a connection, lose a queue, restart, be away.

use std::time::Duration;

use headrace::services::Service;
use runtime::amqp::{Message, Outcome};
use serde_json::{Value, json};
use shared_model::topology;
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

const SOON: Duration = Duration::from_mins(1);

async fn soc_arrives(world: &World, connection: shared_model::ConnectionId, soc: i32) {
    let now = runtime::clock::now().timestamp_millis();
    world
        .send(&envelopes(
            "w",
            connection,
            &[frame("bus-1", "soc", json!(soc), now)],
        ))
        .await;
    let ask = || async {
        world
            .get("/v1/workspaces/w/vehicles/bus-1/snapshot")
            .await
            .1
    };
    eventually(SOON, "the value arrives", ask, |snapshot: &Value| {
        snapshot["signals"]["state_of_charge"]["value"].as_f64() == Some(f64::from(soc))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_are_built_again() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    soc_arrives(&world, connection, 1).await;
    for soc in 2..4 {
        let path = format!("vhosts/{}/connections", world.vhost);
        let ask = || world.management(&path);
        let is_complete = |found: &Value| found.as_array().is_some_and(|all| all.len() >= 6);
        let found = eventually(SOON, "all are connected", ask, is_complete).await;
        for found in found.as_array().unwrap() {
            let name = found["name"]
                .as_str()
                .unwrap()
                .replace(' ', "%20")
                .replace('>', "%3E");
            world
                .management_delete(&format!("connections/{name}"))
                .await;
        }
        soc_arrives(&world, connection, soc).await;
    }
    assert!(
        Service::ALL
            .into_iter()
            .all(|service| world.is_well(service))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_that_are_deleted_are_declared_again_and_their_consumers_resume() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    soc_arrives(&world, connection, 1).await;
    let queues = (0..4).map(topology::ingress_queue);
    for queue in queues.chain(topology::Subscriber::ALL.map(|s| s.queue().to_owned())) {
        // A busy broker may say that it could not.
        let path = format!("queues/{}/{queue}", world.vhost);
        let delete = || world.management_delete(&path);
        let is_gone = |status: &Option<u16>| matches!(status, Some(204 | 404));
        eventually(SOON, "the queue is deleted", delete, is_gone).await;
    }
    // The consumers are cancelled by the broker; each comes back with its queue.
    for service in [
        Service::IngressConsumer,
        Service::SnapshotProjection,
        Service::HealthProjection,
    ] {
        world.ready(service).await;
    }
    // What was published while a subscriber had no queue is not for it; the next event carries the
    // full state.
    let arrived = async |soc: i32| {
        let now = runtime::clock::now().timestamp_millis();
        let body = [frame("bus-1", "soc", json!(soc), now)];
        world.publish(&envelopes("w", connection, &body)).await;
        let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-1/snapshot").await;
        let value = &snapshot["signals"]["state_of_charge"]["value"];
        value.as_f64().is_some_and(|value| value >= 2.0)
    };
    let soc = std::cell::Cell::new(2);
    let send = || async {
        soc.set(soc.get() % 100 + 1);
        arrived(soc.get().max(2)).await
    };
    eventually(SOON, "a later value arrives", send, |arrived| *arrived).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_no_queue_takes_is_not_counted_as_delivered() {
    let world = World::start().await;
    world.ready(Service::IngressConsumer).await;
    let (publisher, stop) = world.publisher();
    let mut message = Message {
        exchange: topology::INGRESS_EXCHANGE,
        routing_key: "no-such-partition".to_owned(),
        message_id: "1".to_owned(),
        content_type: "text/plain".into(),
        headers: std::collections::BTreeMap::default(),
        body: bytes::Bytes::from_static(b"x"),
    };
    let outcome = publisher.publish(&message, &stop).await;
    assert_eq!(outcome, Ok(Outcome::Unroutable));
    message.routing_key = topology::ingress_routing_key(0);
    let outcome = publisher.publish(&message, &stop).await;
    assert_eq!(outcome, Ok(Outcome::Confirmed));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_and_the_publisher_tries_again_until_it_is_taken() {
    let settings = vec![("ingress.partition_max_bytes", "1048576")];
    let mut world = World::with(Options {
        settings,
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    world.stop_service(Service::IngressConsumer).await;
    let (publisher, stop) = world.publisher();
    let now = runtime::clock::now().timestamp_millis();
    let body = frame("bus-1", "soc", json!(7), now);
    // Blank space is JSON too: frames of 64 KiB.
    let bulky = format!("{body}{}", " ".repeat(64 * 1024));
    let envelope = &envelopes("w", connection, &[bulky])[0];
    let message = Message {
        exchange: topology::INGRESS_EXCHANGE,
        routing_key: topology::ingress_routing_key(0),
        message_id: envelope.message_id(),
        content_type: shared_model::envelope::CONTENT_TYPE.into(),
        headers: envelope.encode_headers(),
        body: envelope.encode_body(),
    };
    let mut sent = 0;
    while publisher.publish(&message, &stop).await.unwrap() != Outcome::Refused {
        sent += 1;
        assert!(
            sent < 100,
            "a queue of 1 MiB took {sent} messages of 64 KiB"
        );
    }
    let waiting =
        tokio::spawn(async move { publisher.publish_until_confirmed(&message, &stop).await });
    world.start_service(Service::IngressConsumer).await;
    assert_eq!(
        tokio::time::timeout(SOON, waiting).await.unwrap().unwrap(),
        Ok(())
    );
    world.drained().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_start_without_a_broker_and_outlive_its_death() {
    let mut world = World::with(Options {
        breaks_servers: true,
        without: vec![
            Service::OutboxRelay,
            Service::SnapshotProjection,
            Service::HealthProjection,
        ],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let rabbitmq = world.servers.private.rabbitmq();
    // Right after the queues were made: RabbitMQ 3.10 would come back with one that has no leader.
    rabbitmq.kill().await.unwrap();
    rabbitmq.wait_exit().await;
    for service in [
        Service::OutboxRelay,
        Service::SnapshotProjection,
        Service::HealthProjection,
    ] {
        world.start_service(service).await;
    }
    world.start_gateway().await;
    let url = format!("http://{}/readyz", world.address(Service::OutboxRelay));
    let report = || async {
        world
            .http
            .get(&url)
            .send()
            .await
            .unwrap()
            .json::<Value>()
            .await
            .unwrap()
    };
    let report = eventually(SOON, "the broker is missed", report, |report: &Value| {
        report["checks"]["postgresql"]["status"] == "up"
    })
    .await;
    assert_eq!(report["checks"]["rabbitmq"]["status"], "down", "{report}");
    rabbitmq.restart().await.unwrap();
    soc_arrives(&world, connection, 9).await;
    assert!(
        Service::ALL
            .into_iter()
            .all(|service| world.is_well(service))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_dies_costs_time_and_nothing_else() {
    let world = World::with(Options {
        breaks_servers: true,
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    soc_arrives(&world, connection, 1).await;
    let postgres = world.servers.private.postgres();
    postgres.kill().await.unwrap();
    postgres.wait_exit().await;
    let now = runtime::clock::now().timestamp_millis();
    world
        .publish(&envelopes(
            "w",
            connection,
            &[frame("bus-1", "odo", json!(77), now)],
        ))
        .await;
    let status = || async {
        world
            .get("/v1/workspaces/w/vehicles/bus-1/snapshot")
            .await
            .0
    };
    eventually(SOON, "503 meanwhile", status, |status| *status == 503).await;
    postgres.restart().await.unwrap();
    let ask = || async {
        world
            .get("/v1/workspaces/w/vehicles/bus-1/snapshot")
            .await
            .1
    };
    eventually(SOON, "the value arrives", ask, |snapshot: &Value| {
        snapshot["signals"]["odometer"]["value"].as_f64() == Some(77_000.0)
    })
    .await;
    assert!(
        Service::ALL
            .into_iter()
            .all(|service| world.is_well(service))
    );
    world.stop().await;
}

/// What holds nothing that is not safe elsewhere stops at once, whoever is away.
async fn stops_soon(world: &mut World, services: &[Service]) {
    for service in services {
        let started = std::time::Instant::now();
        world.stop_service(*service).await;
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{service:?} took {:?}",
            started.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_stop_well_while_the_broker_or_the_database_is_away() {
    let mut world = World::with(Options {
        breaks_servers: true,
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    soc_arrives(&world, connection, 1).await;
    let behind_the_broker = [
        Service::IngressConsumer,
        Service::OutboxRelay,
        Service::SnapshotProjection,
        Service::HealthProjection,
    ];
    let (rabbitmq, postgres) = (
        world.servers.private.rabbitmq(),
        world.servers.private.postgres(),
    );
    rabbitmq.kill().await.unwrap();
    rabbitmq.wait_exit().await;
    // Something to relay, so that the relay waits for the broker.
    let nowhere = "ws://127.0.0.1:9/nowhere";
    world
        .post_connection("w2", nowhere, json!({"vehicles": {"bus-2": ["soc"]}}))
        .await;
    stops_soon(&mut world, &behind_the_broker).await;
    rabbitmq.restart().await.unwrap();
    for service in behind_the_broker {
        world.start_service(service).await;
    }
    world.start_gateway().await;
    soc_arrives(&world, connection, 2).await;

    postgres.kill().await.unwrap();
    postgres.wait_exit().await;
    let now = runtime::clock::now().timestamp_millis();
    world
        .publish(&envelopes(
            "w",
            connection,
            &[frame("bus-1", "soc", json!(3), now)],
        ))
        .await;
    stops_soon(&mut world, &behind_the_broker).await;
    postgres.restart().await.unwrap();
    for service in behind_the_broker {
        world.start_service(service).await;
    }
    world.start_gateway().await;
    soc_arrives(&world, connection, 4).await;
    world.stop().await;
}
