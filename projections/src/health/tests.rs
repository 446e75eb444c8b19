//! The projection from the broker to its answers and to the core, which is played here.

use std::net::SocketAddr;
use std::time::Duration;

use chrono::TimeDelta;
use runtime::access::AccessConfig;
use runtime::config::HttpConfig;
use runtime::{Context, clock};
use serde_json::{Value, json};
use shared_model::EventType;
use shared_model::log::SourceEvent;

use super::{HealthConfig, MIGRATIONS, start};
use crate::core_stand_in::Log;
use crate::fixture::{self, eventually};
use crate::service_tests::{Relay, changed, connection, get, problem};

/// The projection with limits that are short, and what is around it.
struct Running {
    relay: Relay,
    context: Context,
    http: SocketAddr,
    config: HealthConfig,
}

impl Running {
    /// Starts it with a core that is as `prepare` makes it, and the settings of `configure`.
    async fn start(
        prepare: impl FnOnce(&mut Log),
        configure: impl FnOnce(&mut HealthConfig),
    ) -> Self {
        let amqp = fixture::broker().await;
        let relay = Relay::new(&amqp).await;
        prepare(&mut relay.core.log());
        let mut config = HealthConfig {
            amqp,
            database: fixture::database(&MIGRATIONS).await,
            http: HttpConfig::local(0),
            access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
            core: relay.core.config(),
            ..HealthConfig::default()
        };
        config.freshness.stale_after = Duration::from_secs(3);
        config.freshness.sweep_every = Duration::from_millis(50);
        config.incidents.open_after = Duration::from_millis(200);
        config.incidents.close_after = Duration::from_millis(200);
        configure(&mut config);
        let mut running = Self {
            relay,
            context: Context::new("health-projection", "0"),
            http: config.http.listen,
            config,
        };
        running.begin().await;
        running
    }

    async fn begin(&mut self) {
        self.context = Context::new("health-projection", "0");
        let started = start(self.context.clone(), self.config.clone()).await;
        self.http = started.unwrap().http;
    }

    /// What the core was told of a vehicle, in order.
    fn said(&self, vehicle: &str) -> Vec<String> {
        let log = self.relay.core.log();
        let of = log
            .found
            .iter()
            .filter(|event| event.data["vehicle"] == vehicle);
        let said = of.map(|event| {
            let text = |key: &str| event.data[key].as_str().unwrap_or("-").to_owned();
            format!("{} {}", text("freshness"), text("cause"))
        });
        said.collect()
    }

    /// Waits until the core was told, or asked, `times`.
    async fn tells(&self, times: usize) {
        let tellings = || async { self.relay.core.log().tellings };
        eventually(tellings, |tellings: &usize| *tellings >= times).await;
    }

    async fn register(&self, vehicle: &str, provider: &str) {
        let registration = json!({"vehicle": vehicle, "provider": provider,
            "connection": connection(1, 1, "", None)["connection"], "registered_at": clock::now()});
        self.relay
            .send(EventType::VehicleRegistered, registration)
            .await;
        // By itself, and not together with what is sent next.
        let path = format!("vehicles/{vehicle}/health");
        eventually(|| self.get(&path), |(status, _)| *status == 200).await;
    }

    async fn hear(&self, vehicle: &str, provider: &str, version: u64) {
        let mut data = changed(vehicle, version, "%");
        data["signals"]["state_of_charge"]["provider"] = json!(provider);
        self.relay
            .send(EventType::VehicleSnapshotChanged, data)
            .await;
    }

    async fn status(&self, revision: u64, status: &str) {
        let said = connection(1, revision, status, None);
        self.relay
            .send(EventType::ConnectionStatusChanged, said)
            .await;
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        get(self.http, &format!("/v1/workspaces/demo/{path}")).await
    }

    /// Waits until this was said of a vehicle first, in this order.
    async fn is_said(&self, vehicle: &str, expected: &[&str]) {
        let said = || async { self.said(vehicle) };
        eventually(said, |said: &Vec<String>| said.len() >= expected.len()).await;
        assert_eq!(self.said(vehicle)[..expected.len()], *expected);
    }

    async fn stop(self) {
        self.context.stop().await.unwrap();
        self.relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_is_away_for_a_while_misses_nothing_and_doubles_nothing() {
    let running = Running::start(|core| core.is_deaf = true, |_| {}).await;
    running.register("bus-1", "viriciti").await;
    running.hear("bus-1", "viriciti", 1).await;
    let health = || running.get("vehicles/bus-1/health");
    let stale = |(_, health): &(u16, Value)| health["freshness"] == "stale";
    eventually(health, stale).await;
    running.tells(2).await;
    {
        let mut core = running.relay.core.log();
        (core.is_deaf, core.is_forgetful) = (false, true);
    }
    let all = ["never_seen -", "fresh -", "stale source_silent"];
    running.is_said("bus-1", &all).await;
    running.hear("bus-1", "viriciti", 2).await;
    let all = [&all[..], &["fresh -"]].concat();
    running.is_said("bus-1", &all).await;

    // It is restored from before the last two.
    running.relay.core.log().found.truncate(2);
    let all = [&all[..], &["stale source_silent"]].concat();
    running.is_said("bus-1", &all).await;
    let numbers: Vec<_> = {
        let core = running.relay.core.log();
        let found = core.found.iter();
        found.map(|event| event.data["number"].clone()).collect()
    };
    assert_eq!(json!(numbers), json!([1, 2, 3, 4, 5]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_begins_anew_goes_on_behind_what_the_core_has() {
    let old = |number| SourceEvent {
        number,
        workspace: "demo".parse().unwrap(),
        kind: EventType::VehicleHealthChanged.name().to_owned(),
        data: json!({"vehicle": "old"}),
    };
    let running = Running::start(|core| core.found.extend((1..=7).map(old)), |_| {}).await;
    running.tells(1).await;
    running.hear("bus-1", "viriciti", 1).await;
    let all = ["fresh -", "stale source_silent"];
    running.is_said("bus-1", &all).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_events_wait_a_silence_is_not_proven() {
    let running = Running::start(
        |_| {},
        |config| {
            config.freshness.pipeline_late_after = Duration::from_secs(1);
            // What waits is not fetched.
            config.gaps.after = Duration::from_hours(1);
        },
    )
    .await;
    running.hear("bus-1", "viriciti", 1).await;
    let kind = EventType::VehicleSnapshotChanged;
    let waits = running.relay.core.append(0, kind, changed("bus-1", 2, "%"));
    running
        .is_said("bus-1", &["fresh -", "stale pipeline_late"])
        .await;
    let (_, summary) = running.get("health").await;
    assert_eq!(summary["causes"]["pipeline_late"], 1);
    assert!(
        summary["pipeline_lag_seconds"].as_f64() > Some(1.0),
        "{summary}"
    );
    // It arrives, and it is old.
    running.relay.send_again(&waits).await;
    let all = ["fresh -", "stale pipeline_late", "stale source_silent"];
    running.is_said("bus-1", &all).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_shows_as_one_incident_in_every_answer() {
    let running = Running::start(|_| {}, |_| {}).await;
    running.status(1, "subscribed").await;
    for vehicle in ["bus-1", "bus-2", "bus-3"] {
        running.register(vehicle, "viriciti").await;
    }
    // Reported hourly: it does not flap.
    running.register("truck", "rfms").await;
    running.hear("truck", "rfms", 1).await;
    running.status(2, "disconnected").await;
    for vehicle in ["bus-1", "bus-2", "bus-3"] {
        running.hear(vehicle, "viriciti", 1).await;
    }
    let list = "health/vehicles?freshness=stale&cause=provider_outage&provider=viriciti";
    let all = |(_, listed): &(u16, Value)| {
        listed["items"]
            .as_array()
            .is_some_and(|items| items.len() == 3)
    };
    let (_, listed) = eventually(|| running.get(list), all).await;
    let (_, open) = running.get("health/incidents?state=open").await;
    let incident = &open["items"][0];
    let id = incident["incident"].as_str().unwrap();
    assert_eq!(listed["items"][0]["incident"], id);
    assert_eq!(incident["vehicles"], 3);
    assert_eq!(incident["reason"], "disconnected");
    assert_eq!(
        running.get(&format!("health/incidents/{id}")).await.1,
        *incident
    );
    let (_, page) = running.get(&format!("{list}&limit=2")).await;
    let next = page["next"].as_str().unwrap();
    let (_, rest) = running.get(&format!("{list}&limit=2&after={next}")).await;
    assert_eq!(rest, json!({"items": [listed["items"][2]], "next": null}));
    let (_, behind) = running.get(&format!("health/vehicles?incident={id}")).await;
    assert_eq!(behind["items"], listed["items"]);

    let (_, summary) = running.get("health").await;
    assert_eq!(summary["causes"]["provider_outage"], 3);
    assert_eq!(summary["providers"]["viriciti"]["stale"], 3);
    assert_eq!(summary["providers"]["rfms"]["fresh"], 1);
    assert_eq!(summary["open_incidents"], 1);
    assert_eq!(summary["incidents"][0], *incident);
    let (_, truck) = running.get("vehicles/truck/health").await;
    assert_eq!(
        (&truck["freshness"], &truck["stale_after_seconds"]),
        (&json!("fresh"), &json!(3600))
    );
    running.is_said("bus-1", &["never_seen -", "fresh -"]).await;

    running.status(3, "subscribed").await;
    running.hear("bus-1", "viriciti", 2).await;
    let closed = |(_, incident): &(u16, Value)| incident["state"] == "closed";
    let path = format!("health/incidents/{id}");
    eventually(|| running.get(&path), closed).await;
    running
        .is_said("bus-2", &["never_seen -", "fresh -", "stale source_silent"])
        .await;
    let (_, open) = running.get("health/incidents?state=open").await;
    assert_eq!(open["items"], json!([]));
    history(&running, id).await;
    let states: Vec<_> = {
        let core = running.relay.core.log();
        let incidents = core
            .found
            .iter()
            .filter(|event| event.data["connection"].is_string());
        incidents.map(|event| event.data["state"].clone()).collect()
    };
    assert_eq!(json!(states), json!(["open", "closed"]));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_start_what_came_meanwhile_is_heard_before_anybody_is_judged() {
    let configure = |config: &mut HealthConfig| {
        config.freshness.stale_after = Duration::from_mins(1);
        config.freshness.pipeline_late_after = Duration::from_secs(1);
    };
    let mut running = Running::start(|_| {}, configure).await;
    for vehicle in ["bus-1", "bus-2"] {
        running.register(vehicle, "viriciti").await;
        running.hear(vehicle, "viriciti", 1).await;
        let all = ["never_seen -", "fresh -"];
        running.is_said(vehicle, &all).await;
    }
    running.context.stop().await.unwrap();
    let earlier = "UPDATE health.vehicle SET heard_since = heard_since - interval '5 min',
        last_received_at = last_received_at - interval '5 min', deadline = deadline - interval '5 min'";
    let pool = crate::running::pool(&running.config.database).await;
    sqlx::query(earlier).execute(&pool).await.unwrap();
    // Both have been silent for longer than their limit; but bus-1 was heard from meanwhile, long ago and
    // just now, and that has waited.
    let sent_at = clock::now();
    let mut old = changed("bus-1", 2, "%");
    old["last_received_at"] = json!(sent_at - TimeDelta::minutes(3));
    let kind = EventType::VehicleSnapshotChanged;
    running.relay.send(kind, old).await;
    running.hear("bus-1", "viriciti", 3).await;
    let waited = || async { clock::now() - sent_at };
    eventually(waited, |waited| *waited > TimeDelta::milliseconds(1500)).await;
    running.begin().await;
    let all = ["never_seen -", "fresh -", "stale source_silent"];
    running.is_said("bus-2", &all).await;
    assert_eq!(running.said("bus-1"), all[..2]);
    let (_, history) = running.get("vehicles/bus-1/health/history").await;
    assert_eq!(history["items"].as_array().unwrap().len(), 2, "{history}");
    running.stop().await;
}

/// The history of bus-2, which was silent during the incident and is so after it.
async fn history(running: &Running, incident: &str) {
    let path = "vehicles/bus-2/health/history";
    let (_, history) = running.get(path).await;
    let items = history["items"].as_array().unwrap();
    let entry = |item: &Value| {
        let text = |key: &str| item[key].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", text("freshness"), text("cause"), item["number"])
    };
    assert_eq!(
        items.iter().map(entry).collect::<Vec<_>>(),
        [
            "stale source_silent 3",
            "stale provider_outage null",
            "fresh - 2",
            "never_seen - 1"
        ]
    );
    assert_eq!(items[1]["incident"], incident);
    let (_, page) = running.get(&format!("{path}?limit=3")).await;
    let next = page["next"].as_str().unwrap();
    let (_, rest) = running.get(&format!("{path}?limit=3&after={next}")).await;
    assert_eq!(rest, json!({"items": [items[3]], "next": null}));
    let found_at = items[1]["found_at"].as_str().unwrap();
    let (_, until) = running.get(&format!("{path}?until={found_at}")).await;
    assert_eq!(until["items"], json!(items[2..]));
    let (_, since) = running.get(&format!("{path}?since={found_at}")).await;
    assert_eq!(since["items"], json!(items[..2]));
    let (_, of_all) = running.get("health/history?limit=1000").await;
    let of_all = of_all["items"].as_array().unwrap();
    let of_bus: Vec<_> = of_all
        .iter()
        .filter(|item| item["vehicle"] == "bus-2")
        .collect();
    assert_eq!(json!(of_bus), json!(items));

    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    for (path, expected) in [
        (
            "vehicles/bus-9/health/history".to_owned(),
            (404, "vehicle-not-found"),
        ),
        (format!("{path}?since=yesterday"), (400, "invalid-time")),
        (format!("{path}?after=x"), (400, "invalid-cursor")),
        ("health/history?limit=0".to_owned(), (400, "invalid-limit")),
        (
            "health/vehicles?freshness=rotten".to_owned(),
            (400, "invalid-query"),
        ),
        (
            "health/vehicles?cause=luck".to_owned(),
            (400, "invalid-query"),
        ),
        (
            "health/vehicles?provider=A".to_owned(),
            (400, "invalid-query"),
        ),
        (
            "health/vehicles?after=!".to_owned(),
            (400, "invalid-cursor"),
        ),
        (
            "health/incidents?state=ajar".to_owned(),
            (400, "invalid-query"),
        ),
        (
            format!("health/incidents/{id}"),
            (404, "incident-not-found"),
        ),
        ("health/incidents/7".to_owned(), (400, "invalid-path")),
    ] {
        let answer = running.get(&path).await;
        assert_eq!(problem(&answer), expected, "{path}: {}", answer.1);
    }
    let (_, elsewhere) = get(running.http, "/v1/workspaces/other/health/incidents").await;
    assert_eq!(elsewhere, json!({"items": [], "next": null}));
}
