//! `headrace vehicles`: the latest of each vehicle, as a table.

use std::io::{Write, stdout};
use std::process::ExitCode;

use chrono::{DateTime, Utc};
use clap::Args;
use comfy_table::Table;
use serde::Serialize;
use serde_json::Value;

use crate::cli;
use crate::connection::for_each_page;
use crate::view::{self, ViewArguments};

/// How many vehicles a page of the table holds.
const PAGE: u32 = 500;

/// Which vehicles to list.
#[derive(Debug, Args)]
pub struct VehiclesArguments {
    #[command(flatten)]
    view: ViewArguments,
    #[command(flatten)]
    filter: Filter,
    /// Write one JSON object a line, with everything that is known.
    #[arg(long)]
    json: bool,
}

/// Which vehicles: those for which everything holds that is given.
#[derive(Debug, Default, Args, Serialize)]
struct Filter {
    /// Only those that are `fresh`, `stale`, `offline` or `never_seen`; several with commas.
    #[arg(long, value_name = "FRESHNESS")]
    freshness: Option<String>,
    /// Only those that this provider tells of.
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only those whose id contains this.
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only those with this state of charge or more, in %.
    #[arg(long, value_name = "PERCENT")]
    soc_min: Option<f64>,
    /// Only those with this state of charge or less, in %.
    #[arg(long, value_name = "PERCENT")]
    soc_max: Option<f64>,
    /// Only those within west,south,east,north, in degrees.
    #[arg(long, value_name = "BOX", allow_hyphen_values = true)]
    bbox: Option<String>,
    /// Only those with a value observed then or later (RFC 3339).
    #[arg(long, value_name = "TIME")]
    observed_since: Option<DateTime<Utc>>,
}

/// Runs `headrace vehicles`.
#[must_use]
pub fn main(arguments: VehiclesArguments) -> ExitCode {
    cli::run(run(arguments))
}

async fn run(arguments: VehiclesArguments) -> anyhow::Result<()> {
    let client = arguments.view.api.client()?;
    let workspace = arguments.view.url(&client).await?;
    let url = format!("{workspace}/vehicles?limit={PAGE}");
    for_each_page(&client, &url, &arguments.filter, |vehicles| {
        let mut out = stdout().lock();
        if arguments.json {
            for vehicle in &vehicles {
                writeln!(out, "{vehicle}")?;
            }
        } else {
            write!(out, "{}", written(&vehicles))?;
        }
        Ok(())
    })
    .await
}

/// A page as a person reads it.
fn written(vehicles: &[Value]) -> String {
    let mut table: Table = view::table([
        "vehicle",
        "freshness",
        "age",
        "charge",
        "speed",
        "odometer",
        "position",
        "version",
    ]);
    for vehicle in vehicles {
        table.add_row(row(vehicle));
    }
    view::text(&table)
}

fn row(vehicle: &Value) -> [String; 8] {
    let text = |name: &str| vehicle[name].as_str().map(view::plain).unwrap_or_default();
    let signal = |name: &str| {
        let signal = &vehicle["signals"][name];
        let unit = signal["unit"].as_str().unwrap_or_default();
        let value = signal["value"].as_f64();
        value.map_or_else(String::new, |value| quantity(value, unit))
    };
    let position = &vehicle["signals"]["position"]["value"];
    let degrees = |name: &str| position[name].as_f64();
    let position = degrees("latitude").zip(degrees("longitude"));
    [
        text("vehicle"),
        text("freshness"),
        vehicle["age_seconds"]
            .as_f64()
            .map(view::age)
            .unwrap_or_default(),
        signal("state_of_charge"),
        signal("speed"),
        signal("odometer"),
        position.map_or_else(String::new, |(lat, lon)| format!("{lat:.5},{lon:.5}")),
        vehicle["version"].to_string(),
    ]
}

/// A value with its unit; metres of an odometer are too fine to read.
fn quantity(value: f64, unit: &str) -> String {
    match unit {
        "m" => format!("{:.1} km", value / 1000.0),
        unit => format!("{value:.1} {}", view::plain(unit)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_vehicle_is_a_row() {
        let vehicle = json!({"vehicle": "bus-1", "freshness": "fresh", "age_seconds": 3.2, "version": 7,
            "signals": {"state_of_charge": {"value": 81.25, "unit": "%"},
                "odometer": {"value": 12_345.6, "unit": "m"},
                "position": {"value": {"latitude": 52.1, "longitude": -4.5}, "unit": "deg"}}});
        let written = written(&[vehicle]);
        let lines: Vec<_> = written.lines().collect();
        let words: Vec<_> = lines[1].split_whitespace().collect();
        let expected = [
            "bus-1",
            "fresh",
            "3s",
            "81.2",
            "%",
            "12.3",
            "km",
            "52.10000,-4.50000",
            "7",
        ];
        assert_eq!(words, expected, "{written}");
    }

    #[test]
    fn a_vehicle_never_heard_from_has_an_empty_row() {
        let vehicle = json!({"vehicle": "\u{1b}]bus", "freshness": "never_seen", "age_seconds": null,
            "version": 0, "signals": {}});
        let row = row(&vehicle);
        assert_eq!(row[0], "\u{fffd}]bus");
        assert_eq!(row[1..], ["never_seen", "", "", "", "", "", "0"]);
    }
}
