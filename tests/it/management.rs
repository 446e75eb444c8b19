//! What operators see in RabbitMQ's management UI, through the API that it stands on.

use std::time::Duration;

use headrace::services::Service;
use serde_json::Value;
use tests::frames::{drives, vehicles};
use tests::harness::{World, envelopes, eventually};

const SOON: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
async fn the_queues_are_quorum_queues_whose_depth_shows_a_core_that_is_away() {
    let mut world = World::start().await;
    let vehicles = vehicles(8);
    let connection = world.connect_nowhere("w", &vehicles).await;
    for partition in 0..4 {
        let path = format!("queues/{}/ingress.{partition}", world.vhost);
        let name = format!("ingress-consumer/{}-0", world.vhost);
        let ask = || world.management(&path);
        let queue = eventually(SOON, "a consumer", ask, |queue: &Value| {
            queue["consumer_details"][0]["consumer_tag"] == name.as_str()
        })
        .await;
        assert_eq!(queue["type"], "quorum");
        assert_eq!(queue["arguments"]["x-overflow"], "reject-publish");
        assert_eq!(queue["arguments"]["x-single-active-consumer"], true);
    }
    let names = || async {
        let connections = world
            .management(&format!("vhosts/{}/connections", world.vhost))
            .await;
        let names = connections.as_array().into_iter().flatten();
        names
            .filter_map(|c| {
                Some(
                    c["client_properties"]["connection_name"]
                        .as_str()?
                        .to_owned(),
                )
            })
            .collect::<Vec<_>>()
    };
    let all = [
        "ingress-consumer",
        "outbox-relay",
        "snapshot-projection",
        "health-projection",
        "reactions",
    ]
    .map(|service| format!("{service}/{}-0", world.vhost));
    // A publisher's also has the epoch of its start.
    let publisher = format!("ingress-publisher/{}-0/epoch-1", world.vhost);
    eventually(SOON, "all connections are named", names, |names| {
        all.iter()
            .chain([&publisher])
            .all(|name| names.contains(name))
    })
    .await;

    // It would go on to say of the connection that it fails.
    world.stop_service(Service::IngressPublisher).await;
    world.drained().await;
    world.stop_service(Service::IngressConsumer).await;
    let frames = drives(3, &vehicles, 300, runtime::clock::now().timestamp_millis());
    let envelopes = envelopes("w", connection, &frames);
    world.publish(&envelopes).await;
    let depth = || async {
        let queues = world.management(&format!("queues/{}", world.vhost)).await;
        let queues = queues.as_array().cloned().unwrap_or_default();
        let partitions = queues.iter().filter(|queue| {
            queue["name"]
                .as_str()
                .is_some_and(|n| n.starts_with("ingress."))
        });
        partitions
            .filter_map(|queue| queue["messages"].as_u64())
            .sum::<u64>()
    };
    eventually(SOON, "the depth shows all messages", depth, |depth| {
        *depth == 300
    })
    .await;
    world.start_service(Service::IngressConsumer).await;
    let depth = || async {
        let queues = world.management(&format!("queues/{}", world.vhost)).await;
        let queues = queues.as_array().cloned().unwrap_or_default();
        queues
            .iter()
            .filter_map(|queue| queue["messages"].as_u64())
            .sum::<u64>()
    };
    eventually(SOON, "the depth falls to nothing", depth, |depth| {
        *depth == 0
    })
    .await;
    world.stop().await;
}
