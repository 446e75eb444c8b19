//! The control API of a polled provider, for scripts.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /control/healthz` | 200 |
//! | `GET /control/stats` | [`PolledStats`] as JSON |
//! | `POST /control/pause` | the vehicles report no more |
//! | `POST /control/resume` | they do again |
//! | `POST /control/kill-sessions` | ends all sessions |
//!
//! Orders are answered with the counts after them.

use crate::polled::{Desk, PolledStats};
use axum::{
    Json, Router,
    extract::State,
    routing::{get, post},
};
use std::sync::Arc;

/// The routes of the control API.
pub(crate) fn routes(desk: Arc<Desk>) -> Router {
    let order = |carry_out: fn(&Desk)| {
        post(async move |State(desk): State<Arc<Desk>>| {
            carry_out(&desk);
            Json(PolledStats::of(&desk))
        })
    };
    Router::new()
        .route("/control/healthz", get(|| async { "ok" }))
        .route(
            "/control/stats",
            get(async |State(desk): State<Arc<Desk>>| Json(PolledStats::of(&desk))),
        )
        .route("/control/pause", order(Desk::pause))
        .route("/control/resume", order(Desk::resume))
        .route("/control/kill-sessions", order(Desk::kill_sessions))
        .with_state(desk)
}
