use proptest::prelude::*;
use serde_json::json;
use shared_model::SignalValue;

use super::super::feed::{Access, Failure, Feed, Page, Response};
use super::super::testing::{self, answer, at, numbers, observed, reason};
use super::*;

/// Two pages of each of three series, in the feed's form, and a vehicle in the snapshot's.
const GPS: &str = include_str!("tests/gps.json");
const ODOMETER: &str = include_str!("tests/odometer.json");
const ENGINE: &str = include_str!("tests/engine.json");
const SNAPSHOT: &str = include_str!("tests/snapshot.json");

fn settings(settings: Value) -> Settings {
    Settings::read(&settings).unwrap()
}

fn usual() -> Settings {
    settings(json!({}))
}

fn items(frame: &str) -> Vec<Item> {
    testing::items(&usual(), frame)
}

fn vehicle(kind: &str, reading: Value) -> String {
    json!({"id": "1", "name": "Bus 1", kind: [reading]}).to_string()
}

fn reading(kind: &str, value: Value) -> Vec<Item> {
    items(&vehicle(
        kind,
        json!({"time": "2026-01-01T12:00:00Z", "value": value}),
    ))
}

#[track_caller]
fn assert_number(kind: &str, value: Value, signal: Signal, expected: f64) {
    assert_eq!(numbers(&reading(kind, value), signal), [expected], "{kind}");
}

#[test]
fn units_are_those_in_the_types_names() {
    assert_number(
        "evStateOfChargeMilliPercent",
        json!(81_500),
        Signal::StateOfCharge,
        81.5,
    );
    assert_number(
        "evBatteryVoltageMilliVolt",
        json!(651_200),
        Signal::BatteryVoltage,
        651.2,
    );
    assert_number(
        "evChargingEnergyMicroWh",
        json!(12_500_000_000_i64),
        Signal::Energy,
        12.5,
    );
    assert_number(
        "obdOdometerMeters",
        json!(152_000_345),
        Signal::Odometer,
        152_000_345.0,
    );
    assert_number("gpsOdometerMeters", json!(3200), Signal::Odometer, 3200.0);
    let gps = json!({"time": "2026-01-01T12:00:00Z", "latitude": 1.5, "longitude": 2.5, "speedMilesPerHour": 10});
    assert_eq!(
        numbers(&items(&vehicle("gps", gps)), Signal::Speed),
        [16.093_44]
    );
}

#[test]
fn every_reading_of_a_series_counts_at_its_own_time() {
    let read = items(GPS);
    // Three readings with position and speed each.
    assert_eq!(read.len(), 6);
    let first = observed(&read, Signal::Position);
    assert_eq!(first.device, "281474980000011");
    assert_eq!(Some(first.value), SignalValue::position(33.1001, -96.1001));
    assert_eq!(first.observed_at, at("2026-01-01T12:00:05.100Z"));
    let speeds = numbers(&read, Signal::Speed);
    assert_eq!(speeds.len(), 3);
    assert!((speeds[0] - 58.4 * 1.609_344).abs() < 1e-9);
    assert!(speeds[1].abs() < f64::EPSILON);
    let read = items(ODOMETER);
    assert_eq!(
        numbers(&read, Signal::Odometer),
        [152_000_345.0, 152_018_892.0, 152_047_204.0, 3_552_000.0]
    );
}

#[test]
fn a_snapshot_has_one_reading_of_each_type() {
    let read = items(SNAPSHOT);
    let odometer = observed(&read, Signal::Odometer);
    assert_eq!(odometer.device, "212014919004270");
    assert_eq!(odometer.value, SignalValue::Number(386_814_875.0));
    assert_eq!(odometer.observed_at, at("2021-07-13T20:10:22Z"));
    assert_eq!(
        observed(&read, Signal::Position).observed_at,
        at("2021-07-14T02:13:53Z")
    );
    assert_eq!(numbers(&read, Signal::Speed), [0.0]);
    // engineState; name and id describe the vehicle.
    assert_eq!(
        read.iter().filter(|item| **item == Item::Unmapped).count(),
        1
    );
    assert_eq!(read.len(), 4);
}

#[test]
fn types_without_a_signal_are_unmapped_each_time() {
    assert_eq!(items(ENGINE), vec![Item::Unmapped; 4]);
    for (kind, value) in [
        ("evChargingStatus", json!(2)),
        ("ambientAirTemperatureMilliC", json!(21_000)),
        // Which way the current flows is not documented.
        ("evBatteryCurrentMilliAmp", json!(-1200)),
    ] {
        assert_eq!(reading(kind, value), [Item::Unmapped], "{kind}");
    }
    // Nobody reads them, so they need not look like readings.
    assert_eq!(
        items(r#"{"id":"1","tags":["north",7]}"#),
        vec![Item::Unmapped; 2]
    );
}

#[test]
fn what_describes_a_vehicle_is_no_reading() {
    let frame = r#"{"id":"1","name":"Bus","externalIds":{"samsara.vin":"V","samsara.serial":"S","own":"1"},"vin":"V"}"#;
    assert_eq!(items(frame), []);
    assert_eq!(items(r#"{"id":281474980000011}"#), []);
    assert_eq!(items(r#"{"data":[]}"#), []);
}

#[test]
fn the_satellites_odometer_counts_only_where_the_vehicles_own_is_absent() {
    let time = "2026-01-01T12:00:00Z";
    let both = |obd: Value| {
        json!({"id": "1", "gpsOdometerMeters": [{"time": time, "value": 5}], "obdOdometerMeters": obd})
            .to_string()
    };
    assert_eq!(
        numbers(
            &items(&both(json!([{"time": time, "value": 9}]))),
            Signal::Odometer
        ),
        [9.0]
    );
    assert_eq!(numbers(&items(&both(json!([]))), Signal::Odometer), [5.0]);
    let snapshot = json!({"id": "1", "gpsOdometerMeters": {"time": time, "value": 5}, "obdOdometerMeters": {"time": time, "value": 9}});
    assert_eq!(
        numbers(&items(&snapshot.to_string()), Signal::Odometer),
        [9.0]
    );
}

#[test]
fn what_is_there_without_a_value_is_no_value() {
    let none = |signal| Item::NoValue {
        device: "1".to_owned(),
        signal,
    };
    for value in [json!(null), json!(""), json!(255_000), json!(-1)] {
        assert_eq!(
            reading("evStateOfChargeMilliPercent", value),
            [none(Signal::StateOfCharge)]
        );
    }
    let absent = json!({"time": "2026-01-01T12:00:00Z"});
    assert_eq!(
        items(&vehicle("evStateOfChargeMilliPercent", absent)),
        [none(Signal::StateOfCharge)]
    );
    for gps in [
        json!({"time": "2026-01-01T12:00:00Z", "latitude": 0, "longitude": 0}),
        json!({"time": "2026-01-01T12:00:00Z", "latitude": 1.5}),
    ] {
        assert_eq!(items(&vehicle("gps", gps)), [none(Signal::Position)]);
    }
    assert_number(
        "evStateOfChargeMilliPercent",
        json!(0),
        Signal::StateOfCharge,
        0.0,
    );
}

#[test]
fn errors_of_the_provider_report_nothing() {
    let read = usual().interpret(br#"{"message":"invalid token","requestId":"aaaabbbb-ccccdddd"}"#);
    assert_eq!(read, Ok(Interpretation::Control(Control::ProviderError)));
}

#[test]
fn what_cannot_be_read_says_why() {
    for (frame, expected) in [
        ("Service Temporarily Unavailable", Reason::InvalidSyntax),
        ("true", Reason::UnknownShape),
        ("{}", Reason::UnknownShape),
        (r#"{"data":7}"#, Reason::UnknownShape),
        ("[7]", Reason::UnknownShape),
        (r#"{"id":"1","gps":[7]}"#, Reason::UnknownShape),
        (r#"{"name":"Bus"}"#, Reason::InvalidVehicle),
        (r#"{"id":1.5}"#, Reason::InvalidVehicle),
        (
            r#"{"id":"1","gps":[{"latitude":1.5,"longitude":2.5}]}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"id":"1","obdOdometerMeters":[{"time":"now","value":1}]}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"id":"1","obdOdometerMeters":[{"time":"2026-01-01T12:00:00Z","value":"far"}]}"#,
            Reason::InvalidValue,
        ),
    ] {
        assert_eq!(reason(&usual(), frame), expected, "{frame}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_fix() {
    for (wrong, part) in [
        (json!({"colour": 1}), "colour"),
        (json!({"types": []}), "\"types\":"),
        (json!({"types": ["gps,odo"]}), "\"types\":"),
        (json!({"types": ["gps", "gps"]}), "twice"),
        (json!({"tag_ids": ["a b"]}), "tag_ids"),
        (json!({"limit": 0}), "1 to 512"),
        (json!({"limit": 513}), "1 to 512"),
        (json!({"requests_per_second": 0}), "at least 1"),
    ] {
        let error = Settings::read(&wrong).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

#[test]
fn three_types_make_a_feed_and_its_name_is_theirs() {
    assert_eq!(
        usual().names(),
        [
            "evStateOfChargeMilliPercent+gps+obdOdometerMeters",
            "evBatteryVoltageMilliVolt",
        ]
    );
    let named = |types: &[&str]| settings(json!({"types": types})).names();
    assert_eq!(named(&["gps"]), ["gps"]);
    // In another order within a feed, it is the same feed.
    assert_eq!(named(&["gps", "b", "a"]), named(&["a", "b", "gps"]));
    // One more type leaves the feeds before it alone.
    assert_eq!(named(&["c", "b", "a", "d"]), ["a+b+c", "d"]);
    // The two odometers stay together.
    assert_eq!(
        named(&["a", "b", "gpsOdometerMeters", "c", "obdOdometerMeters"]),
        ["a+b", "c+gpsOdometerMeters+obdOdometerMeters"]
    );
}

const ACCESS: Access<'_> = Access {
    credential: Some("secret"),
    session: None,
};

fn query(settings: &Settings, feed: &str, cursor: Option<&Value>) -> Vec<String> {
    let request = settings.request(feed, cursor, &ACCESS, at("2026-07-01T12:00:00Z"));
    assert_eq!(request.path, "/fleet/vehicles/stats/feed");
    assert!(
        request
            .headers
            .contains(&("authorization", "Bearer secret".to_owned()))
    );
    assert!(!format!("{request:?}").contains("secret"));
    request
        .query
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect()
}

fn page(cursor: Option<&Value>, pagination: Value) -> Page {
    let body = json!({"data": [{"id": "1", "gps": [{"time": "2026-01-01T12:00:00Z"}]}], "pagination": pagination});
    usual()
        .read("gps", cursor, &answer(&body.to_string()))
        .unwrap()
}

#[test]
fn a_feed_is_asked_from_its_cursor() {
    assert_eq!(
        query(&usual(), "gps+obdOdometerMeters", None),
        ["types=gps,obdOdometerMeters"]
    );
    let own = settings(json!({"limit": 100, "tag_ids": ["12", "34"]}));
    assert_eq!(
        query(&own, "gps", Some(&json!("c-1"))),
        ["types=gps", "tagIds=12,34", "limit=100", "after=c-1"]
    );
    assert_eq!(query(&usual(), "gps", Some(&json!(""))), ["types=gps"]);
}

#[test]
fn what_has_more_is_asked_at_once_and_what_has_not_after_five_seconds() {
    let more = page(None, json!({"endCursor": "c-1", "hasNextPage": true}));
    assert_eq!(
        (more.cursor, more.more, more.wait),
        (Some(json!("c-1")), true, None)
    );
    assert_eq!(more.read_until, Some(at("2026-01-01T12:00:00Z")));
    let last = page(None, json!({"endCursor": "c-2", "hasNextPage": false}));
    let settle = Some(std::time::Duration::from_secs(5));
    assert_eq!(
        (last.cursor, last.more, last.wait),
        (Some(json!("c-2")), false, settle)
    );
    assert_eq!(last.read_until, Some(at("2026-07-01T12:00:00Z")));
}

#[test]
fn an_empty_cursor_never_replaces_one() {
    let kept = json!("c-1");
    for pagination in [
        json!({"endCursor": "", "hasNextPage": false}),
        json!({"endCursor": "", "hasNextPage": true}),
        json!({"hasNextPage": true}),
        json!(null),
    ] {
        let page = page(Some(&kept), pagination);
        assert_eq!((page.cursor, page.more), (None, false));
        assert!(page.wait.is_some());
    }
    // "More" at the same cursor leads nowhere.
    let stuck = page(
        Some(&kept),
        json!({"endCursor": "c-1", "hasNextPage": true}),
    );
    assert!(!stuck.more);
}

#[test]
fn records_are_handed_out_byte_for_byte() {
    let record = "{\"id\" : \"1\",\n\t\"gps\":[{\"speedMilesPerHour\":58.40}]}";
    let body = format!(
        r#"{{"data":[{record},{record}],"pagination":{{"endCursor":"c","hasNextPage":false}}}}"#
    );
    let page = usual().read("gps", None, &answer(&body)).unwrap();
    assert_eq!(page.frames, [record, record]);
}

#[test]
fn pages_of_every_series_are_read_as_they_are() {
    for (body, records, cursor) in [
        (GPS, 2, "00000000-0000-0000-0000-000000000051"),
        (ODOMETER, 2, "00000000-0000-0000-0000-000000000061"),
        (ENGINE, 2, "00000000-0000-0000-0000-000000000041"),
    ] {
        let page = usual().read("gps", None, &answer(body)).unwrap();
        assert_eq!((page.frames.len(), page.more), (records, true));
        assert_eq!(page.cursor, Some(json!(cursor)));
        let one_by_one: Vec<_> = page
            .frames
            .iter()
            .flat_map(|frame| items(std::str::from_utf8(frame).unwrap()))
            .collect();
        assert_eq!(one_by_one, items(body));
    }
}

#[test]
fn the_last_page_of_every_series_keeps_the_cursor() {
    let kept = json!("00000000-0000-0000-0000-000000000051");
    for (body, count) in [
        (include_str!("tests/gps_last.json"), 2),
        (include_str!("tests/odometer_last.json"), 1),
        (include_str!("tests/engine_last.json"), 1),
    ] {
        let page = usual().read("gps", Some(&kept), &answer(body)).unwrap();
        assert_eq!(
            (page.frames.len(), page.more, page.cursor),
            (1, false, None)
        );
        assert_eq!(items(body).len(), count);
    }
}

#[test]
fn refusals_limits_and_plain_text_are_told_apart() {
    let read = |response: Response| usual().read("gps", None, &response).unwrap_err();
    let mut limited = answer("{}");
    limited.status = 429;
    limited.headers = vec![("retry-after".to_owned(), "0.40235".to_owned())];
    let wait = std::time::Duration::from_secs_f64(0.40235);
    assert_eq!(
        read(limited),
        Failure::Limited {
            retry_after: Some(wait)
        }
    );
    let mut down = answer("Service Temporarily Unavailable");
    down.status = 503;
    assert!(matches!(read(down), Failure::Passing(_)));
    let mut refused = answer(r#"{"message":"invalid token","requestId":"aaaabbbb-ccccdddd"}"#);
    refused.status = 401;
    assert!(matches!(read(refused), Failure::Refused(_)));
    let mut wrong = answer("Bad types");
    wrong.status = 400;
    assert!(matches!(read(wrong), Failure::FeedRefused(_)));
    assert!(matches!(read(answer("up soon")), Failure::Unreadable(_)));
    assert!(matches!(
        read(answer(r#"{"pagination":{}}"#)),
        Failure::Unreadable(_)
    ));
}

#[test]
fn ids_have_a_length() {
    testing::refuses_long_ids(&usual(), |id| json!({"id": id}).to_string());
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(frame in testing::bytes(SNAPSHOT)) {
        testing::reads_or_refuses(&usual(), &frame)?;
    }

    #[test]
    fn any_json_is_read_or_refused(frame in testing::json_like(GPS)) {
        testing::reads_or_refuses(&usual(), frame.to_string().as_bytes())?;
    }

    #[test]
    fn any_answer_is_a_page_or_a_failure(body in testing::json_like(GPS), cursor in testing::json_like("\"c-1\"")) {
        testing::pages_or_fails(&usual(), "gps", &cursor, body.to_string().as_bytes())?;
    }
}
