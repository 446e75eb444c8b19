use std::collections::BTreeSet;
use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;
use shared_model::{ConnectionKind, Provider, SignalValue};

use super::super::testing::{self, at, numbers, observed, reason};
use super::super::{InvalidConnection, provision};
use super::*;

const DOCUMENTATION: &str = include_str!("../../../../docs/providers/canonical.md");
const SCHEMA: &str = include_str!("../../../../docs/providers/canonical.schema.json");

const FORMAT: Settings = Settings {};

fn items(frame: &str) -> Vec<Item> {
    testing::items(&FORMAT, frame)
}

fn signals(signals: Value) -> String {
    json!({"vehicle": "bus-1", "observed_at": "2026-07-01T12:00:00Z", "signals": signals})
        .to_string()
}

fn none(signal: Signal) -> Item {
    Item::NoValue {
        device: "bus-1".to_owned(),
        signal,
    }
}

/// What was read, as the documentation writes it: a line each.
fn lines(items: &[Item]) -> String {
    let mut lines = String::new();
    for item in items {
        match item {
            Item::Observed(o) => {
                let value = match o.value {
                    SignalValue::Number(number) => number.to_string(),
                    SignalValue::Position(p) => format!("{}, {}", p.latitude, p.longitude),
                };
                let time = o
                    .observed_at
                    .to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
                writeln!(lines, "{} {} {value} at {time}", o.device, o.signal).unwrap();
            }
            Item::NoValue { device, signal } => {
                writeln!(lines, "{device} {signal} no value").unwrap();
            }
            Item::Unmapped => lines.push_str("unmapped\n"),
        }
    }
    lines
}

#[test]
fn the_documented_examples_are_read_as_they_say() {
    let blocks: Vec<_> = DOCUMENTATION
        .split("```")
        .skip(1)
        .step_by(2)
        .filter_map(|block| block.split_once('\n'))
        .collect();
    let mut checked = 0;
    for pair in blocks.windows(2) {
        let [("json", frame), ("text", expected)] = pair else {
            continue;
        };
        assert_eq!(lines(&items(frame)), *expected, "{frame}");
        checked += 1;
    }
    assert_eq!(checked, 4);
}

#[test]
fn the_schema_knows_every_signal_with_every_unit_and_no_other() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let properties = schema["$defs"]["report"]["properties"]["signals"]["properties"]
        .as_object()
        .unwrap();
    let names: BTreeSet<_> = properties.keys().map(String::as_str).collect();
    assert_eq!(names, Signal::ALL.into_iter().map(Signal::name).collect());
    for signal in Signal::ALL {
        let units = &schema["$defs"][signal.name()]["anyOf"][1]["properties"]["unit"]["enum"];
        for unit in units.as_array().unwrap() {
            let value = match signal {
                Signal::Position => json!({"latitude": 1, "longitude": 2}),
                _ => json!(1),
            };
            let frame = signals(json!({signal.name(): {"value": value, "unit": unit}}));
            observed(&items(&frame), signal);
        }
        let known = [
            "%", "m", "km", "mi", "km/h", "m/s", "mph", "W", "kW", "Wh", "kWh", "V", "A", "deg",
        ];
        let fit = known.iter().filter(|unit| {
            let unit = SourceUnit::deserialize(json!(unit)).unwrap();
            unit.canonical() == signal.unit()
        });
        assert_eq!(units.as_array().unwrap().len(), fit.count(), "{signal}");
    }
}

#[test]
fn a_signals_own_time_and_unit_go_before_the_reports() {
    let frame = signals(json!({
        "odometer": {"value": 88.5, "unit": "km", "observed_at": "2026-07-01T11:00:00Z"},
        "speed": {"value": 10, "unit": "m/s"},
        "power": {"value": -2500, "unit": "W"},
    }));
    let read = items(&frame);
    let odometer = observed(&read, Signal::Odometer);
    assert_eq!(odometer.value, SignalValue::Number(88_500.0));
    assert_eq!(odometer.observed_at, at("2026-07-01T11:00:00Z"));
    assert_eq!(numbers(&read, Signal::Speed), [36.0]);
    assert_eq!(
        observed(&read, Signal::Speed).observed_at,
        at("2026-07-01T12:00:00Z")
    );
    assert_eq!(numbers(&read, Signal::Power), [-2.5]);
}

#[test]
fn a_report_needs_no_time_if_its_signals_have_theirs() {
    let frame = r#"{"vehicle":"bus-1","signals":{"range":{"value":5,"observed_at":"2026-07-01T11:00:00Z"}}}"#;
    assert_eq!(numbers(&items(frame), Signal::Range), [5.0]);
}

#[test]
fn null_missing_and_impossible_are_no_value() {
    for (found, signal) in [
        (json!({"state_of_charge": null}), Signal::StateOfCharge),
        (
            json!({"state_of_charge": {"value": null}}),
            Signal::StateOfCharge,
        ),
        (
            json!({"state_of_charge": {"unit": "%"}}),
            Signal::StateOfCharge,
        ),
        (json!({"state_of_charge": 255}), Signal::StateOfCharge),
        (json!({"position": null}), Signal::Position),
        (
            json!({"position": {"latitude": 0, "longitude": 0}}),
            Signal::Position,
        ),
        (
            json!({"position": {"value": {"latitude": 1.5}}}),
            Signal::Position,
        ),
    ] {
        assert_eq!(items(&signals(found)), [none(signal)]);
    }
    assert_eq!(
        numbers(
            &items(&signals(json!({"state_of_charge": 0}))),
            Signal::StateOfCharge
        ),
        [0.0]
    );
    assert_eq!(items("[]"), []);
}

#[test]
fn what_cannot_be_read_says_why() {
    for (frame, expected) in [
        ("bus-1", Reason::InvalidSyntax),
        ("1", Reason::UnknownShape),
        ("{}", Reason::UnknownShape),
        (r#"{"vehicle":"b","signals":[]}"#, Reason::UnknownShape),
        (r#"{"signals":{}}"#, Reason::InvalidVehicle),
        (r#"{"vehicle":7,"signals":{}}"#, Reason::InvalidVehicle),
        (
            r#"{"vehicle":"b","signals":{"speed":1}}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"vehicle":"b","observed_at":1782907200,"signals":{"speed":1}}"#,
            Reason::InvalidTime,
        ),
        (
            r#"{"vehicle":"b","observed_at":"2026-07-01T12:00:00","signals":{"speed":1}}"#,
            Reason::InvalidTime,
        ),
    ] {
        assert_eq!(reason(&FORMAT, frame), expected, "{frame}");
    }
    for found in [
        json!({"speed": "7"}),
        json!({"speed": true}),
        json!({"speed": [7]}),
        json!({"speed": {"value": 7, "unit": "km"}}),
        json!({"speed": {"value": 7, "unit": "knots"}}),
        json!({"speed": {"value": 7, "time": "2026-07-01T12:00:00Z"}}),
        json!({"position": 7}),
        json!({"position": "1.5|2.5"}),
        json!({"position": {"lat": 1.5, "lon": 2.5}}),
        json!({"position": {"latitude": 1.5, "longitude": 2.5, "observed_at": "2026-07-01T12:00:00Z"}}),
        json!({"position": {"latitude": "1.5", "longitude": 2.5}}),
    ] {
        let frame = signals(found);
        assert_eq!(reason(&FORMAT, &frame), Reason::InvalidValue, "{frame}");
    }
}

#[test]
fn the_format_is_pushed_only_and_has_no_settings() {
    let provider = Provider::new("canonical").unwrap();
    let make = |kind, settings: Value| provision(&provider, kind, &settings);
    assert!(make(ConnectionKind::Push, json!({"register_unknown": false})).is_ok());
    let wrong = make(ConnectionKind::Push, json!({"colour": 1})).unwrap_err();
    assert!(wrong.to_string().contains("write {}"), "{wrong}");
    for (kind, settings) in [
        (ConnectionKind::Poll, json!({})),
        (ConnectionKind::Stream, json!({})),
    ] {
        let wrong = make(kind, settings).unwrap_err();
        assert!(
            matches!(&wrong, InvalidConnection::UnknownKind { allowed, .. } if allowed == "push"),
            "{wrong}"
        );
    }
}

#[test]
fn ids_have_a_length() {
    testing::refuses_long_ids(&FORMAT, |id| {
        json!({"vehicle": id, "signals": {}}).to_string()
    });
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(frame in testing::bytes(&signals(json!({"speed": 1})))) {
        testing::reads_or_refuses(&FORMAT, &frame)?;
    }

    #[test]
    fn any_json_is_read_or_refused(frame in testing::json_like(&signals(json!({
        "speed": {"value": 1, "unit": "mph"}, "position": {"latitude": 1.5, "longitude": 2.5}
    })))) {
        testing::reads_or_refuses(&FORMAT, frame.to_string().as_bytes())?;
    }
}
