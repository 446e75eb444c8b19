//! Tables `poll` and `poll_feed`, as operators look at them and change them.

use chrono::{DateTime, Utc};
use shared_model::{ConnectionId, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;

/// A feed, with what it shares with its connection's others.
#[derive(Debug, Clone, PartialEq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "it is a row, whose columns are independent of each other"
)]
pub struct FeedView {
    /// The connection.
    pub connection: Uuid,
    /// Its provider.
    pub provider: String,
    /// The feed.
    pub feed: String,
    /// Nothing is asked until it is resumed.
    pub paused: bool,
    /// The provider refused what it was asked last.
    pub refused: bool,
    /// Who asks for it at the moment.
    pub owner: Option<String>,
    /// Raised by each run.
    pub epoch: i64,
    /// When it is due, by itself and with its connection.
    pub due_at: DateTime<Utc>,
    /// The provider has more already.
    pub behind: bool,
    /// The budget was used up when it was last due.
    pub limited: bool,
    /// Failures in a row.
    pub consecutive_failures: i64,
    /// When it was last read.
    pub last_success_at: Option<DateTime<Utc>>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// When that was.
    pub last_error_at: Option<DateTime<Utc>>,
    /// Pages of the last run.
    pub run_pages: i64,
    /// Records of the last run.
    pub run_rows: i64,
    /// Up to when it has been read, by the provider's clock.
    pub read_until: Option<DateTime<Utc>>,
    /// Seconds from then to now.
    pub lag_seconds: Option<f64>,
}

/// The feeds of a workspace's connections, of up to `limit` connections after the one given; or of the
/// connection `only`.
pub async fn feeds(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    only: Option<ConnectionId>,
    after: Option<ConnectionId>,
    limit: i64,
) -> Result<Vec<FeedView>, StoreError> {
    let feeds = sqlx::query_as!(
        FeedView,
        r#"SELECT p.connection, c.provider, f.feed, p.paused, p.refused, p.owner, p.epoch,
                  GREATEST(f.due_at, p.due_at) AS "due_at!", f.behind, f.limited,
                  f.consecutive_failures, f.last_success_at, f.last_error, f.last_error_at,
                  f.run_pages, f.run_rows, f.read_until,
                  GREATEST(EXTRACT(EPOCH FROM now() - f.read_until), 0)::float8 AS lag_seconds
         FROM (SELECT connection, provider
               FROM core.connection
               JOIN core.poll USING (connection)
               WHERE workspace = $1 AND removed_at IS NULL
                 AND ($2::uuid IS NULL OR connection = $2)
                 AND ($3::uuid IS NULL OR connection > $3)
               ORDER BY connection
               LIMIT $4) AS c
         JOIN core.poll AS p USING (connection)
         JOIN core.poll_feed AS f USING (connection)
         ORDER BY p.connection, f.feed"#,
        workspace.as_str(),
        only.map(|id| id.0),
        after.map(|id| id.0),
        limit,
    )
    .fetch_all(pg)
    .await?;
    Ok(feeds)
}

/// Makes all feeds of a connection due now; false if it is paused or not polled.
pub async fn ask(pg: &mut PgConnection, connection: ConnectionId) -> Result<bool, StoreError> {
    let done = sqlx::query!(
        "UPDATE core.poll
         SET asked = true, due_at = now()
         WHERE connection = $1 AND NOT paused",
        connection.0,
    )
    .execute(&mut *pg)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        "UPDATE core.poll_feed SET due_at = now() WHERE connection = $1",
        connection.0,
    )
    .execute(pg)
    .await?;
    Ok(true)
}

/// Pauses or resumes a connection. A run that goes on ends with the page that it
/// is reading, or within a third of its lease.
pub async fn pause(
    pg: &mut PgConnection,
    connection: ConnectionId,
    paused: bool,
) -> Result<(), StoreError> {
    sqlx::query!(
        "UPDATE core.poll SET paused = $2 WHERE connection = $1",
        connection.0,
        paused,
    )
    .execute(pg)
    .await?;
    Ok(())
}
