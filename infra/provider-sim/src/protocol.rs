//! The words of the ViriCiti live protocol: what a client may say, and what it is answered. Pure text in, text out.

use crate::drive::State;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::HashMap, fmt};

/// Path of the websocket.
pub const LIVE_PATH: &str = "/api/v2/live";

/// A label of which the simulated vehicles have values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Label {
    Soc,
    Odo,
    Speed,
    Gps,
    Power,
    Energy,
}

impl Label {
    pub(crate) const ALL: [Self; 6] = [
        Self::Soc,
        Self::Odo,
        Self::Speed,
        Self::Gps,
        Self::Power,
        Self::Energy,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Soc => "soc",
            Self::Odo => "odo",
            Self::Speed => "speed",
            Self::Gps => "gps",
            Self::Power => "power",
            Self::Energy => "energy",
        }
    }

    /// This label's value in a vehicle's state, rounded as a vehicle reports it.
    pub(crate) fn value_of(self, state: &State) -> Value {
        match self {
            Self::Soc => rounded(state.soc_percent, 10.0),
            Self::Odo => rounded(state.odo_km, 1000.0),
            Self::Speed => rounded(state.speed_kmh, 10.0),
            Self::Power => rounded(state.power_kw, 10.0),
            Self::Energy => rounded(state.energy_kwh, 1000.0),
            Self::Gps => Value::from(format!(
                "{:.6}|{:.6}",
                state.position.latitude, state.position.longitude
            )),
        }
    }
}

fn rounded(value: f64, per_unit: f64) -> Value {
    Value::from((value * per_unit).round() / per_unit)
}

/// Name of the vehicle with this index (from 0): `bus-1`, `bus-2`, …
pub(crate) fn vehicle_name(index: usize) -> String {
    format!("bus-{}", index + 1)
}

/// The labels that a client asked for, by vehicle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Query {
    #[serde(default)]
    pub(crate) vehicles: HashMap<String, Vec<String>>,
    /// Read and confirmed, but there are no charge stations here.
    #[serde(default, rename = "chargestations")]
    _charge_stations: Value,
    /// Read and confirmed, but nothing ever happens here.
    #[serde(default, rename = "incidents")]
    _incidents: Value,
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Subscribe(Query),
    ShowAcl,
    ShowQuery,
}

/// Why a client's frame was not understood; its text goes back to the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misunderstanding(String);

impl fmt::Display for Misunderstanding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Command {
    pub(crate) fn parse(text: &str) -> Result<Self, Misunderstanding> {
        match text.trim() {
            "show acl" => Ok(Self::ShowAcl),
            "show query" => Ok(Self::ShowQuery),
            text => Query::parse(text).map(Self::Subscribe),
        }
    }
}

impl Query {
    fn parse(text: &str) -> Result<Self, Misunderstanding> {
        let unreadable =
            |error: serde_json::Error| Misunderstanding(format!("unreadable request: {error}"));
        // By way of a map, because a derived structure would take an array too.
        let domains: serde_json::Map<_, _> = serde_json::from_str(text).map_err(unreadable)?;
        if domains.is_empty() {
            return Err(Misunderstanding(
                "a subscription names at least one of vehicles, chargestations and incidents"
                    .to_owned(),
            ));
        }
        serde_json::from_value(Value::Object(domains)).map_err(unreadable)
    }
}

/// One datum as a frame.
pub(crate) fn datum_frame(vid: &str, label: Label, value: &Value, time_ms: i64) -> String {
    #[derive(Serialize)]
    struct Frame<'a> {
        r#type: &'static str,
        payload: Payload<'a>,
    }
    #[derive(Serialize)]
    struct Payload<'a> {
        vid: &'a str,
        label: &'static str,
        value: &'a Value,
        time: i64,
    }
    let frame = Frame {
        r#type: "vehicles",
        payload: Payload {
            vid,
            label: label.name(),
            value,
            time: time_ms,
        },
    };
    // Strings, an integer and a JSON value: nothing here that JSON cannot hold.
    serde_json::to_string(&frame).unwrap_or_default()
}

/// An error as a frame.
pub(crate) fn error_frame(reason: &str) -> String {
    json!({"type": "error", "payload": reason}).to_string()
}

/// The answer to `show acl`: the labels that a key may read, by vehicle.
pub(crate) fn acl_frame(fleet: usize) -> String {
    let labels: Vec<_> = Label::ALL.iter().map(|label| label.name()).collect();
    let vehicles: serde_json::Map<_, _> = (0..fleet)
        .map(|index| (vehicle_name(index), json!(labels)))
        .collect();
    json!({"type": "acl", "payload": {"vehicles": vehicles}}).to_string()
}

/// The answer to `show query` before the first subscription.
pub(crate) const EMPTY_QUERY: &str = r#"{"vehicles":{}}"#;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::{DELIVERED_MS, Vehicle};

    #[test]
    fn a_subscription_names_labels_by_vehicle() {
        let parsed = Command::parse(r#"{"vehicles":{"bus-1":["soc","energy_used_per_day"]}}"#);
        let Ok(Command::Subscribe(query)) = parsed else {
            panic!("{parsed:?}");
        };
        assert_eq!(query.vehicles["bus-1"], ["soc", "energy_used_per_day"]);
        assert!(matches!(
            Command::parse(r#"{"chargestations":{"cs-1":["power"]},"incidents":true}"#),
            Ok(Command::Subscribe(_))
        ));
    }

    #[test]
    fn debug_commands_are_bare_words() {
        assert_eq!(Command::parse("show acl"), Ok(Command::ShowAcl));
        assert_eq!(Command::parse("show query\n"), Ok(Command::ShowQuery));
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        for text in [
            "",
            "hello",
            "{}",
            "[]",
            r#"{"vehicles":["bus-1"]}"#,
            r#"{"buses":{}}"#,
        ] {
            let reason = Command::parse(text).expect_err(text).to_string();
            assert!(!reason.is_empty());
        }
    }

    #[test]
    fn a_datum_is_framed_as_the_provider_frames_it() {
        assert_eq!(
            datum_frame("bus-1", Label::Odo, &json!(88527.902), 1_511_436_694_000),
            r#"{"type":"vehicles","payload":{"vid":"bus-1","label":"odo","value":88527.902,"time":1511436694000}}"#
        );
    }

    #[test]
    fn values_are_rounded_as_vehicles_report_them() {
        let state = State {
            soc_percent: 72.84,
            odo_km: 10.123_456,
            position: crate::drive::Position {
                latitude: 52.5,
                longitude: -0.000_000_4,
            },
            ..Vehicle::new(1, 1).at(DELIVERED_MS)
        };
        assert_eq!(Label::Soc.value_of(&state), json!(72.8));
        assert_eq!(Label::Odo.value_of(&state), json!(10.123));
        assert_eq!(Label::Gps.value_of(&state), json!("52.500000|-0.000000"));
    }
}
