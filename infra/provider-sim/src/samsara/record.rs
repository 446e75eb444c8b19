//! How Samsara writes reports: an array of readings by type and vehicle. Pure.

use crate::polled::{
    Fact, Record,
    history::{rounded, whole},
    time::written_short,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const KM_PER_MILE: f64 = 1.609_344;

/// The types that there are. Simulated vehicles do not report all of them.
pub(super) const TYPES: [&str; 12] = [
    "ambientAirTemperatureMilliC",
    "engineStates",
    "evAverageBatteryTemperatureMilliCelsius",
    "evBatteryCurrentMilliAmp",
    "evBatteryVoltageMilliVolt",
    "evChargingEnergyMicroWh",
    "evChargingStatus",
    "evDistanceDrivenMeters",
    "evStateOfChargeMilliPercent",
    "gps",
    "gpsOdometerMeters",
    "obdOdometerMeters",
];

/// The id of a vehicle of the fleet.
pub(crate) fn vehicle_id(vehicle: usize) -> String {
    format!("{}", 281_474_980_000_001 + vehicle)
}

/// What `record` says if all types are asked for.
pub(crate) fn facts(record: &Record) -> Vec<Fact> {
    facts_of(&TYPES, record)
}

/// What `record` says of these types.
pub(super) fn facts_of(types: &[&str], record: &Record) -> Vec<Fact> {
    let at = record.observed_ms;
    let number = |signal, value| vec![Fact::number(signal, at, value)];
    let facts = types.iter().map(|kind| match *kind {
        "gps" => {
            let place = record.position;
            vec![
                Fact::position(at, place.latitude, place.longitude),
                Fact::number("speed", at, miles_per_hour(record) * KM_PER_MILE),
            ]
        }
        "evStateOfChargeMilliPercent" => {
            number("state_of_charge", record.soc_milli_percent as f64 / 1000.0)
        }
        "obdOdometerMeters" => number("odometer", record.odo_m as f64),
        "evBatteryVoltageMilliVolt" => {
            number("battery_voltage", millivolts(record) as f64 / 1000.0)
        }
        _ => Vec::new(),
    });
    facts.flatten().collect()
}

/// The readings of these types in `records`: an object a vehicle, in the order of their first readings.
pub(super) fn by_vehicle(types: &[&'static str], records: &[&Record]) -> Vec<Value> {
    let mut places = BTreeMap::new();
    let mut vehicles: Vec<Value> = Vec::new();
    for record in records {
        let place = *places.entry(record.vehicle).or_insert_with(|| {
            vehicles.push(vehicle(record.vehicle));
            vehicles.len() - 1
        });
        for (kind, reading) in readings(types, record) {
            match &mut vehicles[place][kind] {
                Value::Array(readings) => readings.push(reading),
                absent => *absent = json!([reading]),
            }
        }
    }
    vehicles
}

fn vehicle(vehicle: usize) -> Value {
    let number = vehicle + 1;
    json!({
        "id": vehicle_id(vehicle),
        "name": format!("Bus {number}"),
        "externalIds": {
            "samsara.serial": format!("GSIM{number:08}"),
            "samsara.vin": format!("SMLTS{number:012}"),
        },
    })
}

fn readings(types: &[&'static str], record: &Record) -> Map<String, Value> {
    let time = written_short(record.observed_ms);
    let of = |value: Value| json!({"time": time, "value": value});
    let reading = |kind: &str| match kind {
        "gps" => Some(json!({
            "time": time,
            "latitude": record.position.latitude,
            "longitude": record.position.longitude,
            "headingDegrees": 0,
            "speedMilesPerHour": number(miles_per_hour(record)),
            "isEcuSpeed": true,
            "reverseGeo": {"formattedLocation": "Simulated Street, Utrecht"},
        })),
        "evStateOfChargeMilliPercent" => Some(of(json!(record.soc_milli_percent))),
        "obdOdometerMeters" => Some(of(json!(record.odo_m))),
        "evBatteryVoltageMilliVolt" => Some(of(json!(millivolts(record)))),
        "evChargingStatus" => Some(of(json!(if record.is_driving { 1 } else { 2 }))),
        "engineStates" => Some(of(json!(engine_state(record)))),
        _ => None,
    };
    types
        .iter()
        .filter_map(|kind| Some(((*kind).to_owned(), reading(kind)?)))
        .collect()
}

fn engine_state(record: &Record) -> &'static str {
    match (record.is_driving, miles_per_hour(record) > 0.0) {
        (false, _) => "Off",
        (true, false) => "Idle",
        (true, true) => "On",
    }
}

fn miles_per_hour(record: &Record) -> f64 {
    rounded(record.speed_kmh / KM_PER_MILE, 10.0)
}

/// A battery's voltage rises with its charge.
fn millivolts(record: &Record) -> i64 {
    550_000 + record.soc_milli_percent
}

/// A whole number without a decimal point.
fn number(number: f64) -> Value {
    if number.fract() == 0.0 {
        json!(whole(number))
    } else {
        json!(number)
    }
}
