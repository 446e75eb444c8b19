//! Dead events: those that the broker refused too often, listed, shown and redriven.

mod order;

use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::db;
use runtime::http::{Json, PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::CloudEvent;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Control;
use super::params::{AtDeadEvent, InWorkspace};
use crate::metrics;
use crate::store::StoreError;
use crate::store::blocked_event::{self, Dead, Place};
use crate::store::event_log::LoggedEvent;

use order::MOST;
pub use order::{RedriveOrder, RedriveOutcome};

pub fn router() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(redrive))
}

/// A dead event as listed.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadEvent {
    /// The event's id: its shard and its offset.
    id: String,
    /// The event's type.
    #[serde(rename = "type")]
    kind: String,
    /// The vehicle or connection that it is about.
    subject: Option<String>,
    /// When it was committed (UTC).
    time: DateTime<Utc>,
    /// The size of the event's data in bytes.
    bytes: u64,
    /// When the broker first refused it (UTC).
    blocked_at: DateTime<Utc>,
    /// When it was given up on (UTC).
    died_at: DateTime<Utc>,
    /// How often it was refused.
    attempts: u32,
    /// What the broker said last.
    reason: String,
}

impl From<Dead> for DeadEvent {
    fn from(dead: Dead) -> Self {
        Self {
            id: dead.place.to_string(),
            kind: dead.event_type,
            subject: dead.subject,
            time: dead.logged_at,
            bytes: dead.bytes,
            blocked_at: dead.blocked_at,
            died_at: dead.died_at,
            attempts: dead.attempts,
            reason: dead.reason,
        }
    }
}

/// Which part of the list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DeadQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<i64>,
    /// The `next` of the page before, an event's id: the list goes on behind it.
    #[param(pattern = "^[0-9]{1,9}:[0-9]{1,18}$", nullable = false)]
    after: Option<String>,
}

/// A page of dead events.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadEventPage {
    /// The events, in the order of the log.
    items: Vec<DeadEvent>,
    /// Where the next page begins, if there may be one.
    next: Option<String>,
}

/// List a workspace's dead events
///
/// Those that the broker refused too often. They are kept until they are redriven.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/dead-events",
    operation_id = "listDeadEvents",
    tag = "pipeline",
    params(InWorkspace, DeadQuery),
    responses((status = 200, description = "A page of dead events.", body = DeadEventPage)),
    security(("credential" = ["read"]))
)]
async fn list(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Query(query): Query<DeadQuery>,
) -> Result<axum::Json<DeadEventPage>, Problem> {
    let workspace = at.workspace()?;
    let size = PageSize::asked(query.limit)?;
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let mut pg = control.pool.acquire().await?;
    let limit = size.to_look_for();
    let found = blocked_event::dead(&mut pg, workspace.as_str(), None, after, limit).await?;
    let (found, next) = size.cut(found, |dead| dead.place.to_string());
    Ok(axum::Json(DeadEventPage {
        items: found.into_iter().map(Into::into).collect(),
        next,
    }))
}

/// A dead event with its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct WholeDeadEvent {
    #[serde(flatten)]
    view: DeadEvent,
    /// As it would be published.
    #[schema(value_type = CloudEvent)]
    event: LoggedEvent,
}

/// Show a dead event with its content
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/dead-events/{id}",
    operation_id = "showDeadEvent",
    tag = "pipeline",
    params(AtDeadEvent),
    responses((status = 200, description = "The event.", body = WholeDeadEvent)),
    security(("credential" = ["read"]))
)]
async fn show(
    State(control): State<Control>,
    Path(at): Path<AtDeadEvent>,
) -> Result<axum::Json<WholeDeadEvent>, Problem> {
    let workspace = at.workspace()?;
    let place: Place = at.id.parse()?;
    let mut pg = control.pool.acquire().await?;
    let dead = blocked_event::dead(&mut pg, workspace.as_str(), Some(place), None, 1).await?;
    let event = blocked_event::dead_event(&mut pg, workspace.as_str(), place).await?;
    let Some((dead, event)) = dead.into_iter().next().zip(event) else {
        let detail = format!("there is no dead event {place} here");
        return Err(Problem::not_found("dead-event-not-found", detail));
    };
    Ok(axum::Json(WholeDeadEvent {
        view: dead.into(),
        event,
    }))
}

/// Have the relay publish dead events once more
///
/// Either those that `ids` names or, with `all`, up to 1000 of the workspace's. Ids that are not of dead
/// events of the workspace are left out.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/dead-events/redrive",
    operation_id = "redriveDeadEvents",
    tag = "pipeline",
    params(InWorkspace),
    request_body = RedriveOrder,
    responses((status = 200, description = "How many were, or would be.", body = RedriveOutcome)),
    security(("credential" = ["manage"]))
)]
async fn redrive(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Json(order): Json<RedriveOrder>,
) -> Result<axum::Json<RedriveOutcome>, Problem> {
    let workspace = at.workspace()?;
    let places = order.places()?;
    let (workspace, places) = (workspace.as_str(), places.as_deref());
    if order.dry_run {
        let mut pg = control.pool.acquire().await?;
        return Ok(axum::Json(RedriveOutcome {
            dry_run: true,
            events: blocked_event::count_dead(&mut pg, workspace, places).await?,
            more: false,
        }));
    }
    let events = db::in_tx(&control.pool, "redrive_events", |mut tx| async move {
        let events = blocked_event::redrive(&mut tx, workspace, places, MOST).await?;
        Ok::<_, StoreError>((tx, events))
    })
    .await?;
    metrics::redriven(events);
    tracing::info!(
        workspace,
        events,
        "dead events are handed to the relay again"
    );
    Ok(axum::Json(RedriveOutcome {
        dry_run: false,
        events,
        more: events == MOST.unsigned_abs(),
    }))
}
