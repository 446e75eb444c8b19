use proptest::prelude::*;
use serde_json::json;
use shared_model::SignalValue;

use super::super::feed::{Access, Failure, Feed, Response};
use super::super::testing::{self, answer, at, numbers, observed, reason};
use super::*;

/// The example values of the standard; of a real message, only some are filled at once.
const STATUS: &str = include_str!("tests/status.json");
const POSITION: &str = include_str!("tests/position.json");

fn settings(settings: Value) -> Settings {
    Settings::read(&settings).unwrap()
}

fn usual() -> Settings {
    settings(json!({}))
}

fn items(frame: &str) -> Vec<Item> {
    testing::items(&usual(), frame)
}

fn status(snapshot: Value) -> String {
    json!({
        "vin": "V1",
        "createdDateTime": "2026-07-01T10:00:00Z",
        "receivedDateTime": "2026-07-01T10:00:05Z",
        "snapshotData": snapshot,
    })
    .to_string()
}

#[test]
fn a_status_of_the_standard_is_read_in_canonical_units() {
    let items = items(STATUS);
    let created = "2021-09-17T10:01:02.000Z";
    for (signal, value) in [
        (Signal::Odometer, 34_567_891.0),
        (Signal::Range, 150_900.0),
        (Signal::Energy, 123_456.789),
        // Not fuelLevel1, which is 86.
        (Signal::StateOfCharge, 76.0),
        (Signal::Power, -3.5),
        (Signal::Speed, 54.3),
    ] {
        let found = observed(&items, signal);
        assert_eq!(found.value, SignalValue::Number(value), "{signal}");
        assert_eq!(found.observed_at, at(created), "{signal}");
        assert_eq!(found.device, "ABC12345678901234");
    }
    let position = observed(&items, Signal::Position);
    assert_eq!(
        Some(position.value),
        SignalValue::position(57.71727, 11.921_161)
    );
    assert_eq!(items.len(), 7);
}

#[test]
fn a_position_of_the_standard_has_position_and_speed() {
    let items = items(POSITION);
    assert_eq!(items.len(), 2);
    assert_eq!(numbers(&items, Signal::Speed), [54.3]);
    observed(&items, Signal::Position);
}

#[test]
fn each_of_the_three_clocks_says_when_its_own_was_observed() {
    let mut record = json!({
        "vin": "V1",
        "createdDateTime": "2026-07-01T10:00:00Z",
        "receivedDateTime": "2026-07-01T10:00:05Z",
        "gnssPosition": {"latitude": 57.7, "longitude": 11.9, "speed": 9.5,
            "positionDateTime": "2026-07-01T09:58:00Z"},
    });
    let read = items(&record.to_string());
    for signal in [Signal::Position, Signal::Speed] {
        assert_eq!(
            observed(&read, signal).observed_at,
            at("2026-07-01T09:58:00Z")
        );
    }
    record["wheelBasedSpeed"] = json!(9.0);
    let read = items(&record.to_string());
    assert_eq!(numbers(&read, Signal::Speed), [9.0]);
    let speed = observed(&read, Signal::Speed);
    assert_eq!(speed.observed_at, at("2026-07-01T10:00:00Z"));
    // Without the others, the server's.
    record.as_object_mut().unwrap().remove("createdDateTime");
    record["gnssPosition"]["positionDateTime"] = json!(null);
    let read = items(&record.to_string());
    let position = observed(&read, Signal::Position);
    assert_eq!(position.observed_at, at("2026-07-01T10:00:05Z"));
}

#[test]
fn charging_draws_negative_power_in_the_configured_unit() {
    let frame =
        status(json!({"batteryPackChargingPower": 22, "batteryPackChargingStatus": "CHARGING_AC"}));
    assert_eq!(numbers(&items(&frame), Signal::Power), [-0.022]);
    let kilowatt = settings(json!({"charging_power_unit": "kW"}));
    let read = testing::items(&kilowatt, &frame);
    assert_eq!(numbers(&read, Signal::Power), [-22.0]);
    let frame =
        status(json!({"batteryPackChargingPower": 0, "batteryPackChargingStatus": "NOT_CHARGING"}));
    assert_eq!(numbers(&items(&frame), Signal::Power), [0.0]);
    let frame = status(json!({"batteryPackChargingStatus": "CHARGING"}));
    assert_eq!(items(&frame), []);
}

#[test]
fn unknown_enumerations_and_missing_mandatory_fields_do_no_harm() {
    let frame = json!({
        "vin": "V1",
        "receivedDateTime": "2026-07-01T10:00:05Z",
        "triggerType": {"context": "OEM", "triggerType": "BY_MOONLIGHT"},
        "snapshotData": {"batteryPackChargingStatus": "PERHAPS", "hybridBatteryPackRemainingCharge": 40,
            "fuelLevel1": 90},
    });
    let read = items(&frame.to_string());
    assert_eq!(numbers(&read, Signal::StateOfCharge), [40.0]);
    assert_eq!(read.len(), 1);
}

#[test]
fn fuel_is_no_charge() {
    assert_eq!(
        items(&status(json!({"fuelLevel1": 86, "fuelLevel2": 45}))),
        []
    );
}

#[test]
fn range_is_the_batterys_part() {
    for (found, range) in [
        (
            json!({"total": 503_700, "fuel": 457_600, "batteryPack": 150_900}),
            Some(150_900.0),
        ),
        (json!({"total": 90_000}), Some(90_000.0)),
        (json!({"total": 503_700, "fuel": 457_600}), None),
    ] {
        let read = items(&status(json!({"estimatedDistanceToEmpty": found})));
        assert_eq!(
            numbers(&read, Signal::Range).first().copied(),
            range,
            "{found}"
        );
    }
}

#[test]
fn what_is_there_without_a_value_is_no_value() {
    let position =
        json!({"latitude": 0, "longitude": 0, "positionDateTime": "2026-07-01T10:00:00Z"});
    for (snapshot, signal) in [
        (json!({"gnssPosition": null}), Signal::Position),
        (json!({"gnssPosition": position}), Signal::Position),
        (
            json!({"hybridBatteryPackRemainingCharge": null}),
            Signal::StateOfCharge,
        ),
        (
            json!({"hybridBatteryPackRemainingCharge": ""}),
            Signal::StateOfCharge,
        ),
        (
            json!({"hybridBatteryPackRemainingCharge": 255}),
            Signal::StateOfCharge,
        ),
        (
            json!({"wheelBasedSpeed": null, "tachographSpeed": ""}),
            Signal::Speed,
        ),
    ] {
        let none = Item::NoValue {
            device: "V1".to_owned(),
            signal,
        };
        assert_eq!(items(&status(snapshot)), [none]);
    }
    assert_eq!(
        numbers(
            &items(&status(
                json!({"wheelBasedSpeed": null, "tachographSpeed": 7})
            )),
            Signal::Speed
        ),
        [7.0]
    );
    assert_eq!(
        numbers(
            &items(&status(json!({"wheelBasedSpeed": 0}))),
            Signal::Speed
        ),
        [0.0]
    );
}

#[test]
fn a_whole_page_that_was_pushed_reads_like_its_records() {
    let page = json!({"vehicleStatusResponse": {"vehicleStatuses": [
        serde_json::from_str::<Value>(STATUS).unwrap(), serde_json::from_str::<Value>(STATUS).unwrap()]}});
    assert_eq!(items(&page.to_string()).len(), 14);
    let page = json!({"vehiclePositionResponse": {"vehiclePositions": [serde_json::from_str::<Value>(POSITION).unwrap()]}});
    assert_eq!(items(&page.to_string()), items(POSITION));
    assert_eq!(items(&format!("[{POSITION},{POSITION}]")).len(), 4);
    assert_eq!(items(r#"{"vehicleStatusResponse":{}}"#), []);
}

#[test]
fn messages_about_other_things_report_nothing() {
    let vehicles = r#"{"vehicleResponse":{"vehicles":[{"vin":"ABC12345678901234","brand":"VOLVO TRUCKS"}]},"moreDataAvailable":false}"#;
    let error = r#"{"error":"rate_limit_exceeded","error_description":"too many requests"}"#;
    for (frame, control) in [(vehicles, Control::Unused), (error, Control::ProviderError)] {
        let read = usual().interpret(frame.as_bytes());
        assert_eq!(read, Ok(Interpretation::Control(control)));
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    for (frame, expected) in [
        ("<html>", Reason::InvalidSyntax),
        ("7", Reason::UnknownShape),
        ("{}", Reason::UnknownShape),
        ("[1]", Reason::UnknownShape),
        (
            r#"{"vehicleStatusResponse":{"vehicleStatuses":7}}"#,
            Reason::UnknownShape,
        ),
        (
            r#"{"createdDateTime":"2026-07-01T10:00:00Z"}"#,
            Reason::InvalidVehicle,
        ),
        (r#"{"vin":"V1"}"#, Reason::InvalidTime),
        (
            r#"{"vin":"V1","createdDateTime":"yesterday"}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"vin":"V1","createdDateTime":"0001-01-01T00:00:00Z"}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"vin":"V1","createdDateTime":"2026-07-01T10:00:00Z","hrTotalVehicleDistance":"far"}"#,
            Reason::InvalidValue,
        ),
        (
            r#"{"vin":"V1","createdDateTime":"2026-07-01T10:00:00Z","gnssPosition":7}"#,
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
        (json!({"feeds": []}), "\"feeds\":"),
        (json!({"feeds": ["statuses", "statuses"]}), "twice"),
        (json!({"feeds": ["vehicles"]}), "positions"),
        (json!({"auth": "oauth"}), "bearer"),
        (json!({"path_prefix": "vehicle/"}), "\"/vehicle\""),
        (json!({"path_prefix": "/a?b"}), "query"),
        (json!({"charging_power_unit": "km"}), "\"kW\""),
        (
            json!({"requests_per_minute": {"statuses": 0}}),
            "at least 1",
        ),
        (json!({"media_type": {"statuses": "a\nb"}}), "ASCII"),
    ] {
        let error = Settings::read(&wrong).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

const ACCESS: Access<'_> = Access {
    credential: Some("me:secret"),
    session: None,
};

fn query(settings: &Settings, feed: &str, cursor: Option<&Value>) -> String {
    let request = settings.request(feed, cursor, &ACCESS, at("2026-07-01T12:00:00Z"));
    let query: Vec<_> = request
        .query
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    format!("{} {}", request.path, query.join("&"))
}

/// A page of positions received at `times`, more following or not.
fn page(times: &[&str], more: bool, link: Option<&str>) -> Response {
    let records: Vec<_> = times
        .iter()
        .enumerate()
        .map(|(number, time)| json!({"vin": format!("V{number}"), "receivedDateTime": time}))
        .collect();
    answer(
        &json!({
            "vehiclePositionResponse": {"vehiclePositions": records},
            "moreDataAvailable": more,
            "moreDataAvailableLink": link,
            "requestServerDateTime": "2026-07-01T10:30:00.900Z",
        })
        .to_string(),
    )
}

#[test]
fn the_latest_are_asked_for_first_then_what_came_since_by_the_servers_clock() {
    let settings = usual();
    assert_eq!(
        query(&settings, "positions", None),
        "/vehiclepositions latestOnly=true"
    );
    let first = settings
        .read(
            "positions",
            None,
            &page(
                &["2026-07-01T10:00:00Z"],
                false,
                Some("/rfms/vehiclepositions?x=1"),
            ),
        )
        .unwrap();
    // The link of a page that nothing follows is not followed.
    assert!(!first.more);
    assert_eq!(
        query(&settings, "positions", first.cursor.as_ref()),
        "/vehiclepositions starttime=2026-07-01T10:30:00Z"
    );
    assert_eq!(first.read_until, Some(at("2026-07-01T10:30:00.900Z")));
    assert_eq!(
        query(&settings, "statuses", None),
        "/vehiclestatuses latestOnly=true&contentFilter=SNAPSHOT"
    );
}

#[test]
fn a_page_of_the_latest_is_followed_by_the_last_vehicle() {
    let settings = usual();
    let first = settings
        .read(
            "positions",
            None,
            &page(
                &["2026-07-01T10:00:00Z", "2026-07-01T09:00:00Z"],
                true,
                None,
            ),
        )
        .unwrap();
    assert!(first.more);
    assert_eq!(
        query(&settings, "positions", first.cursor.as_ref()),
        "/vehiclepositions latestOnly=true&lastVin=V1"
    );
    // A vehicle of the first page may have reported while the second was read.
    let mut late = page(&["2026-07-01T10:00:00Z"], false, None);
    late.body = String::from_utf8(late.body.to_vec())
        .unwrap()
        .replace("10:30:00.900Z", "10:31:00Z")
        .into();
    let second = settings
        .read("positions", first.cursor.as_ref(), &late)
        .unwrap();
    assert_eq!(
        query(&settings, "positions", second.cursor.as_ref()),
        "/vehiclepositions starttime=2026-07-01T10:30:00Z"
    );
    // A server that says "more" and stays where it is ends the run.
    let stuck = settings
        .read(
            "positions",
            first.cursor.as_ref(),
            &page(
                &["2026-07-01T10:00:00Z", "2026-07-01T10:00:00Z"],
                true,
                None,
            ),
        )
        .unwrap();
    assert!(!stuck.more);
}

#[test]
fn a_link_is_followed_by_its_query_alone() {
    let settings = usual();
    let since = json!({"run": {"since": "2026-07-01T09:00:00Z"}});
    for link in [
        "/rfms/vehiclepositions?starttime=2019-04-04T16:42:49Z&triggerFilter=TIMER",
        "https://elsewhere.example/x?starttime=2019-04-04T16:42:49Z&triggerFilter=TIMER#top",
    ] {
        let read = settings
            .read(
                "positions",
                Some(&since),
                &page(&["2026-07-01T10:00:00Z"], true, Some(link)),
            )
            .unwrap();
        assert!(read.more);
        assert_eq!(
            query(&settings, "positions", read.cursor.as_ref()),
            "/vehiclepositions?starttime=2019-04-04T16:42:49Z&triggerFilter=TIMER "
        );
        // The same link again leads nowhere: the run goes on by time.
        let again = settings
            .read(
                "positions",
                read.cursor.as_ref(),
                &page(&["2026-07-01T10:05:00Z"], true, Some(link)),
            )
            .unwrap();
        assert_eq!(
            query(&settings, "positions", again.cursor.as_ref()),
            "/vehiclepositions starttime=2026-07-01T10:05:00Z"
        );
    }
}

#[test]
fn without_a_link_the_last_second_is_asked_for_again_unless_that_would_be_the_same() {
    let settings = usual();
    let since = json!({"run": {"since": "2026-07-01T10:00:00Z"}});
    let read = |times: &[&str]| {
        settings
            .read("positions", Some(&since), &page(times, true, None))
            .unwrap()
    };
    let next = read(&["2026-07-01T10:00:00.100Z", "2026-07-01T10:00:07.500Z"]);
    assert_eq!(
        query(&settings, "positions", next.cursor.as_ref()),
        "/vehiclepositions starttime=2026-07-01T10:00:07Z"
    );
    assert_eq!(next.read_until, Some(at("2026-07-01T10:00:07.500Z")));
    assert_eq!(next.skipped, None);
    let next = read(&["2026-07-01T10:00:00.100Z", "2026-07-01T10:00:00.900Z"]);
    assert_eq!(
        query(&settings, "positions", next.cursor.as_ref()),
        "/vehiclepositions starttime=2026-07-01T10:00:01Z"
    );
    let skipped = next.skipped.unwrap();
    assert!(skipped.contains("2026-07-01T10:00:00Z"), "{skipped}");
    // A record without a time does not hide those of the others.
    let next = read(&["2026-07-01T10:00:07.500Z", "2026-07-01T10:00:05Z", ""]);
    assert_eq!(
        query(&settings, "positions", next.cursor.as_ref()),
        "/vehiclepositions starttime=2026-07-01T10:00:07Z"
    );
    // "More", but nothing that leads there: it shows, and the same is asked for again, later.
    for times in [&[][..], &["", "never"]] {
        let stuck = settings.read("positions", Some(&since), &page(times, true, None));
        assert!(matches!(stuck, Err(Failure::Unreadable(_))), "{stuck:?}");
    }
}

#[test]
fn records_are_handed_out_byte_for_byte() {
    let record = "{ \"vin\":\"V1\",\n \"hrTotalVehicleDistance\": 1.50 }";
    let body = format!(
        r#"{{"vehicleStatusResponse":{{"vehicleStatuses":[ {record} ,null]}},"moreDataAvailable":false}}"#
    );
    let page = usual().read("statuses", None, &answer(&body)).unwrap();
    assert_eq!(page.frames, [record, "null"]);
    // Without the server's time and a record's, there is nothing to go on from.
    assert_eq!(page.cursor, None);
}

#[test]
fn the_credential_is_shown_as_the_maker_wants_it_and_never_printed() {
    let header = |settings: &Settings, name| {
        let request = settings.request("statuses", None, &ACCESS, at("2026-07-01T12:00:00Z"));
        assert!(!format!("{request:?}").contains("secret"));
        request
            .headers
            .into_iter()
            .find(|(found, _)| *found == name)
            .unwrap()
            .1
    };
    assert_eq!(header(&usual(), "authorization"), "Bearer me:secret");
    assert_eq!(
        header(&usual(), "accept"),
        "application/json; rfms=vehiclestatuses.v4.0"
    );
    let own = settings(json!({
        "auth": "basic", "path_prefix": "/vehicle", "additional_content": "VOLVOGROUPSNAPSHOT",
        "content_filter": null, "media_type": {"statuses": "application/x.own+json"},
    }));
    assert_eq!(header(&own, "authorization"), "Basic bWU6c2VjcmV0");
    assert_eq!(header(&own, "accept"), "application/x.own+json");
    assert_eq!(
        query(&own, "statuses", None),
        "/vehicle/vehiclestatuses latestOnly=true&additionalContent=VOLVOGROUPSNAPSHOT"
    );
}

#[test]
fn budgets_and_refusals_are_the_servers() {
    let settings = usual();
    let mut ok = page(&[], false, None);
    ok.headers = vec![
        ("x-rate-limit-remaining".to_owned(), "7".to_owned()),
        ("x-rate-limit-reset".to_owned(), "1782907260".to_owned()),
    ];
    let budget = settings
        .read("positions", None, &ok)
        .unwrap()
        .budget
        .unwrap();
    assert_eq!(
        (budget.remaining, budget.reset_at.timestamp()),
        (7, 1_782_907_260)
    );
    let mut limited =
        answer(r#"{"error":"rate_limit_exceeded","error_description":"too many requests"}"#);
    limited.status = 429;
    limited.headers = vec![("retry-after".to_owned(), "30".to_owned())];
    let failure = settings.read("positions", None, &limited).unwrap_err();
    assert_eq!(
        failure,
        Failure::Limited {
            retry_after: Some(std::time::Duration::from_secs(30))
        }
    );
    // Without Retry-After, the budget's reset says the same.
    limited.headers = vec![
        ("x-rate-limit-remaining".to_owned(), "0".to_owned()),
        ("x-rate-limit-reset".to_owned(), "1782907260".to_owned()),
    ];
    let failure = settings.read("positions", None, &limited).unwrap_err();
    let minute = Some(std::time::Duration::from_mins(1));
    assert_eq!(
        failure,
        Failure::Limited {
            retry_after: minute
        }
    );
    for body in [
        "<html>",
        "[]",
        "{}",
        r#"{"vehicleStatusResponse":{"vehicleStatuses":7}}"#,
    ] {
        let failure = settings.read("statuses", None, &answer(body)).unwrap_err();
        assert!(matches!(failure, Failure::Unreadable(_)), "{failure}");
    }
}

#[test]
fn pools_are_the_feeds_and_their_size_a_setting() {
    let settings =
        settings(json!({"feeds": ["positions"], "requests_per_minute": {"positions": 12}}));
    assert_eq!(settings.names(), ["positions"]);
    let limit = settings.limit("positions");
    assert_eq!(
        (limit.pool, limit.requests, limit.period.as_secs()),
        ("positions", 12, 60)
    );
    assert_eq!(usual().limit("positions").requests, 60);
    assert_eq!(usual().limit("statuses").requests, 30);
}

#[test]
fn ids_have_a_length() {
    testing::refuses_long_ids(&usual(), |vin| {
        json!({"vin": vin, "createdDateTime": "2026-07-01T10:00:00Z"}).to_string()
    });
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(frame in testing::bytes(STATUS)) {
        testing::reads_or_refuses(&usual(), &frame)?;
    }

    #[test]
    fn any_json_is_read_or_refused(frame in testing::json_like(STATUS)) {
        testing::reads_or_refuses(&usual(), frame.to_string().as_bytes())?;
    }

    #[test]
    fn any_answer_is_a_page_or_a_failure(body in testing::json_like(&format!(r#"{{"vehicleStatusResponse":{{"vehicleStatuses":[{STATUS}]}},"moreDataAvailable":true,"moreDataAvailableLink":"?a=1"}}"#)), cursor in testing::json_like(r#"{"run":{"since":"2026-07-01T09:00:00Z"},"link":"a=1"}"#)) {
        testing::pages_or_fails(&usual(), "statuses", &cursor, body.to_string().as_bytes())?;
    }
}
