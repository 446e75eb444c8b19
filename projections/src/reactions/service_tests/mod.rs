//! Webhooks from the broker to the receiver, against a real PostgreSQL and RabbitMQ.

mod api;
mod audit;
mod deliveries;
mod faults;
mod receiver;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Client;
use runtime::access::AccessConfig;
use runtime::amqp::{Link, Message, Publisher};
use runtime::config::{AmqpConfig, HttpConfig};
use runtime::{Context, clock};
use serde_json::{Value, json};
use shared_model::event::{CONTENT_TYPE, CloudEvent, EventType, LogPosition};
use shared_model::topology::{self, EVENTS_EXCHANGE};

use super::{MIGRATIONS, ReactionsConfig, WebhooksConfig};
use crate::core_stand_in::CoreStandIn;
use crate::fixture::{self, eventually};
use receiver::Receiver;

/// The service, stand-ins for the core and its relay, and a receiver of webhooks.
struct Scene {
    config: ReactionsConfig,
    context: Context,
    http: SocketAddr,
    core: CoreStandIn,
    relay: (Context, Publisher),
    receiver: Receiver,
    client: Client,
}

impl Scene {
    /// Everything, with short waits, and with what `change` says.
    async fn start(change: impl FnOnce(&mut WebhooksConfig)) -> Self {
        let amqp = fixture::broker().await;
        let core = CoreStandIn::start().await;
        let mut config = ReactionsConfig {
            amqp: amqp.clone(),
            database: fixture::database(&MIGRATIONS).await,
            http: HttpConfig::local(0),
            access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
            core: core.config(),
            ..ReactionsConfig::default()
        };
        config.webhooks = WebhooksConfig {
            allow_http: true,
            allow_private: true,
            timeout: Duration::from_secs(1),
            lease: Duration::from_secs(2),
            retry_schedule: [100, 200, 300]
                .map(|wait| Duration::from_millis(wait).into())
                .to_vec(),
            look_every: Duration::from_millis(50),
            ..WebhooksConfig::default()
        };
        config.deliveries.sweep_every = Duration::from_millis(100);
        change(&mut config.webhooks);
        let (context, http) = start(&config).await;
        let scene = Self {
            config,
            context,
            http,
            core,
            relay: relay(&amqp),
            receiver: Receiver::start().await,
            client: Client::new(),
        };
        let ready = |answer: &(u16, Value)| answer.0 == 200;
        eventually(|| scene.call("GET", "/readyz", None), ready).await;
        scene
    }

    /// Puts the service away at once, as if it were killed, and starts another.
    async fn restart(&mut self) {
        self.context.letting_go().cancel();
        let ended = self.context.stop().await;
        assert!(ended.is_err(), "it had something in hand");
        (self.context, self.http) = start(&self.config).await;
    }

    async fn stop(self) {
        self.context.stop().await.unwrap();
        self.relay.0.stop().await.unwrap();
        self.core.stop().await;
    }

    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("http://{}{path}", self.http);
        let request = self.client.request(method.parse().unwrap(), url);
        let mut request = request.bearer_auth(fixture::INTERNAL_TOKEN);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.bytes().await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Adds a webhook to the receiver's `path` with what `more` says; returns its path in the API, and
    /// the answer.
    async fn add(&self, path: &str, more: Value) -> (String, Value) {
        let mut body = json!({"url": self.receiver.url(path)});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let (status, added) = self.call("POST", WEBHOOKS, Some(body)).await;
        assert_eq!(status, 201, "{added}");
        let id = added["id"].as_str().unwrap();
        (format!("{WEBHOOKS}/{id}"), added)
    }

    /// What the API says of a webhook's deliveries, once `wanted` holds.
    async fn deliveries(&self, webhook: &str, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let path = format!("{webhook}/deliveries");
        let look = || async {
            let (_, page) = self.call("GET", &path, None).await;
            page["items"].as_array().cloned().unwrap_or_default()
        };
        eventually(look, |items| wanted(items)).await
    }

    /// The log of the one delivery of a webhook, once its status is `status`.
    async fn log(&self, webhook: &str, status: &str) -> Vec<Value> {
        let is = |items: &[Value]| items.len() == 1 && items[0]["status"] == status;
        let items = self.deliveries(webhook, is).await;
        let path = format!("{webhook}/deliveries/{}", items[0]["id"].as_str().unwrap());
        let (_, one) = self.call("GET", &path, None).await;
        one["log"].as_array().unwrap().clone()
    }

    /// Publishes that `vehicle` became known, as the log's event `offset`.
    async fn registered(&self, offset: u64, vehicle: &str) {
        self.publish(
            offset,
            "demo",
            EventType::VehicleRegistered,
            registered(vehicle),
        )
        .await;
    }

    async fn publish(&self, offset: u64, workspace: &str, kind: EventType, data: Value) {
        self.publish_raw(event(offset, workspace, kind, data)).await;
    }

    async fn publish_raw(&self, body: Vec<u8>) {
        let (context, publisher) = &self.relay;
        publish(context, publisher, body).await;
    }
}

/// A stand-in for the core's relay.
pub(super) fn relay(amqp: &AmqpConfig) -> (Context, Publisher) {
    let context = Context::new("relay", "0");
    let publisher = Publisher::new(Link::open(&context, amqp, topology::events()));
    (context, publisher)
}

/// The log's event `offset` as it crosses the bus.
pub(super) fn event(offset: u64, workspace: &str, kind: EventType, data: Value) -> Vec<u8> {
    let at = LogPosition {
        shard: 0,
        offset,
        logged_at: clock::now(),
    };
    let subject = data["vehicle"].as_str().map(str::to_owned);
    let workspace = workspace.parse().unwrap();
    let event = CloudEvent::new(&at, kind, workspace, subject, None, data);
    serde_json::to_vec(&event).unwrap()
}

pub(super) async fn publish(context: &Context, publisher: &Publisher, body: Vec<u8>) {
    let message = Message {
        exchange: EVENTS_EXCHANGE,
        routing_key: "any".to_owned(),
        message_id: "m".to_owned(),
        content_type: CONTENT_TYPE.into(),
        headers: BTreeMap::new(),
        body: body.into(),
    };
    let sent = publisher.publish_until_confirmed(&message, context.stopping());
    sent.await.unwrap();
}

const WEBHOOKS: &str = "/v1/workspaces/demo/webhooks";

fn registered(vehicle: &str) -> Value {
    json!({"vehicle": vehicle, "provider": "viriciti", "registered_at": clock::now(),
        "connection": "01890a5d-ac96-774b-bcce-b302099a8057"})
}

async fn start(config: &ReactionsConfig) -> (Context, SocketAddr) {
    let context = Context::new("reactions", "0");
    let started = super::start(context.clone(), config.clone()).await.unwrap();
    (context, started.http)
}
