//! What the read APIs share: vehicles in paths, and the problems with them.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use runtime::http::Problem;
use shared_model::{VehicleId, WorkspaceId};

use crate::VehicleKey;

/// The workspace that a path names.
pub(crate) fn workspace(text: String) -> Result<WorkspaceId, Problem> {
    WorkspaceId::new(text)
        .map_err(|error| Problem::bad_request("invalid-workspace", error.to_string()))
}

/// The vehicle that a path names.
pub(crate) fn vehicle_key(workspace_text: String, vehicle: String) -> Result<VehicleKey, Problem> {
    Ok(VehicleKey {
        workspace: workspace(workspace_text)?,
        vehicle: VehicleId::new(vehicle)
            .map_err(|error| Problem::bad_request("invalid-vehicle", error.to_string()))?,
    })
}

/// No event has told of this vehicle.
pub(crate) fn vehicle_not_found(key: &VehicleKey) -> Problem {
    let detail = format!(
        "no vehicle {} is known in workspace {}",
        key.vehicle, key.workspace
    );
    Problem::not_found("vehicle-not-found", detail)
}

/// The cursor of a page that goes on after `vehicle`.
pub(crate) fn cursor_of_vehicle(vehicle: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(vehicle)
}

/// The vehicle that the page of `cursor` goes on after.
pub(crate) fn vehicle_of_cursor(cursor: &str) -> Result<VehicleId, Problem> {
    BASE64_URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| VehicleId::new(text).ok())
        .ok_or_else(invalid_cursor)
}

/// The query's `after` is nothing that a page gave.
pub(crate) fn invalid_cursor() -> Problem {
    let detail = "after is not the `next` of a page; leave it out for the first page";
    Problem::bad_request("invalid-cursor", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_round_trip_and_others_are_refused() {
        for vehicle in ["bus-1", "Bus №7 / Süd", "?"] {
            let cursor = cursor_of_vehicle(vehicle);
            assert_eq!(vehicle_of_cursor(&cursor).unwrap().as_str(), vehicle);
        }
        for bad in ["", "!", "_w", "Cg", "YQ=="] {
            let problem = vehicle_of_cursor(bad).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-cursor", "{bad}");
        }
    }
}
