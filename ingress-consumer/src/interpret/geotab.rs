//! Geotab (MyGeotab): positions and diagnostics by device, polled by version.
//!
//! Two kinds of records: a `LogRecord` is a position, a `StatusData` one value of one diagnostic. Which
//! signal a diagnostic is, is configuration, since fleets differ. Devices and diagnostics come as their
//! ids, as text or as an object with the id in it. Some ids and dates mean that there is none.

mod feed;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared_model::Signal;

use super::json::{self, Statements};
use super::{
    Build, Control, Interpret, Interpretation, Item, Reason, SourceUnit, Unreadable, are_distinct,
};

/// A connection's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is asked for.
    #[serde(default = "every_feed")]
    pub feeds: Vec<FeedName>,
    /// What diagnostics mean, beyond and above the usual ones; `null` makes one mean nothing.
    #[serde(default)]
    pub diagnostics: BTreeMap<String, Option<DiagnosticRule>>,
    /// How many records a page may hold.
    #[serde(default = "usual_results")]
    pub results_limit: u32,
    /// Since when records are asked for the first time; without it, since then.
    #[serde(default)]
    pub from_date: Option<DateTime<Utc>>,
    /// How often each feed may be asked in a minute.
    #[serde(default = "usual_requests")]
    pub requests_per_minute: u32,
}

/// One of the provider's types of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FeedName {
    /// Positions and speeds.
    LogRecord,
    /// Values of diagnostics.
    StatusData,
}

/// What a diagnostic means: a signal, in the provider's unit for it, or in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum DiagnosticRule {
    /// In the provider's usual unit.
    Signal(Signal),
    /// In the unit given.
    InUnit {
        /// The signal.
        signal: Signal,
        /// The unit that the diagnostic's values are in.
        unit: SourceUnit,
        /// Whether the values have the other sign than the signal.
        #[serde(default)]
        negated: bool,
    },
}

fn every_feed() -> Vec<FeedName> {
    vec![FeedName::LogRecord, FeedName::StatusData]
}

const fn usual_results() -> u32 {
    5000
}

const fn usual_requests() -> u32 {
    60
}

/// The diagnostics that mean the same in every fleet. There are three of the odometer: a vehicle
/// usually has one of them.
fn usual_diagnostic(id: &str) -> Option<DiagnosticRule> {
    let signal = match id {
        "DiagnosticStateOfChargeId" => Signal::StateOfCharge,
        "DiagnosticOdometerId" | "DiagnosticRawOdometerId" | "DiagnosticOdometerAdjustmentId" => {
            Signal::Odometer
        }
        "DiagnosticElectricVehicleBatteryPowerId" => Signal::Power,
        _ => return None,
    };
    Some(DiagnosticRule::Signal(signal))
}

impl DiagnosticRule {
    /// Signal, unit, and how many of the latter make one.
    const fn meaning(self) -> Option<(Signal, (SourceUnit, f64))> {
        match self {
            Self::InUnit {
                signal,
                unit,
                negated,
            } => Some((signal, (unit, if negated { -1.0 } else { 1.0 }))),
            Self::Signal(signal) => {
                let unit = match signal {
                    Signal::StateOfCharge => SourceUnit::Percent,
                    Signal::Odometer => SourceUnit::Metre,
                    Signal::Speed => SourceUnit::KilometrePerHour,
                    Signal::Power => SourceUnit::Watt,
                    Signal::BatteryVoltage => SourceUnit::Volt,
                    Signal::BatteryCurrent => SourceUnit::Ampere,
                    // Which units these come in is not established.
                    Signal::Energy | Signal::Range | Signal::Position => return None,
                };
                Some((signal, (unit, 1.0)))
            }
        }
    }
}

impl Settings {
    /// Reads and checks a connection's settings; the error says what to write.
    pub fn read(settings: &Value) -> Result<Self, String> {
        let settings = Self::deserialize(settings).map_err(|error| {
            format!(
                r#"{error}; write {{}} or {{"feeds":["LogRecord","StatusData"],"diagnostics":{{"<id>":{{"signal":"range","unit":"m"}}}}}}"#
            )
        })?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        if self.feeds.is_empty() || !are_distinct(&self.feeds) {
            return Err(
                r#"feeds names none, or one twice; write "feeds":["LogRecord","StatusData"]"#
                    .to_owned(),
            );
        }
        if !(1..=50_000).contains(&self.results_limit) {
            return Err(
                "results_limit is out of bounds; write a number from 1 to 50000".to_owned(),
            );
        }
        if self.requests_per_minute == 0 {
            return Err("requests_per_minute is 0; write at least 1".to_owned());
        }
        for (id, rule) in &self.diagnostics {
            let Some(rule) = rule else { continue };
            let Some((signal, (unit, _))) = rule.meaning() else {
                return Err(format!(
                    r#"diagnostics: {id:?} needs a unit; write {{"signal":"range","unit":"m"}}"#
                ));
            };
            if signal == Signal::Position || unit.canonical() != signal.unit() {
                return Err(format!(
                    "diagnostics: {id:?} cannot be {signal} in {}",
                    serde_json::to_string(&unit).unwrap_or_default(),
                ));
            }
        }
        Ok(())
    }

    fn meaning(&self, diagnostic: &str) -> Option<(Signal, (SourceUnit, f64))> {
        let own = self.diagnostics.get(diagnostic).copied();
        own.unwrap_or_else(|| usual_diagnostic(diagnostic))?
            .meaning()
    }
}

/// Geotab's part of a connection with `settings`.
pub fn build(settings: &Value) -> Result<Build, String> {
    let settings = Settings::read(settings)?;
    Ok(Build::polled(settings.clone(), settings))
}

impl Interpret for Settings {
    fn interpret(&self, frame: &[u8]) -> Result<Interpretation, Unreadable> {
        let frame = json::parse(frame)?;
        let mut items = Vec::new();
        match &frame {
            Value::Array(records) => self.all(records, &mut items)?,
            Value::Object(message) if message.contains_key("error") => {
                return Ok(Interpretation::Control(Control::ProviderError));
            }
            Value::Object(message) => match message.get("result") {
                None => self.record(message, &mut items)?,
                Some(result) => match result.get("data").unwrap_or(result) {
                    Value::Array(records) => self.all(records, &mut items)?,
                    other => {
                        let detail = format!("result is {}, not records", json::show(Some(other)));
                        return Err(Unreadable::new(Reason::UnknownShape, detail));
                    }
                },
            },
            _ => {
                let detail = "JSON, but neither an object nor an array";
                return Err(Unreadable::new(Reason::UnknownShape, detail));
            }
        }
        Ok(Interpretation::Report(items))
    }
}

impl Settings {
    fn all(&self, records: &[Value], items: &mut Vec<Item>) -> Result<(), Unreadable> {
        records
            .iter()
            .try_for_each(|record| self.record(json::object("a record", record)?, items))
    }

    fn record(&self, record: &Map<String, Value>, items: &mut Vec<Item>) -> Result<(), Unreadable> {
        let is_position = record.contains_key("latitude") || record.contains_key("longitude");
        let is_diagnostic = record.contains_key("diagnostic");
        let diagnostics = match record.get("statusData") {
            Some(Value::Array(diagnostics)) => diagnostics.as_slice(),
            _ => &[],
        };
        if !is_position && !is_diagnostic && !record.contains_key("statusData") {
            let detail = "an object with neither a position nor a diagnostic";
            return Err(Unreadable::new(Reason::UnknownShape, detail));
        }
        let device = json::device("device", id(record.get("device")))?;
        if means_none(&device) {
            items.push(Item::Unmapped);
            return Ok(());
        }
        let mut said = Statements::of(&device, items);
        if is_position {
            position(record, &mut said)?;
        }
        if is_diagnostic {
            self.diagnostic(record, record, &mut said)?;
        }
        for diagnostic in diagnostics {
            self.diagnostic(json::object("statusData", diagnostic)?, record, &mut said)?;
        }
        Ok(())
    }

    /// What `found` says, at its own time or at that of the record that it stands in.
    fn diagnostic(
        &self,
        found: &Map<String, Value>,
        record: &Map<String, Value>,
        said: &mut Statements<'_>,
    ) -> Result<(), Unreadable> {
        let Some(name) = id(found.get("diagnostic")).and_then(Value::as_str) else {
            let detail = format!("diagnostic is {}", json::show(found.get("diagnostic")));
            return Err(Unreadable::new(Reason::UnknownShape, detail));
        };
        let Some((signal, unit)) = self.meaning(name) else {
            said.push(Item::Unmapped);
            return Ok(());
        };
        let timed = [found, record]
            .into_iter()
            .find(|object| json::present(object, TIME).is_some());
        match observed_at(timed.unwrap_or(found))? {
            Some(at) if found.contains_key("data") => {
                said.quantity(signal, unit, (found, "data"), at)?;
            }
            _ => said.none(signal),
        }
        Ok(())
    }
}

const TIME: &str = "dateTime";

fn position(record: &Map<String, Value>, said: &mut Statements<'_>) -> Result<(), Unreadable> {
    let Some(at) = observed_at(record)? else {
        said.none(Signal::Position);
        return Ok(());
    };
    said.position(record, at)?;
    let unit = (SourceUnit::KilometrePerHour, 1.0);
    said.quantity(Signal::Speed, unit, (record, "speed"), at)
}

/// The id that `value` is or holds.
fn id(value: Option<&Value>) -> Option<&Value> {
    value.map(|value| value.get("id").unwrap_or(value))
}

/// Ids such as `NoDeviceId` and `UnknownDriverId`: there is none, or it is not known which.
fn means_none(id: &str) -> bool {
    id.ends_with("Id") && (id.starts_with("No") || id.starts_with("Unknown"))
}

/// When a record was observed. The first day of the calendar and the first of 2050 mean that there is
/// no time.
fn observed_at(record: &Map<String, Value>) -> Result<Option<DateTime<Utc>>, Unreadable> {
    const NEVER: [&str; 2] = ["0001-01-01T00:00:00", "2050-01-01T00:00:00"];
    let value = record.get(TIME);
    let text = value.and_then(Value::as_str).unwrap_or_default();
    if NEVER.iter().any(|never| text.starts_with(never)) {
        return Ok(None);
    }
    json::rfc3339(TIME, value).map(Some)
}

#[cfg(test)]
mod tests;
