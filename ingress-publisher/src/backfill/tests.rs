//! Streams whose provider has a REST API.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use provider_sim::{
    Closing, Flaws, RestFault, RestRequest, Sample, ScriptedProvider, Simulator, SimulatorConfig,
    StatusCode,
};
use runtime::clock;
use serde_json::{Value, json};
use shared_model::control::StreamAssignment;
use shared_model::{FrameOrigin, SessionId};

use crate::config::PublisherConfig;
use crate::stream::tests::Running;
use crate::testing::{self, eventually, within};
use crate::window::PendingFrame;

fn provider() -> ScriptedProvider {
    let config = provider_sim::ScriptedConfig {
        api_keys: vec!["ingress-publisher".to_owned()],
        ..provider_sim::ScriptedConfig::default()
    };
    ScriptedProvider::start(config).unwrap()
}

fn config() -> PublisherConfig {
    let mut config = testing::config();
    config.backfill.requests_per_second = 1000;
    config.backfill.margin = Duration::from_secs(5);
    config
}

fn assignment(provider: &ScriptedProvider, settings: Value) -> StreamAssignment {
    let credential = Some("env:CARGO_PKG_NAME".to_owned());
    StreamAssignment {
        settings,
        ..testing::assignment(&provider.live_url(), credential)
    }
}

fn one_label() -> Value {
    json!({"vehicles": {"bus-1": ["soc"]}})
}

fn sample(time: i64, value: impl Into<Value>) -> Sample {
    Sample {
        time,
        value: value.into(),
    }
}

fn datum(label: &str, value: impl Into<Value>, time: i64) -> Value {
    json!({"type": "vehicles", "payload":
        {"vid": "bus-1", "label": label, "value": value.into(), "time": time}})
}

fn body(pending: &PendingFrame) -> Value {
    serde_json::from_slice(&pending.frame.body).unwrap()
}

fn now() -> i64 {
    clock::now().timestamp_millis()
}

/// Reads frames until `count` of `origin` have come; fails unless all are numbered without gaps in
/// their session.
async fn frames(running: &mut Running, origin: FrameOrigin, count: usize) -> Vec<Value> {
    let mut numbers = BTreeMap::<SessionId, u64>::new();
    let mut found = Vec::new();
    while found.len() < count {
        let pending = running.next(0).await;
        let number = pending.frame.number;
        let last = numbers.insert(pending.attributes.session, number);
        assert!(last.is_none_or(|last| number == last + 1), "{number}");
        if pending.frame.origin == origin {
            found.push(body(&pending));
        }
    }
    found
}

fn histories(provider: &ScriptedProvider) -> Vec<RestRequest> {
    let mut requests = provider.rest_requests();
    requests.retain(|request| request.method == "GET");
    requests
}

/// The stretch that a request for history names.
fn asked(request: &RestRequest) -> (i64, i64) {
    let of = |key: &str| {
        let (_, rest) = request.target.split_once(&format!("{key}=")).unwrap();
        rest.split('&').next().unwrap().parse().unwrap()
    };
    (of("start"), of("end"))
}

#[tokio::test]
async fn each_connect_is_followed_by_the_latest_values() {
    let provider = provider();
    provider.set_state("bus-1", "soc", sample(1000, 72.8));
    provider.set_state("bus-1", "power", sample(2000, Value::Null));
    let settings =
        json!({"vehicles": {"bus-1": ["soc", "odo", "power"]}, "register_unknown": true});
    let mut running = Running::start_with(assignment(&provider, settings), 1, config());
    let state = [datum("soc", 72.8, 1000)];
    assert_eq!(frames(&mut running, FrameOrigin::State, 1).await, state);
    let requests = provider.rest_requests();
    assert_eq!(requests.len(), 1, "a first session has no gap");
    assert_eq!(requests[0].body, r#"{"bus-1":["soc","odo","power"]}"#);
    provider.close_all(&Closing::Abrupt);
    assert_eq!(frames(&mut running, FrameOrigin::State, 1).await, state);
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn what_was_missed_is_asked_for_and_numbered_with_what_is_live() {
    let provider = provider();
    let mut running = Running::start_with(assignment(&provider, one_label()), 1, config());
    provider.subscribed(1).await;
    let first = now() - 1000;
    provider.send_text(datum("soc", 1, first).to_string()).await;
    frames(&mut running, FrameOrigin::Live, 2).await;
    provider.close_all(&Closing::Abrupt);
    let history: Vec<_> = (1..=100).map(|n| sample(first + n, n)).collect();
    provider.add_history("bus-1", "soc", history);
    provider.add_history("bus-1", "soc", vec![sample(first + 101, Value::Null)]);
    provider.add_history("bus-1", "soc", vec![sample(first - 3_600_000, 0)]);
    provider.subscribed(1).await;
    provider
        .send_text(datum("soc", 101, first + 102).to_string())
        .await;
    let expected: Vec<_> = (1..=100).map(|n| datum("soc", n, first + n)).collect();
    let found = frames(&mut running, FrameOrigin::Backfill, 100).await;
    assert_eq!(found, expected);
    let asked = asked(&histories(&provider)[0]);
    assert!(
        asked.0 <= first - 3000 && asked.1 >= first + 102,
        "{asked:?}"
    );
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn an_earlier_owners_gap_is_closed_too_but_not_what_is_too_old() {
    let provider = provider();
    let begin = now() - 20 * 3_600_000;
    provider.add_history("bus-1", "soc", vec![sample(begin, 7)]);
    let mut config = config();
    config.backfill.max_age = Duration::from_hours(21);
    let gap_from = DateTime::<Utc>::from_timestamp_millis(begin - 48 * 3_600_000);
    let assignment = assignment(&provider, one_label());
    let mut running = Running::start_after(gap_from, assignment, 1, config);
    let found = frames(&mut running, FrameOrigin::Backfill, 1).await;
    assert_eq!(found, [datum("soc", 7, begin)]);
    let asked: Vec<_> = eventually(async || {
        let asked: Vec<_> = histories(&provider).iter().map(asked).collect();
        (asked.len() == 4).then_some(asked)
    })
    .await;
    // Four slices of at most six hours, each beginning where the one before ends.
    assert!(
        asked.windows(2).all(|pair| pair[0].1 == pair[1].0),
        "{asked:?}"
    );
    let whole = asked[3].1 - asked[0].0;
    assert_eq!(whole, 21 * 3_600_000);
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_connection_that_wants_no_backfill_asks_nothing() {
    let provider = provider();
    provider.set_state("bus-1", "soc", sample(1000, 72.8));
    let settings = json!({"vehicles": {"bus-1": ["soc"]}, "backfill": false});
    let gap_from = Some(clock::now());
    let assignment = assignment(&provider, settings);
    let mut running = Running::start_after(gap_from, assignment, 1, config());
    provider.subscribed(1).await;
    for n in 0..100 {
        provider.send_text(datum("soc", n, now()).to_string()).await;
    }
    frames(&mut running, FrameOrigin::Live, 101).await;
    assert_eq!(provider.rest_requests(), []);
    running.end().await;
    provider.stop().await;
}

fn fault(status: StatusCode, retry_after: Option<&str>) -> RestFault {
    RestFault {
        status,
        retry_after: retry_after.map(str::to_owned),
    }
}

/// A stream with a gap, whose provider meets its first requests with `faults`.
fn with_faults(provider: &ScriptedProvider, settings: Value, faults: &[RestFault]) -> Running {
    for fault in faults {
        provider.fail_rest(fault.clone());
    }
    let gap_from = Some(clock::now() - Duration::from_mins(1));
    Running::start_after(gap_from, assignment(provider, settings), 1, config())
}

#[tokio::test]
async fn what_passes_by_itself_is_tried_again() {
    let provider = provider();
    let at = now() - 1000;
    provider.set_state("bus-1", "soc", sample(at, 1));
    provider.add_history("bus-1", "soc", vec![sample(at, 1)]);
    let faults = [
        fault(StatusCode::TOO_MANY_REQUESTS, Some("0.2")),
        fault(StatusCode::SERVICE_UNAVAILABLE, None),
        fault(StatusCode::BAD_GATEWAY, Some("0")),
    ];
    let begin = tokio::time::Instant::now();
    let mut running = with_faults(&provider, one_label(), &faults);
    frames(&mut running, FrameOrigin::Backfill, 1).await;
    assert!(begin.elapsed() >= Duration::from_millis(200));
    assert_eq!(provider.rest_requests().len(), 5);
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn what_is_rejected_is_given_up_alone() {
    let provider = provider();
    let at = now() - 1000;
    provider.add_history("bus-1", "odo", vec![sample(at, 5)]);
    let settings = json!({"vehicles": {"bus-1": ["soc", "odo"]}});
    let faults = [StatusCode::NOT_FOUND, StatusCode::BAD_REQUEST].map(|status| fault(status, None));
    let mut running = with_faults(&provider, settings, &faults);
    let found = frames(&mut running, FrameOrigin::Backfill, 1).await;
    assert_eq!(found, [datum("odo", 5, at)]);
    // Neither is asked for again after the next connect.
    let requests = provider.rest_requests().len();
    assert_eq!(requests, 3);
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_refused_credential_ends_the_questions_and_leaves_the_socket_alone() {
    let provider = provider();
    let settings = json!({"vehicles": {"bus-1": ["soc", "odo", "speed"]}});
    let faults = [StatusCode::FORBIDDEN; 2].map(|status| fault(status, None));
    let mut running = with_faults(&provider, settings, &faults);
    provider.subscribed(1).await;
    eventually(async || (provider.rest_requests().len() == 2).then_some(())).await;
    for n in 0..100 {
        provider.send_text(datum("soc", n, now()).to_string()).await;
    }
    frames(&mut running, FrameOrigin::Live, 101).await;
    assert_eq!(provider.rest_requests().len(), 2);
    // What was not answered is asked for after the next connect.
    provider.close_all(&Closing::Abrupt);
    eventually(async || (histories(&provider).len() == 4).then_some(())).await;
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_socket_that_breaks_in_between_loses_nothing() {
    let provider = provider();
    let begin = now();
    provider.add_history("bus-1", "soc", vec![sample(begin - 60_000, 1)]);
    let faults = [
        fault(StatusCode::BAD_REQUEST, None),
        fault(StatusCode::SERVICE_UNAVAILABLE, Some("600")),
    ];
    let mut running = with_faults(&provider, one_label(), &faults);
    eventually(async || (histories(&provider).len() == 1).then_some(())).await;
    provider.close_all(&Closing::Abrupt);
    frames(&mut running, FrameOrigin::Backfill, 1).await;
    let requests = histories(&provider);
    let (refused, answered) = (asked(&requests[0]), asked(&requests[1]));
    assert_eq!(refused.0, answered.0);
    assert!(refused.1 < answered.1);
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_asked_for_in_parts() {
    let provider = provider();
    let begin = now() - 3 * 3_600_000;
    let large = "x".repeat(900 * 1024);
    let samples = (0..3).map(|hour| sample(begin + hour * 3_600_000 + 1000, large.clone()));
    provider.add_history("bus-1", "soc", samples.collect());
    let gap_from = DateTime::<Utc>::from_timestamp_millis(begin);
    let assignment = assignment(&provider, one_label());
    let mut running = Running::start_after(gap_from, assignment, 1, config());
    let found = frames(&mut running, FrameOrigin::Backfill, 3).await;
    let times: Vec<_> = found
        .iter()
        .map(|frame| frame["payload"]["time"].as_i64())
        .collect();
    assert_eq!(
        times,
        [0, 1, 2].map(|hour| Some(begin + hour * 3_600_000 + 1000))
    );
    running.end().await;
    provider.stop().await;
}

#[tokio::test]
async fn a_full_window_holds_history_back() {
    let provider = provider();
    let begin = now() - 3_600_000;
    let samples: Vec<_> = (0..3000).map(|n| sample(begin + n, n)).collect();
    provider.add_history("bus-1", "soc", samples);
    let mut config = config();
    config.stream.max_frame_bytes = 1024;
    config.window.max_bytes = 20 * 1024;
    let gap_from = DateTime::<Utc>::from_timestamp_millis(begin);
    let assignment = assignment(&provider, one_label());
    let mut running = Running::start_after(gap_from, assignment, 1, config);
    // While nothing is taken from it, the window stays full.
    let full = eventually(async || {
        let frames = running.status.report().frames;
        (frames > 30).then_some(frames)
    })
    .await;
    assert!(full < 100, "{full}");
    let found = within(frames(&mut running, FrameOrigin::Backfill, 3000)).await;
    assert_eq!(found[2999]["payload"]["value"], 2999);
    running.end().await;
    provider.stop().await;
}

/// All that the simulated provider has of `bus-1`'s odometer between two times.
async fn odometer(simulator: &Simulator, from: i64, to: i64) -> Vec<i64> {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!(
        "{}/api/v1/time/bus-1?label=odo&start={from}&end={to}",
        simulator.url()
    );
    let request = client.get(url).header("x-api-key", "ingress-publisher");
    let history: Vec<Value> = request.send().await.unwrap().json().await.unwrap();
    let times = history
        .iter()
        .map(|sample| sample["time"].as_i64().unwrap());
    times.collect()
}

#[tokio::test]
async fn nothing_is_missing_however_often_the_socket_breaks() {
    let simulator = Simulator::start(SimulatorConfig {
        api_keys: vec!["ingress-publisher".to_owned()],
        vehicles: 1,
        rate: 50.0,
        // Until it is over the gap goes on.
        authorisation_delay: Duration::from_millis(200),
        parked_every: Duration::from_millis(1),
        disconnect_every: None,
        flaws: Flaws::NONE,
        ..SimulatorConfig::default()
    })
    .unwrap();
    let mut config = config();
    config.backfill.margin = Duration::from_millis(100);
    config.backfill.settle = Duration::from_secs(10);
    let assignment = StreamAssignment {
        settings: json!({"vehicles": {"bus-1": ["odo"]}}),
        ..testing::assignment(&simulator.live_url(), Some("env:CARGO_PKG_NAME".to_owned()))
    };
    let mut running = Running::start_with(assignment, 1, config);
    let mut found = BTreeSet::new();
    let mut live = Vec::new();
    for _ in 0..6 {
        // Sometimes the socket breaks before the gap of the one before is closed.
        let count = live.len() + 5;
        while live.len() < count {
            let pending = running.next(0).await;
            let time = body(&pending)["payload"]["time"].as_i64();
            found.extend(time);
            if pending.frame.origin == FrameOrigin::Live {
                live.extend(time);
            }
        }
        simulator.disconnect_all();
    }
    let (first, last) = (live[0], live[live.len() - 1]);
    let expected = odometer(&simulator, first, last).await;
    assert!(expected.len() > live.len(), "something was missed at first");
    while !expected.iter().all(|time| found.contains(time)) {
        found.extend(body(&running.next(0).await)["payload"]["time"].as_i64());
    }
    running.end().await;
    simulator.stop().await;
}
