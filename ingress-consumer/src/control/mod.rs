//! The control API: connections for operators, streams for publishers.

mod access;
mod check;
mod connections;
mod dead_events;
mod dead_letters;
mod description;
mod input;
mod log;
mod params;
mod parked;
mod pipeline;
mod polls;
mod publishers;
mod reconcile;
mod relays;
mod streams;
mod vehicle_events;
mod verdicts;
pub(crate) mod words;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::routing::{get, put};
use runtime::http::Problem;
use sqlx::{PgConnection, PgPool};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::{ConnectionsConfig, OwnershipConfig};
use crate::installation::Installation;
use crate::store::StoreError;

pub use access::{
    ApiKeyPage, ApiKeyView, AuditEntry, AuditPage, CreatedApiKey, Me, NewApiKey, NewWideApiKey,
    make as make_api_key, router as access_router, routes as access_routes,
};
pub use connections::{ConnectionView, NewConnection};
pub use dead_events::{RedriveOrder, RedriveOutcome};
pub use dead_letters::{
    DeadLetterFilter, DeadLetterItem, DeadLetterOrder, DeadLetterOutcome, Judgement, WayBack,
    routes as dead_letter_routes,
};
pub use description::description;
pub use log::{LogWatch, SubscriberPage, SubscriberShard, SubscriberView, routes as log_routes};
pub use parked::{ParkedFilter, ParkedOrder, ParkedOutcome, ReplayedItem, routes as parked_routes};
pub use pipeline::{Pipeline, router as pipeline_router, routes as pipeline_routes};
pub use polls::{FeedDetails, PollDetails, PollPage};
pub use reconcile::routes as reconcile_routes;
pub use streams::{StreamDetails, StreamPage};
pub use vehicle_events::{VehicleEventPage, routes as vehicle_events_routes};

/// Some ten thousand streams of which each has something to tell.
const LARGEST_BODY: usize = 16 * 1024 * 1024;

/// What the control API's handlers share.
#[derive(Debug, Clone)]
pub struct Control {
    /// The core's database.
    pub pool: PgPool,
    /// Which publisher reads which stream.
    pub ownership: OwnershipConfig,
    /// What connections may name.
    pub allowed: Arc<ConnectionsConfig>,
    /// For how long a frame may be on its way before it is missing.
    pub patience: Duration,
}

/// The control API's routes.
#[must_use]
pub fn routes(control: Control) -> OpenApiRouter {
    router().with_state(control)
}

/// The same without what their handlers share.
fn router() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(connections::list, connections::add))
        .routes(routes!(connections::show, connections::remove))
        .routes(routes!(polls::show))
        .routes(routes!(polls::poll))
        .routes(routes!(polls::pause))
        .routes(routes!(polls::resume))
        .routes(routes!(polls::list))
        .route(
            "/internal/v1/publishers/{instance}",
            put(publishers::heartbeat).delete(publishers::leave),
        )
        .route("/internal/v1/relays", get(relays::list))
        .merge(dead_events::router())
        .routes(routes!(streams::list))
        .routes(routes!(verdicts::list))
        // A heartbeat tells of as many streams as a publisher has.
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

/// What was fixed at the first start, which must be over before anything can be connected.
async fn installation(pg: &mut PgConnection) -> Result<Installation, Problem> {
    Installation::read(pg).await?.ok_or_else(starting)
}

pub(crate) fn starting() -> Problem {
    let detail = "the core has not finished its first start; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", detail)
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => error.into(),
            StoreError::Conflict | StoreError::Done => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "conflict",
                "others write the same rows at the moment; try again",
            ),
            StoreError::Companion { accepted, source } => {
                tracing::error!(
                    error = %runtime::telemetry::chain(&source),
                    accepted,
                    "what goes with the frames cannot be stored"
                );
                let detail = if accepted {
                    "the frames were accepted, but their answer cannot be remembered"
                } else {
                    "the answer cannot be remembered, so no frame was accepted"
                };
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "answer-not-stored",
                    detail,
                )
            }
            error @ (StoreError::Inconsistent { .. }
            | StoreError::ClaimLost
            | StoreError::LeaseLost) => Self::internal(&error),
        }
    }
}
