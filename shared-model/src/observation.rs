//! An observation: one signal's value at one time for one vehicle, in canonical units.

use crate::id::{VehicleId, WorkspaceId};
use crate::signal::{Reading, Signal};

/// What interpretation makes of a frame and acceptance decides about.
#[derive(Debug, Clone, PartialEq)]
pub struct Observation {
    /// The vehicle's workspace.
    pub workspace: WorkspaceId,
    /// The vehicle.
    pub vehicle: VehicleId,
    /// What was observed.
    pub signal: Signal,
    /// The value, in the signal's unit, with its times and source.
    pub reading: Reading,
}
