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

/// One raw message, with its place in its session and the time it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Position among the session's frames of its partition, from 1, without gaps at the source.
    pub number: u64,
    /// When the publisher read it from the socket (UTC, microseconds).
    pub received_at: DateTime<Utc>,
    /// Text or binary.
    pub kind: FrameKind,
    /// The message, byte for byte.
    pub body: Bytes,
}
