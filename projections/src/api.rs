//! What the read APIs share: vehicles in paths, and the problems with them.

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
