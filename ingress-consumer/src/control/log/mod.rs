//! The log API: the event log and the state, as other services read them; see [`shared_model::log`].

mod read;
mod sources;
mod state;
mod subscribers;

use axum::extract::{DefaultBodyLimit, State};
use axum::routing::{get, post, put};
use runtime::http::Problem;
use shared_model::log::{LogState, ShardState};
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{LARGEST_BODY, starting};
use crate::store::event_log::{self, Head};

pub use subscribers::{SubscriberPage, SubscriberShard, SubscriberView};

/// What the log API's handlers share.
#[derive(Debug, Clone)]
pub struct LogApi {
    pool: PgPool,
}

/// The log API's routes.
#[must_use]
pub fn routes(pool: PgPool) -> OpenApiRouter {
    router().with_state(LogApi { pool })
}

/// The same without what their handlers share.
pub fn router() -> OpenApiRouter<LogApi> {
    OpenApiRouter::new()
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
        .routes(routes!(subscribers::list))
        .routes(routes!(subscribers::forget))
        .routes(routes!(subscribers::reset))
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
}

async fn show(State(api): State<LogApi>) -> Result<axum::Json<LogState>, Problem> {
    let heads = api.heads().await?;
    let shards = heads.iter().map(shard_state).collect();
    Ok(axum::Json(LogState { shards }))
}

impl LogApi {
    /// Where the shards stand, once the core has made them.
    async fn heads(&self) -> Result<Vec<Head>, Problem> {
        let heads = event_log::heads(&mut *self.pool.acquire().await?).await?;
        if heads.is_empty() {
            return Err(starting());
        }
        Ok(heads)
    }
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
