//! The relays that run, and how far each shard is, for operators.

use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::Problem;
use serde::Serialize;
use uuid::Uuid;

use super::Control;
use crate::store::relay::{self, Relay, ShardProgress};

/// Which relays run, and how far each shard is.
#[derive(Debug, Serialize)]
pub struct RelayList {
    relays: Vec<RelayView>,
    shards: Vec<ShardView>,
}

#[derive(Debug, Serialize)]
struct RelayView {
    relay: Uuid,
    instance: String,
    started_at: DateTime<Utc>,
    lease_until: DateTime<Utc>,
    shards: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct ShardView {
    shard: u32,
    /// The relay that has it; none while nobody has.
    relay: Option<Uuid>,
    epoch: u64,
    lease_until: Option<DateTime<Utc>>,
    relayed: u64,
    head: u64,
    lag_events: u64,
    lag_seconds: f64,
    /// When the first event was committed that is not relayed.
    oldest_at: Option<DateTime<Utc>>,
    blocked_events: u64,
    blocked_subjects: u64,
    dead_events: u64,
}

pub async fn list(State(control): State<Control>) -> Result<axum::Json<RelayList>, Problem> {
    let mut pg = control.pool.acquire().await?;
    let shards = relay::progress(&mut pg).await?;
    let relays = relay::relays(&mut pg).await?;
    Ok(axum::Json(view(relays, shards)))
}

fn view(relays: Vec<Relay>, shards: Vec<ShardProgress>) -> RelayList {
    let of = |relay: Uuid| {
        let of = shards.iter().filter(|shard| shard.owner == Some(relay));
        of.map(|shard| shard.shard).collect()
    };
    let relays = relays.into_iter().map(|relay| RelayView {
        shards: of(relay.relay),
        relay: relay.relay,
        instance: relay.instance,
        started_at: relay.started_at,
        lease_until: relay.lease_until,
    });
    RelayList {
        relays: relays.collect(),
        shards: shards.into_iter().map(Into::into).collect(),
    }
}

impl From<ShardProgress> for ShardView {
    fn from(at: ShardProgress) -> Self {
        Self {
            shard: at.shard,
            relay: at.owner,
            epoch: at.epoch,
            lease_until: at.lease_until,
            relayed: at.relayed,
            head: at.head,
            lag_events: at.head.saturating_sub(at.relayed),
            lag_seconds: at.waited,
            oldest_at: at.oldest_at,
            blocked_events: at.blocked,
            blocked_subjects: at.blocked_subjects,
            dead_events: at.dead,
        }
    }
}
