//! The publisher's own HTTP API: what its streams are doing.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use shared_model::control::StreamReport;

use crate::status::Streams;

/// What `GET /internal/v1/streams` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamsPage {
    /// The publisher's instance.
    pub instance: String,
    /// Its streams, by connection.
    pub streams: Vec<StreamReport>,
}

pub(crate) fn routes(instance: String, streams: Streams) -> Router {
    Router::new()
        .route("/internal/v1/streams", get(show))
        .with_state((instance, streams))
}

async fn show(State((instance, streams)): State<(String, Streams)>) -> Json<StreamsPage> {
    Json(StreamsPage {
        instance,
        streams: streams.reports(),
    })
}
