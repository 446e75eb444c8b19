//! The read API of connections' health.

use axum::Json;
use axum::extract::State;
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::{ConnectionId, WorkspaceId};
use sqlx::PgPool;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::connection_store::{self as store, ConnectionHealth};
use crate::api;

/// The routes and what they are described as.
pub(super) fn router() -> OpenApiRouter<PgPool> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(find))
}

/// The routes, answered from `pool`.
pub(super) fn routes(pool: PgPool) -> OpenApiRouter {
    router().with_state(pool)
}

/// A page of connections' health.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ConnectionHealthPage)]
struct Listed {
    /// By their ids.
    items: Vec<ConnectionHealth>,
    /// Where the next page goes on; none behind the last page.
    next: Option<Uuid>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// How many the page has.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<Uuid>,
}

/// How a workspace's connections are doing.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/health/connections",
    operation_id = "listConnectionHealth",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        Page,
    ),
    responses((status = 200, body = Listed, description = "A page of them")),
    security(("credential" = ["read"])),
)]
async fn list(
    State(pool): State<PgPool>,
    Path(workspace): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<Listed>, Problem> {
    let workspace = api::workspace(workspace)?;
    let size = PageSize::asked(page.limit)?;
    let mut pg = pool.acquire().await?;
    let found = store::list(&mut pg, &workspace, page.after, size.to_look_for()).await?;
    let (items, next) = size.cut(found, |health| health.connection);
    Ok(Json(Listed { items, next }))
}

/// How one connection is doing.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/health/connections/{connection}",
    operation_id = "getConnectionHealth",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("connection" = Uuid, Path, description = "The connection"),
    ),
    responses((status = 200, body = ConnectionHealth, description = "The connection's health")),
    security(("credential" = ["read"])),
)]
async fn find(
    State(pool): State<PgPool>,
    Path((workspace, id)): Path<(String, ConnectionId)>,
) -> Result<Json<ConnectionHealth>, Problem> {
    let workspace = api::workspace(workspace)?;
    let found = store::find(&mut *pool.acquire().await?, &workspace, id).await?;
    found.map(Json).ok_or_else(|| {
        let detail = format!("nothing was heard of a connection {id} in workspace {workspace}");
        Problem::not_found("connection-not-found", detail)
    })
}
