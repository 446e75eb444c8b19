//! Outages of providers.

use axum::Json;
use axum::extract::State;
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::api;
use crate::health::Health;
use crate::health::store::incident::{self as store, Incident, State as IncidentState};

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    state: Option<IncidentState>,
    limit: Option<i64>,
    after: Option<Uuid>,
}

#[derive(Debug, Serialize)]
pub(super) struct Listed {
    items: Vec<Incident>,
    next: Option<Uuid>,
}

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
