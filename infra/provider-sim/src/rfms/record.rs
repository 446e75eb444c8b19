//! How rFMS writes a report. Pure.
//!
//! Three clocks: `positionDateTime` is the satellite's, `createdDateTime` the vehicle's, `receivedDateTime` the provider's.

use super::feed::Collection;
use crate::polled::{
    Fact, Record,
    history::{rounded, whole},
    time::written,
};
use serde_json::{Value, json};

/// The VIN of a vehicle of the fleet. Sorted as texts they are sorted as numbers.
pub(crate) fn vehicle_id(vehicle: usize) -> String {
    format!("SMLTR{:012}", vehicle + 1)
}

/// What a status of `record` says, which is all there is.
pub(crate) fn facts(record: &Record) -> Vec<Fact> {
    facts_in(Collection::Statuses, true, record)
}

/// What `record` says in one of the collections.
pub(crate) fn facts_in(collection: Collection, has_snapshot: bool, record: &Record) -> Vec<Fact> {
    let created = record.observed_ms;
    let place = record.position;
    let mut facts = vec![
        Fact::position(record.true_ms, place.latitude, place.longitude),
        Fact::number("speed", created, speed(record)),
    ];
    if collection != Collection::Statuses {
        return facts;
    }
    if !has_snapshot {
        facts.clear();
    }
    facts.push(Fact::number("odometer", created, record.odo_m as f64));
    if has_snapshot {
        let charging = charging_watts(record) as f64 / 1000.0;
        facts.push(Fact::number("state_of_charge", created, soc(record)));
        facts.push(Fact::number("power", created, -charging));
    }
    facts
}

/// A vehicle of the fleet.
pub(super) fn vehicle(vehicle: usize) -> Value {
    json!({
        "vin": vehicle_id(vehicle),
        "customerVehicleName": format!("bus {}", vehicle + 1),
        "brand": "SIMULATED BUSES",
        "type": "BUS",
        "possibleFuelType": ["4A"],
        "totalBatteryPackCapacity": 300_000,
        "authorizedPaths": ["/vehiclestatuses", "/vehiclepositions"],
    })
}

/// A record of `/vehiclepositions`.
pub(super) fn position(record: &Record) -> Value {
    let mut position = head(record);
    position["gnssPosition"] = gnss(record);
    position["wheelBasedSpeed"] = json!(speed(record));
    position
}

/// A record of `/vehiclestatuses`.
pub(super) fn status(record: &Record, has_snapshot: bool) -> Value {
    let mut status = head(record);
    status["hrTotalVehicleDistance"] = json!(record.odo_m);
    if has_snapshot {
        let is_charging = charging_watts(record) > 0;
        status["snapshotData"] = json!({
            "gnssPosition": gnss(record),
            "wheelBasedSpeed": speed(record),
            "hybridBatteryPackRemainingCharge": soc(record),
            "batteryPackChargingStatus": if is_charging { "CHARGING_DC" } else { "NOT_CHARGING" },
            "batteryPackChargingConnectionStatus": if is_charging { "CONNECTED" } else { "DISCONNECTED" },
            "batteryPackChargingPower": charging_watts(record),
        });
    }
    status
}

fn head(record: &Record) -> Value {
    json!({
        "vin": vehicle_id(record.vehicle),
        "triggerType": {"context": "RFMS", "triggerType": "TIMER"},
        "createdDateTime": written(record.observed_ms),
        "receivedDateTime": written(record.received_ms),
    })
}

fn gnss(record: &Record) -> Value {
    json!({
        "latitude": record.position.latitude,
        "longitude": record.position.longitude,
        "speed": whole(record.speed_kmh),
        "positionDateTime": written(record.true_ms),
    })
}

fn speed(record: &Record) -> f64 {
    rounded(record.speed_kmh, 10.0)
}

fn soc(record: &Record) -> f64 {
    record.soc_milli_percent as f64 / 1000.0
}

/// What goes into the battery from the grid.
fn charging_watts(record: &Record) -> i64 {
    if record.is_driving {
        0
    } else {
        (-record.power_w).max(0)
    }
}
