use proptest::prelude::*;
use serde_json::json;

use super::super::Observed;
use super::*;

fn settings(extra: Value) -> Settings {
    let mut settings = json!({"vehicles": {"bus-1": ["soc"]}});
    settings
        .as_object_mut()
        .unwrap()
        .extend(extra.as_object().unwrap().clone());
    Settings::read(&settings).unwrap()
}

fn read(frame: &str) -> Result<Interpretation, Unreadable> {
    interpret(&settings(json!({})), frame.as_bytes())
}

fn datum(label: &str, value: Value) -> String {
    json!({"type": "vehicles", "payload":
        {"vid": "bus-1", "label": label, "value": value, "time": 1_511_436_694_000_i64}})
    .to_string()
}

fn value_with(settings: &Settings, label: &str, value: Value) -> Option<SignalValue> {
    match interpret(settings, datum(label, value).as_bytes()).unwrap() {
        Interpretation::Report(items) => match &items[..] {
            [Item::Observed(observed)] => Some(observed.value),
            [Item::NoValue { .. }] => None,
            other => panic!("{other:?}"),
        },
        other @ Interpretation::Control(_) => panic!("{other:?}"),
    }
}

fn value(label: &str, value: Value) -> Option<SignalValue> {
    value_with(&settings(json!({})), label, value)
}

#[track_caller]
fn assert_reason(frame: &str, reason: Reason) {
    assert_eq!(read(frame).unwrap_err().reason, reason, "{frame}");
}

#[test]
fn a_v2_datum_becomes_an_observation_in_canonical_units() {
    let frame = datum("odo", json!(88527.902));
    let Interpretation::Report(items) = read(&frame).unwrap() else {
        panic!()
    };
    assert_eq!(
        items,
        [Item::Observed(Observed {
            device: "bus-1".to_owned(),
            signal: Signal::Odometer,
            value: SignalValue::Number(88_527_902.0),
            observed_at: "2017-11-23T11:31:34Z".parse().unwrap(),
        })]
    );
}

#[test]
fn units_of_the_usual_labels() {
    assert_eq!(value("soc", json!(66.0)), Some(SignalValue::Number(66.0)));
    assert_eq!(value("speed", json!(30)), Some(SignalValue::Number(30.0)));
    assert_eq!(
        value("power", json!(-42.5)),
        Some(SignalValue::Number(-42.5))
    );
    assert_eq!(value("soc", json!("81.5")), Some(SignalValue::Number(81.5)));
}

#[test]
fn a_time_may_have_a_fraction() {
    for (time, expected) in [
        ("1511436694000", "2017-11-23T11:31:34Z"),
        ("1511436694000.0", "2017-11-23T11:31:34Z"),
        ("1511436694000.25", "2017-11-23T11:31:34.000250Z"),
        ("\"1511436694001\"", "2017-11-23T11:31:34.001Z"),
    ] {
        let frame = format!(r#"{{"vid":"b","label":"soc","value":1,"time":{time}}}"#);
        let Interpretation::Report(items) = read(&frame).unwrap() else {
            panic!()
        };
        let expected: DateTime<Utc> = expected.parse().unwrap();
        assert!(
            matches!(&items[..], [Item::Observed(o)] if o.observed_at == expected),
            "{items:?}"
        );
    }
}

#[test]
fn gps_is_text_or_an_object() {
    let expected = SignalValue::position(52.093_360_900_878_906, 5.120_636_463_165_283);
    assert_eq!(
        value("gps", json!("52.093360900878906|5.120636463165283")),
        expected
    );
    assert_eq!(
        value(
            "gps",
            json!({"lat": 52.093_360_900_878_906, "lon": 5.120_636_463_165_283})
        ),
        expected
    );
}

#[test]
fn absent_null_blank_and_impossible_are_no_value() {
    for (label, found) in [
        ("soc", json!(null)),
        ("soc", json!("")),
        ("soc", json!("  ")),
        ("soc", json!("NaN")),
        ("soc", json!(255)),
        ("gps", json!(null)),
        ("gps", json!("")),
        ("gps", json!("0|0")),
        ("gps", json!("0.0|0.0")),
        ("gps", json!("|")),
        ("gps", json!("52.1|")),
        ("gps", json!({"lat": 0, "lon": 0})),
        ("gps", json!({"lat": null, "lon": null})),
        ("gps", json!("91|5")),
    ] {
        assert_eq!(value(label, found.clone()), None, "{label} {found}");
    }
    let absent = r#"{"type":"vehicles","payload":{"vid":"b","label":"soc","time":1511436694000}}"#;
    assert_eq!(
        read(absent),
        Ok(Interpretation::Report(vec![Item::NoValue {
            device: "b".to_owned(),
            signal: Signal::StateOfCharge,
        }]))
    );
}

#[test]
fn zero_is_a_value() {
    for label in ["soc", "speed", "power", "odo"] {
        assert_eq!(
            value(label, json!(0)),
            Some(SignalValue::Number(0.0)),
            "{label}"
        );
    }
    assert_eq!(
        value("gps", json!("0|5.1")),
        SignalValue::position(0.0, 5.1)
    );
}

#[test]
fn frames_of_the_protocol_report_nothing() {
    for (frame, control) in [
        (r#"{"ready":true}"#, Control::Handshake),
        (
            r#"{"vehicles":{"bus-1":["gps","soc"]}}"#,
            Control::Handshake,
        ),
        (
            r#"{"type":"error","payload":"no access"}"#,
            Control::ProviderError,
        ),
        (r#"{"type":"acl","payload":{}}"#, Control::Unused),
        (r#"{"type":"chargestations","payload":{}}"#, Control::Unused),
    ] {
        assert_eq!(read(frame), Ok(Interpretation::Control(control)), "{frame}");
    }
}

#[test]
fn the_older_bare_datum_is_read() {
    let frame = r#"{"time":1566411763290,"value":42,"label":"soc","vid":"transpower_001"}"#;
    let Interpretation::Report(items) = read(frame).unwrap() else {
        panic!()
    };
    assert!(matches!(&items[..], [Item::Observed(o)] if o.device == "transpower_001"));
}

#[test]
fn labels_are_configuration() {
    let settings = settings(json!({"labels": {
        "ccvs1.wheel_based_vehicle_speed": "speed",
        "vdhr.total_vehicle_distance": {"signal": "odometer", "unit": "m"},
        "power": {"signal": "power", "unit": "W"},
        "soc": null,
    }}));
    let speed = value_with(&settings, "ccvs1.wheel_based_vehicle_speed", json!(12));
    assert_eq!(speed, Some(SignalValue::Number(12.0)));
    let distance = value_with(&settings, "vdhr.total_vehicle_distance", json!(1200));
    assert_eq!(distance, Some(SignalValue::Number(1200.0)));
    assert_eq!(
        value_with(&settings, "power", json!(-2500)),
        Some(SignalValue::Number(-2.5))
    );
    for label in ["soc", "energetic_state"] {
        let read = interpret(&settings, datum(label, json!(1)).as_bytes());
        assert_eq!(
            read,
            Ok(Interpretation::Report(vec![Item::Unmapped])),
            "{label}"
        );
    }
}

#[test]
fn what_cannot_be_read_says_why() {
    assert_reason("show acl", Reason::InvalidSyntax);
    assert_reason("", Reason::InvalidSyntax);
    assert_reason("[]", Reason::UnknownShape);
    assert_reason("{}", Reason::UnknownShape);
    assert_reason(r#"{"type":"weather"}"#, Reason::UnknownShape);
    assert_reason(r#"{"type":"vehicles"}"#, Reason::UnknownShape);
    assert_reason(
        r#"{"label":"soc","value":1,"time":1511436694000}"#,
        Reason::InvalidVehicle,
    );
    for time in [
        "null",
        "\"\"",
        "\"noon\"",
        "0",
        "1511436694",
        "1e300",
        "true",
    ] {
        let frame = format!(r#"{{"vid":"b","label":"soc","value":1,"time":{time}}}"#);
        assert_reason(&frame, Reason::InvalidTime);
    }
    assert_reason(
        r#"{"vid":"b","label":"soc","value":1}"#,
        Reason::InvalidTime,
    );
    for found in [json!("full"), json!(true), json!([1]), json!({})] {
        assert_reason(&datum("soc", found), Reason::InvalidValue);
    }
    for found in [json!("52.1"), json!("a|b"), json!(52.1)] {
        assert_reason(&datum("gps", found), Reason::InvalidValue);
    }
}

#[test]
fn settings_that_cannot_work_are_refused_with_the_fix() {
    for (settings, part) in [
        (json!({}), "vehicles"),
        (json!({"vehicles": {}}), "empty"),
        (json!({"vehicles": {"b": []}}), "no labels"),
        (json!({"vehicles": {"b": ["soc"]}, "colour": 1}), "colour"),
        (
            json!({"vehicles": {"b": ["x"]}, "labels": {"x": {"signal": "speed", "unit": "km"}}}),
            "cannot be speed",
        ),
    ] {
        let error = Settings::read(&settings).unwrap_err();
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(frame in prop::collection::vec(any::<u8>(), 0..300)) {
        // Reaching the end is the point: no input makes the interpreter panic.
        let read = interpret(&settings(json!({})), &frame);
        prop_assert!(read.is_ok() || !read.unwrap_err().detail.is_empty());
    }
}
