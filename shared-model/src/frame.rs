//! A frame: one raw message, verbatim, as the provider sent it.

use bytes::Bytes;
use chrono::{DateTime, Utc};

/// How the provider marked the message on its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// Text (UTF-8 by the websocket protocol).
    Text,
    /// Binary.
    Binary,
}

impl FrameKind {
    pub(crate) const fn tag(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Binary => "binary",
        }
    }

    pub(crate) fn from_tag(tag: &str) -> Option<Self> {
        match tag {
            "text" => Some(Self::Text),
            "binary" => Some(Self::Binary),
            _ => None,
        }
    }
}

/// How a frame came to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum FrameOrigin {
    /// The provider pushed it.
    #[default]
    Live,
    /// It was asked for after a connect: the provider's latest value.
    State,
    /// It was asked for after an outage: a value of the provider's history.
    Backfill,
}

impl FrameOrigin {
    /// The word for it on the wire and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::State => "state",
            Self::Backfill => "backfill",
        }
    }

    /// A word from a newer version stands for something that was read, so it is as good as live.
    pub(crate) fn from_name(name: &str) -> Self {
        match name {
            "state" => Self::State,
            "backfill" => Self::Backfill,
            _ => Self::Live,
        }
    }
}

/// One raw message, with its place in its session and the time it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Position among the session's frames of its partition, from 1, without gaps at the source.
    pub number: u64,
    /// When the publisher read it from the socket (UTC, microseconds).
    pub received_at: DateTime<Utc>,
    /// Text or binary.
    pub kind: FrameKind,
    /// Pushed by the provider, or asked for.
    pub origin: FrameOrigin,
    /// The message, byte for byte.
    pub body: Bytes,
}
