//! Parked frames: listed, shown, discarded and replayed.
//!
//! A workspace's are reachable for it; those that belong to none, for operators, at the internal API.
//! What works on many frames does so in chunks, each a transaction, up to a bound: the answer says
//! where to go on.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use runtime::db;
use runtime::http::{Json, PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use super::connections::workspace;
use super::installation;
use crate::acceptance::{Acceptance, Replayed, Replaying};
use crate::config::{AcceptanceConfig, ParkedConfig};
use crate::metrics;
use crate::store::StoreError;
use crate::store::parked::{self, Filter, Row, Scope, Sum};

/// How many rows one transaction works on.
const CHUNK: i64 = 200;
/// And how many bytes of bodies, unless one frame alone has more.
const CHUNK_BYTES: i64 = 4 * 1024 * 1024;
/// How many frames or letters a request works on, unless it says so.
const USUAL: u64 = 1000;
/// How many frames or letters a request may work on: what is done well before clients give up.
const MOST: u64 = 10_000;
/// How many frames a replay tells of one by one.
const TOLD: usize = 100;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct ParkedControl {
    pool: PgPool,
    acceptance: AcceptanceConfig,
    parked: ParkedConfig,
}

/// The routes of parked frames.
pub fn routes(pool: PgPool, acceptance: AcceptanceConfig, parked: ParkedConfig) -> Router {
    const OF_WORKSPACE: &str = "/v1/workspaces/{workspace}/parked";
    const INTERNAL: &str = "/internal/v1/parked";
    Router::new()
        .route(OF_WORKSPACE, get(list))
        .route(&format!("{OF_WORKSPACE}/{{id}}"), get(show))
        .route(&format!("{OF_WORKSPACE}/discard"), post(discard))
        .route(&format!("{OF_WORKSPACE}/replay"), post(replay))
        .route(INTERNAL, get(list_unattributed))
        .route(&format!("{INTERNAL}/{{id}}"), get(show_unattributed))
        .route(&format!("{INTERNAL}/discard"), post(discard_unattributed))
        .route(&format!("{INTERNAL}/replay"), post(replay_unattributed))
        .with_state(ParkedControl {
            pool,
            acceptance,
            parked,
        })
}

/// Which parked frames: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParkedFilter {
    /// The one with this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<i64>,
    /// Of this provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Of this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Uuid>,
    /// Parked for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Parked then or later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    /// Parked before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<DateTime<Utc>>,
}

impl From<ParkedFilter> for Filter {
    fn from(filter: ParkedFilter) -> Self {
        Self {
            id: filter.id,
            provider: filter.provider,
            connection: filter.connection,
            reason: filter.reason,
            from: filter.from,
            to: filter.to,
        }
    }
}

/// What to do with which parked frames.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParkedOrder {
    /// Which.
    pub filter: ParkedFilter,
    /// Only say what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Only those with greater ids: the `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// How many of what is stored an order may work on.
pub(super) fn order_limit(asked: Option<u64>) -> Result<i64, Problem> {
    let limit = asked.unwrap_or(USUAL);
    i64::try_from(limit)
        .ok()
        .filter(|_| (1..=MOST).contains(&limit))
        .ok_or_else(|| {
            let detail = format!("limit is {limit}; write a number from 1 to {MOST}");
            Problem::bad_request("invalid-limit", detail)
        })
}

/// A body as it is shown, behind the name of its encoding.
pub(super) fn shown(body: Vec<u8>) -> (&'static str, String) {
    match String::from_utf8(body) {
        Ok(text) => ("text", text),
        Err(error) => ("base64", STANDARD.encode(error.as_bytes())),
    }
}

/// What became of parked frames.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParkedOutcome {
    /// Whether this only says what would be.
    pub dry_run: bool,
    /// How many parked frames were worked on.
    pub frames: u64,
    /// How many they stand for, counted copies included.
    pub copies: u64,
    /// Of a replay: frames by verdict.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, u64>,
    /// Of a replay: frames that are parked still, by the reason of now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
    /// Of a replay: the first hundred frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ReplayedItem>,
    /// Where to go on, if there may be more.
    pub next: Option<i64>,
}

/// What a replay made of a frame.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayedItem {
    /// The parked frame.
    pub id: i64,
    /// What became of it.
    pub verdict: String,
    /// Why, where the verdict does not say it all.
    pub reason: Option<String>,
    /// How many copies it stands for, itself included.
    pub copies: u64,
}

/// A parked frame as shown.
#[derive(Debug, Serialize)]
struct View {
    id: i64,
    workspace: Option<String>,
    /// By its envelope's own word, which is not its workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_workspace: Option<String>,
    provider: Option<String>,
    connection: Option<Uuid>,
    session: Option<Uuid>,
    partition: Option<i32>,
    number: Option<i64>,
    received_at: Option<DateTime<Utc>>,
    parked_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    reason: String,
    detail: String,
    size: i32,
    attempts: i64,
    repeats: i64,
}

impl From<Row> for View {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            claimed_workspace: row.claimed_workspace.filter(|_| row.workspace.is_none()),
            workspace: row.workspace,
            provider: row.provider,
            connection: row.connection,
            session: row.session,
            partition: row.frame_partition,
            number: row.frame_number,
            received_at: row.received_at,
            parked_at: row.parked_at,
            last_at: row.last_at,
            reason: row.reason,
            detail: row.detail,
            size: row.size,
            attempts: row.attempts,
            repeats: row.repeats,
        }
    }
}

#[derive(Debug, Serialize)]
struct WholeView {
    #[serde(flatten)]
    view: View,
    headers: Option<Value>,
    /// `text`, or `base64` where it is none.
    encoding: &'static str,
    body: String,
}

/// Which part of which list is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ParkedQuery {
    limit: Option<i64>,
    after: Option<i64>,
    provider: Option<String>,
    connection: Option<Uuid>,
    reason: Option<String>,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
}

#[derive(Debug, Serialize)]
pub struct Listed {
    items: Vec<View>,
    next: Option<i64>,
}

async fn list(
    State(control): State<ParkedControl>,
    Path(name): Path<String>,
    Query(query): Query<ParkedQuery>,
) -> Result<axum::Json<Listed>, Problem> {
    control
        .list(&Scope::Workspace(workspace(&name)?), query)
        .await
}

async fn list_unattributed(
    State(control): State<ParkedControl>,
    Query(query): Query<ParkedQuery>,
) -> Result<axum::Json<Listed>, Problem> {
    control.list(&Scope::Unattributed, query).await
}

async fn show(
    State(control): State<ParkedControl>,
    Path((name, id)): Path<(String, i64)>,
) -> Result<axum::Json<Value>, Problem> {
    control.show(&Scope::Workspace(workspace(&name)?), id).await
}

async fn show_unattributed(
    State(control): State<ParkedControl>,
    Path(id): Path<i64>,
) -> Result<axum::Json<Value>, Problem> {
    control.show(&Scope::Unattributed, id).await
}

async fn discard(
    State(control): State<ParkedControl>,
    Path(name): Path<String>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    control
        .discard(&Scope::Workspace(workspace(&name)?), order)
        .await
}

async fn discard_unattributed(
    State(control): State<ParkedControl>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    control.discard(&Scope::Unattributed, order).await
}

async fn replay(
    State(control): State<ParkedControl>,
    Path(name): Path<String>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    control
        .replay(&Scope::Workspace(workspace(&name)?), order)
        .await
}

async fn replay_unattributed(
    State(control): State<ParkedControl>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    control.replay(&Scope::Unattributed, order).await
}

impl ParkedControl {
    async fn list(&self, scope: &Scope, query: ParkedQuery) -> Result<axum::Json<Listed>, Problem> {
        let size = PageSize::asked(query.limit)?;
        let filter = Filter {
            id: None,
            provider: query.provider,
            connection: query.connection,
            reason: query.reason,
            from: query.from,
            to: query.to,
        };
        let mut pg = self.pool.acquire().await?;
        let found = parked::page(&mut pg, scope, &filter, query.after, size.to_look_for()).await?;
        let (found, next) = size.cut(found, |row| row.id);
        Ok(axum::Json(Listed {
            items: found.into_iter().map(Into::into).collect(),
            next,
        }))
    }

    async fn show(&self, scope: &Scope, id: i64) -> Result<axum::Json<Value>, Problem> {
        let filter = Filter {
            id: Some(id),
            ..Filter::default()
        };
        let mut pg = self.pool.acquire().await?;
        let row = parked::page(&mut pg, scope, &filter, None, 1).await?.pop();
        let body = parked::bodies(&mut pg, &[id]).await?.pop();
        let Some((row, body)) = row.zip(body) else {
            let detail = format!("there is no parked frame {id} here");
            return Err(Problem::not_found("parked-frame-not-found", detail));
        };
        let (encoding, body) = shown(body.body);
        let whole = WholeView {
            headers: row.headers.clone(),
            view: row.into(),
            encoding,
            body,
        };
        let whole = serde_json::to_value(whole).map_err(|error| Problem::internal(&error))?;
        Ok(axum::Json(whole))
    }

    async fn discard(
        &self,
        scope: &Scope,
        order: ParkedOrder,
    ) -> Result<axum::Json<ParkedOutcome>, Problem> {
        let limit = order_limit(order.limit)?;
        let filter = Filter::from(order.filter);
        if order.dry_run {
            let mut pg = self.pool.acquire().await?;
            let Sum { frames, copies, .. } = parked::sum(&mut pg, scope, &filter).await?;
            return Ok(axum::Json(ParkedOutcome {
                dry_run: true,
                frames,
                copies,
                ..ParkedOutcome::default()
            }));
        }
        let mut outcome = ParkedOutcome::default();
        let mut left = limit;
        while left > 0 {
            let (at_once, filter) = (left.min(CHUNK), &filter);
            let sum = db::in_tx(&self.pool, "discard_parked", |mut tx| async move {
                let sum = parked::discard(&mut tx, scope, filter, at_once).await?;
                Ok::<_, StoreError>((tx, sum))
            })
            .await?;
            metrics::unparked("discarded", sum.copies);
            outcome.frames += sum.frames;
            outcome.copies += sum.copies;
            outcome.next = sum.last;
            let discarded = i64::try_from(sum.frames).unwrap_or(left);
            if discarded < at_once {
                outcome.next = None;
                break;
            }
            left -= discarded;
        }
        tracing::info!(
            ?scope,
            frames = outcome.frames,
            copies = outcome.copies,
            "parked frames were discarded"
        );
        Ok(axum::Json(outcome))
    }

    async fn replay(
        &self,
        scope: &Scope,
        order: ParkedOrder,
    ) -> Result<axum::Json<ParkedOutcome>, Problem> {
        let mut left = order_limit(order.limit)?;
        let filter = Filter::from(order.filter);
        let shards = installation(&mut *self.pool.acquire().await?)
            .await?
            .partitions;
        // Made anew, so that it knows connections as they are now.
        let acceptance =
            Acceptance::new(self.pool.clone(), &self.acceptance, shards).keeping(&self.parked);
        let mut outcome = ParkedOutcome {
            dry_run: order.dry_run,
            next: order.after,
            ..ParkedOutcome::default()
        };
        while left > 0 {
            let at_once = left.min(CHUNK);
            let Chunk { rows, last, is_end } =
                self.chunk(scope, &filter, outcome.next, at_once).await?;
            let replayed = if order.dry_run {
                acceptance.preview_replay(&rows).await?
            } else {
                acceptance.replay(&rows).await?
            };
            left -= i64::try_from(rows.len()).unwrap_or(left);
            outcome.next = last.or(outcome.next);
            outcome.add(replayed);
            if is_end {
                outcome.next = None;
                break;
            }
        }
        if !order.dry_run {
            tracing::info!(
                ?scope,
                frames = outcome.frames,
                verdicts = ?outcome.verdicts,
                "parked frames were replayed"
            );
        }
        Ok(axum::Json(outcome))
    }

    /// The next rows with their bodies, up to a number and size.
    async fn chunk(
        &self,
        scope: &Scope,
        filter: &Filter,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Chunk, Problem> {
        let mut pg = self.pool.acquire().await?;
        let found = parked::page(&mut pg, scope, filter, after, limit + 1).await?;
        let count = fitting(&found, limit);
        let is_end = count == found.len();
        let rows: BTreeMap<_, _> = found
            .into_iter()
            .take(count)
            .map(|row| (row.id, row))
            .collect();
        let last = rows.keys().last().copied();
        let ids: Vec<_> = rows.keys().copied().collect();
        let bodies = parked::bodies(&mut pg, &ids).await?;
        let rows = bodies.into_iter().filter_map(|body| {
            Some(Replaying {
                row: rows.get(&body.id)?.clone(),
                body: body.body,
            })
        });
        Ok(Chunk {
            rows: rows.collect(),
            last,
            is_end,
        })
    }
}

/// Rows that are worked on together.
struct Chunk {
    rows: Vec<Replaying>,
    last: Option<i64>,
    is_end: bool,
}

/// How many of `rows`, from the first, may be worked on together.
fn fitting(rows: &[Row], limit: i64) -> usize {
    let mut bytes = 0;
    let most = usize::try_from(limit).unwrap_or(1);
    rows.iter()
        .take(most)
        .enumerate()
        .take_while(|(index, row)| {
            bytes += i64::from(row.size);
            *index == 0 || bytes <= CHUNK_BYTES
        })
        .count()
}

impl ParkedOutcome {
    fn add(&mut self, replayed: Vec<Replayed>) {
        for replayed in replayed {
            self.frames += 1;
            self.copies += replayed.copies;
            if !self.dry_run && !replayed.is_parked() {
                metrics::unparked("replayed", replayed.copies);
            }
            for report in replayed.reports {
                let verdict = report.verdict.name().to_owned();
                *self.verdicts.entry(verdict.clone()).or_default() += 1;
                if let (Some(reason), "parked") = (&report.reason, verdict.as_str()) {
                    let name = reason.split(':').next().unwrap_or(reason);
                    *self.reasons.entry(name.to_owned()).or_default() += 1;
                }
                if self.items.len() < TOLD {
                    self.items.push(ReplayedItem {
                        id: replayed.id,
                        verdict,
                        reason: report.reason,
                        copies: replayed.copies,
                    });
                }
            }
        }
    }
}
