//! A core of the tests' own: the log API on a log in memory, and the audit log.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post, put};
use axum::{Json, Router};
use runtime::access::{Begun, Change, Concluded};
use runtime::config::HttpConfig;
use runtime::http::Problem;
use runtime::{clock, http};
use serde::Deserialize;
use serde_json::Value;
use shared_model::WorkspaceId;
use shared_model::event::{CloudEvent, EventType, LogPosition};
use shared_model::log::{
    LogState, Progress, ShardState, SourceEvent, SourceEvents, SourceState, StateItem, StatePage,
};
use uuid::Uuid;

use crate::CoreConfig;

type Shared = Arc<Mutex<Log>>;

/// What the stand-in knows, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// By shard, every event, from offset 1.
    pub(crate) shards: BTreeMap<u32, Vec<CloudEvent>>,
    /// By shard, the first offset that is still told of, if it is not 1.
    pub(crate) first: BTreeMap<u32, u64>,
    /// How far subscribers have come.
    pub(crate) progress: BTreeMap<String, Progress>,
    /// Which of them have begun anew, and with what.
    pub(crate) anew: BTreeMap<String, Progress>,
    /// Refuses all others, as after a restore.
    pub(crate) is_restored: bool,
    /// Which offsets were asked for: shard, first and last.
    pub(crate) asked: Vec<(u32, u64, u64)>,
    /// What another service has found.
    pub(crate) found: Vec<SourceEvent>,
    /// How often somebody had found something, or asked.
    pub(crate) tellings: usize,
    /// Takes nothing that was found.
    pub(crate) is_deaf: bool,
    /// Takes what was found the next time, and does not say so.
    pub(crate) is_forgetful: bool,
    pub(crate) audit: Audit,
}

/// The audit log.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// What was to be changed, and how that ended.
    pub(crate) entries: Vec<(Change, Option<u16>)>,
    /// Takes none.
    pub(crate) is_away: bool,
}

/// The stand-in.
pub(crate) struct CoreStandIn {
    context: runtime::Context,
    log: Shared,
    config: CoreConfig,
}

impl CoreStandIn {
    pub(crate) async fn start() -> Self {
        let log = Shared::default();
        let routes = Router::new()
            .route("/internal/v1/log", get(show))
            .route("/internal/v1/log/{shard}", get(read))
            .route("/internal/v1/state", get(page))
            .route("/internal/v1/subscribers/{name}", put(report))
            .route("/internal/v1/sources/health/events", post(take_found))
            .route("/internal/v1/audit", post(begin))
            .route("/internal/v1/audit/{id}", put(conclude))
            .with_state(Arc::clone(&log));
        let context = runtime::Context::new("core", "stand-in");
        let address = http::serve_open(&context, &HttpConfig::local(0), routes).await;
        let url = format!("http://{}", address.unwrap());
        Self {
            context,
            log,
            config: CoreConfig { url },
        }
    }

    /// Where it is.
    pub(crate) fn config(&self) -> CoreConfig {
        self.config.clone()
    }

    /// Appends an event to `shard`, and returns it.
    pub(crate) fn append(&self, shard: u32, kind: EventType, data: Value) -> CloudEvent {
        let mut log = self.log();
        let events = log.shards.entry(shard).or_default();
        let position = LogPosition {
            shard,
            offset: events.len() as u64 + 1,
            logged_at: clock::now(),
        };
        let workspace = WorkspaceId::new("demo").unwrap();
        let event = CloudEvent::new(&position, kind, workspace, None, None, data);
        events.push(event.clone());
        event
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap()
    }

    pub(crate) async fn stop(self) {
        self.context.stop().await.unwrap();
    }
}

impl Log {
    fn first(&self, shard: u32) -> u64 {
        self.first.get(&shard).copied().unwrap_or(1)
    }

    fn state(&self, progress: Option<&Progress>) -> LogState {
        let shard = |(shard, events): (&u32, &Vec<CloudEvent>)| {
            let applied = progress.map(|of| of.applied.get(shard).copied().unwrap_or(0));
            let waiting = applied.and_then(|applied| events.get(usize::try_from(applied).unwrap()));
            ShardState {
                shard: *shard,
                first: self.first(*shard),
                head: events.len() as u64,
                relayed: events.len() as u64,
                restored: 0,
                waiting_since: waiting.map(|event| event.time),
            }
        };
        LogState {
            shards: self.shards.iter().map(shard).collect(),
            generation: 1,
        }
    }
}

async fn show(State(log): State<Shared>) -> Json<LogState> {
    Json(log.lock().unwrap().state(None))
}

/// An entry's id is its place.
async fn begin(
    State(log): State<Shared>,
    Json(change): Json<Change>,
) -> Result<Json<Begun>, StatusCode> {
    let mut log = log.lock().unwrap();
    if log.audit.is_away {
        return Err(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let id = Uuid::from_u128(log.audit.entries.len() as u128);
    log.audit.entries.push((change, None));
    Ok(Json(Begun { id }))
}

async fn conclude(
    State(log): State<Shared>,
    Path(id): Path<Uuid>,
    Json(concluded): Json<Concluded>,
) -> StatusCode {
    let place = usize::try_from(id.as_u128()).unwrap();
    log.lock().unwrap().audit.entries[place].1 = Some(concluded.status);
    StatusCode::NO_CONTENT
}

async fn report(
    State(log): State<Shared>,
    Path(name): Path<String>,
    Query(asked): Query<BTreeMap<String, String>>,
    Json(progress): Json<Progress>,
) -> Result<Json<LogState>, StatusCode> {
    let mut log = log.lock().unwrap();
    if asked.contains_key("reset") {
        log.is_restored = false;
        log.anew.insert(name.clone(), progress.clone());
    } else if log.is_restored {
        return Err(StatusCode::CONFLICT);
    }
    let state = log.state(Some(&progress));
    log.progress.insert(name, progress);
    Ok(Json(state))
}

async fn take_found(
    State(log): State<Shared>,
    Json(told): Json<SourceEvents>,
) -> Result<Json<SourceState>, Problem> {
    let mut log = log.lock().unwrap();
    let away = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "away", "try again");
    log.tellings += 1;
    if log.is_deaf {
        return Err(away());
    }
    for event in told.events {
        let next = log.found.len() as u64 + 1;
        if event.number > next {
            let detail = format!("number {next} comes next");
            return Err(Problem::new(StatusCode::CONFLICT, "hole", detail));
        }
        if event.number == next {
            log.found.push(event);
        }
    }
    if std::mem::take(&mut log.is_forgetful) {
        return Err(away());
    }
    let appended = log.found.len() as u64;
    Ok(Json(SourceState { appended }))
}

#[derive(Deserialize)]
struct Asked {
    after: usize,
    limit: usize,
}

async fn read(
    State(log): State<Shared>,
    Path(shard): Path<u32>,
    Query(asked): Query<Asked>,
) -> Result<Vec<u8>, StatusCode> {
    let mut log = log.lock().unwrap();
    let (first, last) = (asked.after as u64 + 1, (asked.after + asked.limit) as u64);
    log.asked.push((shard, first, last));
    if first < log.first(shard) {
        return Err(StatusCode::GONE);
    }
    let events = log.shards.get(&shard).into_iter().flatten();
    let lines = events.skip(asked.after).take(asked.limit).map(|event| {
        let mut line = serde_json::to_vec(event).unwrap();
        line.push(b'\n');
        line
    });
    Ok(lines.flatten().collect())
}

#[derive(Deserialize)]
struct AskedPage {
    after: Option<String>,
}

/// A vehicle a page.
async fn page(State(log): State<Shared>, Query(asked): Query<AskedPage>) -> Json<StatePage> {
    let log = log.lock().unwrap();
    let mut newest = BTreeMap::<String, StateItem>::new();
    for event in log.shards.values().flatten() {
        let Some(vehicle) = event.data["vehicle"].as_str() else {
            continue;
        };
        // What was published last is what is known.
        let item = StateItem {
            workspace: event.workspace.clone(),
            kind: event.kind.clone(),
            data: event.data.clone(),
        };
        newest
            .entry(vehicle.to_owned())
            .and_modify(|known| {
                if item.data["version"].as_u64() > known.data["version"].as_u64() {
                    *known = item.clone();
                }
            })
            .or_insert(item);
    }
    let at: usize = asked.after.map_or(0, |after| after.parse().unwrap());
    let next = (at + 1 < newest.len()).then(|| (at + 1).to_string());
    let items = newest.into_values().skip(at).take(1).collect();
    Json(StatePage { items, next })
}
