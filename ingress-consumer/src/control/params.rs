//! Where in the API a request is: the parameters of its path.

use runtime::http::Problem;
use serde::Deserialize;
use shared_model::{ConnectionId, VehicleId, WorkspaceId};
use utoipa::IntoParams;

/// A workspace, or a list in it.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct InWorkspace {
    /// The workspace.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", max_length = 63)]
    workspace: String,
}

/// A connection.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtConnection {
    /// The workspace.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", max_length = 63)]
    workspace: String,
    /// The connection's id.
    #[param(value_type = Uuid)]
    pub connection: ConnectionId,
}

/// A vehicle.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtVehicle {
    /// The workspace.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", max_length = 63)]
    workspace: String,
    /// The vehicle's id: 1 to 128 characters, none of them a control character, no white space at either
    /// end.
    #[param(
        pattern = r"^[^\s\u0000-\u001f\u007f-\u009f]([^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f])?$",
        max_length = 128
    )]
    vehicle: String,
}

/// A parked frame.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtParked {
    /// The workspace.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", max_length = 63)]
    workspace: String,
    /// The parked frame's id.
    #[param(minimum = 0, maximum = 9e15)]
    pub id: i64,
}

/// A parked frame that belongs to no workspace.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtUnattributed {
    /// The parked frame's id.
    #[param(minimum = 0, maximum = 9e15)]
    pub id: i64,
}

/// A dead event.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtDeadEvent {
    /// The workspace.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", max_length = 63)]
    workspace: String,
    /// The event's id: its shard and its offset.
    #[param(pattern = "^[0-9]{1,9}:[0-9]{1,18}$", example = "2:1041")]
    pub id: String,
}

/// An API key of a workspace.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtWorkspaceKey {
    /// The workspace.
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", max_length = 63)]
    workspace: String,
    /// The key's id.
    #[param(pattern = "^[0-9a-f]{16}$", example = "9f86d081884c7d65")]
    pub id: String,
}

/// An API key.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtKey {
    /// The key's id.
    #[param(pattern = "^[0-9a-f]{16}$", example = "9f86d081884c7d65")]
    pub id: String,
}

/// A dead letter.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtDeadLetter {
    /// The dead letter's id.
    #[param(minimum = 0, maximum = 9e15)]
    pub id: i64,
}

/// A subscriber.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct AtSubscriber {
    /// The subscriber's name.
    #[param(pattern = r"^[a-z][a-z0-9_.-]{0,63}$", max_length = 64)]
    pub name: String,
}

impl InWorkspace {
    pub fn workspace(&self) -> Result<WorkspaceId, Problem> {
        workspace(&self.workspace)
    }
}

impl AtConnection {
    pub fn workspace(&self) -> Result<WorkspaceId, Problem> {
        workspace(&self.workspace)
    }
}

impl AtVehicle {
    pub fn workspace(&self) -> Result<WorkspaceId, Problem> {
        workspace(&self.workspace)
    }

    pub fn vehicle(&self) -> Result<VehicleId, Problem> {
        VehicleId::new(self.vehicle.as_str())
            .map_err(|error| Problem::bad_request("invalid-vehicle", error.to_string()))
    }
}

impl AtParked {
    pub fn workspace(&self) -> Result<WorkspaceId, Problem> {
        workspace(&self.workspace)
    }
}

impl AtWorkspaceKey {
    pub fn workspace(&self) -> Result<WorkspaceId, Problem> {
        workspace(&self.workspace)
    }
}

impl AtDeadEvent {
    pub fn workspace(&self) -> Result<WorkspaceId, Problem> {
        workspace(&self.workspace)
    }
}

pub fn workspace(text: &str) -> Result<WorkspaceId, Problem> {
    WorkspaceId::new(text)
        .map_err(|error| Problem::bad_request("invalid-workspace", error.to_string()))
}
