//! The audit log: read by operators and workspaces, written by the services.

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use runtime::access::{Begun, Change, Concluded};
use runtime::clock;
use runtime::http::{Json, PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::control::input;
use crate::control::params::InWorkspace;
use crate::store::audit::{self, AuditRow, Filter};

/// A change that somebody has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// The entry's id.
    pub id: Uuid,
    /// When the change was asked for (UTC).
    pub at: DateTime<Utc>,
    /// Who asked: `key:<id>`, `jwt:<subject>` or `internal`.
    #[schema(example = "key:9f86d081884c7d65")]
    pub principal: String,
    /// In which workspace, if the path names one.
    pub workspace: Option<String>,
    /// The HTTP method.
    #[schema(example = "DELETE")]
    pub method: String,
    /// The path as the API describes it.
    #[schema(example = "/v1/workspaces/{workspace}/api-keys/{id}")]
    pub route: String,
    /// The path as it was asked, without its query.
    #[schema(example = "/v1/workspaces/depot/api-keys/9f86d081884c7d65")]
    pub path: String,
    /// The answer's HTTP status; null while the change is under way, and where it is not known how it
    /// ended.
    pub status: Option<i32>,
    /// The request's trace, if it was traced.
    pub trace_id: Option<String>,
}

impl From<AuditRow> for AuditEntry {
    fn from(row: AuditRow) -> Self {
        Self {
            id: row.id,
            at: row.at,
            principal: row.principal,
            workspace: row.workspace,
            method: row.method,
            route: row.route,
            path: row.path,
            status: row.status,
            trace_id: row.trace_id,
        }
    }
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    /// The entries, the newest first.
    pub items: Vec<AuditEntry>,
    /// Where the next page begins, if there is one.
    pub next: Option<Uuid>,
}

/// Which part of the audit log is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// The most entries of the page.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<i64>,
    /// The `next` of the page before: the list goes on behind it.
    #[param(nullable = false)]
    after: Option<Uuid>,
    /// Only what this principal has asked for, such as `key:9f86d081884c7d65`.
    #[param(nullable = false)]
    principal: Option<String>,
    /// Only what was asked for then or later (RFC 3339).
    #[serde(default, deserialize_with = "input::moment")]
    #[param(nullable = false)]
    from: Option<DateTime<Utc>>,
    /// Only what was asked for before (RFC 3339).
    #[serde(default, deserialize_with = "input::moment")]
    #[param(nullable = false)]
    to: Option<DateTime<Utc>>,
}

impl AuditQuery {
    async fn answer(
        self,
        pool: &PgPool,
        workspace: Option<String>,
    ) -> Result<axum::Json<AuditPage>, Problem> {
        let size = PageSize::asked(self.limit)?;
        let filter = Filter {
            workspace,
            principal: self.principal,
            from: self.from,
            to: self.to,
        };
        let mut pg = pool.acquire().await?;
        let found = audit::page(&mut pg, &filter, self.after, size.to_look_for()).await?;
        let (found, next) = size.cut(found, |entry| entry.id);
        let items = found.into_iter().map(Into::into).collect();
        Ok(axum::Json(AuditPage { items, next }))
    }
}

/// List who has changed what in a workspace
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/audit",
    operation_id = "listAudit",
    tag = "access",
    params(InWorkspace, AuditQuery),
    responses((status = 200, body = AuditPage, description = "Entries, the newest first")),
    security(("credential" = ["manage"]))
)]
pub(super) async fn list(
    State(pool): State<PgPool>,
    Path(at): Path<InWorkspace>,
    Query(query): Query<AuditQuery>,
) -> Result<axum::Json<AuditPage>, Problem> {
    let workspace = at.workspace()?;
    query.answer(&pool, Some(workspace.to_string())).await
}

/// List who has changed what in the whole installation
#[utoipa::path(
    get,
    path = "/v1/audit",
    operation_id = "listInstallationAudit",
    tag = "access",
    params(AuditQuery),
    responses((status = 200, body = AuditPage, description = "Entries, the newest first")),
    security(("credential" = ["operate"]))
)]
pub(super) async fn list_all(
    State(pool): State<PgPool>,
    Query(query): Query<AuditQuery>,
) -> Result<axum::Json<AuditPage>, Problem> {
    query.answer(&pool, None).await
}

/// `POST /internal/v1/audit`: another service is about to try a change.
pub(super) async fn begin(
    State(pool): State<PgPool>,
    Json(change): Json<Change>,
) -> Result<(StatusCode, axum::Json<Begun>), Problem> {
    let id = clock::new_id();
    let mut pg = pool.acquire().await?;
    audit::insert(&mut pg, id, clock::now(), &change).await?;
    Ok((StatusCode::CREATED, axum::Json(Begun { id })))
}

/// `PUT /internal/v1/audit/{id}`: how it has ended.
pub(super) async fn conclude(
    State(pool): State<PgPool>,
    Path(id): Path<Uuid>,
    Json(concluded): Json<Concluded>,
) -> Result<StatusCode, Problem> {
    let mut pg = pool.acquire().await?;
    if !audit::conclude(&mut pg, id, concluded.status).await? {
        let detail = format!("there is no audit entry {id}");
        return Err(Problem::not_found("audit-entry-not-found", detail));
    }
    Ok(StatusCode::NO_CONTENT)
}
