//! The polled providers with their real protocols, from their feeds to the read API.

use std::collections::BTreeMap;
use std::time::Duration;

use headrace::services::Service;
use provider_sim::{
    Fold, Limit, PolledConfig, PolledFault, PolledProvider, PolledSimulator, StatusCode, Told,
    Value as Known,
};
use serde_json::{Value, json};
use tests::harness::{Options, World, eventually};

const SOON: Duration = Duration::from_mins(2);
/// What a budget allows in each [`PERIOD`] while it is short.
const SHORT: u32 = 3;
const PERIOD: Duration = Duration::from_secs(2);

/// A world whose core looks for due connections often and is not discouraged for long.
async fn world() -> World {
    World::with(Options {
        settings: vec![
            ("polling.look_every", "50ms"),
            ("polling.backoff_min", "50ms"),
            ("polling.backoff_max", "200ms"),
        ],
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await
}

/// A provider whose vehicles report several times a second, a fifth of it late, by clocks that are behind.
fn start(provider: PolledProvider, drives: Vec<usize>, clock_skew_ms: i64) -> PolledSimulator {
    let config = PolledConfig {
        drives,
        every: Duration::from_millis(400),
        parked_every: 1,
        backlog: Duration::from_secs(20),
        page_size: Some(25),
        limit: Some(Limit::new(100_000, Duration::from_mins(1))),
        late: 0.2,
        late_by: Duration::from_secs(2),
        clock_skew_ms,
        latency: Duration::from_millis(5),
        ..PolledConfig::new(provider)
    };
    PolledSimulator::start(config).expect("the simulator starts")
}

/// Settings with which the core asks as often as it can.
fn settings(provider: PolledProvider) -> Value {
    match provider {
        PolledProvider::Rfms => json!({"interval": "1s",
            "requests_per_minute": {"positions": 6000, "statuses": 6000}}),
        PolledProvider::Samsara => json!({"interval": "1s", "requests_per_second": 100}),
        PolledProvider::Geotab => json!({"interval": "1s", "requests_per_minute": 6000,
            "results_limit": 25}),
    }
}

async fn connect(world: &World, simulator: &PolledSimulator, vehicle_ids: Value) {
    let name = simulator.provider().name();
    let directory = world.servers.private.data().path();
    let key = directory.join(format!("{}-{name}.key", world.vhost));
    std::fs::write(&key, simulator.credential()).expect("the key can be written");
    let mut settings = settings(simulator.provider());
    settings["vehicle_ids"] = vehicle_ids;
    let body = json!({"provider": name, "kind": "poll", "endpoint": simulator.url(),
        "credential": format!("file:{}", key.display()), "settings": settings});
    world.ready(Service::IngressConsumer).await;
    let url = world.url("/v1/workspaces/depot/connections");
    let answer = world.http.post(url).json(&body).send().await;
    let answer = answer.expect("the API answers");
    let status = answer.status().as_u16();
    assert_eq!(status, 201, "{:?}", answer.text().await);
}

/// What the read API says of a vehicle: by signal, its provider, its time and its value.
async fn shown(world: &World, vehicle: &str) -> BTreeMap<String, (String, i64, Value)> {
    let path = format!("/v1/workspaces/depot/vehicles/{vehicle}/snapshot");
    let (_, snapshot) = world.get(&path).await;
    let signals = snapshot["signals"].as_object().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reading = |found: &Value| {
        let time = chrono::DateTime::parse_from_rfc3339(&text(&found["observed_at"]));
        let time = time.map_or(-1, |time| time.timestamp_millis());
        (text(&found["provider"]), time, found["value"].clone())
    };
    signals
        .map(|(signal, found)| (signal.clone(), reading(found)))
        .collect()
}

fn says(found: &(String, i64, Value), provider: &str, told: Told) -> bool {
    let (source, time, value) = found;
    let close = |value: &Value, wanted: f64| {
        let tolerance = wanted.abs().max(1.0) * 1e-9;
        value
            .as_f64()
            .is_some_and(|value| (value - wanted).abs() <= tolerance)
    };
    let is_same = match told.value {
        Known::Number(number) => close(value, number),
        Known::Position(latitude, longitude) => {
            close(&value["latitude"], latitude) && close(&value["longitude"], longitude)
        }
    };
    source == provider && *time == told.observed_ms && is_same
}

/// Waits until the read API says of `vehicle` exactly what is `known`: by signal, who told what.
async fn comes_out(world: &World, vehicle: &str, known: &BTreeMap<&str, (&str, Told)>) {
    assert!(known.len() > 3, "{known:?}");
    let ask = || async { shown(world, vehicle).await };
    let what = format!("{vehicle} is {known:?}");
    eventually(SOON, &what, ask, |shown| {
        shown.len() == known.len()
            && known.iter().all(|(signal, (provider, told))| {
                let found = shown.get(*signal);
                found.is_some_and(|found| says(found, provider, *told))
            })
    })
    .await;
}

/// What each vehicle has told by `fold`, with the source.
fn by<'a>(
    provider: &'a str,
    fold: &Fold,
    vehicle: &str,
) -> BTreeMap<&'static str, (&'a str, Told)> {
    let signals = fold.signals(vehicle).into_iter();
    signals
        .map(|(signal, told)| (signal, (provider, told)))
        .collect()
}

/// Waits until the vehicles have reported `more` times.
async fn reports(simulator: &PolledSimulator, more: u64) {
    let before = simulator.stats().reports;
    let ask = || async { simulator.stats().reports };
    eventually(SOON, "more reports", ask, |now| *now >= before + more).await;
}

/// Waits until the simulator has been asked successfully `more` times.
async fn is_asked(simulator: &PolledSimulator, more: usize) {
    let served = || {
        let requests = simulator.requests().into_iter();
        requests.filter(|request| request.is_served).count()
    };
    let before = served();
    let ask = || async { served() };
    eventually(SOON, "more answers", ask, |now| *now >= before + more).await;
}

/// Ends all reports, and waits until those under way have arrived.
async fn quiet(simulator: &PolledSimulator) {
    simulator.pause();
    let ask = || async { simulator.under_way() };
    eventually(SOON, "all has arrived", ask, |left| *left == 0).await;
}

/// Everything that goes wrong at a provider goes wrong while the core reads it; nothing is missing in the end.
async fn is_read_whole(provider: PolledProvider) {
    let world = world().await;
    let simulator = start(provider, (0..6).collect(), -700);
    connect(&world, &simulator, json!({})).await;
    is_asked(&simulator, 4).await;

    for fault in [
        PolledFault::Unavailable,
        PolledFault::Limited {
            retry_after_ms: 402,
        },
        PolledFault::LoadBalancer,
        PolledFault::Cut,
        PolledFault::Status(StatusCode::INTERNAL_SERVER_ERROR),
        PolledFault::Unavailable,
    ] {
        simulator.fail_next(1, &fault);
    }
    let ask = || async { simulator.faults_left() };
    eventually(SOON, "all faults were met", ask, |left| *left == 0).await;
    is_asked(&simulator, 2).await;

    simulator.kill_sessions();
    is_asked(&simulator, 2).await;

    simulator.set_limit(Some(Limit::new(SHORT, PERIOD)));
    is_asked(&simulator, 4).await;
    simulator.set_limit(Some(Limit::new(100_000, Duration::from_mins(1))));

    // Whoever begins with the present has heard of every vehicle by then.
    reports(&simulator, 60).await;
    quiet(&simulator).await;
    let known = simulator.known();
    for vehicle in simulator.vehicles() {
        comes_out(&world, &vehicle, &by(provider.name(), &known, &vehicle)).await;
    }
    assert_eq!(
        simulator.served(),
        known,
        "what came out is what was served"
    );
    let skipped = simulator.skipped();
    assert!(
        !skipped.is_empty() && skipped.values().all(|skipped| *skipped == 0),
        "{skipped:?}"
    );
    assert_eq!(
        simulator.most_at_once(),
        1,
        "a connection asks for one at a time"
    );
    world.stop().await;
    simulator.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rfms_is_read_whole_whatever_goes_wrong() {
    is_read_whole(PolledProvider::Rfms).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samsara_is_read_whole_whatever_goes_wrong() {
    is_read_whole(PolledProvider::Samsara).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn geotab_is_read_whole_whatever_goes_wrong() {
    is_read_whole(PolledProvider::Geotab).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicle_of_two_providers_has_one_state_and_each_signal_its_newest_source() {
    let world = world().await;
    // The same drive, by clocks that never show the same time.
    let rfms = start(PolledProvider::Rfms, vec![0], 0);
    let samsara = start(PolledProvider::Samsara, vec![0], -137);
    for simulator in [&rfms, &samsara] {
        let ids = json!({ simulator.vehicles()[0].as_str(): "bus-1" });
        connect(&world, simulator, ids).await;
        is_asked(simulator, 4).await;
    }
    // What only the first provider tells stays, what the second tells later is the second's.
    quiet(&rfms).await;
    reports(&samsara, 10).await;
    quiet(&samsara).await;
    let mut known = by("rfms", &rfms.known(), &rfms.vehicles()[0]);
    let second = by("samsara", &samsara.known(), &samsara.vehicles()[0]);
    for (signal, newer) in second {
        let known = known.entry(signal).or_insert(newer);
        if known.1.observed_ms < newer.1.observed_ms {
            *known = newer;
        }
    }
    let sources: Vec<_> = ["power", "speed", "battery_voltage"]
        .into_iter()
        .map(|signal| known[signal].0)
        .collect();
    assert_eq!(sources, ["rfms", "samsara", "samsara"]);
    comes_out(&world, "bus-1", &known).await;

    let (_, vehicles) = world.get("/v1/workspaces/depot/vehicles").await;
    let vehicles = vehicles["items"].as_array().expect("a list");
    assert_eq!(vehicles.len(), 1, "{vehicles:?}");
    world.stop().await;
    rfms.stop().await;
    samsara.stop().await;
}
