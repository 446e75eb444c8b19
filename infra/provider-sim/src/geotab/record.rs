//! How Geotab writes a report: one `LogRecord`, and a row of `StatusData` for each diagnostic. Pure.

use crate::polled::{Fact, Record, history::whole, time::written};
use serde_json::{Value, json};

/// How many rows of `StatusData` a report makes.
pub(super) const ROWS: u64 = 5;

/// The id of a vehicle of the fleet.
pub(crate) fn vehicle_id(vehicle: usize) -> String {
    format!("b{:X}", vehicle + 1)
}

/// What `record` says in both feeds.
pub(crate) fn facts(record: &Record) -> Vec<Fact> {
    let of_rows = (0..ROWS).filter_map(|row| status_fact(record, row));
    log_facts(record).into_iter().chain(of_rows).collect()
}

/// What the `LogRecord` says.
pub(super) fn log_facts(record: &Record) -> Vec<Fact> {
    let place = record.position;
    vec![
        Fact::position(record.observed_ms, place.latitude, place.longitude),
        Fact::number("speed", record.observed_ms, whole(record.speed_kmh) as f64),
    ]
}

/// What a row of `StatusData` says.
pub(super) fn status_fact(record: &Record, row: u64) -> Option<Fact> {
    let at = record.observed_ms;
    Some(match row {
        0 => Fact::number(
            "state_of_charge",
            at,
            record.soc_milli_percent as f64 / 1000.0,
        ),
        1 => Fact::number("odometer", at, record.odo_m as f64),
        2 => Fact::number("power", at, record.power_w as f64 / 1000.0),
        _ => return None,
    })
}

pub(super) fn log_record(record: &Record, version: u64) -> Value {
    json!({
        "id": format!("b{version:X}"),
        "device": {"id": vehicle_id(record.vehicle)},
        "dateTime": written(record.observed_ms),
        "latitude": record.position.latitude,
        "longitude": record.position.longitude,
        "speed": whole(record.speed_kmh),
    })
}

pub(super) fn status_data(record: &Record, row: u64, version: u64) -> Value {
    // The source of a value is an id, or an object with one.
    let controller = if (record.seq + row).is_multiple_of(3) {
        json!({"id": "ControllerObdPowertrainId"})
    } else {
        json!("ControllerNoneId")
    };
    json!({
        "id": format!("b{version:X}"),
        "device": {"id": vehicle_id(record.vehicle)},
        "diagnostic": {"id": diagnostic(row)},
        "dateTime": written(record.observed_ms),
        "data": data(record, row),
        "controller": controller,
        "version": super::feed::written(version),
    })
}

/// A vehicle of the fleet. It is never retired, and its VIN was not read out.
pub(super) fn device(vehicle: usize) -> Value {
    json!({
        "id": vehicle_id(vehicle),
        "name": format!("Bus {}", vehicle + 1),
        "serialNumber": format!("GSIM{:08}", vehicle + 1),
        "vehicleIdentificationNumber": "?",
        "activeFrom": "2026-01-01T00:00:00.000Z",
        "activeTo": "2050-01-01T00:00:00.000Z",
    })
}

pub(super) fn diagnostic(row: u64) -> &'static str {
    match row {
        0 => "DiagnosticStateOfChargeId",
        1 => "DiagnosticOdometerId",
        2 => "DiagnosticElectricVehicleBatteryPowerId",
        3 => "DiagnosticElectricVehicleChargingStateId",
        _ => "DiagnosticIgnitionId",
    }
}

/// The value of a diagnostic; a whole one has no decimal point.
fn data(record: &Record, row: u64) -> Value {
    match row {
        0 if record.soc_milli_percent % 1000 == 0 => json!(record.soc_milli_percent / 1000),
        0 => json!(record.soc_milli_percent as f64 / 1000.0),
        1 => json!(record.odo_m),
        2 => json!(record.power_w),
        3 => json!(if record.is_driving { 0 } else { 2 }),
        _ => json!(i32::from(record.is_driving)),
    }
}
