//! Both projections from the broker to the answer over HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use runtime::access::AccessConfig;
use runtime::amqp::{Link, Message, Publisher};
use runtime::config::HttpConfig;
use runtime::{Context, clock};
use serde_json::{Value, json};
use shared_model::event::{CONTENT_TYPE, CloudEvent, EventType};
use shared_model::topology::{self, EVENTS_EXCHANGE};

use crate::core_stand_in::CoreStandIn;
use crate::fixture::{self, eventually};
use crate::health::{self, HealthConfig};
use crate::snapshot::{self, SnapshotConfig};

/// Stands in for the core and its relay.
pub(crate) struct Relay {
    context: Context,
    publisher: Publisher,
    pub(crate) core: CoreStandIn,
}

impl Relay {
    pub(crate) async fn new(amqp: &runtime::config::AmqpConfig) -> Self {
        let context = Context::new("relay", "0");
        let publisher = Publisher::new(Link::open(&context, amqp, topology::events()));
        let core = CoreStandIn::start().await;
        Self {
            context,
            publisher,
            core,
        }
    }

    /// Logs an event and sends it.
    pub(crate) async fn send(&self, kind: EventType, data: Value) {
        let event = self.core.append(0, kind, data);
        self.send_again(&event).await;
    }

    /// Sends an event that is in the log.
    pub(crate) async fn send_again(&self, event: &CloudEvent) {
        self.send_raw(&event.kind, serde_json::to_vec(event).unwrap())
            .await;
    }

    pub(crate) async fn send_raw(&self, routing_key: &str, body: Vec<u8>) {
        let message = Message {
            exchange: EVENTS_EXCHANGE,
            routing_key: routing_key.to_owned(),
            message_id: "m".to_owned(),
            content_type: CONTENT_TYPE.into(),
            headers: BTreeMap::new(),
            body: body.into(),
        };
        let stop = self.context.stopping();
        let sent = self.publisher.publish_until_confirmed(&message, stop).await;
        sent.unwrap();
    }

    pub(crate) async fn stop(self) {
        self.context.stop().await.unwrap();
        self.core.stop().await;
    }
}

pub(crate) async fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let answer = reqwest::Client::new()
        .get(format!("http://{address}{path}"))
        .bearer_auth(fixture::INTERNAL_TOKEN)
        .send()
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (
        status,
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap(),
    )
}

pub(crate) fn problem(answer: &(u16, Value)) -> (u16, &str) {
    let kind = answer.1["type"].as_str().unwrap_or_default();
    (answer.0, kind.rsplit(':').next().unwrap_or_default())
}

pub(crate) fn changed(vehicle: &str, version: u64, unit: &str) -> Value {
    let now = clock::now();
    json!({"vehicle": vehicle, "version": version, "revision": version, "changed": [],
        "last_received_at": now, "signals": {"state_of_charge": {"value": 81.5, "unit": unit,
            "observed_at": now, "received_at": now, "provider": "viriciti"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_answered_and_a_bad_message_takes_nothing_with_it() {
    let amqp = fixture::broker().await;
    let relay = Relay::new(&amqp).await;
    let config = SnapshotConfig {
        amqp: amqp.clone(),
        database: fixture::database(&snapshot::MIGRATIONS).await,
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: relay.core.config(),
        ..SnapshotConfig::default()
    };
    relay
        .send_raw("vehicle.snapshot.changed", b"{".to_vec())
        .await;
    let kind = EventType::VehicleSnapshotChanged;
    // PostgreSQL holds no NUL in a text, and finds out only when it is written.
    for (vehicle, unit) in [("bus-1", "%"), ("bus-2", "\u{0}"), ("Bus №7/Süd", "%")] {
        relay.send(kind, changed(vehicle, 3, unit)).await;
    }
    // They wait in the queue when the projection starts, so they come together.
    let context = Context::new("snapshot-projection", "0");
    let http = snapshot::start(context.clone(), config).await.unwrap().http;

    let list = "/v1/workspaces/demo/vehicles";
    let all = |answer: &(u16, Value)| answer.1["items"].as_array().is_some_and(|of| of.len() == 2);
    let (status, page) = eventually(|| get(http, list), all).await;
    assert_eq!((status, &page["next"]), (200, &Value::Null));
    let (status, first) = get(http, &format!("{list}?limit=1")).await;
    assert_eq!(
        (status, &first["items"][0]["vehicle"]),
        (200, &json!("Bus №7/Süd"))
    );
    let next = first["next"].as_str().unwrap();
    let (_, second) = get(http, &format!("{list}?limit=1&after={next}")).await;
    assert_eq!(second["items"][0]["vehicle"], "bus-1");
    assert_eq!(second["next"], Value::Null);

    let path = format!("{list}/Bus%20%E2%84%967%2FS%C3%BCd/snapshot");
    let (status, one) = get(http, &path).await;
    assert_eq!(status, 200, "{one}");
    let soc = &one["signals"]["state_of_charge"];
    assert_eq!((&one["version"], &soc["value"]), (&json!(3), &json!(81.5)));
    assert!(soc["observed_at"].as_str().unwrap().ends_with('Z'));
    assert!(soc.get("clock_ahead").is_none());
    assert!(one["age_seconds"].as_f64().unwrap() < 30.0);

    for (path, expected) in [
        (
            "/v1/workspaces/demo/vehicles/bus-2/snapshot",
            (404, "vehicle-not-found"),
        ),
        (
            "/v1/workspaces/other/vehicles/bus-1/snapshot",
            (404, "vehicle-not-found"),
        ),
        (
            "/v1/workspaces/Demo/vehicles/bus-1/snapshot",
            (400, "invalid-workspace"),
        ),
        (
            "/v1/workspaces/demo/vehicles/%00/snapshot",
            (400, "invalid-vehicle"),
        ),
        (
            "/v1/workspaces/demo/vehicles?limit=0",
            (400, "invalid-limit"),
        ),
        (
            "/v1/workspaces/demo/vehicles?limit=1001",
            (400, "invalid-limit"),
        ),
        (
            "/v1/workspaces/demo/vehicles?limit=many",
            (400, "invalid-query"),
        ),
        (
            "/v1/workspaces/demo/vehicles?after=!",
            (400, "invalid-cursor"),
        ),
    ] {
        let answer = get(http, path).await;
        assert_eq!(problem(&answer), expected, "{path}: {}", answer.1);
    }
    let (_, ready) = get(http, "/readyz").await;
    assert_eq!(ready["status"], "ready", "{ready}");
    assert_counted(http).await;
    context.stop().await.unwrap();
    relay.stop().await;
}

/// What the test above has the projection count is on its page of metrics.
async fn assert_counted(http: SocketAddr) {
    let page = reqwest::get(format!("http://{http}/metrics")).await;
    let metrics = page.unwrap().text().await.unwrap();
    for (name, label) in [
        ("headrace_projection_events_total", "outcome=\"applied\""),
        (
            "headrace_projection_rejected_messages_total",
            "reason=\"malformed\"",
        ),
        (
            "headrace_projection_rejected_messages_total",
            "reason=\"refused_by_database\"",
        ),
        ("headrace_projection_lag_seconds", "shard=\"0\""),
        ("headrace_projection_lag_events", "shard=\"0\""),
        ("headrace_projection_reports_total", "outcome=\"ok\""),
        (
            "headrace_projection_batches_total",
            "projection=\"snapshot\"",
        ),
    ] {
        let counted = |line: &str| line.starts_with(name) && line.contains(label);
        assert!(metrics.lines().any(counted), "{name} {label}: {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_vehicle_turns_stale_and_offline_without_any_message() {
    let amqp = fixture::broker().await;
    let relay = Relay::new(&amqp).await;
    let mut config = HealthConfig {
        amqp: amqp.clone(),
        database: fixture::database(&health::MIGRATIONS).await,
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: relay.core.config(),
        ..HealthConfig::default()
    };
    config.freshness.stale_after = Duration::from_secs(3);
    config.freshness.offline_after = Duration::from_secs(5);
    config.freshness.sweep_every = Duration::from_millis(50);
    let context = Context::new("health-projection", "0");
    let http = health::start(context.clone(), config).await.unwrap().http;
    let registration = json!({"vehicle": "bus-2", "provider": "viriciti",
        "connection": "01890a5d-ac96-774b-bcce-b302099a8057", "registered_at": clock::now()});
    relay.send(EventType::VehicleRegistered, registration).await;
    // Received long ago: offline as soon as it is known.
    let mut old = changed("bus-3", 1, "%");
    old["last_received_at"] = json!("2017-11-23T11:31:34.25Z");
    relay.send(EventType::VehicleSnapshotChanged, old).await;
    relay
        .send(EventType::VehicleSnapshotChanged, changed("bus-1", 1, "%"))
        .await;

    let path = "/v1/workspaces/demo/vehicles/bus-1/health";
    let is = |freshness: &'static str| move |of: &(u16, Value)| of.1["freshness"] == freshness;
    let (_, fresh) = eventually(|| get(http, path), is("fresh")).await;
    assert_eq!(fresh["since"], fresh["last_received_at"]);
    assert_eq!(
        (
            &fresh["stale_after_seconds"],
            &fresh["offline_after_seconds"]
        ),
        (&json!(3), &json!(5))
    );
    eventually(|| get(http, path), is("stale")).await;
    let (_, offline) = eventually(|| get(http, path), is("offline")).await;
    assert_eq!(offline["last_received_at"], fresh["last_received_at"]);

    let (_, old) = get(http, "/v1/workspaces/demo/vehicles/bus-3/health").await;
    assert_eq!(
        (&old["freshness"], &old["since"]),
        (&json!("offline"), &json!("2017-11-23T11:31:39.250Z"))
    );
    let (_, unseen) = get(http, "/v1/workspaces/demo/vehicles/bus-2/health").await;
    assert_eq!(
        (&unseen["freshness"], &unseen["last_received_at"]),
        (&json!("never_seen"), &Value::Null)
    );
    let (_, mut summary) = get(http, "/v1/workspaces/demo/health").await;
    let lag = summary["pipeline_lag_seconds"].take();
    assert!(lag.as_f64().is_some_and(|lag| lag < 30.0), "{lag}");
    assert_eq!(
        summary,
        json!({"workspace": "demo", "vehicles": 3, "fresh": 0, "stale": 0, "offline": 2,
            "never_seen": 1,
            "causes": {"source_silent": 2, "pipeline_late": 0, "provider_outage": 0},
            "providers": {"viriciti":
                {"vehicles": 3, "fresh": 0, "stale": 0, "offline": 2, "never_seen": 1}},
            "connections": {"connected": 0, "subscribed": 0, "silent": 0, "disconnected": 0},
            "open_incidents": 0, "incidents": [], "pipeline_lag_seconds": null})
    );
    let (status, other) = get(http, "/v1/workspaces/other/health").await;
    assert_eq!((status, &other["vehicles"]), (200, &json!(0)));
    let unknown = get(http, "/v1/workspaces/demo/vehicles/bus-9/health").await;
    assert_eq!(problem(&unknown), (404, "vehicle-not-found"));
    let malformed = get(http, "/v1/workspaces/-/health").await;
    assert_eq!(problem(&malformed), (400, "invalid-workspace"));

    relay
        .send(EventType::VehicleSnapshotChanged, changed("bus-1", 2, "%"))
        .await;
    eventually(|| get(http, path), is("fresh")).await;
    context.stop().await.unwrap();
    relay.stop().await;
}

pub(crate) fn connection(number: u8, revision: u64, status: &str, error: Option<&str>) -> Value {
    json!({"connection": format!("01890a5d-ac96-774b-bcce-b302099a80{number:02}"),
        "provider": "viriciti", "revision": revision, "status": status, "since": clock::now(),
        "reason": null, "error": error, "owner": "publisher-0", "epoch": 3,
        "frames_per_minute": revision, "reconnects": 1})
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_answered_for_by_the_latest_that_was_said() {
    let amqp = fixture::broker().await;
    let relay = Relay::new(&amqp).await;
    let config = HealthConfig {
        amqp: amqp.clone(),
        database: fixture::database(&health::MIGRATIONS).await,
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: relay.core.config(),
        ..HealthConfig::default()
    };
    let context = Context::new("health-projection", "0");
    let http = health::start(context.clone(), config).await.unwrap().http;
    let kind = EventType::ConnectionStatusChanged;
    for said in [
        connection(1, 2, "disconnected", Some("gone")),
        connection(1, 1, "connected", None),
        connection(1, 3, "subscribed", Some("gone")),
        connection(2, 1, "subscribed", None),
        connection(2, 3, "removed", None),
        // Late: what is removed stays so.
        connection(2, 2, "silent", None),
        // A status of a newer core is shown, and counted nowhere.
        connection(3, 1, "meditating", None),
    ] {
        relay.send(kind, said).await;
    }
    let path = "/v1/workspaces/demo/health/connections";
    let (_, listed) = eventually(
        || get(http, path),
        |(_, listed): &(u16, Value)| listed["items"].as_array().is_some_and(|all| all.len() == 2),
    )
    .await;
    let items = listed["items"].as_array().unwrap();
    assert_eq!(items[0]["status"], "subscribed");
    assert_eq!(items[0]["frames_per_minute"], 3);
    assert_eq!(items[0]["last_error"], "gone");
    assert_eq!(items[1]["status"], "meditating");
    let (_, page) = get(http, &format!("{path}?limit=1")).await;
    assert_eq!(page["next"], items[0]["connection"]);
    let after = page["next"].as_str().unwrap();
    let (_, rest) = get(http, &format!("{path}?limit=1&after={after}")).await;
    assert_eq!(rest, json!({"items": [items[1]], "next": null}));
    assert_eq!(get(http, &format!("{path}/{after}")).await.1, items[0]);
    let removed = connection(2, 1, "", None)["connection"].clone();
    let removed = get(http, &format!("{path}/{}", removed.as_str().unwrap())).await;
    assert_eq!(problem(&removed), (404, "connection-not-found"));
    let limit = get(http, &format!("{path}?limit=0")).await;
    assert_eq!(problem(&limit), (400, "invalid-limit"));
    let (_, summary) = get(http, "/v1/workspaces/demo/health").await;
    assert_eq!(
        summary["connections"],
        json!({"connected": 0, "subscribed": 1, "silent": 0, "disconnected": 0})
    );
    context.stop().await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_a_database_that_is_away() {
    let amqp = fixture::broker().await;
    let relay = Relay::new(&amqp).await;
    let database = fixture::database(&snapshot::MIGRATIONS).await;
    let config = SnapshotConfig {
        amqp: amqp.clone(),
        database: database.clone(),
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: relay.core.config(),
        ..SnapshotConfig::default()
    };
    let context = Context::new("snapshot-projection", "0");
    let http = snapshot::start(context.clone(), config).await.unwrap().http;
    let status = |wanted: &'static str| move |of: &(u16, Value)| of.1["status"] == wanted;
    eventually(|| get(http, "/readyz"), status("ready")).await;

    fixture::set_away(&database, true).await;
    relay
        .send(EventType::VehicleSnapshotChanged, changed("bus-1", 1, "%"))
        .await;
    eventually(|| get(http, "/readyz"), status("not_ready")).await;
    let path = "/v1/workspaces/demo/vehicles/bus-1/snapshot";
    assert_eq!(problem(&get(http, path).await), (503, "database-away"));
    assert!(!context.stopping().is_cancelled());

    fixture::set_away(&database, false).await;
    let (_, snapshot) = eventually(|| get(http, path), |answer| answer.0 == 200).await;
    assert_eq!(snapshot["version"], 1);

    // Asked to stop while the database is away, it lets go of the batch in good order.
    fixture::set_away(&database, true).await;
    relay
        .send(EventType::VehicleSnapshotChanged, changed("bus-1", 2, "%"))
        .await;
    eventually(|| get(http, "/readyz"), status("not_ready")).await;
    context.stop().await.unwrap();
    relay.stop().await;
}
