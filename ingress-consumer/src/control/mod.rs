//! The control API: connections for operators, streams for publishers.

mod connections;
mod publishers;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::{get, put};
use runtime::http::Problem;
use sqlx::{PgConnection, PgPool};

use crate::installation::Installation;
use crate::store::StoreError;

pub use connections::{ConnectionView, NewConnection};

/// What the control API's handlers share.
#[derive(Debug, Clone)]
pub struct Control {
    pool: PgPool,
}

/// The control API's routes.
pub fn routes(pool: PgPool) -> Router {
    Router::new()
        .route(
            "/v1/workspaces/{workspace}/connections",
            get(connections::list).post(connections::add),
        )
        .route(
            "/v1/workspaces/{workspace}/connections/{connection}",
            get(connections::show).delete(connections::remove),
        )
        .route(
            "/internal/v1/publishers/{instance}",
            put(publishers::heartbeat),
        )
        .with_state(Control { pool })
}

/// What was fixed at the first start, which must be over before anything can be connected.
async fn installation(pg: &mut PgConnection) -> Result<Installation, Problem> {
    Installation::read(pg).await?.ok_or_else(|| {
        let detail = "the core has not finished its first start; try again";
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail)
    })
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => error.into(),
            StoreError::Conflict => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "conflict",
                "others write the same rows at the moment; try again",
            ),
            error @ StoreError::Inconsistent { .. } => Self::internal(&error),
        }
    }
}
