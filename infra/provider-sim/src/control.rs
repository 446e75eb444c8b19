//! The control API of the simulator, for scripts: health, counts, pauses and disconnects.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /control/healthz` | 200 |
//! | `GET /control/stats` | [`Stats`](crate::Stats) as JSON |
//! | `POST /control/pause` | stops the data of all vehicles, or of `{"vehicles":["bus-1"]}` |
//! | `POST /control/resume` | the reverse |
//! | `POST /control/disconnect` | closes all sockets |
//!
//! Orders are answered with the counts after them, and an order that is not understood with 400 and its reason.

use crate::fleet::{Fleet, UnknownVehicles};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use std::sync::Arc;

type FleetState = State<Arc<Fleet>>;

/// The routes of the control API.
pub(crate) fn routes(fleet: Arc<Fleet>) -> Router {
    let pause = |State(fleet): FleetState, body: Bytes| async move {
        answer(&fleet, order(&fleet, &body, Fleet::pause_all, Fleet::pause))
    };
    let resume = |State(fleet): FleetState, body: Bytes| async move {
        answer(
            &fleet,
            order(&fleet, &body, Fleet::resume_all, Fleet::resume),
        )
    };
    let disconnect = |State(fleet): FleetState| async move {
        fleet.disconnect();
        Json(fleet.stats())
    };
    Router::new()
        .route("/control/healthz", get(|| async { "ok" }))
        .route(
            "/control/stats",
            get(|State(fleet): FleetState| async move { Json(fleet.stats()) }),
        )
        .route("/control/pause", post(pause))
        .route("/control/resume", post(resume))
        .route("/control/disconnect", post(disconnect))
        .with_state(fleet)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Selection {
    vehicles: Vec<String>,
}

/// Carries an order out for all, or for those that the body selects; an error is its reason for the caller.
fn order(
    fleet: &Fleet,
    body: &[u8],
    for_all: fn(&Fleet),
    for_these: fn(&Fleet, &[String]) -> Result<(), UnknownVehicles>,
) -> Result<(), String> {
    if body.trim_ascii().is_empty() {
        for_all(fleet);
        return Ok(());
    }
    let selection: Selection =
        serde_json::from_slice(body).map_err(|error| format!("unreadable selection: {error}"))?;
    for_these(fleet, &selection.vehicles).map_err(|error| error.to_string())
}

fn answer(fleet: &Fleet, done: Result<(), String>) -> Response {
    match done {
        Ok(()) => Json(fleet.stats()).into_response(),
        Err(reason) => (StatusCode::BAD_REQUEST, Json(json!({"error": reason}))).into_response(),
    }
}
