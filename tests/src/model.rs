//! The independent checker: what the read models must say after a set of ViriCiti frames.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// The newest observation of each signal of each vehicle.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Fold(BTreeMap<String, BTreeMap<&'static str, (i64, Value)>>);

impl Fold {
    /// Folds frames, in any order.
    #[must_use]
    pub fn of(frames: &[String]) -> Self {
        let mut fold = Self::default();
        for frame in frames {
            let frame: Value = serde_json::from_str(frame).unwrap_or_default();
            let datum = &frame["payload"];
            let (Some(vehicle), Some(label)) = (datum["vid"].as_str(), datum["label"].as_str())
            else {
                continue;
            };
            let Some((signal, value)) = canonical(label, &datum["value"]) else {
                continue;
            };
            let Some(time) = datum["time"].as_i64() else {
                continue;
            };
            let signals = fold.0.entry(vehicle.to_owned()).or_default();
            let newer = signals.get(signal).is_none_or(|(known, at_known)| {
                time > *known || (time == *known && value.as_f64() > at_known.as_f64())
            });
            if newer {
                signals.insert(signal, (time, value));
            }
        }
        fold
    }

    /// The vehicles.
    pub fn vehicles(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// A vehicle's signals as the read API shows them, without what depends on the time of receipt.
    #[must_use]
    pub fn signals(&self, vehicle: &str) -> Value {
        let signals = self.0.get(vehicle).into_iter().flatten();
        signals
            .map(|(signal, (time, value))| {
                let shown = json!({"value": value, "unit": unit(signal), "observed_at": time});
                ((*signal).to_owned(), shown)
            })
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

/// The same of a snapshot as the read API answered it.
#[must_use]
pub fn shown(snapshot: &Value) -> Value {
    let signals = snapshot["signals"].as_object().into_iter().flatten();
    signals
        .map(|(signal, reading)| {
            let time = reading["observed_at"].as_str().unwrap_or_default();
            let time = chrono::DateTime::parse_from_rfc3339(time).map(|at| at.timestamp_millis());
            let shown = json!({
                "value": reading["value"], "unit": reading["unit"], "observed_at": time.unwrap_or(-1),
            });
            (signal.clone(), shown)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn canonical(label: &str, value: &Value) -> Option<(&'static str, Value)> {
    let number = || match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    Some(match label {
        "soc" => ("state_of_charge", json!(number()?)),
        "odo" => ("odometer", json!(number()? * 1000.0)),
        "speed" => ("speed", json!(number()?)),
        "power" => ("power", json!(number()?)),
        "gps" => ("position", place(value)?),
        _ => return None,
    })
}

fn place(value: &Value) -> Option<Value> {
    let (latitude, longitude): (f64, f64) = match value {
        Value::String(text) => {
            let (latitude, longitude) = text.split_once('|')?;
            (latitude.parse().ok()?, longitude.parse().ok()?)
        }
        Value::Object(point) => (point.get("lat")?.as_f64()?, point.get("lon")?.as_f64()?),
        _ => return None,
    };
    let is_fix = latitude != 0.0 || longitude != 0.0;
    is_fix.then(|| json!({"latitude": latitude, "longitude": longitude}))
}

fn unit(signal: &str) -> &'static str {
    match signal {
        "state_of_charge" => "%",
        "odometer" => "m",
        "speed" => "km/h",
        "power" => "kW",
        _ => "deg",
    }
}
