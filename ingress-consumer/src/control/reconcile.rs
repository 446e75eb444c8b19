//! `GET /v1/reconcile`: does everything add up?

use std::time::Duration;

use axum::extract::State;
use runtime::http::{Problem, Query};
use serde::Deserialize;
use sqlx::PgPool;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::input;
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
#[must_use]
pub fn routes(pool: PgPool, queues: Queues, patience: Duration) -> OpenApiRouter {
    router().with_state(ReconcileControl {
        pool,
        queues,
        patience,
    })
}

/// The same without what its handler shares.
pub fn router() -> OpenApiRouter<ReconcileControl> {
    OpenApiRouter::new().routes(routes!(show))
}

/// What is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ReconcileQuery {
    /// Only the connections of this workspace, and no shard of the event log.
    #[serde(default, deserialize_with = "input::workspace")]
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", nullable = false)]
    workspace: Option<String>,
}

/// Say whether everything adds up
///
/// Each connection's frames, and the events of each shard of the log. Takes some seconds while events are
/// being logged.
#[utoipa::path(
    get,
    path = "/v1/reconcile",
    operation_id = "reconcile",
    tag = "pipeline",
    params(ReconcileQuery),
    responses((status = 200, description = "What adds up, and what does not.", body = Report)),
    security(("credential" = ["operate"]))
)]
async fn show(
    State(control): State<ReconcileControl>,
    Query(query): Query<ReconcileQuery>,
) -> Result<axum::Json<Report>, Problem> {
    let of = query.workspace.as_deref();
    let report = look(&control.pool, &control.queues, of, control.patience).await?;
    Ok(axum::Json(report))
}
