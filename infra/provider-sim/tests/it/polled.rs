//! The polled providers as a client sees them: over real connections.

use crate::client::{eventually, soon};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use provider_sim::{
    DEFAULT_API_KEY, Limit, PolledConfig, PolledFault, PolledProvider, PolledSimulator, StatusCode,
    Told, Value as Known,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// Asks, and reads until the server closes; none if the answer is not whole.
async fn ask(base: &str, line: &str, authorization: &str, body: &str) -> Option<Answer> {
    let base = base.strip_prefix("http://").unwrap();
    let (address, _) = base.split_once('/').unwrap_or((base, ""));
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\ncontent-length: {}\r\n\
         authorization: {authorization}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    // A connection that is cut may end with a reset.
    let read = soon("the response", stream.read_to_end(&mut response)).await;
    let response = String::from_utf8(response).unwrap();
    let (head, body) = response.split_once("\r\n\r\n")?;
    let headers: BTreeMap<_, _> = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers["content-length"].parse().unwrap();
    if read.is_err() || body.len() < length {
        return None;
    }
    Some(Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        headers,
        body: body.to_owned(),
    })
}

async fn get(simulator: &PolledSimulator, target: &str) -> Answer {
    let line = format!("GET {target}");
    let token = format!("Bearer {DEFAULT_API_KEY}");
    let answer = ask(&simulator.control_url(), &line, &token, "").await;
    answer.expect("a whole answer")
}

fn config(provider: PolledProvider) -> PolledConfig {
    PolledConfig {
        drives: (0..6).collect(),
        every: Duration::from_millis(100),
        parked_every: 1,
        backlog: Duration::from_secs(5),
        late: 0.2,
        late_by: Duration::from_secs(1),
        ..PolledConfig::new(provider)
    }
}

fn start(config: PolledConfig) -> PolledSimulator {
    PolledSimulator::start(config).unwrap()
}

/// What a client knows after some pages: the newest of each signal.
#[derive(Default)]
struct Client(BTreeMap<(String, &'static str), Told>);

impl Client {
    fn learn(&mut self, vehicle: &Value, signal: &'static str, time: &Value, value: Known) {
        let time = chrono::DateTime::parse_from_rfc3339(time.as_str().unwrap()).unwrap();
        let told = Told {
            observed_ms: time.timestamp_millis(),
            value,
        };
        let key = (vehicle.as_str().unwrap().to_owned(), signal);
        let newest = self.0.entry(key).or_insert(told);
        if newest.observed_ms < told.observed_ms {
            *newest = told;
        }
    }

    /// Whether the client knows exactly what the simulator says that it has served.
    fn agrees_with(&self, simulator: &PolledSimulator) -> bool {
        let served = simulator.served();
        let served: BTreeMap<_, _> = served
            .vehicles()
            .flat_map(|vehicle| {
                let signals = served.signals(vehicle).into_iter();
                signals.map(|(signal, told)| ((vehicle.to_owned(), signal), told))
            })
            .collect();
        served == self.0
    }

    /// Whether it knows the newest that there is of all signals that it knows.
    fn is_up_to_date(&self, simulator: &PolledSimulator) -> bool {
        let known = simulator.known();
        self.0
            .iter()
            .all(|((vehicle, signal), told)| known.signals(vehicle).get(signal) == Some(told))
    }
}

/// Nothing new comes from now on, and the client is up to date once it has asked again.
fn is_over(simulator: &PolledSimulator, client: &Client) -> bool {
    simulator.stats().is_paused && simulator.under_way() == 0 && client.is_up_to_date(simulator)
}

/// How long it may take until nothing new comes.
const SOON: Duration = Duration::from_secs(30);

fn number(value: &Value, scale: f64) -> Known {
    Known::Number(value.as_f64().unwrap() / scale)
}

fn position(record: &Value) -> Known {
    let degrees = |key: &str| record[key].as_f64().unwrap();
    Known::Position(degrees("latitude"), degrees("longitude"))
}

fn learn_status(client: &mut Client, status: &Value) {
    let (vin, created) = (&status["vin"], &status["createdDateTime"]);
    let snapshot = &status["snapshotData"];
    let gnss = &snapshot["gnssPosition"];
    client.learn(vin, "position", &gnss["positionDateTime"], position(gnss));
    for (signal, value, scale) in [
        ("speed", &snapshot["wheelBasedSpeed"], 1.0),
        ("odometer", &status["hrTotalVehicleDistance"], 1.0),
        (
            "state_of_charge",
            &snapshot["hybridBatteryPackRemainingCharge"],
            1.0,
        ),
        ("power", &snapshot["batteryPackChargingPower"], -1000.0),
    ] {
        client.learn(vin, signal, created, number(value, scale));
    }
}

#[tokio::test]
async fn rfms_is_read_by_its_links_and_its_clock() {
    let simulator = start(PolledConfig {
        page_size: Some(4),
        limit: Some(Limit::new(1_000_000, Duration::from_mins(1))),
        clock_skew_ms: -1500,
        ..config(PolledProvider::Rfms)
    });
    assert!(simulator.url().ends_with("/rfms"));
    let mut client = Client::default();
    let mut target = "/rfms/vehiclestatuses?latestOnly=true&contentFilter=SNAPSHOT".to_owned();
    let mut start = None;
    let mut has_links = false;
    let begun = Instant::now();
    for pages in 0_u32.. {
        assert!(begun.elapsed() < SOON, "it does not come to an end");
        let answer = get(&simulator, &target).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let page = answer.json();
        let statuses = page["vehicleStatusResponse"]["vehicleStatuses"].as_array();
        let statuses = statuses.unwrap();
        for status in statuses {
            learn_status(&mut client, status);
        }
        start.get_or_insert(page["requestServerDateTime"].clone());
        if let Value::String(link) = &page["moreDataAvailableLink"] {
            target.clone_from(link);
            has_links = true;
            continue;
        }
        if is_over(&simulator, &client) {
            break;
        }
        if pages > 30 {
            simulator.pause();
        }
        let from = start.take().unwrap();
        target = format!("/rfms/vehiclestatuses?starttime={}", from.as_str().unwrap());
    }
    assert!(has_links);
    assert!(client.agrees_with(&simulator));
    assert_eq!(simulator.served(), simulator.known());
    let skipped = simulator.skipped();
    assert_eq!(skipped, BTreeMap::from([("statuses".to_owned(), 0)]));

    let fleet = get(&simulator, "/rfms/vehicles").await.json();
    let vehicles = fleet["vehicleResponse"]["vehicles"].as_array().unwrap();
    assert_eq!(vehicles.len(), 4);
    assert_eq!(vehicles[0]["vin"], simulator.vehicles()[0]);
    let link = fleet["moreDataAvailableLink"].as_str().unwrap();
    let rest = get(&simulator, link).await.json();
    assert_eq!(rest["moreDataAvailable"], false);
    simulator.stop().await;
}

#[tokio::test]
async fn rfms_refuses_in_the_standards_form() {
    let simulator = start(PolledConfig {
        limit: Some(Limit::new(2, Duration::from_mins(1))),
        ..config(PolledProvider::Rfms)
    });
    let positions = "GET /rfms/vehiclepositions?latestOnly=true";
    let base = simulator.url();
    for stranger in ["Bearer wrong", "Basic c2ltdWxhdG9yOndyb25n", "", "Bearer"] {
        let answer = ask(&base, positions, stranger, "").await.unwrap();
        assert_eq!(answer.status, 401, "{stranger}");
        assert!(answer.json()["error_description"].is_string());
    }
    let both = "/rfms/vehiclepositions?latestOnly=true&starttime=2026-07-01T12:00:00Z";
    let answer = get(&simulator, both).await;
    assert_eq!(
        (answer.status, &answer.json()["error"]),
        (400, &json!("invalid_request"))
    );
    let basic = format!(
        "Basic {}",
        STANDARD.encode(format!("simulator:{DEFAULT_API_KEY}"))
    );
    let answer = ask(&base, positions, &basic, "").await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.headers["x-rate-limit-limit"], "2");
    assert_eq!(answer.headers["x-rate-limit-remaining"], "0");
    assert!(answer.headers["content-type"].contains("vehiclepositions.v4.0"));
    let answer = ask(&base, positions, &basic, "").await.unwrap();
    assert_eq!(answer.status, 429);
    let reset: i64 = answer.headers["x-rate-limit-reset"].parse().unwrap();
    let last = simulator.requests().last().unwrap().at_ms;
    assert!((last..=last + 61_000).contains(&(reset * 1000)));
    assert_eq!(answer.json()["error"], "rate_limit_exceeded");
    // Another pool is not affected.
    assert_eq!(
        get(&simulator, "/rfms/vehiclestatuses?latestOnly=true")
            .await
            .status,
        200
    );
    simulator.stop().await;
}

#[tokio::test]
async fn samsara_is_read_by_its_cursor() {
    let simulator = start(PolledConfig {
        page_size: Some(20),
        limit: Some(Limit::new(1_000_000, Duration::from_secs(1))),
        ..config(PolledProvider::Samsara)
    });
    let path = "/fleet/vehicles/stats/feed?types=gps,evStateOfChargeMilliPercent,obdOdometerMeters";
    let mut client = Client::default();
    let mut target = path.to_owned();
    let mut has_several = false;
    let mut has_lacked_a_cursor = false;
    simulator.set_empty_end_cursor(true);
    let begun = Instant::now();
    for pages in 0_u32.. {
        assert!(begun.elapsed() < SOON, "it does not come to an end");
        let page = get(&simulator, &target).await.json();
        for vehicle in page["data"].as_array().unwrap() {
            has_several |= learn_stats(&mut client, vehicle) > 1;
        }
        match pages {
            // Each vehicle has reported more than once before it is asked again.
            1 => {
                let (before, seen) = (simulator.stats().reports, || simulator.stats().reports);
                eventually("more reports", || (seen() > before + 40).then_some(())).await;
            }
            30 => simulator.pause(),
            _ => {}
        }
        if is_over(&simulator, &client) {
            break;
        }
        match page["pagination"]["endCursor"].as_str().unwrap() {
            // The same page comes again, with what is new.
            "" => {
                has_lacked_a_cursor = true;
                simulator.set_empty_end_cursor(false);
            }
            cursor => target = format!("{path}&after={cursor}"),
        }
    }
    assert!(has_several && has_lacked_a_cursor);
    assert!(client.agrees_with(&simulator));
    assert!(simulator.skipped().values().all(|skipped| *skipped == 0));
    simulator.stop().await;
}

#[tokio::test]
async fn samsara_refuses_in_its_own_form() {
    let simulator = start(PolledConfig {
        limit: Some(Limit::new(3, Duration::from_mins(1))),
        ..config(PolledProvider::Samsara)
    });
    let path = "/fleet/vehicles/stats/feed?types=gps";
    let line = format!("GET {path}");
    let stranger = ask(&simulator.url(), &line, "Bearer wrong", "")
        .await
        .unwrap();
    assert_eq!(stranger.status, 401);
    assert_eq!(stranger.json()["message"], "invalid token");
    let many = format!("{path},engineStates,obdOdometerMeters,evChargingStatus");
    assert_eq!(get(&simulator, &many).await.status, 400);
    simulator.fail_next(1, &PolledFault::Unavailable);
    let trouble = get(&simulator, path).await;
    assert_eq!(
        (trouble.status, &*trouble.body),
        (503, "Service Temporarily Unavailable")
    );
    let good = get(&simulator, path).await;
    assert_eq!(good.status, 200);
    assert!(!good.headers.contains_key("x-rate-limit-remaining"));
    assert_eq!(get(&simulator, path).await.status, 200);
    let limited = get(&simulator, path).await;
    assert_eq!(limited.status, 429);
    let wait = &limited.headers["retry-after"];
    assert!(
        wait.contains('.') && (0.0..61.0).contains(&wait.parse::<f64>().unwrap()),
        "{wait}"
    );
    simulator.stop().await;
}

fn learn_stats(client: &mut Client, vehicle: &Value) -> usize {
    let id = &vehicle["id"];
    let of = |kind: &str| vehicle[kind].as_array().cloned().unwrap_or_default();
    for gps in of("gps") {
        client.learn(id, "position", &gps["time"], position(&gps));
        let speed = gps["speedMilesPerHour"].as_f64().unwrap() * 1.609_344;
        client.learn(id, "speed", &gps["time"], Known::Number(speed));
    }
    for (kind, signal, scale) in [
        ("evStateOfChargeMilliPercent", "state_of_charge", 1000.0),
        ("obdOdometerMeters", "odometer", 1.0),
    ] {
        for reading in of(kind) {
            client.learn(
                id,
                signal,
                &reading["time"],
                number(&reading["value"], scale),
            );
        }
    }
    of("gps").len()
}

async fn call(simulator: &PolledSimulator, method: &str, params: Value) -> Answer {
    let body = json!({"method": method, "params": params}).to_string();
    let answer = ask(&simulator.url(), "POST /apiv1", "", &body).await;
    let answer = answer.expect("a whole answer");
    assert_eq!(answer.status, 200, "whatever it is, the status is 200");
    answer
}

async fn login(simulator: &PolledSimulator) -> Value {
    let credential = simulator.credential();
    let (database, rest) = credential.split_once('/').unwrap();
    let (user, password) = rest.split_once(':').unwrap();
    let params = json!({"database": database, "userName": user, "password": password});
    let opened = call(simulator, "Authenticate", params).await.json();
    assert_eq!(opened["result"]["path"], "ThisServer");
    opened["result"]["credentials"].clone()
}

fn kind_of_error(answer: &Answer) -> String {
    let error = &answer.json()["error"];
    assert_eq!(error["data"]["type"], error["errors"][0]["name"]);
    error["data"]["type"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn learn_row(client: &mut Client, row: &Value) {
    let (device, time) = (&row["device"]["id"], &row["dateTime"]);
    match row["diagnostic"]["id"].as_str() {
        None => {
            client.learn(device, "position", time, position(row));
            client.learn(device, "speed", time, number(&row["speed"], 1.0));
        }
        Some("DiagnosticStateOfChargeId") => {
            client.learn(device, "state_of_charge", time, number(&row["data"], 1.0));
        }
        Some("DiagnosticOdometerId") => {
            client.learn(device, "odometer", time, number(&row["data"], 1.0));
        }
        Some("DiagnosticElectricVehicleBatteryPowerId") => {
            client.learn(device, "power", time, number(&row["data"], 1000.0));
        }
        Some(_) => {}
    }
}

#[tokio::test]
async fn geotab_is_read_by_its_versions_through_sessions_that_end() {
    let simulator = start(PolledConfig {
        limit: Some(Limit::new(1_000_000, Duration::from_mins(1))),
        ..config(PolledProvider::Geotab)
    });
    let mut credentials = login(&simulator).await;
    let mut client = Client::default();
    let mut versions: BTreeMap<&str, Value> = BTreeMap::new();
    let mut sessions = 1;
    let begun = Instant::now();
    for pages in 0_u32.. {
        assert!(begun.elapsed() < SOON, "it does not come to an end");
        let kind = if pages % 2 == 0 {
            "LogRecord"
        } else {
            "StatusData"
        };
        let params = json!({"typeName": kind, "resultsLimit": 9,
            "fromVersion": versions.get(kind), "credentials": credentials});
        let answer = call(&simulator, "GetFeed", params).await;
        let result = &answer.json()["result"];
        if result.is_null() {
            assert_eq!(kind_of_error(&answer), "InvalidUserException");
            credentials = login(&simulator).await;
            sessions += 1;
            continue;
        }
        for row in result["data"].as_array().unwrap() {
            learn_row(&mut client, row);
        }
        versions.insert(kind, result["toVersion"].clone());
        match pages {
            0 | 1 => assert_eq!(result["data"], json!([])),
            20 => simulator.kill_sessions(),
            200 => simulator.pause(),
            _ => {}
        }
        if client.0.len() == 30 && is_over(&simulator, &client) {
            break;
        }
    }
    assert_eq!(sessions, 2);
    assert!(client.agrees_with(&simulator));
    assert!(simulator.skipped().values().all(|skipped| *skipped == 0));
    let params = json!({"typeName": "Device", "credentials": credentials});
    let devices = call(&simulator, "Get", params).await.json();
    assert_eq!(devices["result"][5]["id"], simulator.vehicles()[5]);
    simulator.stop().await;
}

#[tokio::test]
async fn geotab_refuses_with_the_status_200() {
    let simulator = start(PolledConfig {
        limit: Some(Limit::new(1, Duration::from_mins(1))),
        ..config(PolledProvider::Geotab)
    });
    let wrong = json!({"database": "simulated", "userName": "simulator", "password": "wrong"});
    let answer = call(&simulator, "Authenticate", wrong).await;
    assert_eq!(kind_of_error(&answer), "InvalidUserException");
    let credentials = login(&simulator).await;
    let feed = |kind: &str| json!({"typeName": kind, "credentials": credentials});
    simulator.fail_next(1, &PolledFault::Unavailable);
    let answer = call(&simulator, "GetFeed", feed("LogRecord")).await;
    assert_eq!(kind_of_error(&answer), "DbUnavailableException");
    let answer = call(&simulator, "GetFeed", feed("LogRecord")).await;
    assert_eq!(answer.headers["x-rate-limit-remaining"], "0");
    assert!(answer.headers["x-rate-limit-reset"].ends_with('Z'));
    let answer = call(&simulator, "GetFeed", feed("LogRecord")).await;
    assert_eq!(kind_of_error(&answer), "OverLimitException");
    assert!(answer.headers["retry-after"].parse::<u32>().unwrap() <= 60);
    let answer = call(&simulator, "GetFeed", feed("Trip")).await;
    assert_eq!(kind_of_error(&answer), "ArgumentException");
    simulator.set_limit(None);
    let answer = call(&simulator, "Remove", feed("Device")).await;
    assert_eq!(kind_of_error(&answer), "MissingMethodException");
    simulator.stop().await;
}

#[tokio::test]
async fn faults_come_once_each_and_requests_are_written_down() {
    let simulator = start(PolledConfig {
        latency: Duration::from_millis(200),
        ..config(PolledProvider::Samsara)
    });
    let path = "/fleet/vehicles/stats/feed?types=gps";
    simulator.fail_next(1, &PolledFault::Status(StatusCode::INTERNAL_SERVER_ERROR));
    simulator.fail_next(1, &PolledFault::LoadBalancer);
    simulator.fail_next(
        1,
        &PolledFault::Limited {
            retry_after_ms: 402,
        },
    );
    simulator.fail_next(1, &PolledFault::Cut);
    assert_eq!(simulator.faults_left(), 4);
    assert_eq!(get(&simulator, path).await.status, 500);
    let page = get(&simulator, path).await;
    assert!(page.status == 502 && page.body.starts_with("<html>"));
    let limited = get(&simulator, path).await;
    assert_eq!(
        (limited.status, &*limited.headers["retry-after"]),
        (429, "0.40201")
    );
    let line = format!("GET {path}");
    let token = format!("Bearer {}", simulator.credential());
    assert!(!format!("{simulator:?}").contains(DEFAULT_API_KEY));
    assert!(ask(&simulator.url(), &line, &token, "").await.is_none());
    assert_eq!(simulator.most_at_once(), 1);
    let (one, other) = tokio::join!(get(&simulator, path), get(&simulator, path));
    assert_eq!(
        (one.status, other.status, simulator.faults_left()),
        (200, 200, 0)
    );
    assert_eq!(simulator.most_at_once(), 2);
    assert_eq!(simulator.most_within("stats", Duration::from_mins(1)), 6);
    let requests = simulator.requests();
    let served: Vec<_> = requests.iter().map(|request| request.is_served).collect();
    assert_eq!(served, [false, false, false, false, true, true]);
    assert!(requests.iter().all(|request| {
        request.target == path
            && request.customer == Some(0)
            && request.took >= Duration::from_millis(200)
    }));
    simulator.stop().await;
}

#[tokio::test]
async fn settings_that_make_no_sense_are_refused() {
    for wrong in [
        PolledConfig {
            every: Duration::ZERO,
            ..config(PolledProvider::Rfms)
        },
        PolledConfig {
            late: 1.5,
            ..config(PolledProvider::Rfms)
        },
        PolledConfig {
            page_size: Some(0),
            ..config(PolledProvider::Rfms)
        },
    ] {
        assert!(PolledSimulator::start(wrong).is_err());
    }
}
