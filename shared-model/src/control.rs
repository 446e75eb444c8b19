//! The core's control API, as publishers speak it.
//!
//! `PUT /internal/v1/publishers/{instance}`: a publisher says that it is there and what its streams
//! are doing, and is told which streams are its own and for how long. `DELETE` on the same says that
//! it has stopped. Connections with their endpoints are the core's; a publisher holds no database
//! credentials.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::id::{ConnectionId, Provider, SessionId, WorkspaceId};

/// What a publisher sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Heartbeat {
    /// Chosen anew at each start of the process: what an earlier one held is free.
    pub incarnation: Uuid,
    /// The most streams that it takes.
    pub capacity: u32,
    /// Whether it is about to stop. It reads on until others have taken over.
    pub draining: bool,
    /// The [`Assignment::version`] that it has, so that the same need not be sent again.
    pub known: Option<String>,
    /// The streams of which anything changed since the last heartbeat that was answered.
    pub reports: Vec<StreamReport>,
    /// Streams that it has closed since then, with the epoch that it had them under.
    pub released: Vec<Release>,
    /// Sessions that have numbered frames of which the core does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sessions: Vec<SessionSent>,
    /// Whether messages wait on the publisher's disk, so that what is missing may yet come.
    #[serde(default)]
    pub holding: bool,
}

/// How many frames of a session were numbered: what is to arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SessionSent {
    /// The session.
    pub session: SessionId,
    /// Its connection.
    pub connection: ConnectionId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// By partition, the last number that was given.
    pub sent: BTreeMap<u32, u64>,
    /// Whether there will be no further number.
    pub ended: bool,
}

/// A stream that a publisher has closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Release {
    /// The connection.
    pub connection: ConnectionId,
    /// The epoch.
    pub epoch: u64,
}

/// What the core answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Assignment {
    /// How many ingress partitions there are: fixed for the life of an installation.
    pub partitions: u32,
    /// The bound of each partition's queue, in bytes: part of the queue's declaration.
    pub partition_max_bytes: u64,
    /// Grows with each start of any publisher; names this start of this one.
    pub publisher_epoch: u64,
    /// For how long the streams are the publisher's, from before it asked, in milliseconds.
    pub lease_ms: u64,
    /// When to ask again at the latest, in milliseconds: sooner than usual while something is about to
    /// happen, such as the end of somebody else's lease.
    pub ask_again_ms: u64,
    /// How many other publishers could take streams over.
    pub takers: u32,
    /// Streams of which the core had to assume that nobody reads them, and that are to say again how
    /// their connections are doing.
    #[serde(default)]
    pub say_again: Vec<ConnectionId>,
    /// Names the set of streams.
    pub version: String,
    /// The streams to read; none if they are those of [`Heartbeat::known`].
    pub streams: Option<Vec<StreamAssignment>>,
}

impl Assignment {
    /// [`Assignment::lease_ms`].
    #[must_use]
    pub const fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// [`Assignment::ask_again_ms`].
    #[must_use]
    pub const fn ask_again(&self) -> Duration {
        Duration::from_millis(self.ask_again_ms)
    }
}

/// A stream to read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
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
    /// The connection's settings: those of every stream, and the provider's own.
    pub settings: Value,
    /// The owner epoch to mark frames with: grows each time that a publisher is given the stream.
    pub epoch: u64,
    /// When the connection was last heard from before this epoch; nothing is known to be missing up
    /// to then. None for one that never was.
    pub heard_until: Option<DateTime<Utc>>,
}

/// What a stream is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// On the way to a socket.
    Connecting,
    /// The socket is open and the subscription is sent.
    Subscribed,
    /// Waiting before it connects again.
    BackingOff,
    /// Waiting for other credentials: the provider refuses these.
    Refused,
    /// Nothing: the provider's protocol is not known to the publisher.
    Unsupported,
}

impl StreamState {
    /// Every state.
    pub const ALL: [Self; 5] = [
        Self::Connecting,
        Self::Subscribed,
        Self::BackingOff,
        Self::Refused,
        Self::Unsupported,
    ];

    /// The state's name, as on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Subscribed => "subscribed",
            Self::BackingOff => "backing_off",
            Self::Refused => "refused",
            Self::Unsupported => "unsupported",
        }
    }
}

/// What a stream is doing, as its publisher says. It holds nothing that is secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StreamReport {
    /// The connection.
    pub connection: ConnectionId,
    /// Whose data these are.
    pub workspace: WorkspaceId,
    /// The provider's protocol.
    pub provider: Provider,
    /// The owner epoch that frames are marked with.
    pub epoch: u64,
    /// What the stream is doing.
    pub state: StreamState,
    /// Since when.
    pub since: DateTime<Utc>,
    /// The session that is open or was open last.
    pub session: Option<SessionId>,
    /// How many frames that session has had.
    pub frames: u64,
    /// When its last frame was received.
    pub last_frame_at: Option<DateTime<Utc>>,
    /// Whether any of them told of a device: then the provider has begun to send.
    #[serde(default)]
    pub receiving: bool,
    /// How often the stream had to connect again in this epoch.
    #[serde(default)]
    pub reconnects: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Why the socket is not read at the moment, if it is not.
    #[serde(default)]
    pub paused: Option<String>,
}
