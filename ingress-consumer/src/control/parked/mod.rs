//! Parked frames: listed, shown, discarded and replayed.
//!
//! A workspace's are reachable for it; those that belong to none, for who operates the installation.

mod view;
mod work;

use axum::extract::State;
use runtime::http::{Json, Path, Problem, Query};
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::{AtParked, AtUnattributed, InWorkspace};
use crate::config::{AcceptanceConfig, ParkedConfig};
use crate::store::parked::Scope;

pub use view::{ParkedFilter, ParkedOrder, ParkedOutcome, ReplayedItem};
use view::{ParkedPage, ParkedQuery, WholeParkedFrame};
pub(super) use view::{order_limit, shown};

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct ParkedControl {
    pool: PgPool,
    acceptance: AcceptanceConfig,
    parked: ParkedConfig,
}

/// The routes of parked frames.
#[must_use]
pub fn routes(pool: PgPool, acceptance: AcceptanceConfig, parked: ParkedConfig) -> OpenApiRouter {
    router().with_state(ParkedControl {
        pool,
        acceptance,
        parked,
    })
}

/// The same without what their handlers share.
pub fn router() -> OpenApiRouter<ParkedControl> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(discard))
        .routes(routes!(replay))
        .routes(routes!(list_unattributed))
        .routes(routes!(show_unattributed))
        .routes(routes!(discard_unattributed))
        .routes(routes!(replay_unattributed))
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

/// List parked frames that belong to no workspace
///
/// Their envelopes name another workspace or provider than their connection's, or no connection that there is;
/// or they could not be read at all.
#[utoipa::path(
    get,
    path = "/v1/parked",
    operation_id = "listUnattributedParked",
    tag = "pipeline",
    params(ParkedQuery),
    responses((status = 200, description = "A page of parked frames, oldest first.", body = ParkedPage)),
    security(("credential" = ["operate"]))
)]
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

/// Show a parked frame that belongs to no workspace, with its content
#[utoipa::path(
    get,
    path = "/v1/parked/{id}",
    operation_id = "showUnattributedParked",
    tag = "pipeline",
    params(AtUnattributed),
    responses((status = 200, description = "The frame.", body = WholeParkedFrame)),
    security(("credential" = ["operate"]))
)]
async fn show_unattributed(
    State(control): State<ParkedControl>,
    Path(AtUnattributed { id }): Path<AtUnattributed>,
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

/// Discard the parked frames of no workspace that a filter names
#[utoipa::path(
    post,
    path = "/v1/parked/discard",
    operation_id = "discardUnattributedParked",
    tag = "pipeline",
    request_body = ParkedOrder,
    responses((status = 200, description = "How many were, or would be.", body = ParkedOutcome)),
    security(("credential" = ["operate"]))
)]
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

/// Replay the parked frames of no workspace that a filter names
///
/// Whom each belongs to is found out once more, so none gets into a workspace that is not its connection's.
#[utoipa::path(
    post,
    path = "/v1/parked/replay",
    operation_id = "replayUnattributedParked",
    tag = "pipeline",
    request_body = ParkedOrder,
    responses((status = 200, description = "What became, or would become, of them.", body = ParkedOutcome)),
    security(("credential" = ["operate"]))
)]
async fn replay_unattributed(
    State(control): State<ParkedControl>,
    Json(order): Json<ParkedOrder>,
) -> Result<axum::Json<ParkedOutcome>, Problem> {
    control.replay(&Scope::Unattributed, order).await
}
