//! API keys: made, listed, shown and revoked. A key itself is shown once, to whoever makes it.

mod order;
mod view;

use std::collections::BTreeSet;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use runtime::access::{ApiKey, KeyCheck, KeyGrant, KeySource as _, Principal, Scope, Workspaces};
use runtime::clock;
use runtime::http::{Json, PageSize, Path, Problem, Query};
use shared_model::WorkspaceId;
use sqlx::PgPool;

use crate::access::PgAccess;
use crate::control::params::{AtKey, AtWorkspaceKey, InWorkspace};
use crate::store::api_key::{self, Which};

use view::KeyQuery;
pub use view::{ApiKeyPage, ApiKeyView, CreatedApiKey, NewApiKey, NewWideApiKey};

/// How many keys that count a workspace may have, to make more for itself.
const MOST_KEYS: i64 = 100;

/// Makes a key as `principal` asks for it.
pub async fn make(
    pool: &PgPool,
    principal: &Principal,
    new: NewWideApiKey,
) -> Result<CreatedApiKey, Problem> {
    let key = ApiKey::new().map_err(|error| Problem::internal(&*error))?;
    let now = clock::now();
    let row = order::decide(principal, new, key.id.clone(), now)?;
    api_key::insert(&mut *pool.acquire().await?, &row, &key.digest()).await?;
    tracing::info!(key = row.id, by = row.created_by, "an API key was made");
    Ok(CreatedApiKey {
        key: key.expose(),
        view: ApiKeyView::new(row, now),
    })
}

/// The answer that shows a key, which nobody on the way may keep.
fn created(created: CreatedApiKey, list: &str) -> Response {
    let location = format!("{list}/{}", created.view.id);
    let mut response = (StatusCode::CREATED, axum::Json(created)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Ok(location) = HeaderValue::from_str(&location) {
        headers.insert(header::LOCATION, location);
    }
    response
}

fn not_found(id: &str) -> Problem {
    let detail = format!("there is no API key {id:?} here");
    Problem::not_found("api-key-not-found", detail)
}

impl KeyQuery {
    async fn answer(
        self,
        pool: &PgPool,
        which: Which<'_>,
    ) -> Result<axum::Json<ApiKeyPage>, Problem> {
        let size = PageSize::asked(self.limit)?;
        let is_id =
            |id: &str| id.len() == 16 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if self.after.as_deref().is_some_and(|after| !is_id(after)) {
            let detail = "after is no cursor; write the `next` of the page before";
            return Err(Problem::bad_request("invalid-cursor", detail));
        }
        let mut pg = pool.acquire().await?;
        let limit = size.to_look_for();
        let found = api_key::list(&mut pg, which, self.after.as_deref(), limit).await?;
        let (found, next) = size.cut(found, |key| key.id.clone());
        let now = clock::now();
        let items = found.into_iter().map(|row| match which {
            Which::Reaching(workspace) => ApiKeyView::within(workspace, row, now),
            Which::Within(_) => ApiKeyView::new(row, now),
        });
        let items = items.collect();
        Ok(axum::Json(ApiKeyPage { items, next }))
    }
}

/// List a workspace's API keys
///
/// Those that reach other workspaces too are among them; which ones is not told.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/api-keys",
    operation_id = "listApiKeys",
    tag = "access",
    params(InWorkspace, KeyQuery),
    responses((status = 200, body = ApiKeyPage, description = "The keys, the oldest first")),
    security(("credential" = ["manage"]))
)]
pub(super) async fn list(
    State(pool): State<PgPool>,
    Path(at): Path<InWorkspace>,
    Query(query): Query<KeyQuery>,
) -> Result<axum::Json<ApiKeyPage>, Problem> {
    let workspace = at.workspace()?;
    query
        .answer(&pool, Which::Reaching(workspace.as_str()))
        .await
}

/// Make an API key for a workspace
///
/// The answer is the only one that holds the key. It reaches this workspace alone, and has no scope that
/// you do not have.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/api-keys",
    operation_id = "createApiKey",
    tag = "access",
    params(InWorkspace),
    request_body = NewApiKey,
    responses((status = 201, body = CreatedApiKey, description = "The key, shown this once")),
    security(("credential" = ["manage"]))
)]
pub(super) async fn create(
    State(pool): State<PgPool>,
    Extension(principal): Extension<Principal>,
    Path(at): Path<InWorkspace>,
    Json(new): Json<NewApiKey>,
) -> Result<Response, Problem> {
    let workspace = at.workspace()?;
    require_room(&pool, &workspace).await?;
    let new = NewWideApiKey {
        name: new.name,
        workspaces: BTreeSet::from([workspace.clone()]),
        scopes: new.scopes,
        expires_at: new.expires_at,
    };
    let list = format!("/v1/workspaces/{workspace}/api-keys");
    Ok(created(make(&pool, &principal, new).await?, &list))
}

/// What a principal may ask is limited by key, so only who operates the installation makes as many as they
/// like. Where several are made at once, there may be a few more.
async fn require_room(pool: &PgPool, workspace: &WorkspaceId) -> Result<(), Problem> {
    let mut pg = pool.acquire().await?;
    let count = api_key::count_valid(&mut pg, workspace.as_str(), clock::now()).await?;
    if count < MOST_KEYS {
        return Ok(());
    }
    let detail = format!(
        "workspace {workspace} has {count} keys that count, and may make none beyond {MOST_KEYS}; revoke \
         those that nobody uses"
    );
    Err(Problem::new(
        StatusCode::CONFLICT,
        "too-many-api-keys",
        detail,
    ))
}

/// Show an API key of a workspace
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/api-keys/{id}",
    operation_id = "getApiKey",
    tag = "access",
    params(AtWorkspaceKey),
    responses((status = 200, body = ApiKeyView, description = "All but the key itself")),
    security(("credential" = ["manage"]))
)]
pub(super) async fn show(
    State(pool): State<PgPool>,
    Path(at): Path<AtWorkspaceKey>,
) -> Result<axum::Json<ApiKeyView>, Problem> {
    let workspace = at.workspace()?;
    let which = Which::Reaching(workspace.as_str());
    let found = api_key::find(&mut *pool.acquire().await?, which, &at.id).await?;
    let row = found.ok_or_else(|| not_found(&at.id))?;
    let view = ApiKeyView::within(workspace.as_str(), row, clock::now());
    Ok(axum::Json(view))
}

/// Revoke an API key of a workspace
///
/// It stays in the list as revoked. To revoke it again changes nothing. A key that reaches other
/// workspaces too is revoked by whoever operates the installation.
#[utoipa::path(
    delete,
    path = "/v1/workspaces/{workspace}/api-keys/{id}",
    operation_id = "revokeApiKey",
    tag = "access",
    params(AtWorkspaceKey),
    responses((status = 204, description = "It is revoked")),
    security(("credential" = ["manage"]))
)]
pub(super) async fn revoke(
    State(pool): State<PgPool>,
    Extension(principal): Extension<Principal>,
    Path(at): Path<AtWorkspaceKey>,
) -> Result<StatusCode, Problem> {
    let workspace = at.workspace()?;
    let which = Which::Reaching(workspace.as_str());
    let mut pg = pool.acquire().await?;
    let row = api_key::find(&mut pg, which, &at.id).await?;
    let row = row.ok_or_else(|| not_found(&at.id))?;
    if row.workspaces.len() > 1 {
        let detail = "this key reaches other workspaces too, so it is revoked with \
                      DELETE /v1/api-keys/{id}, by who has the scope `operate` and reaches all of them";
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "api-key-shared",
            detail,
        ));
    }
    if row.scopes.contains(&Scope::Operate) && !principal.has(Scope::Operate) {
        let detail =
            "this key operates the installation, so it is revoked by who has the scope `operate`";
        return Err(Problem::new(StatusCode::FORBIDDEN, "scope-missing", detail));
    }
    end(&pool, &at.id).await
}

async fn end(pool: &PgPool, id: &str) -> Result<StatusCode, Problem> {
    let mut pg = pool.acquire().await?;
    if api_key::revoke(&mut pg, id, clock::now()).await? {
        tracing::info!(key = id, "an API key was revoked");
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The workspaces within which a principal may know of keys; none where it may of all.
fn reach(principal: &Principal) -> Option<Vec<String>> {
    match &principal.workspaces {
        Workspaces::All => None,
        Workspaces::Of(names) => Some(names.iter().cloned().collect()),
    }
}

/// List the API keys of all workspaces that you reach
#[utoipa::path(
    get,
    path = "/v1/api-keys",
    operation_id = "listInstallationApiKeys",
    tag = "access",
    params(KeyQuery),
    responses((status = 200, body = ApiKeyPage, description = "The keys, the oldest first")),
    security(("credential" = ["operate"]))
)]
pub(super) async fn list_wide(
    State(pool): State<PgPool>,
    Extension(principal): Extension<Principal>,
    Query(query): Query<KeyQuery>,
) -> Result<axum::Json<ApiKeyPage>, Problem> {
    let reach = reach(&principal);
    query.answer(&pool, Which::Within(reach.as_deref())).await
}

/// Make an API key for several workspaces
///
/// The answer is the only one that holds the key. It reaches no workspace that you do not reach, and has
/// no scope that you do not have.
#[utoipa::path(
    post,
    path = "/v1/api-keys",
    operation_id = "createInstallationApiKey",
    tag = "access",
    request_body = NewWideApiKey,
    responses((status = 201, body = CreatedApiKey, description = "The key, shown this once")),
    security(("credential" = ["operate"]))
)]
pub(super) async fn create_wide(
    State(pool): State<PgPool>,
    Extension(principal): Extension<Principal>,
    Json(new): Json<NewWideApiKey>,
) -> Result<Response, Problem> {
    Ok(created(make(&pool, &principal, new).await?, "/v1/api-keys"))
}

/// Show an API key whose workspaces you reach
#[utoipa::path(
    get,
    path = "/v1/api-keys/{id}",
    operation_id = "getInstallationApiKey",
    tag = "access",
    params(AtKey),
    responses((status = 200, body = ApiKeyView, description = "All but the key itself")),
    security(("credential" = ["operate"]))
)]
pub(super) async fn show_wide(
    State(pool): State<PgPool>,
    Extension(principal): Extension<Principal>,
    Path(AtKey { id }): Path<AtKey>,
) -> Result<axum::Json<ApiKeyView>, Problem> {
    let reach = reach(&principal);
    let which = Which::Within(reach.as_deref());
    let found = api_key::find(&mut *pool.acquire().await?, which, &id).await?;
    let row = found.ok_or_else(|| not_found(&id))?;
    Ok(axum::Json(ApiKeyView::new(row, clock::now())))
}

/// Revoke an API key whose workspaces you reach
///
/// It stays in the list as revoked. To revoke it again changes nothing.
#[utoipa::path(
    delete,
    path = "/v1/api-keys/{id}",
    operation_id = "revokeInstallationApiKey",
    tag = "access",
    params(AtKey),
    responses((status = 204, description = "It is revoked")),
    security(("credential" = ["operate"]))
)]
pub(super) async fn revoke_wide(
    State(pool): State<PgPool>,
    Extension(principal): Extension<Principal>,
    Path(AtKey { id }): Path<AtKey>,
) -> Result<StatusCode, Problem> {
    let reach = reach(&principal);
    let which = Which::Within(reach.as_deref());
    let found = api_key::find(&mut *pool.acquire().await?, which, &id).await?;
    found.ok_or_else(|| not_found(&id))?;
    end(&pool, &id).await
}

/// `POST /internal/v1/api-keys/check`: what a key allows, for another service.
pub(super) async fn check(
    State(pool): State<PgPool>,
    Json(check): Json<KeyCheck>,
) -> Result<axum::Json<KeyGrant>, Problem> {
    let grant = PgAccess::new(pool).check(&check).await?;
    grant.map(axum::Json).ok_or_else(|| not_found(&check.id))
}
