//! Polled connections: how reading them goes, and reading them now, pausing and resuming them.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use runtime::db;
use runtime::http::{Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::{ConnectionId, ConnectionKind, Provider, WorkspaceId};
use utoipa::ToSchema;

use super::Control;
use super::connections::{Page, not_found};
use super::params::{AtConnection, InWorkspace};
use super::words::feed_state;
use crate::store::poll_view::{self, FeedView};
use crate::store::{StoreError, connection, unsigned};

/// A page of polled connections.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PollPage {
    /// The connections, by id.
    pub items: Vec<PollDetails>,
    /// Where the next page begins, if there may be one.
    pub next: Option<ConnectionId>,
}

/// One polled connection.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PollDetails {
    /// The connection.
    pub connection: ConnectionId,
    /// The provider's protocol.
    #[schema(value_type = Provider)]
    pub provider: String,
    /// Nothing is asked until it is resumed.
    pub paused: bool,
    /// The replica of the core that asks for it at the moment, if any does.
    pub owner: Option<String>,
    /// Grows with each run.
    pub epoch: u64,
    /// Its feeds, by name.
    pub feeds: Vec<FeedDetails>,
}

/// One feed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FeedDetails {
    /// Its name.
    pub feed: String,
    /// `ok`, `behind` (the provider has more already), `limited` (the budget is used up), `failing`,
    /// `refused` (by the provider; nothing is asked for long) or `paused`.
    #[schema(schema_with = feed_state)]
    pub state: String,
    /// When it was last read (UTC, the database's clock).
    pub last_success_at: Option<DateTime<Utc>>,
    /// Failures in a row.
    pub consecutive_failures: u64,
    /// When it is due; none while it is paused.
    pub next_due_at: Option<DateTime<Utc>>,
    /// Pages of the last run.
    pub pages: u64,
    /// Records of the last run.
    pub rows: u64,
    /// Up to when it has been read, by the provider's clock.
    pub read_until: Option<DateTime<Utc>>,
    /// Seconds from then to now.
    pub lag_seconds: Option<f64>,
    /// What went wrong last, even if all is well since.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<DateTime<Utc>>,
}

impl From<FeedView> for FeedDetails {
    fn from(view: FeedView) -> Self {
        Self {
            state: state(&view).to_owned(),
            next_due_at: (!view.paused).then_some(view.due_at),
            feed: view.feed,
            last_success_at: view.last_success_at,
            consecutive_failures: unsigned(view.consecutive_failures),
            pages: unsigned(view.run_pages),
            rows: unsigned(view.run_rows),
            read_until: view.read_until,
            lag_seconds: view.lag_seconds,
            last_error: view.last_error,
            last_error_at: view.last_error_at,
        }
    }
}

/// The word for how a feed is doing: what matters most of what is true of it.
const fn state(view: &FeedView) -> &'static str {
    match view {
        FeedView { paused: true, .. } => "paused",
        FeedView { refused: true, .. } => "refused",
        FeedView {
            consecutive_failures: 1..,
            ..
        } => "failing",
        FeedView { limited: true, .. } => "limited",
        FeedView { behind: true, .. } => "behind",
        _ => "ok",
    }
}

/// Puts feeds, which are in the order of their connections, together.
fn details(views: Vec<FeedView>) -> Vec<PollDetails> {
    let mut all = Vec::<PollDetails>::new();
    for view in views {
        let connection = ConnectionId(view.connection);
        if all.last().is_none_or(|last| last.connection != connection) {
            all.push(PollDetails {
                connection,
                provider: view.provider.clone(),
                paused: view.paused,
                owner: view.owner.clone(),
                epoch: unsigned(view.epoch),
                feeds: Vec::new(),
            });
        }
        if let Some(last) = all.last_mut() {
            last.feeds.push(view.into());
        }
    }
    all
}

/// List how a workspace's polls go
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/polls",
    operation_id = "listPolls",
    tag = "connections",
    params(InWorkspace, Page),
    responses((status = 200, description = "A page of polled connections.", body = PollPage)),
    security(("credential" = ["read"]))
)]
pub async fn list(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Query(page): Query<Page>,
) -> Result<axum::Json<PollPage>, Problem> {
    let (workspace, size) = (at.workspace()?, page.size()?);
    let mut pg = control.pool.acquire().await?;
    let limit = size.to_look_for();
    let found = poll_view::feeds(&mut pg, &workspace, None, page.after, limit).await?;
    let (items, next) = size.cut(details(found), |poll| poll.connection);
    Ok(axum::Json(PollPage { items, next }))
}

/// Show how polling a connection goes
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/connections/{connection}/polls",
    operation_id = "showPolls",
    tag = "connections",
    params(AtConnection),
    responses((status = 200, description = "The connection's feeds.", body = PollDetails)),
    security(("credential" = ["read"]))
)]
pub async fn show(
    State(control): State<Control>,
    Path(at): Path<AtConnection>,
) -> Result<axum::Json<PollDetails>, Problem> {
    let (workspace, id) = (polled(&control, &at).await?, at.connection);
    let mut pg = control.pool.acquire().await?;
    let found = poll_view::feeds(&mut pg, &workspace, Some(id), None, 1).await?;
    let found = details(found).pop();
    found
        .map(axum::Json)
        .ok_or_else(|| not_found(&workspace, id))
}

/// Poll a connection now
///
/// Its feeds are asked as soon as the provider's limits allow, and then on schedule again.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/connections/{connection}/poll",
    operation_id = "pollConnection",
    tag = "connections",
    params(AtConnection),
    responses((status = 202, description = "It is due.")),
    security(("credential" = ["manage"]))
)]
pub async fn poll(
    State(control): State<Control>,
    Path(at): Path<AtConnection>,
) -> Result<StatusCode, Problem> {
    let (workspace, id) = (polled(&control, &at).await?, at.connection);
    let asked = db::in_tx(&control.pool, "ask_poll", |mut tx| async move {
        let asked = poll_view::ask(&mut tx, id).await?;
        Ok::<_, StoreError>((tx, asked))
    })
    .await?;
    if !asked {
        let detail = format!("connection {id} is paused; resume it first");
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "connection-paused",
            detail,
        ));
    }
    tracing::info!(%workspace, connection = %id, "a connection is polled by request");
    Ok(StatusCode::ACCEPTED)
}

/// Pause polling a connection
///
/// Nothing is asked until it is resumed; doing it twice changes nothing.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/connections/{connection}/pause",
    operation_id = "pauseConnection",
    tag = "connections",
    params(AtConnection),
    responses((status = 204, description = "It is paused.")),
    security(("credential" = ["manage"]))
)]
pub async fn pause(
    State(control): State<Control>,
    Path(at): Path<AtConnection>,
) -> Result<StatusCode, Problem> {
    set_paused(&control, &at, true).await
}

/// Resume polling a connection
///
/// It goes on from where it was paused; doing it twice changes nothing.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/connections/{connection}/resume",
    operation_id = "resumeConnection",
    tag = "connections",
    params(AtConnection),
    responses((status = 204, description = "It is resumed.")),
    security(("credential" = ["manage"]))
)]
pub async fn resume(
    State(control): State<Control>,
    Path(at): Path<AtConnection>,
) -> Result<StatusCode, Problem> {
    set_paused(&control, &at, false).await
}

async fn set_paused(
    control: &Control,
    at: &AtConnection,
    paused: bool,
) -> Result<StatusCode, Problem> {
    let (workspace, id) = (polled(control, at).await?, at.connection);
    let mut pg = control.pool.acquire().await?;
    poll_view::pause(&mut pg, id, paused).await?;
    tracing::info!(%workspace, connection = %id, paused, "polling was paused or resumed");
    Ok(StatusCode::NO_CONTENT)
}

/// The workspace, if it has the connection and that one is polled.
async fn polled(control: &Control, at: &AtConnection) -> Result<WorkspaceId, Problem> {
    let (workspace, id) = (at.workspace()?, at.connection);
    let mut pg = control.pool.acquire().await?;
    let found = connection::find_live(&mut pg, &workspace, id).await?;
    let found = found.ok_or_else(|| not_found(&workspace, id))?;
    if found.kind != ConnectionKind::Poll {
        let detail = format!(
            "connection {id} is of kind {}; only those of kind poll are polled",
            found.kind
        );
        return Err(Problem::bad_request("not-a-poll-connection", detail));
    }
    Ok(workspace)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn view(connection: u128, feed: &str) -> FeedView {
        FeedView {
            connection: Uuid::from_u128(connection),
            provider: "rfms".to_owned(),
            feed: feed.to_owned(),
            paused: false,
            refused: false,
            owner: None,
            epoch: 3,
            due_at: "2026-07-01T12:00:00Z".parse().unwrap(),
            behind: false,
            limited: false,
            consecutive_failures: 0,
            last_success_at: None,
            last_error: None,
            last_error_at: None,
            run_pages: 0,
            run_rows: 0,
            read_until: None,
            lag_seconds: None,
        }
    }

    #[test]
    fn what_matters_most_is_said() {
        let mut view = view(1, "positions");
        assert_eq!(state(&view), "ok");
        view.behind = true;
        assert_eq!(state(&view), "behind");
        view.limited = true;
        assert_eq!(state(&view), "limited");
        view.consecutive_failures = 2;
        assert_eq!(state(&view), "failing");
        view.refused = true;
        assert_eq!(state(&view), "refused");
        view.paused = true;
        let details = FeedDetails::from(view);
        assert_eq!(details.state, "paused");
        assert_eq!(details.next_due_at, None);
    }

    #[test]
    fn a_connection_has_its_feeds_together() {
        let all = details(vec![view(1, "a"), view(1, "b"), view(2, "a")]);
        let feeds: Vec<_> = all.iter().map(|poll| poll.feeds.len()).collect();
        assert_eq!(feeds, [2, 1]);
    }
}
