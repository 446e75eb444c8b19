//! Parked frames: listed, shown, discarded and replayed.
//!
//! A workspace's are reachable for it; those that belong to none, for operators, at the internal API.
//! What works on many frames does so in chunks, each a transaction, up to a bound: the answer says
//! where to go on.

use std::collections::BTreeMap;

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
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::params::{AtParked, InWorkspace};
use super::words::{encoding, frame_verdict};
use super::{input, installation};
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
pub fn routes(pool: PgPool, acceptance: AcceptanceConfig, parked: ParkedConfig) -> OpenApiRouter {
    router().with_state(ParkedControl {
        pool,
        acceptance,
        parked,
    })
}

/// The same without what their handlers share.
pub fn router() -> OpenApiRouter<ParkedControl> {
    const INTERNAL: &str = "/internal/v1/parked";
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(discard))
        .routes(routes!(replay))
        .route(INTERNAL, get(list_unattributed))
        .route(&format!("{INTERNAL}/{{id}}"), get(show_unattributed))
        .route(&format!("{INTERNAL}/discard"), post(discard_unattributed))
        .route(&format!("{INTERNAL}/replay"), post(replay_unattributed))
}

/// Which parked frames: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParkedFilter {
    /// The one with this id.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::row_id"
    )]
    #[schema(minimum = 0)]
    pub id: Option<i64>,
    /// Of this provider.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::provider"
    )]
    #[schema(pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub provider: Option<String>,
    /// Of this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Uuid>,
    /// Parked for this reason.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::word"
    )]
    #[schema(pattern = "^[a-z0-9_]{0,64}$", example = "invalid_value")]
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
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParkedOrder {
    /// Which.
    pub filter: ParkedFilter,
    /// Only say what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Of a replay, only those with greater ids: the `next` of the answer before.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::row_id"
    )]
    #[schema(minimum = 0)]
    pub after: Option<i64>,
    /// At most so many; 1000 unless it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
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
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplayedItem {
    /// The parked frame.
    pub id: i64,
    /// What became of it.
    #[schema(schema_with = frame_verdict)]
    pub verdict: String,
    /// Why, where the verdict does not say it all.
    pub reason: Option<String>,
    /// How many copies it stands for, itself included.
    pub copies: u64,
}

/// A parked frame as shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedFrame {
    /// Its id.
    id: i64,
    /// Whose it is.
    workspace: Option<String>,
    /// By its envelope's own word, which is not its workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_workspace: Option<String>,
    /// Its provider.
    provider: Option<String>,
    /// Its connection.
    connection: Option<Uuid>,
    /// The session that it was received in.
    session: Option<Uuid>,
    /// The partition that it was numbered for.
    partition: Option<i32>,
    /// Its number in the session.
    number: Option<i64>,
    /// When it was received (UTC).
    received_at: Option<DateTime<Utc>>,
    /// When it was parked (UTC).
    parked_at: DateTime<Utc>,
    /// When its last copy came (UTC).
    last_at: DateTime<Utc>,
    /// Why it was parked: the reason's name.
    reason: String,
    /// Why exactly, in words.
    detail: String,
    /// How many bytes its body has.
    size: i32,
    /// How many replays parked it again.
    attempts: i64,
    /// How many further copies came.
    repeats: i64,
}

impl From<Row> for ParkedFrame {
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

/// A parked frame with its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct WholeParkedFrame {
    #[serde(flatten)]
    view: ParkedFrame,
    /// Of a message that is no envelope: what else it came with.
    #[schema(value_type = Option<Object>)]
    headers: Option<Value>,
    /// `text`, or `base64` where it is none.
    #[schema(schema_with = encoding)]
    encoding: &'static str,
    /// Its body, byte for byte, as `encoding` says.
    body: String,
}

/// Which part of which list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ParkedQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<i64>,
    /// The `next` of the page before: the list goes on behind it.
    #[serde(default, deserialize_with = "input::row_id")]
    #[param(minimum = 0, nullable = false)]
    after: Option<i64>,
    /// Only of this provider.
    #[serde(default, deserialize_with = "input::provider")]
    #[param(pattern = "^[a-z][a-z0-9-]{0,31}$", nullable = false)]
    provider: Option<String>,
    /// Only of this connection.
    #[param(nullable = false)]
    connection: Option<Uuid>,
    /// Only those parked for this reason, such as `invalid_value`.
    #[serde(default, deserialize_with = "input::word")]
    #[param(pattern = "^[a-z0-9_]{0,64}$", nullable = false)]
    reason: Option<String>,
    /// Only those parked then or later (RFC 3339).
    #[param(nullable = false)]
    from: Option<DateTime<Utc>>,
    /// Only those parked before (RFC 3339).
    #[param(nullable = false)]
    to: Option<DateTime<Utc>>,
}

/// A page of parked frames.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedPage {
    /// The frames, oldest first.
    items: Vec<ParkedFrame>,
    /// Where the next page begins, if there may be one.
    next: Option<i64>,
}

/// List a workspace's parked frames
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/parked",
    operation_id = "listParked",
    tag = "parked frames",
    params(InWorkspace, ParkedQuery),
    responses((status = 200, description = "A page of parked frames, oldest first.", body = ParkedPage)),
    security(("credential" = ["read"]))
)]
async fn list(
    State(control): State<ParkedControl>,
    Path(at): Path<InWorkspace>,
    Query(query): Query<ParkedQuery>,
) -> Result<axum::Json<ParkedPage>, Problem> {
    control
        .list(&Scope::Workspace(at.workspace()?), query)
        .await
}

async fn list_unattributed(
    State(control): State<ParkedControl>,
    Query(query): Query<ParkedQuery>,
) -> Result<axum::Json<ParkedPage>, Problem> {
    control.list(&Scope::Unattributed, query).await
}

/// Show a parked frame with its content
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/parked/{id}",
    operation_id = "showParked",
    tag = "parked frames",
    params(AtParked),
    responses((status = 200, description = "The frame.", body = WholeParkedFrame)),
    security(("credential" = ["read"]))
)]
async fn show(
    State(control): State<ParkedControl>,
    Path(at): Path<AtParked>,
) -> Result<axum::Json<WholeParkedFrame>, Problem> {
    let scope = Scope::Workspace(at.workspace()?);
    control.show(&scope, at.id).await
}

async fn show_unattributed(
    State(control): State<ParkedControl>,
    Path(id): Path<i64>,
) -> Result<axum::Json<WholeParkedFrame>, Problem> {
    control.show(&Scope::Unattributed, id).await
}

/// Discard the parked frames that a filter names
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/parked/discard",
    operation_id = "discardParked",
    tag = "parked frames",
    params(InWorkspace),
    request_body = ParkedOrder,
    responses((status = 200, description = "How many were, or would be.", body = ParkedOutcome)),
    security(("credential" = ["manage"]))
)]
async fn discard(
    State(control): State<ParkedControl>,
    Path(at): Path<InWorkspace>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    let scope = Scope::Workspace(at.workspace()?);
    control.discard(&scope, order).await
}

async fn discard_unattributed(
    State(control): State<ParkedControl>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    control.discard(&Scope::Unattributed, order).await
}

/// Replay the parked frames that a filter names
///
/// Each goes the way of every frame once more, with the time of receipt that it had. What still cannot be
/// read stays parked.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/parked/replay",
    operation_id = "replayParked",
    tag = "parked frames",
    params(InWorkspace),
    request_body = ParkedOrder,
    responses((status = 200, description = "What became, or would become, of them.", body = ParkedOutcome)),
    security(("credential" = ["manage"]))
)]
async fn replay(
    State(control): State<ParkedControl>,
    Path(at): Path<InWorkspace>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    let scope = Scope::Workspace(at.workspace()?);
    control.replay(&scope, order).await
}

async fn replay_unattributed(
    State(control): State<ParkedControl>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    control.replay(&Scope::Unattributed, order).await
}

impl ParkedControl {
    async fn list(
        &self,
        scope: &Scope,
        query: ParkedQuery,
    ) -> Result<axum::Json<ParkedPage>, Problem> {
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
        Ok(axum::Json(ParkedPage {
            items: found.into_iter().map(Into::into).collect(),
            next,
        }))
    }

    async fn show(&self, scope: &Scope, id: i64) -> Result<axum::Json<WholeParkedFrame>, Problem> {
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
        Ok(axum::Json(WholeParkedFrame {
            headers: row.headers.clone(),
            view: row.into(),
            encoding,
            body,
        }))
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
