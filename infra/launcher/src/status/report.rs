//! What `headrace status` tells, as the API says it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// When it was asked (UTC).
    pub(super) at: DateTime<Utc>,
    /// Where.
    pub(super) api: String,
    pub(super) workspaces: Vec<Health>,
    /// None where the key may not see it, and where it does not answer.
    pub(super) pipeline: Option<Pipeline>,
    /// What did not answer, and why.
    pub(super) away: Vec<String>,
}

/// A workspace's health; see docs/health.md.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Health {
    pub(super) workspace: String,
    pub(super) vehicles: u64,
    pub(super) fresh: u64,
    pub(super) stale: u64,
    pub(super) offline: u64,
    pub(super) never_seen: u64,
    /// How many connections have which status.
    pub(super) connections: BTreeMap<String, u64>,
    pub(super) open_incidents: u64,
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Value>,
}

/// The pipeline; see docs/console.md.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Pipeline {
    pub(super) ingress: Ingress,
    pub(super) relay: Vec<Shard>,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) publishers: Vec<Publisher>,
    pub(super) parked: Vec<Parked>,
    pub(super) dead_letters: u64,
    pub(super) dead_events: u64,
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ingress {
    pub(super) partitions: Vec<Partition>,
    /// None while the broker is away.
    pub(super) messages: Option<u64>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Partition {
    pub(super) messages: Option<u64>,
    pub(super) consumers: Option<u64>,
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Shard {
    pub(super) lag_events: u64,
    pub(super) waiting_seconds: Option<f64>,
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Subscriber {
    pub(super) name: String,
    pub(super) lag_events: u64,
    pub(super) lag_seconds: Option<f64>,
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Publisher {
    pub(super) instance: String,
    pub(super) streams: u64,
    #[serde(flatten)]
    pub(super) more: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Parked {
    pub(super) reason: String,
    pub(super) frames: u64,
}
