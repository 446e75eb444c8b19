//! `PUT /internal/v1/publishers/{instance}`: a publisher says that it is there, and is told what to
//! read.
//!
//! Every publisher is told every stream, with epoch 1. Two publishers therefore read everything
//! twice, which costs work and changes nothing.

use axum::extract::State;
use runtime::http::{Json, Path, Problem};
use shared_model::control::{Assignment, Heartbeat, StreamAssignment};

use super::{Control, installation};
use crate::store::connection;

const EPOCH: u64 = 1;

pub async fn heartbeat(
    State(control): State<Control>,
    Path(instance): Path<String>,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<axum::Json<Assignment>, Problem> {
    tracing::debug!(
        instance,
        streams = heartbeat.streams,
        "a publisher is there"
    );
    let mut pg = control.pool.acquire().await?;
    let installation = installation(&mut pg).await?;
    let streams = connection::streams(&mut pg).await?;
    Ok(axum::Json(Assignment {
        partitions: installation.partitions,
        partition_max_bytes: installation.partition_max_bytes,
        streams: streams
            .into_iter()
            .map(|stream| StreamAssignment {
                connection: stream.id,
                workspace: stream.workspace,
                provider: stream.provider,
                endpoint: stream.endpoint,
                credential: stream.credential,
                settings: stream.settings,
                epoch: EPOCH,
            })
            .collect(),
    }))
}
