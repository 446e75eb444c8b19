use proptest::prelude::*;
use serde_json::json;
use shared_model::SignalValue;

use super::super::feed::{Access, Failure, Feed, Page, Response};
use super::super::testing::{self, answer, at, numbers, observed, reason};
use super::*;

/// Two pages of each feed, the errors that come as successes, and devices with their latest values.
const LOG_1: &str = include_str!("tests/log_1.json");
const LOG_2: &str = include_str!("tests/log_2.json");
const STATUS_1: &str = include_str!("tests/status_1.json");
const STATUS_2: &str = include_str!("tests/status_2.json");
const INVALID_SESSION: &str = include_str!("tests/error_invalid_session.json");
const OVER_LIMIT: &str = include_str!("tests/error_over_limit.json");
const LATEST_STATUS: &str = include_str!("tests/latest_status.json");

/// Records of the provider's demonstration database.
const LOG: &str = r#"{"id":"b72C673","device":{"id":"b28"},"dateTime":"2026-01-27T10:59:54.269Z","latitude":42.2348557,"longitude":-8.71324158,"speed":1}"#;
const ODOMETER: &str = r#"{"id":"b21568D6","device":{"id":"b2A"},"diagnostic":{"id":"DiagnosticOdometerId"},"dateTime":"2026-01-27T06:46:00.251Z","data":99620700,"controller":"ControllerNoneId","version":"00000000021568d6"}"#;
const DEVICE_STATUS: &str = r#"{"device":{"id":"b15"},"dateTime":"2026-01-28T06:45:56.584Z","latitude":39.4767609,"longitude":-2.05665278,"speed":88,"bearing":79,"isDriving":true,"isDeviceCommunicating":true,"driver":"UnknownDriverId","currentStateDuration":"02:09:09","groups":[{"id":"b27AD"}]}"#;

fn settings(settings: Value) -> Settings {
    Settings::read(&settings).unwrap()
}

fn usual() -> Settings {
    settings(json!({}))
}

fn items(frame: &str) -> Vec<Item> {
    testing::items(&usual(), frame)
}

fn status(diagnostic: &str, data: Value) -> String {
    json!({"device": {"id": "b28"}, "diagnostic": {"id": diagnostic}, "data": data,
        "dateTime": "2026-01-27T06:46:00.251Z"})
    .to_string()
}

fn none(signal: Signal) -> Item {
    Item::NoValue {
        device: "b28".to_owned(),
        signal,
    }
}

#[test]
fn a_log_record_is_a_position_and_a_speed() {
    let read = items(LOG);
    assert_eq!(read.len(), 2);
    let position = observed(&read, Signal::Position);
    assert_eq!(position.device, "b28");
    assert_eq!(
        Some(position.value),
        SignalValue::position(42.234_855_7, -8.713_241_58)
    );
    assert_eq!(position.observed_at, at("2026-01-27T10:59:54.269Z"));
    // In km/h.
    assert_eq!(numbers(&read, Signal::Speed), [1.0]);
    let read = items(DEVICE_STATUS);
    assert_eq!(numbers(&read, Signal::Speed), [88.0]);
    assert_eq!(observed(&read, Signal::Position).device, "b15");
}

#[test]
fn a_diagnostic_is_its_signal_in_canonical_units() {
    let read = items(ODOMETER);
    let odometer = observed(&read, Signal::Odometer);
    assert_eq!(
        (odometer.device.as_str(), odometer.value),
        ("b2A", SignalValue::Number(99_620_700.0))
    );
    for (diagnostic, data, signal, expected) in [
        (
            "DiagnosticStateOfChargeId",
            json!(98.5),
            Signal::StateOfCharge,
            98.5,
        ),
        (
            "DiagnosticStateOfChargeId",
            json!(0),
            Signal::StateOfCharge,
            0.0,
        ),
        (
            "DiagnosticOdometerId",
            json!(1000),
            Signal::Odometer,
            1000.0,
        ),
        (
            "DiagnosticRawOdometerId",
            json!(1000),
            Signal::Odometer,
            1000.0,
        ),
        (
            "DiagnosticOdometerAdjustmentId",
            json!(1000),
            Signal::Odometer,
            1000.0,
        ),
        (
            "DiagnosticElectricVehicleBatteryPowerId",
            json!(-7200),
            Signal::Power,
            -7.2,
        ),
    ] {
        assert_eq!(
            numbers(&items(&status(diagnostic, data)), signal),
            [expected],
            "{diagnostic}"
        );
    }
}

#[test]
fn other_diagnostics_are_unmapped() {
    for diagnostic in [
        "DiagnosticElectricVehicleChargingStateId",
        "DiagnosticIgnitionId",
        "DiagnosticPositionValidId",
        "DiagnosticEngineSpeedId",
        "b123",
    ] {
        assert_eq!(
            items(&status(diagnostic, json!(1))),
            [Item::Unmapped],
            "{diagnostic}"
        );
    }
    // Nothing of them has to be right.
    assert_eq!(
        items(r#"{"device":"b28","diagnostic":"b1","data":[]}"#),
        [Item::Unmapped]
    );
}

#[test]
fn diagnostics_are_configuration() {
    let settings = settings(json!({"diagnostics": {
        "b123": {"signal": "range", "unit": "km"},
        "b124": {"signal": "battery_current", "unit": "A", "negated": true},
        "b125": "battery_voltage",
        "DiagnosticStateOfChargeId": null,
        "DiagnosticElectricVehicleBatteryPowerId": {"signal": "power", "unit": "kW", "negated": true},
    }}));
    let number = |diagnostic: &str, signal| {
        numbers(
            &testing::items(&settings, &status(diagnostic, json!(8))),
            signal,
        )
    };
    assert_eq!(number("b123", Signal::Range), [8000.0]);
    assert_eq!(number("b124", Signal::BatteryCurrent), [-8.0]);
    assert_eq!(number("b125", Signal::BatteryVoltage), [8.0]);
    assert_eq!(
        number("DiagnosticElectricVehicleBatteryPowerId", Signal::Power),
        [-8.0]
    );
    let read = testing::items(&settings, &status("DiagnosticStateOfChargeId", json!(8)));
    assert_eq!(read, [Item::Unmapped]);
}

#[test]
fn ids_are_text_or_objects() {
    let frame = r#"{"device":"b28","diagnostic":"DiagnosticStateOfChargeId","controller":{"id":"ControllerObdPowertrainId"},"data":50,"dateTime":"2026-01-27T06:46:00Z"}"#;
    let read = items(frame);
    assert_eq!(numbers(&read, Signal::StateOfCharge), [50.0]);
    assert_eq!(observed(&read, Signal::StateOfCharge).device, "b28");
}

#[test]
fn pages_are_read_with_what_comes_out_of_order() {
    let read = items(LOG_1);
    assert_eq!(numbers(&read, Signal::Speed), [63.0, 0.0]);
    assert_eq!(
        observed(&read, Signal::Position).observed_at,
        at("2026-07-14T08:00:01Z")
    );
    assert_eq!(numbers(&items(LOG_2), Signal::Speed), [97.0]);
    // Engine speed and fuel; ignition, with a controller that is an object.
    assert_eq!(items(STATUS_1), [Item::Unmapped, Item::Unmapped]);
    assert_eq!(items(STATUS_2), [Item::Unmapped]);
}

#[test]
fn the_latest_values_of_devices_have_their_own_times_or_the_devices() {
    let read = items(LATEST_STATUS);
    assert_eq!(numbers(&read, Signal::StateOfCharge), [100.0, 98.5]);
    assert_eq!(
        observed(&read, Signal::StateOfCharge).observed_at,
        at("2026-09-25T06:11:05.016Z")
    );
    // 160 W that flow out of the battery, without a time of their own.
    assert_eq!(numbers(&read, Signal::Power), [0.16]);
    assert_eq!(
        observed(&read, Signal::Power).observed_at,
        at("2026-09-25T06:12:00Z")
    );
    // The charging states, of which the second has no time at all.
    assert_eq!(
        read.iter().filter(|item| **item == Item::Unmapped).count(),
        2
    );
    assert_eq!(read.len(), 5);
}

#[test]
fn dates_and_ids_that_mean_none_are_no_value() {
    for date in ["0001-01-01T00:00:00.000Z", "2050-01-01T00:00:00.000Z"] {
        let frame = json!({"device": {"id": "b28"}, "dateTime": date, "latitude": 1.5, "longitude": 2.5, "speed": 3});
        assert_eq!(items(&frame.to_string()), [none(Signal::Position)]);
        let frame = json!({"device": {"id": "b28"}, "dateTime": date, "diagnostic": "DiagnosticOdometerId", "data": 1});
        assert_eq!(items(&frame.to_string()), [none(Signal::Odometer)]);
    }
    for device in ["NoDeviceId", "UnknownDeviceId"] {
        let frame = json!({"device": device, "dateTime": "2026-01-27T06:46:00Z", "latitude": 1.5, "longitude": 2.5});
        assert_eq!(items(&frame.to_string()), [Item::Unmapped]);
    }
}

#[test]
fn what_is_there_without_a_value_is_no_value() {
    for data in [json!(null), json!(""), json!(255), json!("NaN")] {
        assert_eq!(
            items(&status("DiagnosticStateOfChargeId", data)),
            [none(Signal::StateOfCharge)]
        );
    }
    let frame = r#"{"device":{"id":"b28"},"diagnostic":{"id":"DiagnosticStateOfChargeId"},"dateTime":"2026-01-27T06:46:00Z"}"#;
    assert_eq!(items(frame), [none(Signal::StateOfCharge)]);
    let frame = r#"{"device":{"id":"b28"},"dateTime":"2026-01-27T06:46:00Z","latitude":0,"longitude":0,"speed":0}"#;
    let read = items(frame);
    assert_eq!(read[0], none(Signal::Position));
    assert_eq!(numbers(&read, Signal::Speed), [0.0]);
}

#[test]
fn what_cannot_be_read_says_why() {
    for (frame, expected) in [
        ("<html>", Reason::InvalidSyntax),
        ("7", Reason::UnknownShape),
        ("{}", Reason::UnknownShape),
        ("[[]]", Reason::UnknownShape),
        (
            r#"{"result":{"credentials":{"sessionId":"s"}}}"#,
            Reason::UnknownShape,
        ),
        (
            r#"{"device":{"id":"b28"},"diagnostic":7}"#,
            Reason::UnknownShape,
        ),
        (
            r#"{"diagnostic":{"id":"DiagnosticOdometerId"},"data":1}"#,
            Reason::InvalidVehicle,
        ),
        (
            r#"{"device":null,"latitude":1,"longitude":2}"#,
            Reason::InvalidVehicle,
        ),
        (
            r#"{"device":{"id":"b28"},"latitude":1,"longitude":2}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"device":{"id":"b28"},"latitude":1,"longitude":2,"dateTime":"1999-12-31T00:00:00Z"}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"device":"b28","diagnostic":"DiagnosticOdometerId","data":1}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"device":"b28","diagnostic":"DiagnosticOdometerId","data":"far","dateTime":"2026-01-27T06:46:00Z"}"#,
            Reason::InvalidValue,
        ),
    ] {
        assert_eq!(reason(&usual(), frame), expected, "{frame}");
    }
    for error in [INVALID_SESSION, OVER_LIMIT] {
        let read = usual().interpret(error.as_bytes());
        assert_eq!(read, Ok(Interpretation::Control(Control::ProviderError)));
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_fix() {
    for (wrong, part) in [
        (json!({"colour": 1}), "colour"),
        (json!({"feeds": []}), "\"feeds\":"),
        (json!({"feeds": ["Trip"]}), "StatusData"),
        (json!({"results_limit": 0}), "1 to 50000"),
        (json!({"results_limit": 50_001}), "1 to 50000"),
        (json!({"requests_per_minute": 0}), "at least 1"),
        (json!({"from_date": "yesterday"}), "feeds"),
        (json!({"diagnostics": {"b1": "range"}}), "needs a unit"),
        (
            json!({"diagnostics": {"b1": {"signal": "range", "unit": "kW"}}}),
            "cannot be range",
        ),
        (
            json!({"diagnostics": {"b1": {"signal": "position", "unit": "deg"}}}),
            "cannot be position",
        ),
        (
            json!({"diagnostics": {"b1": {"signal": "range", "unit": "m", "negate": true}}}),
            "diagnostics",
        ),
    ] {
        let error = Settings::read(&wrong).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

fn request(settings: &Settings, cursor: Option<&Value>, session: Option<&Value>) -> Value {
    let access = Access {
        credential: Some("fleet/me:secret"),
        session,
    };
    let request = settings.request("LogRecord", cursor, &access, at("2026-07-01T12:00:00Z"));
    assert_eq!(request.path, "/apiv1");
    let text = format!("{request:?}");
    assert!(!text.contains("secret") && !text.contains("s-1"), "{text}");
    let body = request.body.unwrap();
    // The password goes into no call but the one that opens the session.
    assert!(!body.to_string().contains("secret"));
    assert_eq!(body["method"], "GetFeed");
    assert_eq!(body["params"]["typeName"], "LogRecord");
    body["params"].clone()
}

#[test]
fn records_are_asked_for_from_a_version() {
    let params = request(&usual(), None, None);
    assert_eq!(
        params,
        json!({"typeName": "LogRecord", "resultsLimit": 5000})
    );
    let own = settings(json!({"results_limit": 100, "from_date": "2026-06-01T00:00:00Z"}));
    let params = request(&own, None, None);
    assert_eq!(
        params["search"],
        json!({"fromDate": "2026-06-01T00:00:00.000Z"})
    );
    assert_eq!(params["resultsLimit"], 100);
    // Only the first time.
    let params = request(&own, Some(&json!("00000000000014a1")), None);
    assert_eq!(params["fromVersion"], "00000000000014a1");
    assert_eq!(params.get("search"), None);
}

fn opened(path: &str) -> Response {
    answer(&json!({"result": {"credentials": {"database": "fleet", "userName": "me", "sessionId": "s-1"}, "path": path}}).to_string())
}

#[test]
fn a_session_is_opened_and_used_where_the_provider_says() {
    let settings = usual();
    let open = settings
        .authenticate("fleet/me@example.com:se:cr/et")
        .unwrap();
    assert_eq!(
        open.body.as_ref().unwrap(),
        &json!({"method": "Authenticate", "params": {"database": "fleet", "userName": "me@example.com", "password": "se:cr/et"}})
    );
    assert!(!format!("{open:?}").contains("se:cr"));
    for (path, base) in [
        ("ThisServer", None),
        ("", None),
        ("my3.geotab.com", Some("https://my3.geotab.com")),
    ] {
        let session = settings.session(&opened(path)).unwrap();
        let access = Access {
            credential: None,
            session: Some(&session),
        };
        let request = settings.request("StatusData", None, &access, at("2026-07-01T12:00:00Z"));
        assert_eq!(request.base.as_deref(), base);
        let params = request.body.unwrap()["params"].clone();
        assert_eq!(params["credentials"]["sessionId"], "s-1");
    }
    request(
        &settings,
        None,
        Some(&settings.session(&opened("ThisServer")).unwrap()),
    );
    for path in ["https://elsewhere.example", "a/b", "a@b"] {
        let failure = settings.session(&opened(path)).unwrap_err();
        assert!(matches!(failure, Failure::Unreadable(_)), "{failure}");
    }
    for body in [
        r#"{"result":{}}"#,
        r#"{"result":{"credentials":{"sessionID":"s-1"}}}"#,
        r#"{"result":"s-1"}"#,
    ] {
        let failure = settings.session(&answer(body)).unwrap_err();
        assert!(!failure.to_string().contains("s-1"), "{failure}");
    }
}

#[test]
fn a_credential_in_another_form_is_not_sent_and_its_refusal_tells_the_form() {
    for wrong in ["secret", "fleet/secret", "me:secret"] {
        let open = usual().authenticate(wrong).unwrap();
        assert!(!open.body.unwrap().to_string().contains("secret"));
    }
    let failure = usual().session(&answer(INVALID_SESSION)).unwrap_err();
    assert!(
        matches!(&failure, Failure::Refused(said) if said.contains("database/user:password")),
        "{failure}"
    );
}

fn page(settings: &Settings, cursor: Option<&str>, body: &str) -> Page {
    let cursor = cursor.map(Value::from);
    settings
        .read("LogRecord", cursor.as_ref(), &answer(body))
        .unwrap()
}

#[test]
fn the_pace_follows_how_full_a_page_is() {
    let two = settings(json!({"results_limit": 2}));
    let full = page(&two, None, LOG_1);
    assert_eq!((full.frames.len(), full.more, full.wait), (2, true, None));
    assert_eq!(full.cursor, Some(json!("00000000000014a1")));
    assert_eq!(full.read_until, Some(at("2026-07-15T09:30:02Z")));
    let half = page(&two, Some("00000000000014a1"), LOG_2);
    assert_eq!((half.frames.len(), half.more), (1, true));
    assert_eq!(half.wait, Some(std::time::Duration::from_secs(1)));
    let partial = page(&usual(), Some("00000000000014a1"), LOG_2);
    assert_eq!((partial.more, partial.wait), (false, None));
    assert_eq!(partial.read_until, Some(at("2026-07-01T12:00:00Z")));
    // The first answer without a date, and every one that finds nothing: empty, with a version.
    let empty = page(
        &two,
        None,
        r#"{"result": {"data": [], "toVersion": "00000000034561f1"}, "jsonrpc": "2.0"}"#,
    );
    assert_eq!(
        (empty.frames.len(), empty.more, empty.wait),
        (0, false, None)
    );
    assert_eq!(empty.cursor, Some(json!("00000000034561f1")));
    // A full page that leads nowhere is not asked for again at once.
    assert!(!page(&two, Some("00000000000014a1"), LOG_1).more);
    assert_eq!(
        page(&two, Some("x"), r#"{"result":{"data":[],"toVersion":""}}"#).cursor,
        None
    );
}

#[test]
fn records_are_handed_out_byte_for_byte() {
    let record = "{\"data\" : 8.50,\n\"id\":\"b1\"}";
    let body =
        format!(r#"{{"jsonrpc":"2.0","result":{{"toVersion":"a","data":[{record},{ODOMETER}]}}}}"#);
    assert_eq!(page(&usual(), None, &body).frames, [record, ODOMETER]);
}

#[test]
fn errors_that_come_as_successes_are_told_by_their_type() {
    let settings = usual();
    let data = |response: &Response| settings.read("StatusData", None, response).unwrap_err();
    let mut limited = answer(OVER_LIMIT);
    limited.headers = vec![("retry-after".to_owned(), "56".to_owned())];
    let wait = Failure::Limited {
        retry_after: Some(std::time::Duration::from_secs(56)),
    };
    assert_eq!(data(&limited), wait);
    assert_eq!(settings.session(&limited).unwrap_err(), wait);
    assert!(matches!(
        data(&answer(INVALID_SESSION)),
        Failure::SessionOver(_)
    ));
    assert!(matches!(
        settings.session(&answer(INVALID_SESSION)).unwrap_err(),
        Failure::Refused(_)
    ));
    let error = |kind: &str, message: &str| {
        data(&answer(&json!({"error": {"message": message, "data": {"type": kind}, "errors": [{"name": "Other"}]}}).to_string()))
    };
    assert!(matches!(
        error("DbUnavailableException", ""),
        Failure::Passing(_)
    ));
    assert!(matches!(
        error("MissingMethodException", ""),
        Failure::FeedRefused(_)
    ));
    // Whatever the message says.
    assert!(matches!(
        error(
            "SomethingNewException",
            "InvalidUserException OverLimitException"
        ),
        Failure::Passing(_)
    ));
    let untyped = json!({"error": {"errors": [{"name": "InvalidUserException"}]}});
    assert!(matches!(
        data(&answer(&untyped.to_string())),
        Failure::SessionOver(_)
    ));
    assert!(matches!(
        data(&answer(r#"{"error":"?"}"#)),
        Failure::Passing(_)
    ));
}

#[test]
fn what_is_no_answer_of_the_protocol_is_told_apart() {
    let data = |response: Response| usual().read("StatusData", None, &response).unwrap_err();
    assert!(matches!(
        data(answer("\n<html>Bad gateway</html>")),
        Failure::Passing(_)
    ));
    let mut down = answer("<html>");
    down.status = 502;
    assert!(matches!(data(down), Failure::Passing(_)));
    for body in [
        "",
        "7",
        "{}",
        r#"{"result":null}"#,
        r#"{"result":{"data":7}}"#,
    ] {
        assert!(
            matches!(data(answer(body)), Failure::Unreadable(_)),
            "{body}"
        );
    }
}

#[test]
fn each_kind_of_call_has_its_own_budget() {
    let limit = |feed: &str| {
        let limit = usual().limit(feed);
        (limit.pool, limit.requests, limit.period.as_secs())
    };
    assert_eq!(usual().names(), ["LogRecord", "StatusData"]);
    assert_eq!(limit("LogRecord"), ("GetFeed LogRecord", 60, 60));
    assert_eq!(limit("StatusData"), ("GetFeed StatusData", 60, 60));
}

#[test]
fn ids_have_a_length() {
    testing::refuses_long_ids(&usual(), |id| {
        json!({"device": {"id": id}, "diagnostic": "b1"}).to_string()
    });
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(frame in testing::bytes(LOG)) {
        testing::reads_or_refuses(&usual(), &frame)?;
    }

    #[test]
    fn any_json_is_read_or_refused(frame in testing::json_like(LATEST_STATUS)) {
        testing::reads_or_refuses(&usual(), frame.to_string().as_bytes())?;
    }

    #[test]
    fn any_answer_is_a_page_or_a_failure(body in testing::json_like(LOG_1), cursor in testing::json_like("\"1\"")) {
        let settings = settings(json!({"results_limit": 2}));
        testing::pages_or_fails(&settings, "LogRecord", &cursor, body.to_string().as_bytes())?;
    }

    #[test]
    fn any_answer_opens_a_session_or_fails(body in testing::json_like(r#"{"result":{"credentials":{"sessionId":"s"},"path":"a"}}"#)) {
        let opened = usual().session(&answer(&body.to_string()));
        prop_assert!(opened.is_ok() || !opened.unwrap_err().to_string().is_empty());
    }
}
