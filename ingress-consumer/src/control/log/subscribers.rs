//! Subscribers: how far each has come, so that the log is kept for it; listed and forgotten.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use runtime::db;
use runtime::http::{Json, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::log::{LogState, Progress};
use utoipa::ToSchema;

use super::{LogApi, shard_state};
use crate::control::params::AtSubscriber;
use crate::installation::{FIRST_GENERATION, log_generation};
use crate::store::StoreError;
use crate::store::event_log::{self, Head};
use crate::store::subscriber::{self, Place};

/// A subscriber's name is part of paths and of log lines.
const LONGEST_NAME: usize = 64;

/// Every subscriber.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubscriberPage {
    /// By name.
    pub items: Vec<SubscriberView>,
}

/// A subscriber as shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubscriberView {
    /// Its name.
    pub name: String,
    /// When it was first heard of (UTC, the database's clock).
    pub registered_at: DateTime<Utc>,
    /// When it was last heard of.
    pub seen_at: DateTime<Utc>,
    /// How many events it has not applied, as far as it has said.
    pub lag_events: u64,
    /// For how many seconds the oldest of them has waited; 0 if there is none.
    pub lag_seconds: f64,
    /// The same by shard.
    pub shards: Vec<SubscriberShard>,
}

/// How far a subscriber has come in a shard.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SubscriberShard {
    /// The shard.
    pub shard: u32,
    /// Up to here it has applied every event.
    pub applied: u64,
    /// The shard's last offset.
    pub head: u64,
    /// When the first event was committed that it has not applied.
    pub waiting_since: Option<DateTime<Utc>>,
}

impl From<Place> for SubscriberShard {
    fn from(place: Place) -> Self {
        Self {
            shard: place.shard,
            applied: place.applied,
            head: place.head,
            waiting_since: place.waiting_since,
        }
    }
}

/// Whether a subscriber begins anew.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Anew {
    #[serde(default)]
    reset: bool,
}

pub async fn progress(
    State(api): State<LogApi>,
    Path(name): Path<String>,
    Query(Anew { reset }): Query<Anew>,
    Json(progress): Json<Progress>,
) -> Result<axum::Json<LogState>, Problem> {
    take(&api, &name, &progress, reset).await.map(axum::Json)
}

/// Say for a subscriber that it has begun anew
///
/// For one that cannot say so itself after the database was restored: empty its queue first. One that is
/// not known is registered, and has applied nothing.
#[utoipa::path(
    post,
    path = "/v1/subscribers/{name}/reset",
    operation_id = "resetSubscriber",
    tag = "pipeline",
    params(AtSubscriber),
    responses((status = 204, description = "It begins anew.")),
    security(("credential" = ["operate"]))
)]
pub async fn reset(
    State(api): State<LogApi>,
    Path(AtSubscriber { name }): Path<AtSubscriber>,
) -> Result<StatusCode, Problem> {
    take(&api, &name, &Progress::default(), true).await?;
    tracing::info!(subscriber = name, "it has begun anew");
    Ok(StatusCode::NO_CONTENT)
}

/// Keeps how far a subscriber has come; returns where the log stands.
async fn take(
    api: &LogApi,
    name: &str,
    Progress { applied }: &Progress,
    reset: bool,
) -> Result<LogState, Problem> {
    check_name(name)?;
    api.heads().await?;
    let state = db::in_tx(&api.pool, "subscriber_progress", |mut tx| async move {
        let known = subscriber::lock_generation(&mut tx, name).await?;
        let current = log_generation(&mut tx).await?;
        let heads = event_log::heads(&mut tx).await?;
        let told = Told {
            known,
            applied,
            reset,
        };
        if let Err(refusal) = told.check(current, &heads) {
            return Ok((tx, Err(refusal)));
        }
        subscriber::keep(&mut tx, name, current, applied, reset).await?;
        let places = subscriber::places(&mut tx, Some(name)).await?;
        Ok::<_, StoreError>((tx, Ok(log_state(&heads, &places))))
    })
    .await??;
    Ok(state)
}

/// List the subscribers of the event log, and how far each has come
#[utoipa::path(
    get,
    path = "/v1/subscribers",
    operation_id = "listSubscribers",
    tag = "pipeline",
    responses((status = 200, description = "Every subscriber.", body = SubscriberPage)),
    security(("credential" = ["operate"]))
)]
pub async fn list(State(api): State<LogApi>) -> Result<axum::Json<SubscriberPage>, Problem> {
    let mut pg = api.pool.acquire().await?;
    let mut places = BTreeMap::<_, Vec<_>>::new();
    for place in subscriber::places(&mut pg, None).await? {
        places.entry(place.name.clone()).or_default().push(place);
    }
    let items = subscriber::all(&mut pg).await?.into_iter().map(|known| {
        let shards = places.remove(&known.name).unwrap_or_default();
        let waited = shards.iter().filter_map(|place| place.waiting_seconds);
        let behind = shards
            .iter()
            .map(|place| place.head.saturating_sub(place.applied));
        SubscriberView {
            lag_events: behind.sum(),
            // Clocks of transactions may differ by a moment.
            lag_seconds: waited.fold(0.0, f64::max),
            name: known.name,
            registered_at: known.registered_at,
            seen_at: known.seen_at,
            shards: shards.into_iter().map(Into::into).collect(),
        }
    });
    Ok(axum::Json(SubscriberPage {
        items: items.collect(),
    }))
}

/// Forget a subscriber
///
/// The event log is not kept for it any more. One that is there after all is registered again.
#[utoipa::path(
    delete,
    path = "/v1/subscribers/{name}",
    operation_id = "forgetSubscriber",
    tag = "pipeline",
    params(AtSubscriber),
    responses((status = 204, description = "It is forgotten.")),
    security(("credential" = ["operate"]))
)]
pub async fn forget(
    State(api): State<LogApi>,
    Path(AtSubscriber { name }): Path<AtSubscriber>,
) -> Result<StatusCode, Problem> {
    check_name(&name)?;
    if subscriber::forget(&mut *api.pool.acquire().await?, &name).await? {
        tracing::info!(subscriber = name, "the log is not kept for it any more");
        return Ok(StatusCode::NO_CONTENT);
    }
    let detail = format!("there is no subscriber {name:?}");
    Err(Problem::not_found("subscriber-not-found", detail))
}

fn check_name(name: &str) -> Result<(), Problem> {
    let valid = (1..=LONGEST_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
    if valid {
        return Ok(());
    }
    let detail = format!(
        "subscriber {name:?}: write 1 to {LONGEST_NAME} of a-z, 0-9, '-', '_' and '.', beginning with a \
         letter"
    );
    Err(Problem::bad_request("invalid-subscriber", detail))
}

/// The shards with when the subscriber's first missing event was committed.
fn log_state(heads: &[Head], places: &[Place]) -> LogState {
    let shards = heads.iter().map(|head| {
        let mut state = shard_state(head);
        let place = places.iter().find(|place| place.shard == head.shard);
        state.waiting_since = place.and_then(|place| place.waiting_since);
        state
    });
    LogState {
        shards: shards.collect(),
    }
}

/// What a subscriber says of itself.
#[derive(Debug)]
struct Told<'a> {
    /// The generation of the log that it last confirmed; none if it is not registered.
    known: Option<i64>,
    applied: &'a BTreeMap<u32, u64>,
    reset: bool,
}

/// Why a subscriber's progress is not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Refusal {
    NoShard {
        shard: u32,
    },
    Ahead {
        shard: u32,
        applied: u64,
        head: u64,
    },
    Diverged {
        shard: u32,
        applied: u64,
        common: u64,
    },
}

impl Told<'_> {
    /// Whether the offsets can be of the log as it is in its generation `current`.
    ///
    /// A log that was restored from a dump gives offsets behind the dump's head to other events than
    /// before. What was applied up to that head is the same in both. A subscriber that says more for
    /// the first time after a restore may have applied events that the log does not have: it must
    /// begin anew.
    fn check(&self, current: i64, heads: &[Head]) -> Result<(), Refusal> {
        for (&shard, &applied) in self.applied {
            let head = heads
                .iter()
                .find(|head| head.shard == shard)
                .ok_or(Refusal::NoShard { shard })?;
            if applied > head.last {
                return Err(Refusal::Ahead {
                    shard,
                    applied,
                    head: head.last,
                });
            }
            let is_new = current > FIRST_GENERATION && self.known != Some(current);
            if is_new && !self.reset && applied > head.restored {
                return Err(Refusal::Diverged {
                    shard,
                    applied,
                    common: head.restored,
                });
            }
        }
        Ok(())
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let detail = match refusal {
            Refusal::NoShard { shard } => {
                let detail = format!("the event log has no shard {shard}");
                return Self::bad_request("unknown-shard", detail);
            }
            Refusal::Ahead {
                shard,
                applied,
                head,
            } => format!(
                "shard {shard} ends at offset {head}, before {applied}, so the log was restored from a \
                 dump: empty the subscriber's queue, begin anew and say so with ?reset=true"
            ),
            Refusal::Diverged {
                shard,
                applied,
                common,
            } => format!(
                "the log was restored from a dump that ended at offset {common} of shard {shard}; what \
                 was applied up to {applied} may have been other events: empty the subscriber's queue, \
                 begin anew and say so with ?reset=true"
            ),
        };
        Self::new(StatusCode::CONFLICT, "log-restored", detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(last: u64, restored: u64) -> [Head; 1] {
        [Head {
            shard: 0,
            first: 1,
            last,
            relayed: 0,
            restored,
        }]
    }

    fn check(
        known: Option<i64>,
        applied: u64,
        reset: bool,
        current: i64,
        heads: &[Head],
    ) -> Result<(), Refusal> {
        let applied = BTreeMap::from([(0, applied)]);
        let told = Told {
            known,
            applied: &applied,
            reset,
        };
        told.check(current, heads)
    }

    #[test]
    fn a_log_that_was_never_restored_takes_any_progress_up_to_its_head() {
        for known in [None, Some(1)] {
            assert_eq!(check(known, 10, false, 1, &head(10, 0)), Ok(()));
            let ahead = Refusal::Ahead {
                shard: 0,
                applied: 11,
                head: 10,
            };
            for reset in [false, true] {
                assert_eq!(check(known, 11, reset, 1, &head(10, 0)), Err(ahead.clone()));
            }
        }
    }

    #[test]
    fn after_a_restore_only_what_both_histories_share_counts_as_applied() {
        let heads = head(20, 10);
        let diverged = Refusal::Diverged {
            shard: 0,
            applied: 11,
            common: 10,
        };
        for known in [None, Some(1)] {
            assert_eq!(check(known, 10, false, 2, &heads), Ok(()));
            assert_eq!(check(known, 11, false, 2, &heads), Err(diverged.clone()));
            assert_eq!(check(known, 11, true, 2, &heads), Ok(()), "it began anew");
        }
        assert_eq!(check(Some(2), 20, false, 2, &heads), Ok(()), "confirmed");
    }
}
