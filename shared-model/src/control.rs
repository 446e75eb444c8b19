//! The core's control API, as publishers speak it: `PUT /internal/v1/publishers/{instance}`.
//!
//! A publisher says that it is alive and is told which streams are its own. Connections with their
//! endpoints are the core's; a publisher holds no database credentials.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::{ConnectionId, Provider, WorkspaceId};

/// What a publisher sends: that it is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// How many streams it reads at the moment.
    pub streams: u32,
}

/// What the core answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Assignment {
    /// How many ingress partitions there are: fixed for the life of an installation.
    pub partitions: u32,
    /// The bound of each partition's queue, in bytes: part of the queue's declaration.
    pub partition_max_bytes: u64,
    /// The streams to read.
    pub streams: Vec<StreamAssignment>,
}

/// A stream to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamAssignment {
    /// The connection.
    pub connection: ConnectionId,
    /// Whose data these are.
    pub workspace: WorkspaceId,
    /// The provider's protocol.
    pub provider: Provider,
    /// Where to connect: a `ws://` or `wss://` URL.
    pub endpoint: String,
    /// Where the credential is: `env:NAME` or `file:PATH`; never the credential itself.
    pub credential: Option<String>,
    /// The connection's settings, in the provider's own terms.
    pub settings: Value,
    /// The owner epoch to mark frames with.
    pub epoch: u64,
}
