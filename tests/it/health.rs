//! Why vehicles are silent: from the sources to the answers, and to the events on the bus.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use headrace::services::Service;
use provider_sim::{Closing, ScriptedProvider, StatusCode};
use runtime::Context;
use runtime::amqp::{Batch, Consumer, Link};
use runtime::config::{AmqpConfig, BatchLimit, SecretUrl};
use serde_json::{Value, json};
use shared_model::topology::{Argument, EVENTS_EXCHANGE, Exchange, ExchangeKind, Queue, Topology};
use shared_model::{CloudEvent, EventType};
use tests::frames::{frame, vehicles};
use tests::harness::{Options, World, envelopes, eventually, provider};
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_mins(1);
const QUEUE: &str = "events.health-test";

/// Somebody who listens to the event bus.
struct Listener {
    context: Context,
    events: Arc<Mutex<Vec<CloudEvent>>>,
}

impl Listener {
    async fn start(world: &World) -> Self {
        let context = Context::new("tests", "listener");
        let config = AmqpConfig {
            url: Some(SecretUrl::new(&*world.amqp)),
            ..AmqpConfig::default()
        };
        let topology = Topology {
            exchanges: vec![Exchange {
                name: EVENTS_EXCHANGE,
                kind: ExchangeKind::Topic,
            }],
            queues: vec![Queue {
                name: QUEUE.to_owned(),
                arguments: vec![("x-queue-type", Argument::Text("quorum"))],
                exchange: EVENTS_EXCHANGE,
                routing_key: "#".to_owned(),
            }],
        };
        let link = Link::open(&context, &config, topology);
        // The queue is there once there is a session.
        link.session(context.stopping()).await.unwrap();
        let events = Arc::<Mutex<Vec<CloudEvent>>>::default();
        let (worker, heard) = (context.clone(), Arc::clone(&events));
        context.spawn("listener", async move {
            let stop = worker.stopping();
            while let Ok(mut consumer) = Consumer::open(&link, QUEUE, stop).await {
                while let Batch::Messages(messages) =
                    consumer.next_batch(BatchLimit::default(), stop).await
                {
                    for message in &messages {
                        let events = CloudEvent::decode(&message.content_type, &message.body);
                        let events = events.unwrap().into_iter().map(Result::unwrap);
                        let mut heard = heard.lock().unwrap();
                        for event in events {
                            // The relay may repeat itself.
                            if heard.iter().all(|known| known.id != event.id) {
                                heard.push(event);
                            }
                        }
                    }
                    let last = messages.last().map_or(0, |message| message.tag);
                    if consumer.ack_through(last).await.is_err() {
                        break;
                    }
                }
            }
            Ok(())
        });
        Self { context, events }
    }

    /// What was heard of a type about a subject, or about any, in order.
    fn heard(&self, kind: EventType, subject: Option<&str>) -> Vec<Value> {
        let events = self.events.lock().unwrap();
        let of_kind = events.iter().filter(|event| event.kind == kind.name());
        let of = of_kind.filter(|event| subject.is_none() || event.subject.as_deref() == subject);
        of.map(|event| event.data.clone()).collect()
    }

    /// What was heard of a vehicle's health, in order.
    fn health(&self, vehicle: &str) -> Vec<String> {
        let heard = self.heard(EventType::VehicleHealthChanged, Some(vehicle));
        let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let said = |data: &Value| {
            let (freshness, cause) = (text(&data["freshness"]), text(&data["cause"]));
            format!("{} {freshness} {cause}", data["number"])
        };
        heard.iter().map(said).collect()
    }

    /// Waits until exactly this was heard of a vehicle's health.
    async fn hears(&self, vehicle: &str, expected: &[&str]) {
        let heard = || async { self.health(vehicle) };
        eventually(SOON, vehicle, heard, |heard: &Vec<String>| {
            heard == expected
        })
        .await;
    }

    async fn stop(self) {
        self.context.stop().await.unwrap();
    }
}

async fn health(world: &World, vehicle: &str) -> Value {
    let path = format!("/v1/workspaces/w/vehicles/{vehicle}/health");
    world.get(&path).await.1
}

async fn becomes(world: &World, vehicle: &str, freshness: &str) -> Value {
    let ask = || health(world, vehicle);
    eventually(SOON, freshness, ask, |health: &Value| {
        health["freshness"] == freshness
    })
    .await
}

/// Has vehicles report twice a second, until told otherwise.
fn drive(provider: &Arc<ScriptedProvider>, vehicles: &[String]) -> CancellationToken {
    let (provider, vehicles) = (Arc::clone(provider), vehicles.to_vec());
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_millis(500));
        while stopped.run_until_cancelled(ticks.tick()).await.is_some() {
            let now = runtime::clock::now().timestamp_millis();
            let report = |vehicle: &String| frame(vehicle, "soc", json!(50), now);
            provider
                .send_all(vehicles.iter().map(report).collect())
                .await;
        }
    });
    stop
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_vehicle_is_told_of_by_itself_and_those_behind_an_outage_by_one_incident() {
    let world = World::with(Options {
        settings: vec![
            ("freshness.stale_after", "6s"),
            ("freshness.offline_after", "10m"),
            ("incidents.open_after", "1s"),
            ("incidents.close_after", "1s"),
        ],
        ..Options::default()
    })
    .await;
    let listener = Listener::start(&world).await;
    let provider = Arc::new(provider());
    let all = vehicles(4);
    let labels: serde_json::Map<_, _> = all
        .iter()
        .map(|vehicle| (vehicle.clone(), json!(["soc"])))
        .collect();
    let settings = json!({ "vehicles": labels, "backfill": false });
    let connection = world.connect("w", &provider.live_url(), settings).await;
    provider.subscribed(1).await;
    for vehicle in &all {
        becomes(&world, vehicle, "never_seen").await;
    }

    // bus-1 says one thing and falls silent; the others go on.
    let now = runtime::clock::now().timestamp_millis();
    provider
        .send_text(frame("bus-1", "soc", json!(50), now))
        .await;
    let others = drive(&provider, &all[1..]);
    let stale = ["1 never_seen -", "2 fresh -", "3 stale source_silent"];
    listener.hears("bus-1", &stale).await;
    let silent = health(&world, "bus-1").await;
    assert_eq!(silent["cause"], "source_silent");
    assert_eq!(silent["provider"], "viriciti");
    assert_eq!(silent["connection"], connection.to_string());
    others.cancel();
    let everybody = drive(&provider, &all);
    let back = [&stale[..], &["4 fresh -"]].concat();
    listener.hears("bus-1", &back).await;

    // The provider goes away.
    provider.refuse_with(StatusCode::SERVICE_UNAVAILABLE);
    provider.close_all(&Closing::Abrupt);
    let list = "/v1/workspaces/w/health/vehicles?freshness=stale&cause=provider_outage";
    let ask = || async { world.get(list).await.1 };
    let listed = eventually(SOON, "all are behind it", ask, |listed: &Value| {
        listed["items"]
            .as_array()
            .is_some_and(|items| items.len() == all.len())
    })
    .await;
    let incidents = || async { listener.heard(EventType::ProviderIncidentChanged, None) };
    let heard = eventually(SOON, "it is told", incidents, |all: &Vec<Value>| {
        !all.is_empty()
    })
    .await;
    let incident = heard[0]["incident"].as_str().unwrap();
    assert_eq!(
        (&heard[0]["state"], &heard[0]["vehicles"]),
        (&json!("open"), &json!(4))
    );
    assert_eq!(listed["items"][0]["incident"], incident);
    let (_, open) = world
        .get("/v1/workspaces/w/health/incidents?state=open")
        .await;
    assert_eq!(open["items"][0]["incident"], incident);
    assert_eq!(open["items"][0]["connection"], connection.to_string());
    let (_, summary) = world.get("/v1/workspaces/w/health").await;
    assert_eq!(summary["causes"]["provider_outage"], 4, "{summary}");
    assert_eq!(summary["open_incidents"], 1);
    assert!(summary["pipeline_lag_seconds"].is_number(), "{summary}");

    // It is back.
    provider.accept();
    let heard = eventually(SOON, "it is over", incidents, |all: &Vec<Value>| {
        all.len() == 2
    })
    .await;
    assert_eq!(
        (&heard[1]["state"], &heard[1]["number"]),
        (&json!("closed"), &json!(2))
    );
    for vehicle in &all {
        becomes(&world, vehicle, "fresh").await;
    }
    // Nobody was told of any vehicle meanwhile.
    listener.hears("bus-1", &back).await;
    for vehicle in &all[1..] {
        listener.hears(vehicle, &stale[..2]).await;
    }
    history(&world, incident).await;
    everybody.cancel();
    listener.stop().await;
    world.stop().await;
}

/// The history of bus-1, in pages.
async fn history(world: &World, incident: &str) {
    let path = "/v1/workspaces/w/vehicles/bus-1/health/history?limit=3";
    let (_, first) = world.get(path).await;
    let next = first["next"].as_str().unwrap();
    let (_, second) = world.get(&format!("{path}&after={next}")).await;
    assert_eq!(second["next"], Value::Null, "{second}");
    let pages = [&first, &second].map(|page| page["items"].as_array().unwrap().clone());
    let items = pages.concat();
    let of = |item: &Value| (item["freshness"].clone(), item["cause"].clone());
    let none = Value::Null;
    let expected = [
        (json!("fresh"), none.clone()),
        (json!("stale"), json!("provider_outage")),
        (json!("fresh"), none.clone()),
        (json!("stale"), json!("source_silent")),
        (json!("fresh"), none.clone()),
        (json!("never_seen"), none),
    ];
    assert_eq!(items.iter().map(of).collect::<Vec<_>>(), expected);
    assert_eq!(items[1]["incident"], incident);
    let since = items[1]["found_at"].as_str().unwrap();
    let all = format!("/v1/workspaces/w/health/history?since={since}&limit=1000");
    let (_, all) = world.get(&all).await;
    let behind = all["items"].as_array().unwrap().iter();
    assert_eq!(
        behind
            .filter(|item| item["cause"] == "provider_outage")
            .count(),
        4
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_is_away_loses_no_finding_and_doubles_none() {
    let mut world = World::with(Options {
        settings: vec![
            ("freshness.stale_after", "4s"),
            ("freshness.offline_after", "7s"),
            // Who cannot ask the core is behind it, but not for so long.
            ("freshness.pipeline_late_after", "10m"),
        ],
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let listener = Listener::start(&world).await;
    let all = vehicles(20);
    let connection = world.connect_nowhere("w", &all).await;
    for vehicle in &all {
        listener.hears(vehicle, &["1 never_seen -"]).await;
    }
    let now = runtime::clock::now().timestamp_millis();
    let frames: Vec<_> = all
        .iter()
        .map(|vehicle| frame(vehicle, "soc", json!(50), now))
        .collect();
    world.send(&envelopes("w", connection, &frames)).await;
    for vehicle in &all {
        listener
            .hears(vehicle, &["1 never_seen -", "2 fresh -"])
            .await;
    }

    world.stop_service(Service::IngressConsumer).await;
    for vehicle in &all {
        becomes(&world, vehicle, "offline").await;
    }
    for vehicle in &all {
        assert_eq!(listener.health(vehicle).len(), 2, "the core is away");
    }
    world.start_service(Service::IngressConsumer).await;
    let whole = [
        "1 never_seen -",
        "2 fresh -",
        "3 stale source_silent",
        "4 offline source_silent",
    ];
    for vehicle in &all {
        listener.hears(vehicle, &whole).await;
    }
    let told = listener.heard(EventType::VehicleHealthChanged, None);
    assert_eq!(told.len(), 4 * all.len());
    listener.stop().await;
    world.stop().await;
}
