//! The log API: the event log and the state, as other services read them; see [`shared_model::log`].

mod read;
mod sources;
mod state;
mod subscribers;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{delete, get, post, put};
use runtime::http::Problem;
use shared_model::log::{LogState, ShardState};
use sqlx::PgPool;

use super::LARGEST_BODY;
use crate::store::event_log::{self, Head};

pub use subscribers::{SubscriberPage, SubscriberShard, SubscriberView};

/// What the log API's handlers share.
#[derive(Debug, Clone)]
pub struct LogApi {
    pool: PgPool,
}

/// The log API's routes.
pub fn routes(pool: PgPool) -> Router {
    Router::new()
        .route("/internal/v1/log", get(show))
        .route("/internal/v1/log/{shard}", get(read::read))
        .route("/internal/v1/state", get(state::page))
        .route("/internal/v1/subscribers", get(subscribers::list))
        .route(
            "/internal/v1/subscribers/{name}",
            put(subscribers::progress).delete(subscribers::forget),
        )
        .route("/internal/v1/sources/{source}", get(sources::show))
        .route(
            "/internal/v1/sources/{source}/events",
            post(sources::append),
        )
        .route("/v1/subscribers", get(subscribers::list))
        .route("/v1/subscribers/{name}", delete(subscribers::forget))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .with_state(LogApi { pool })
}

async fn show(State(api): State<LogApi>) -> Result<axum::Json<LogState>, Problem> {
    let heads = event_log::heads(&mut *api.pool.acquire().await?).await?;
    let shards = heads.iter().map(shard_state).collect();
    Ok(axum::Json(LogState { shards }))
}

/// What others are told of a shard.
fn shard_state(head: &Head) -> ShardState {
    ShardState {
        shard: head.shard,
        first: head.first,
        head: head.last,
        relayed: head.relayed,
        waiting_since: None,
    }
}

fn no_shard(shard: u32) -> Problem {
    let detail = format!("the event log has no shard {shard}; GET /internal/v1/log lists them");
    Problem::not_found("shard-not-found", detail)
}
