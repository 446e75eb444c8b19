//! The vocabulary that Headrace's services share on the wire.
//!
//! Everything here is pure: types, their encodings and the names of the broker's topology. There is
//! no I/O, no clock and no randomness, so every function is a function of its arguments alone.
//!
//! Two wire formats live here, each with its own version: the [`envelope`] that crosses the ingress
//! queue and the [`event`]s that cross the event bus. A reader tolerates fields it does not know
//! (a newer minor version) and refuses a major version it does not know, with the reason.

mod connection_kind;
pub mod connection_status;
pub mod control;
pub mod envelope;
pub mod event;
pub mod frame;
pub mod headers;
pub mod id;
pub mod log;
pub mod observation;
pub mod partition;
pub mod settings;
pub mod signal;
pub mod stream_settings;
pub mod time;
pub mod topology;
pub mod version;

pub use connection_kind::ConnectionKind;
pub use connection_status::{ConnectionStatus, StatusReport};
pub use envelope::{Envelope, EnvelopeError};
pub use event::{CloudEvent, EventType};
pub use frame::{Frame, FrameKind, FrameOrigin};
pub use id::{ConnectionId, IdError, Provider, SessionId, VehicleId, WorkspaceId};
pub use observation::Observation;
pub use signal::{Position, Reading, Signal, SignalValue, Unit};
pub use stream_settings::StreamSettings;
