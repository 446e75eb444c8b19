//! ViriCiti / ChargePoint: one label of one vehicle per frame, on a websocket.
//!
//! Two forms of one datum are read: v2 wraps it, `{"type":"vehicles","payload":{vid,label,value,
//! time}}`; v1 sends it bare. The server's echo of the subscription arrives among the data without
//! a type. Times are integer milliseconds since the Unix epoch. `gps` is `"lat|lon"` on the socket
//! and `{"lat","lon"}` elsewhere. `odo` is in km.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared_model::{Signal, SignalValue, VehicleId, time};

use super::json::{self, number, number_in_text, show};
use super::{Build, Control, Interpret, Interpretation, Item, Reason, SourceUnit, Unreadable};

/// A connection's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What to subscribe to: labels by vehicle (`vid`).
    pub vehicles: BTreeMap<String, Vec<String>>,
    /// What labels mean, beyond and above the usual ones; `null` makes a label mean nothing.
    #[serde(default)]
    pub labels: BTreeMap<String, Option<LabelRule>>,
}

/// What a label means: a signal, in the unit that ViriCiti's documentation gives for it, or in
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum LabelRule {
    /// In the provider's usual unit.
    Signal(Signal),
    /// In the unit given.
    InUnit {
        /// The signal.
        signal: Signal,
        /// The unit that the label's values are in.
        unit: SourceUnit,
    },
}

impl LabelRule {
    const fn signal(self) -> Signal {
        match self {
            Self::Signal(signal) | Self::InUnit { signal, .. } => signal,
        }
    }

    const fn unit(self) -> SourceUnit {
        match self {
            Self::InUnit { unit, .. } => unit,
            Self::Signal(signal) => match signal {
                Signal::StateOfCharge => SourceUnit::Percent,
                Signal::Odometer | Signal::Range => SourceUnit::Kilometre,
                Signal::Speed => SourceUnit::KilometrePerHour,
                Signal::Position => SourceUnit::Degree,
                Signal::Power => SourceUnit::Kilowatt,
                Signal::Energy => SourceUnit::KilowattHour,
                Signal::BatteryVoltage => SourceUnit::Volt,
                Signal::BatteryCurrent => SourceUnit::Ampere,
            },
        }
    }
}

/// The labels that mean the same for every make of vehicle. `range` is not among them: which unit
/// it is in is not established.
fn usual_label(label: &str) -> Option<LabelRule> {
    let signal = match label {
        "soc" => Signal::StateOfCharge,
        "odo" => Signal::Odometer,
        "speed" => Signal::Speed,
        "gps" => Signal::Position,
        "power" => Signal::Power,
        "energy" => Signal::Energy,
        "voltage" => Signal::BatteryVoltage,
        "current" => Signal::BatteryCurrent,
        _ => return None,
    };
    Some(LabelRule::Signal(signal))
}

impl Settings {
    /// Reads and checks a connection's settings; the error says what to write.
    pub fn read(settings: &Value) -> Result<Self, String> {
        let settings = Self::deserialize(settings).map_err(|error| {
            format!(
                r#"{error}; write {{"vehicles":{{"<vid>":["soc","odo","speed","gps","power"]}}}}"#
            )
        })?;
        if settings.vehicles.is_empty() {
            return Err("vehicles is empty; name at least one vehicle and its labels".to_owned());
        }
        for (device, labels) in &settings.vehicles {
            VehicleId::new(device.as_str()).map_err(|error| format!("vehicles: {error}"))?;
            if labels.is_empty() {
                return Err(format!(
                    "vehicles: {device:?} has no labels; name at least one"
                ));
            }
        }
        for (label, rule) in &settings.labels {
            let Some(rule) = rule else { continue };
            if rule.unit().canonical() != rule.signal().unit() {
                return Err(format!(
                    "labels: {label:?} cannot be {} in {}",
                    rule.signal(),
                    serde_json::to_string(&rule.unit()).unwrap_or_default(),
                ));
            }
        }
        Ok(settings)
    }

    fn rule(&self, label: &str) -> Option<LabelRule> {
        self.labels
            .get(label)
            .map_or_else(|| usual_label(label), |rule| *rule)
    }
}

/// ViriCiti's part of a connection with `settings`.
pub fn build(settings: &Value) -> Result<Build, String> {
    Ok(Build::interpreter(Settings::read(settings)?))
}

impl Interpret for Settings {
    fn interpret(&self, frame: &[u8]) -> Result<Interpretation, Unreadable> {
        interpret(self, frame)
    }

    fn known_devices(&self) -> Vec<String> {
        self.vehicles.keys().cloned().collect()
    }
}

/// What `frame` means.
fn interpret(settings: &Settings, frame: &[u8]) -> Result<Interpretation, Unreadable> {
    let Value::Object(message) = json::parse(frame)? else {
        return Err(Unreadable::new(
            Reason::UnknownShape,
            "JSON, but not an object",
        ));
    };
    match message.get("type").and_then(Value::as_str) {
        Some("vehicles") => match message.get("payload") {
            Some(Value::Object(datum)) => Ok(Interpretation::Report(vec![item(settings, datum)?])),
            Some(Value::Array(data)) => report(settings, data),
            _ => Err(Unreadable::new(
                Reason::UnknownShape,
                "type vehicles without a payload",
            )),
        },
        Some("error") => Ok(Interpretation::Control(Control::ProviderError)),
        Some("acl" | "incidents" | "chargestations") => {
            Ok(Interpretation::Control(Control::Unused))
        }
        Some(other) => Err(Unreadable::new(
            Reason::UnknownShape,
            format!("type {other:?} is not known"),
        )),
        None if message.contains_key("label") => {
            Ok(Interpretation::Report(vec![item(settings, &message)?]))
        }
        None if is_handshake(&message) => Ok(Interpretation::Control(Control::Handshake)),
        None => Err(Unreadable::new(
            Reason::UnknownShape,
            "an object that is neither a datum nor a confirmation",
        )),
    }
}

/// v1 greets with `{"ready":true}`; v2 confirms by echoing the subscription.
fn is_handshake(message: &Map<String, Value>) -> bool {
    message.contains_key("ready")
        || ["vehicles", "chargestations", "incidents"]
            .iter()
            .any(|key| message.contains_key(*key))
}

fn report(settings: &Settings, data: &[Value]) -> Result<Interpretation, Unreadable> {
    let items = data.iter().map(|datum| match datum {
        Value::Object(datum) => item(settings, datum),
        _ => Err(Unreadable::new(
            Reason::UnknownShape,
            "a datum is not an object",
        )),
    });
    Ok(Interpretation::Report(items.collect::<Result<_, _>>()?))
}

fn item(settings: &Settings, datum: &Map<String, Value>) -> Result<Item, Unreadable> {
    let device = match datum.get("vid") {
        Some(Value::String(device)) => device.as_str(),
        Some(other) => {
            return Err(Unreadable::new(
                Reason::InvalidVehicle,
                format!("vid is {other}"),
            ));
        }
        None => return Err(Unreadable::new(Reason::InvalidVehicle, "vid is missing")),
    };
    let Some(label) = datum.get("label").and_then(Value::as_str) else {
        return Err(Unreadable::new(
            Reason::UnknownShape,
            "label is missing or not text",
        ));
    };
    let Some(rule) = settings.rule(label) else {
        return Ok(Item::Unmapped);
    };
    let observed_at = observed_at(datum.get("time"))?;
    let signal = rule.signal();
    let value = if signal == Signal::Position {
        position(datum.get("value"))
    } else {
        number(datum.get("value")).map(|number| {
            number.and_then(|number| SignalValue::number(rule.unit().to_canonical(number)))
        })
    };
    let value = value
        .map_err(|detail| Unreadable::new(Reason::InvalidValue, format!("{label}: {detail}")))?;
    Ok(json::item(device, signal, value, observed_at))
}

/// Milliseconds since the Unix epoch, as a number or as its digits.
fn observed_at(value: Option<&Value>) -> Result<DateTime<Utc>, Unreadable> {
    let invalid = |detail: String| Unreadable::new(Reason::InvalidTime, detail);
    let at = match value {
        Some(Value::Number(number)) => match number.as_i64() {
            Some(millis) => time::from_unix_millis(millis),
            None => number.as_f64().and_then(from_fraction),
        },
        Some(Value::String(text)) => text.trim().parse().ok().and_then(time::from_unix_millis),
        None => return Err(invalid("time is missing".to_owned())),
        Some(_) => None,
    };
    // What is too early may also be seconds for milliseconds.
    json::plausible_time(at).ok_or_else(|| {
        invalid(format!(
            "time is {}, not a time in milliseconds",
            show(value)
        ))
    })
}

/// Milliseconds with a fraction, to the nearest microsecond.
fn from_fraction(millis: f64) -> Option<DateTime<Utc>> {
    let micros = (millis * 1000.0).round();
    // Up to 2^53 every whole number is exact.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "whole, and checked to be in range"
    )]
    (micros.abs() < 9_007_199_254_740_992.0)
        .then_some(micros as i64)
        .and_then(time::from_unix_micros)
}

fn position(value: Option<&Value>) -> Result<Option<SignalValue>, String> {
    let (latitude, longitude) = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Value::String(text)) => {
            let (latitude, longitude) = text
                .split_once('|')
                .ok_or_else(|| format!("expected \"lat|lon\", found {text:?}"))?;
            (number_in_text(latitude)?, number_in_text(longitude)?)
        }
        Some(Value::Object(point)) => {
            let either = |short, long| number(point.get(short).or_else(|| point.get(long)));
            let longitude = match point.get("lng") {
                Some(value) => number(Some(value)),
                None => either("lon", "longitude"),
            };
            (either("lat", "latitude")?, longitude?)
        }
        other => {
            return Err(format!(
                "expected \"lat|lon\" or an object, found {}",
                show(other)
            ));
        }
    };
    Ok(latitude
        .zip(longitude)
        .and_then(|(lat, lon)| SignalValue::position(lat, lon)))
}

#[cfg(test)]
mod tests;
