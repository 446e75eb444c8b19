//! How data come over a connection.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How data come over a connection.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionKind {
    /// The provider pushes over a websocket that a publisher reads.
    Stream,
    /// The core asks the provider's HTTP API on a schedule.
    Poll,
    /// A sender delivers over HTTP provider-ingest.
    Push,
}

impl ConnectionKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Stream, Self::Poll, Self::Push];

    /// The word for it in JSON and tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Poll => "poll",
            Self::Push => "push",
        }
    }

    /// The kind called `name`, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for ConnectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in ConnectionKind::ALL {
            assert_eq!(ConnectionKind::from_name(kind.name()), Some(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.name());
        }
    }
}
