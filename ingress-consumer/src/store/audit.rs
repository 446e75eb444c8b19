//! Table `audit`: who has changed what through the APIs.

use chrono::{DateTime, Utc};
use runtime::access::Change;
use sqlx::PgConnection;
use uuid::Uuid;

use super::storable;

/// An entry as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its id, which sorts by time.
    pub id: Uuid,
    /// When the change was asked for.
    pub at: DateTime<Utc>,
    /// Who asked.
    pub principal: String,
    /// In which workspace, if the path names one.
    pub workspace: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The path as the API declares it.
    pub route: String,
    /// The path as it was asked.
    pub path: String,
    /// The answer's status; none until it is over.
    pub status: Option<i32>,
    /// The request's trace, if it was traced.
    pub trace_id: Option<String>,
}

/// Which entries: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this workspace.
    pub workspace: Option<String>,
    /// Of this principal.
    pub principal: Option<String>,
    /// At this time or later.
    pub from: Option<DateTime<Utc>>,
    /// Before this time.
    pub to: Option<DateTime<Utc>>,
}

/// Adds the entry `id` of a change that is about to be tried.
pub async fn insert(
    pg: &mut PgConnection,
    id: Uuid,
    at: DateTime<Utc>,
    change: &Change,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "INSERT INTO core.audit (id, at, principal, workspace, method, route, path, trace_id)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        id,
        at,
        storable(&change.principal),
        change.workspace.as_deref().map(storable),
        storable(&change.method),
        storable(&change.route),
        storable(&change.path),
        change.trace_id.as_deref().map(storable),
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Says how the change of the entry `id` has ended; whether there is such an entry. What was said first
/// stays.
pub async fn conclude(pg: &mut PgConnection, id: Uuid, status: u16) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE core.audit SET status = COALESCE(status, $2) WHERE id = $1",
        id,
        i32::from(status),
    )
    .execute(pg)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Entries, the newest first, before the one called `after`.
pub async fn page(
    pg: &mut PgConnection,
    filter: &Filter,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<AuditRow>, sqlx::Error> {
    sqlx::query_as!(
        AuditRow,
        "SELECT id, at, principal, workspace, method, route, path, status, trace_id
         FROM core.audit
         WHERE ($1::text IS NULL OR workspace = $1)
           AND ($2::text IS NULL OR principal = $2)
           AND ($3::timestamptz IS NULL OR at >= $3)
           AND ($4::timestamptz IS NULL OR at < $4)
           AND ($5::uuid IS NULL OR id < $5)
         ORDER BY id DESC
         LIMIT $6",
        filter.workspace,
        filter.principal,
        filter.from,
        filter.to,
        after,
        limit,
    )
    .fetch_all(pg)
    .await
}

/// Removes up to `limit` entries of before `before`; how many there were.
pub async fn remove_older(
    pg: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        // Cores that sweep at the same time take different ones.
        "DELETE FROM core.audit
         WHERE id IN (SELECT id FROM core.audit WHERE at < $1 ORDER BY at LIMIT $2
                      FOR UPDATE SKIP LOCKED)",
        before,
        limit,
    )
    .execute(pg)
    .await?;
    Ok(done.rows_affected())
}
