//! rFMS 4: the heavy vehicle makers' standard, polled.
//!
//! Two feeds, `statuses` and `positions`; [`feed`] asks for them. A record holds three clocks: of the
//! GNSS receiver (`positionDateTime`), of the vehicle (`createdDateTime`) and of the provider's server
//! (`receivedDateTime`). A position was observed by the first, everything else by the second.
//! Distances are in metres, energy in Wh; what a battery is charged with is in W, by the standard.
//!
//! Of the fields that the standard calls mandatory, only the vehicle's id and a time are really
//! needed. Enumerations are not read, so that values unknown here do no harm.

mod feed;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use shared_model::{Signal, Unit};

use super::json::{self, Statements};
use super::{
    Build, Control, Interpret, Interpretation, Item, Reason, SourceUnit, Unreadable, are_distinct,
};

/// A connection's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// What is asked for.
    #[serde(default = "every_feed")]
    pub feeds: Vec<FeedName>,
    /// How the credential is shown.
    #[serde(default)]
    pub auth: Auth,
    /// What comes between the endpoint and `/vehiclestatuses`, where a maker has something there.
    #[serde(default)]
    pub path_prefix: String,
    /// Other media types to accept than the standard's.
    #[serde(default)]
    pub media_type: BTreeMap<FeedName, String>,
    /// Which parts of a status are asked for; `null` for all.
    #[serde(default = "snapshot_only")]
    pub content_filter: Option<String>,
    /// A maker's own parameter `additionalContent`.
    #[serde(default)]
    pub additional_content: Option<String>,
    /// The unit of `batteryPackChargingPower`.
    #[serde(default = "watt")]
    pub charging_power_unit: SourceUnit,
    /// How often each feed may be asked in a minute, where it is not as usual.
    #[serde(default)]
    pub requests_per_minute: BTreeMap<FeedName, u32>,
}

/// One of the standard's collections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedName {
    /// `/vehiclestatuses`: everything.
    Statuses,
    /// `/vehiclepositions`: positions and speeds, more often.
    Positions,
}

/// How the credential is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    /// It is a token.
    #[default]
    Bearer,
    /// It is `user:password`.
    Basic,
}

fn every_feed() -> Vec<FeedName> {
    vec![FeedName::Statuses, FeedName::Positions]
}

// The counters of a status' accumulated data fill most of it, and have no use here.
#[expect(
    clippy::unnecessary_wraps,
    reason = "the default of a setting that may be null"
)]
fn snapshot_only() -> Option<String> {
    Some("SNAPSHOT".to_owned())
}

const fn watt() -> SourceUnit {
    SourceUnit::Watt
}

impl Settings {
    /// Reads and checks a connection's settings; the error says what to write.
    pub fn read(settings: &Value) -> Result<Self, String> {
        let settings = Self::deserialize(settings).map_err(|error| {
            format!(
                r#"{error}; write {{}} or {{"feeds":["statuses","positions"],"auth":"bearer"}}"#
            )
        })?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        if self.feeds.is_empty() || !are_distinct(&self.feeds) {
            return Err(
                r#"feeds names none, or one twice; write "feeds":["statuses","positions"]"#
                    .to_owned(),
            );
        }
        let prefix = &self.path_prefix;
        if !prefix.is_empty() && (!prefix.starts_with('/') || prefix.ends_with('/')) {
            return Err(format!(
                r#"path_prefix is {prefix:?}; write it as in "path_prefix":"/vehicle""#
            ));
        }
        if prefix.contains(['?', '#']) {
            return Err(format!(
                "path_prefix is {prefix:?}; write a path without a query"
            ));
        }
        if self.charging_power_unit.canonical() != Unit::Kilowatt {
            return Err(r#"charging_power_unit is no power; write "W" or "kW""#.to_owned());
        }
        if self.requests_per_minute.values().any(|count| *count == 0) {
            return Err("requests_per_minute is 0; write at least 1".to_owned());
        }
        let is_printable = |text: &String| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if !self.media_type.values().all(is_printable) {
            return Err("media_type holds what no header may; write ASCII".to_owned());
        }
        Ok(())
    }
}

/// rFMS' part of a connection with `settings`.
pub fn build(settings: &Value) -> Result<Build, String> {
    let settings = Settings::read(settings)?;
    Ok(Build::polled(settings.clone(), settings))
}

/// A page's records, by what they are under.
const PAGES: [(&str, &str); 2] = [
    ("vehicleStatusResponse", "vehicleStatuses"),
    ("vehiclePositionResponse", "vehiclePositions"),
];

impl Interpret for Settings {
    fn interpret(&self, frame: &[u8]) -> Result<Interpretation, Unreadable> {
        let frame = json::parse(frame)?;
        let mut items = Vec::new();
        match &frame {
            Value::Array(records) => self.all(records, &mut items)?,
            Value::Object(message) => {
                if let Some(control) = control(message) {
                    return Ok(Interpretation::Control(control));
                }
                match page(message)? {
                    Some(records) => self.all(records, &mut items)?,
                    None => self.record(message, &mut items)?,
                }
            }
            _ => {
                let detail = "JSON, but neither an object nor an array";
                return Err(Unreadable::new(Reason::UnknownShape, detail));
            }
        }
        Ok(Interpretation::Report(items))
    }
}

fn control(message: &Map<String, Value>) -> Option<Control> {
    if message.contains_key("vin") {
        return None;
    }
    // The list of vehicles says nothing about what they do.
    let unused = message.contains_key("vehicleResponse");
    let error = message.contains_key("error");
    unused
        .then_some(Control::Unused)
        .or(error.then_some(Control::ProviderError))
}

/// The records of a page, if `message` is one.
fn page(message: &Map<String, Value>) -> Result<Option<&[Value]>, Unreadable> {
    for (response, list) in PAGES {
        let Some(found) = message.get(response) else {
            continue;
        };
        return match found.get(list) {
            Some(Value::Array(records)) => Ok(Some(records)),
            None | Some(Value::Null) => Ok(Some(&[])),
            other => {
                let detail = format!("{list} is {}, not an array", json::show(other));
                Err(Unreadable::new(Reason::UnknownShape, detail))
            }
        };
    }
    Ok(None)
}

impl Settings {
    fn all(&self, records: &[Value], items: &mut Vec<Item>) -> Result<(), Unreadable> {
        records
            .iter()
            .try_for_each(|record| self.record(json::object("a record", record)?, items))
    }

    fn record(&self, record: &Map<String, Value>, items: &mut Vec<Item>) -> Result<(), Unreadable> {
        const OF_A_RECORD: [&str; 4] =
            ["vin", "createdDateTime", "receivedDateTime", "triggerType"];
        if !OF_A_RECORD.iter().any(|key| record.contains_key(*key)) {
            let detail = "an object that is neither a record nor a page";
            return Err(Unreadable::new(Reason::UnknownShape, detail));
        }
        let vin = json::device("vin", record.get("vin"))?;
        let mut said = Statements::of(&vin, items);
        // The server's time is later than the vehicle's, but not by much.
        let created = json::first_time(record, &["createdDateTime", "receivedDateTime"])?;
        let mut metres = |signal, object, key| {
            said.quantity(signal, (SourceUnit::Metre, 1.0), (object, key), created)
        };
        metres(Signal::Odometer, record, "hrTotalVehicleDistance")?;
        // A position's record has at its top what a status has in its snapshot.
        let snapshot = match record.get("snapshotData") {
            Some(Value::Object(snapshot)) => snapshot,
            _ => record,
        };
        if let Some(Value::Object(range)) = snapshot.get("estimatedDistanceToEmpty") {
            metres(Signal::Range, range, range_key(range))?;
        }
        said.quantity(
            Signal::Energy,
            (SourceUnit::WattHour, 1.0),
            (record, "totalElectricEnergyUsed"),
            created,
        )?;
        said.quantity(
            Signal::StateOfCharge,
            (SourceUnit::Percent, 1.0),
            (snapshot, "hybridBatteryPackRemainingCharge"),
            created,
        )?;
        // What goes into the battery is drawn from it negatively.
        said.quantity(
            Signal::Power,
            (self.charging_power_unit, -1.0),
            (snapshot, "batteryPackChargingPower"),
            created,
        )?;
        let position = gnss(snapshot)?;
        let positioned = match position {
            Some(position) if json::present(position, "positionDateTime").is_some() => {
                json::first_time(position, &["positionDateTime"])?
            }
            _ => created,
        };
        match position {
            Some(position) => said.position(position, positioned)?,
            None if snapshot.contains_key("gnssPosition") => said.none(Signal::Position),
            None => {}
        }
        // The first that has a value: wheels are more exact than satellites.
        let speeds = [
            (Some(snapshot), "wheelBasedSpeed", created),
            (Some(snapshot), "tachographSpeed", created),
            (position, "speed", positioned),
        ];
        let speeds = speeds.map(|(object, key, at)| (object.unwrap_or(snapshot), key, at));
        let mut there = speeds.into_iter();
        match there.find(|(object, key, _)| json::present(object, key).is_some()) {
            Some((object, key, at)) => said.quantity(
                Signal::Speed,
                (SourceUnit::KilometrePerHour, 1.0),
                (object, key),
                at,
            )?,
            None if speeds
                .iter()
                .any(|(object, key, _)| object.contains_key(*key)) =>
            {
                said.none(Signal::Speed);
            }
            None => {}
        }
        Ok(())
    }
}

/// What of a battery-electric vehicle's range is asked for: of a hybrid, the battery's part.
fn range_key(range: &Map<String, Value>) -> &'static str {
    if range.contains_key("batteryPack") || range.contains_key("fuel") || range.contains_key("gas")
    {
        "batteryPack"
    } else {
        "total"
    }
}

fn gnss(snapshot: &Map<String, Value>) -> Result<Option<&Map<String, Value>>, Unreadable> {
    match snapshot.get("gnssPosition") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Object(position)) => Ok(Some(position)),
        other => {
            let detail = format!("gnssPosition is {}, not an object", json::show(other));
            Err(Unreadable::new(Reason::InvalidValue, detail))
        }
    }
}

#[cfg(test)]
mod tests;
