//! `GET /v1/workspaces/{workspace}/streams`: who reads a workspace's streams, and how that goes.

use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::{Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::control::StreamReport;
use shared_model::{ConnectionId, Provider, SessionId};
use utoipa::ToSchema;

use super::Control;
use super::connections::Page;
use super::params::InWorkspace;
use super::words::stream_state;
use crate::store::stream::{self, StreamRow};

/// A page of streams.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StreamPage {
    /// The streams, by connection.
    pub items: Vec<StreamDetails>,
    /// Where the next page begins, if there may be one.
    pub next: Option<ConnectionId>,
}

/// One stream: what the core knows of its owner, and what the owner says of the socket.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StreamDetails {
    /// The connection.
    pub connection: ConnectionId,
    /// The provider's protocol.
    #[schema(value_type = Provider)]
    pub provider: String,
    /// The publisher that reads it, if any does.
    pub owner: Option<String>,
    /// The owner epoch: grows each time that a publisher is given the stream; 0 before the first.
    pub epoch: u64,
    /// Until when the owner may read it without being heard from (UTC, the database's clock).
    pub lease_until: Option<DateTime<Utc>>,
    /// The publisher that read it before and has not let go yet.
    pub outgoing: Option<String>,
    /// `connecting`, `subscribed`, `backing_off`, `refused` or `unsupported`; `unowned` where nobody
    /// reads it, `assigned` where the owner has not said anything yet.
    #[schema(schema_with = stream_state)]
    pub state: String,
    /// Since when, by the publisher's clock.
    pub since: Option<DateTime<Utc>>,
    /// The session that is open or was open last.
    pub session: Option<SessionId>,
    /// How many frames that session has had.
    pub frames: u64,
    /// When the last of them was received.
    pub last_frame_at: Option<DateTime<Utc>>,
    /// How often the owner had to connect again.
    pub reconnects: u64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Why the socket is not read at the moment, if it is not.
    pub paused: Option<String>,
    /// When the owner last said something new.
    pub reported_at: Option<DateTime<Utc>>,
}

impl From<StreamRow> for StreamDetails {
    fn from(row: StreamRow) -> Self {
        // What a newer publisher says in other words is as good as nothing said.
        let report = row
            .report
            .and_then(|report| serde_json::from_value::<StreamReport>(report).ok());
        let state = match (&row.owner, &report) {
            (None, _) => "unowned",
            (Some(_), None) => "assigned",
            (Some(_), Some(report)) => report.state.name(),
        };
        Self {
            connection: row.connection,
            provider: row.provider,
            state: state.to_owned(),
            owner: row.owner,
            epoch: row.epoch,
            lease_until: row.lease_until,
            outgoing: row.outgoing,
            since: report.as_ref().map(|report| report.since),
            session: report.as_ref().and_then(|report| report.session),
            frames: report.as_ref().map_or(0, |report| report.frames),
            last_frame_at: report.as_ref().and_then(|report| report.last_frame_at),
            reconnects: report.as_ref().map_or(0, |report| report.reconnects),
            paused: report.as_ref().and_then(|report| report.paused.clone()),
            last_error: report.and_then(|report| report.last_error),
            reported_at: row.reported_at,
        }
    }
}

/// List who reads a workspace's streams, and how that goes
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/streams",
    operation_id = "listStreams",
    tag = "connections",
    params(InWorkspace, Page),
    responses((status = 200, description = "A page of streams.", body = StreamPage)),
    security(("credential" = ["read"]))
)]
pub async fn list(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Query(page): Query<Page>,
) -> Result<axum::Json<StreamPage>, Problem> {
    let (workspace, size) = (at.workspace()?, page.size()?);
    let mut pg = control.pool.acquire().await?;
    let found = stream::list(&mut pg, &workspace, page.after, size.to_look_for()).await?;
    let (found, next) = size.cut(found, |stream| stream.connection);
    Ok(axum::Json(StreamPage {
        items: found.into_iter().map(Into::into).collect(),
        next,
    }))
}
