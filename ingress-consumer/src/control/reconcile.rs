//! `GET /v1/reconcile`: does everything add up?

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use runtime::http::{Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;

use super::connections::workspace;
use crate::reconcile::Report;
use crate::reconcile::watch::{Queues, look};

/// What the handler needs.
#[derive(Debug, Clone)]
pub struct ReconcileControl {
    pool: PgPool,
    queues: Queues,
    patience: Duration,
}

/// The route of reconciliation.
pub fn routes(pool: PgPool, queues: Queues, patience: Duration) -> Router {
    Router::new()
        .route("/v1/reconcile", get(show))
        .with_state(ReconcileControl {
            pool,
            queues,
            patience,
        })
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReconcileQuery {
    workspace: Option<String>,
}

async fn show(
    State(control): State<ReconcileControl>,
    Query(query): Query<ReconcileQuery>,
) -> Result<axum::Json<Report>, Problem> {
    let of = query.workspace.as_deref().map(workspace).transpose()?;
    let of = of.as_ref().map(shared_model::WorkspaceId::as_str);
    let report = look(&control.pool, &control.queues, of, control.patience).await?;
    Ok(axum::Json(report))
}
