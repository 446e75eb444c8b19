//! The read API of connections' health.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::ConnectionId;
use sqlx::PgPool;
use uuid::Uuid;

use super::connection_store::{self as store, ConnectionHealth};
use crate::api;

/// The routes, answered from `pool`.
pub(super) fn routes(pool: PgPool) -> Router {
    Router::new()
        .route("/v1/workspaces/{workspace}/health/connections", get(list))
        .route(
            "/v1/workspaces/{workspace}/health/connections/{connection}",
            get(find),
        )
        .with_state(pool)
}

#[derive(Debug, Serialize)]
struct Listed {
    items: Vec<ConnectionHealth>,
    next: Option<Uuid>,
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: Option<i64>,
    after: Option<Uuid>,
}

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
