//! The core's log API, as projections and reactions speak it.
//!
//! The event log is the truth about what happened, and the queues of the event bus are disposable: a
//! subscriber that misses an event, or that is built anew, reads it here.
//!
//! * `GET /internal/v1/log`: a [`ShardState`] for every shard, as a [`LogState`].
//! * `GET /internal/v1/log/{shard}?after=OFFSET&limit=COUNT`: the events behind an offset as NDJSON, one
//!   [`crate::CloudEvent`] a line, in the order of their offsets. An offset that retention has passed is
//!   answered 410. With `wait=DURATION` (up to [`LONGEST_WAIT`]) the answer waits for the first event behind
//!   the offset. With `workspace=NAME` only that workspace's events are in it. The headers [`LOG_END`] and
//!   [`LOG_GENERATION`] say up to where it goes, and in which generation of the log.
//! * `GET /internal/v1/state?after=CURSOR&limit=COUNT`: what the core knows now of vehicles and
//!   connections, as a [`StatePage`]: what the log would say of them if all of it were still there.
//! * `PUT /internal/v1/subscribers/{name}`: a subscriber says how far it has come ([`Progress`]), so that
//!   the log is kept for it, and is answered with a [`LogState`]. With `?reset=true` it says that it
//!   begins anew, and the progress may be less than before. Progress that cannot be of this log, because
//!   the database was restored, is answered 409 `log-restored`: empty the queue, begin anew, then reset.
//! * `POST /internal/v1/sources/{source}/events`: facts that another service has found, such as that a
//!   vehicle has turned stale, are appended to the log ([`SourceEvents`]), each once, and answered with a
//!   [`SourceState`], as is a `GET` of the source. Numbers behind a hole are answered 409 `hole-in-numbers`.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::id::WorkspaceId;

/// For how long a reader may let the core wait for the next event.
pub const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The header that says up to which offset an answer goes, whether or not the last of them are in it.
pub const LOG_END: &str = "headrace-log-end";

/// The header that says which generation of the log an answer is of.
pub const LOG_GENERATION: &str = "headrace-log-generation";

/// Where the shards of the log stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LogState {
    /// One entry a shard, by number.
    pub shards: Vec<ShardState>,
    /// How often the log's database was found restored, and one: offsets of different generations may
    /// stand for different events. 0 where the core does not say.
    #[serde(default)]
    pub generation: u64,
}

/// Where one shard of the log stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ShardState {
    /// The shard.
    pub shard: u32,
    /// The first offset that the log still holds; one above `head` if it holds none.
    pub first: u64,
    /// The last offset that was committed; 0 before the first event.
    pub head: u64,
    /// Up to here every event is confirmed by the broker, or was given up on and is listed as dead.
    pub relayed: u64,
    /// The last offset when the database was last found restored: up to it, the offsets of the generation
    /// before stand for the same events.
    #[serde(default)]
    pub restored: u64,
    /// When the first event was committed that the asking subscriber has not applied; none if it has
    /// applied all, and in answers to others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<DateTime<Utc>>,
}

/// How far a subscriber has come.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Progress {
    /// By shard, the offset up to which it has applied every event.
    pub applied: BTreeMap<u32, u64>,
}

/// Some of what the core knows now.
///
/// Whoever builds tables from it takes the [`LogState`] first, then every page, and then the log behind
/// the heads that it was told: so nothing is missed, and what is seen twice carries absolute state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatePage {
    /// What is known, each as the newest event about it would say.
    pub items: Vec<StateItem>,
    /// Where the next page begins; none after the last.
    pub next: Option<String>,
}

/// What the core knows of one vehicle or connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StateItem {
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The type of the event that would say it; see [`crate::EventType`].
    #[serde(rename = "type")]
    pub kind: String,
    /// That event's data.
    pub data: Value,
}

/// Facts that another service has found, in the order in which it found them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceEvents {
    /// The facts, with numbers that grow by one each.
    pub events: Vec<SourceEvent>,
}

/// A fact that another service has found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceEvent {
    /// The source's own number for it, dense from 1: what was appended once is not appended again.
    pub number: u64,
    /// Whose data it carries.
    pub workspace: WorkspaceId,
    /// The type of the event.
    #[serde(rename = "type")]
    pub kind: String,
    /// The event's data.
    pub data: Value,
}

/// How far the facts of a source are in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SourceState {
    /// Everything up to this number was appended; 0 before the first.
    pub appended: u64,
}
