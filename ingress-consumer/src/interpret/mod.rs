//! Interpretation: what a provider's frame means, in canonical units.
//!
//! Pure: bytes and a connection's settings in, observations out. One file per provider; what they
//! share is here. Nothing is guessed: a frame is understood, or it is parked with the reason.

pub mod canonical;
pub mod feed;
pub mod geotab;
mod json;
mod providers;
pub mod rfms;
pub mod samsara;
#[cfg(test)]
mod testing;
mod unit;
mod vehicles;
pub mod viriciti;

use std::collections::BTreeSet;
use std::fmt;

use chrono::{DateTime, Utc};
use shared_model::{Signal, SignalValue};

pub use providers::{Build, InvalidConnection, Provision, known as known_providers, provision};
pub use unit::SourceUnit;
pub use vehicles::Vehicles;

/// What a frame means.
#[derive(Debug, Clone, PartialEq)]
pub enum Interpretation {
    /// It reports about vehicles. The list may be empty, where nothing in it is of interest.
    Report(Vec<Item>),
    /// It belongs to the protocol (a greeting, an echo) and reports nothing.
    Control(Control),
}

/// A frame of the protocol itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// A greeting or confirmation.
    Handshake,
    /// The provider reports an error of its own.
    ProviderError,
    /// A kind of message that Headrace has no use for.
    Unused,
}

/// One statement of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A value.
    Observed(Observed),
    /// A signal without a value: null, blank, invalid, or no position fix.
    NoValue {
        /// The provider's own id of the sender.
        device: String,
        /// What was not observed.
        signal: Signal,
    },
    /// A label that the connection maps to no signal.
    Unmapped,
}

/// A value as the provider reported it, in canonical units.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The provider's own id of the sender.
    pub device: String,
    /// What was observed.
    pub signal: Signal,
    /// The value, in the signal's unit.
    pub value: SignalValue,
    /// When, by the sender's clock.
    pub observed_at: DateTime<Utc>,
}

/// Why a frame cannot be interpreted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct Unreadable {
    /// The kind of reason; a closed set, for metrics and filters.
    pub reason: Reason,
    /// What exactly is wrong.
    pub detail: String,
}

impl Unreadable {
    /// A frame that is unreadable for `reason`.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}

/// Reasons to park a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The message is not an envelope.
    UndecodableEnvelope,
    /// The envelope's version is from the future.
    UnsupportedVersion,
    /// The envelope names a connection that does not exist.
    UnknownConnection,
    /// The envelope's workspace or provider is not the connection's.
    ConnectionMismatch,
    /// The publisher's clock was ahead when it received the frame.
    ReceivedInFuture,
    /// The frame is not in the provider's syntax.
    InvalidSyntax,
    /// The frame is none of the provider's known messages.
    UnknownShape,
    /// The frame names no vehicle, or one that cannot be an id.
    InvalidVehicle,
    /// The frame's time is missing or not a time.
    InvalidTime,
    /// The value is not of the signal's type.
    InvalidValue,
    /// The vehicle is not known and the connection does not register vehicles.
    UnknownVehicle,
    /// The database refuses the frame's content.
    RejectedByStore,
}

impl Reason {
    /// The reason's name in metrics, filters and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UndecodableEnvelope => "undecodable_envelope",
            Self::UnsupportedVersion => "unsupported_version",
            Self::UnknownConnection => "unknown_connection",
            Self::ConnectionMismatch => "connection_mismatch",
            Self::ReceivedInFuture => "received_in_future",
            Self::InvalidSyntax => "invalid_syntax",
            Self::UnknownShape => "unknown_shape",
            Self::InvalidVehicle => "invalid_vehicle",
            Self::InvalidTime => "invalid_time",
            Self::InvalidValue => "invalid_value",
            Self::UnknownVehicle => "unknown_vehicle",
            Self::RejectedByStore => "rejected_by_store",
        }
    }
}

/// A provider's way to read frames, with a connection's settings. Pure.
pub trait Interpret: fmt::Debug + Send + Sync {
    /// What `frame` means: one record of a feed, one message of a socket, or a whole page of either.
    fn interpret(&self, frame: &[u8]) -> Result<Interpretation, Unreadable>;

    /// The provider's own ids of vehicles that the settings name: they are known from the start.
    fn known_devices(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Whether no item is there twice.
fn are_distinct<T: Ord>(items: &[T]) -> bool {
    items.iter().collect::<BTreeSet<_>>().len() == items.len()
}
