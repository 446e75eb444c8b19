//! Outages of providers.

use axum::Json;
use axum::extract::State;
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::WorkspaceId;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::api;
use crate::health::Health;
use crate::health::store::incident::{self as store, Incident, State as IncidentState};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only those that go on, or only those that are over.
    #[param(inline)]
    state: Option<IncidentState>,
    /// How many the page has.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<Uuid>,
}

/// A page of outages.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = IncidentPage)]
pub(super) struct Listed {
    /// The newest first.
    items: Vec<Incident>,
    /// Where the next page goes on; none behind the last page.
    next: Option<Uuid>,
}

/// The outages of a workspace's providers.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/health/incidents",
    operation_id = "listIncidents",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        Asked,
    ),
    responses((status = 200, body = Listed, description = "A page of them")),
    security(("credential" = ["read"])),
)]
pub(super) async fn list(
    State(health): State<Health>,
    Path(workspace): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Listed>, Problem> {
    let workspace = api::workspace(workspace)?;
    let size = PageSize::asked(asked.limit)?;
    let mut pg = health.pool.acquire().await?;
    let limit = size.to_look_for();
    let found = store::list(&mut pg, &workspace, asked.state, asked.after, limit).await?;
    let (items, next) = size.cut(found, |incident| incident.id);
    Ok(Json(Listed { items, next }))
}

/// One outage.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/health/incidents/{incident}",
    operation_id = "getIncident",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("incident" = Uuid, Path, description = "The outage"),
    ),
    responses((status = 200, body = Incident, description = "The outage")),
    security(("credential" = ["read"])),
)]
pub(super) async fn find(
    State(health): State<Health>,
    Path((workspace, id)): Path<(String, Uuid)>,
) -> Result<Json<Incident>, Problem> {
    let workspace = api::workspace(workspace)?;
    let found = store::find(&mut *health.pool.acquire().await?, &workspace, id).await?;
    found.map(Json).ok_or_else(|| {
        let detail = format!("no incident {id} is known in workspace {workspace}");
        Problem::not_found("incident-not-found", detail)
    })
}
