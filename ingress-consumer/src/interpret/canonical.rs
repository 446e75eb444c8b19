//! Canonical: Headrace's own format, for senders whose protocol it does not know.
//!
//! One vehicle's values of one time, or a list of such; each value may have a time and a unit of its
//! own. `docs/providers/canonical.md` tells it to senders, and `canonical.schema.json` beside it to
//! their tools. It is only ever pushed.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared_model::Signal;

use super::json::{self, show};
use super::{Build, Interpret, Interpretation, Item, Reason, SourceUnit, Unreadable};

/// A connection's settings: the format leaves nothing to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {}

/// The format's part of a connection with `settings`.
pub fn build(settings: &Value) -> Result<Build, String> {
    let settings =
        Settings::deserialize(settings).map_err(|error| format!("{error}; write {{}}"))?;
    Ok(Build::pushed(settings))
}

impl Interpret for Settings {
    fn interpret(&self, frame: &[u8]) -> Result<Interpretation, Unreadable> {
        let frame = json::parse(frame)?;
        let reports = match &frame {
            Value::Array(reports) => reports.as_slice(),
            report => std::slice::from_ref(report),
        };
        let mut items = Vec::new();
        for report in reports {
            read(json::object("a report", report)?, &mut items)?;
        }
        Ok(Interpretation::Report(items))
    }
}

fn read(report: &Map<String, Value>, items: &mut Vec<Item>) -> Result<(), Unreadable> {
    let Some(Value::Object(signals)) = report.get("signals") else {
        let detail = format!("signals is {}, not an object", show(report.get("signals")));
        return Err(Unreadable::new(Reason::UnknownShape, detail));
    };
    let vehicle = match report.get("vehicle") {
        text @ Some(Value::String(_)) => json::device("vehicle", text)?,
        other => {
            let detail = format!("vehicle is {}, not text", show(other));
            return Err(Unreadable::new(Reason::InvalidVehicle, detail));
        }
    };
    for (name, said) in signals {
        items.push(match Signal::from_name(name) {
            Some(signal) => statement(&vehicle, signal, said, report)?,
            // A newer sender may know more signals.
            None => Item::Unmapped,
        });
    }
    Ok(())
}

/// A value by itself, or with what is to be known about it.
struct Said<'a> {
    value: Option<&'a Value>,
    unit: SourceUnit,
    observed_at: DateTime<Utc>,
}

const TIME: &str = "observed_at";

fn statement(
    vehicle: &str,
    signal: Signal,
    said: &Value,
    report: &Map<String, Value>,
) -> Result<Item, Unreadable> {
    let Said {
        value,
        unit,
        observed_at,
    } = take_apart(signal, said, report)?;
    match value {
        Some(Value::Object(point)) if signal == Signal::Position => {
            only(signal, point, &["latitude", "longitude"])?;
            let latitude = number(signal, point.get("latitude"))?;
            let longitude = number(signal, point.get("longitude"))?;
            Ok(json::position(vehicle, latitude, longitude, observed_at))
        }
        None | Some(Value::Null) => Ok(json::item(vehicle, signal, None, observed_at)),
        found if signal == Signal::Position => Err(invalid(signal, "a position", found)),
        found => {
            let number = number(signal, found)?;
            Ok(json::quantity(vehicle, signal, unit, number, observed_at))
        }
    }
}

fn take_apart<'a>(
    signal: Signal,
    said: &'a Value,
    report: &Map<String, Value>,
) -> Result<Said<'a>, Unreadable> {
    let own = match said {
        Value::Object(own) if own.contains_key("value") || signal != Signal::Position => own,
        _ => {
            return Ok(Said {
                value: Some(said),
                unit: usual_unit(signal),
                observed_at: json::rfc3339(TIME, report.get(TIME))?,
            });
        }
    };
    only(signal, own, &["value", "unit", TIME])?;
    let observed_at = json::rfc3339(TIME, own.get(TIME).or_else(|| report.get(TIME)))?;
    let unit = match own.get("unit") {
        None => usual_unit(signal),
        found => found
            .and_then(|unit| SourceUnit::deserialize(unit).ok())
            .filter(|unit| unit.canonical() == signal.unit())
            .ok_or_else(|| invalid(signal, "a unit of this signal", found))?,
    };
    Ok(Said {
        value: own.get("value"),
        unit,
        observed_at,
    })
}

/// The unit of a value that comes without one: the signal's.
const fn usual_unit(signal: Signal) -> SourceUnit {
    match signal {
        Signal::StateOfCharge => SourceUnit::Percent,
        Signal::Odometer | Signal::Range => SourceUnit::Metre,
        Signal::Speed => SourceUnit::KilometrePerHour,
        Signal::Position => SourceUnit::Degree,
        Signal::Power => SourceUnit::Kilowatt,
        Signal::Energy => SourceUnit::KilowattHour,
        Signal::BatteryVoltage => SourceUnit::Volt,
        Signal::BatteryCurrent => SourceUnit::Ampere,
    }
}

/// A number; numbers in text are a mistake of the sender's, which this format lets it see.
fn number(signal: Signal, value: Option<&Value>) -> Result<Option<f64>, Unreadable> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(number.as_f64()),
        found => Err(invalid(signal, "a number", found)),
    }
}

/// That `object` has no other keys than `known`: a misspelt one would change what is meant.
fn only(signal: Signal, object: &Map<String, Value>, known: &[&str]) -> Result<(), Unreadable> {
    match object.keys().find(|key| !known.contains(&key.as_str())) {
        None => Ok(()),
        Some(key) => Err(Unreadable::new(
            Reason::InvalidValue,
            format!(
                "{signal}: {key:?} is not known; known: {}",
                known.join(", ")
            ),
        )),
    }
}

fn invalid(signal: Signal, expected: &str, found: Option<&Value>) -> Unreadable {
    Unreadable::new(
        Reason::InvalidValue,
        format!("{signal}: expected {expected}, found {}", show(found)),
    )
}

#[cfg(test)]
mod tests;
