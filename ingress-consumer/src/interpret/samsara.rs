//! Samsara: readings by type and vehicle, polled by a cursor.
//!
//! A record is a vehicle with its readings since the cursor, several of each type: arrays in the feed,
//! single objects in a snapshot. Each reading has its own time. A type that a vehicle does not have is
//! absent. Units are in the types' names: thousandths of per cent, millionths of Wh, miles an hour.

mod feed;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared_model::Signal;

use super::json::{self, Statements};
use super::{
    Build, Control, Interpret, Interpretation, Item, Reason, SourceUnit, Unreadable, are_distinct,
};

/// A connection's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Which types are asked for. The provider takes three at once, so they make several feeds.
    #[serde(default = "usual_types")]
    pub types: Vec<String>,
    /// Only the vehicles with one of these tags.
    #[serde(default)]
    pub tag_ids: Vec<String>,
    /// How many vehicles a page may hold, where the provider is not to decide.
    #[serde(default)]
    pub limit: Option<u32>,
    /// How often the provider may be asked in a second.
    #[serde(default = "usual_requests")]
    pub requests_per_second: u32,
}

fn usual_types() -> Vec<String> {
    let usual = [
        "evStateOfChargeMilliPercent",
        "gps",
        "obdOdometerMeters",
        "evBatteryVoltageMilliVolt",
    ];
    usual.map(str::to_owned).into()
}

const fn usual_requests() -> u32 {
    5
}

const OBD_ODOMETER: &str = "obdOdometerMeters";
const GPS_ODOMETER: &str = "gpsOdometerMeters";

/// What the readings of a type mean: a signal, and how many of their units make one of the other.
fn meaning(kind: &str) -> Option<(Signal, (SourceUnit, f64))> {
    match kind {
        "evStateOfChargeMilliPercent" => {
            Some((Signal::StateOfCharge, (SourceUnit::Percent, 1000.0)))
        }
        OBD_ODOMETER | GPS_ODOMETER => Some((Signal::Odometer, (SourceUnit::Metre, 1.0))),
        "evBatteryVoltageMilliVolt" => Some((Signal::BatteryVoltage, (SourceUnit::Volt, 1000.0))),
        "evChargingEnergyMicroWh" => Some((Signal::Energy, (SourceUnit::KilowattHour, 1e9))),
        _ => None,
    }
}

impl Settings {
    /// Reads and checks a connection's settings; the error says what to write.
    pub fn read(settings: &Value) -> Result<Self, String> {
        let settings = Self::deserialize(settings).map_err(|error| {
            format!(
                r#"{error}; write {{}} or {{"types":["evStateOfChargeMilliPercent","gps","obdOdometerMeters"]}}"#
            )
        })?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let is_name =
            |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
        if self.types.is_empty() || !self.types.iter().all(is_name) {
            return Err(
                r#"types names none, or one that cannot be; write "types":["gps"]"#.to_owned(),
            );
        }
        if !are_distinct(&self.types) {
            return Err("types names one twice; write each once".to_owned());
        }
        if !self.tag_ids.iter().all(is_name) {
            return Err(r#"tag_ids holds what is no id; write "tag_ids":["1234"]"#.to_owned());
        }
        if self.limit.is_some_and(|limit| !(1..=512).contains(&limit)) {
            return Err("limit is out of bounds; write a number from 1 to 512".to_owned());
        }
        if self.requests_per_second == 0 {
            return Err("requests_per_second is 0; write at least 1".to_owned());
        }
        Ok(())
    }
}

/// Samsara's part of a connection with `settings`.
pub fn build(settings: &Value) -> Result<Build, String> {
    let settings = Settings::read(settings)?;
    Ok(Build::polled(settings.clone(), settings))
}

impl Interpret for Settings {
    fn interpret(&self, frame: &[u8]) -> Result<Interpretation, Unreadable> {
        let frame = json::parse(frame)?;
        let mut items = Vec::new();
        match &frame {
            Value::Array(records) => all(records, &mut items)?,
            Value::Object(message) => match message.get("data") {
                Some(Value::Array(records)) => all(records, &mut items)?,
                // What an error looks like: {"message":…,"requestId":…}.
                None if message.contains_key("message") && !message.contains_key("id") => {
                    return Ok(Interpretation::Control(Control::ProviderError));
                }
                None => record(message, &mut items)?,
                other => {
                    let detail = format!("data is {}, not an array", json::show(other));
                    return Err(Unreadable::new(Reason::UnknownShape, detail));
                }
            },
            _ => {
                let detail = "JSON, but neither an object nor an array";
                return Err(Unreadable::new(Reason::UnknownShape, detail));
            }
        }
        Ok(Interpretation::Report(items))
    }
}

fn all(records: &[Value], items: &mut Vec<Item>) -> Result<(), Unreadable> {
    records
        .iter()
        .try_for_each(|found| record(json::object("a record", found)?, items))
}

fn record(record: &Map<String, Value>, items: &mut Vec<Item>) -> Result<(), Unreadable> {
    if record.is_empty() {
        return Err(Unreadable::new(Reason::UnknownShape, "an empty object"));
    }
    let id = json::device("id", record.get("id"))?;
    // A vehicle whose own odometer is read out has no use for an estimate of it.
    let has_obd_odometer = record
        .get(OBD_ODOMETER)
        .is_some_and(|found| !readings(found).is_empty());
    for (kind, found) in record {
        let readings = readings(found);
        if kind == GPS_ODOMETER && has_obd_odometer {
            continue;
        }
        for reading in readings {
            let mut said = Statements::of(&id, items);
            if kind == "gps" {
                let reading = json::object(kind, reading)?;
                let at = json::rfc3339("time", reading.get("time"))?;
                said.position(reading, at)?;
                let mph = (SourceUnit::MilePerHour, 1.0);
                said.quantity(Signal::Speed, mph, (reading, "speedMilesPerHour"), at)?;
            } else if let Some((signal, unit)) = meaning(kind) {
                let reading = json::object(kind, reading)?;
                let at = json::rfc3339("time", reading.get("time"))?;
                if reading.contains_key("value") {
                    said.quantity(signal, unit, (reading, "value"), at)?;
                } else {
                    said.none(signal);
                }
            } else {
                // Whatever it looks like: nobody reads it.
                said.push(Item::Unmapped);
            }
        }
    }
    Ok(())
}

/// The readings under one of a vehicle's keys; what has no time is none, but describes the vehicle.
fn readings(found: &Value) -> &[Value] {
    match found {
        Value::Array(readings) => readings,
        Value::Object(reading) if reading.contains_key("time") => std::slice::from_ref(found),
        _ => &[],
    }
}

#[cfg(test)]
mod tests;
