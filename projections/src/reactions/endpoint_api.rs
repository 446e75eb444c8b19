//! The API of webhooks: who is told of what.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use runtime::http::{self, PageSize, Path, Problem, Query};
use runtime::{clock, db};
use serde::{Deserialize, Serialize};
use shared_model::{EventType, Provider, VehicleId, WorkspaceId};
use sqlx::PgPool;
use tokio::sync::Notify;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::config::WebhooksConfig;
use super::filter::{Filters, Interest};
use super::store::endpoint::{self as store, DisabledReason, Endpoint};
use super::{address, secret_api};
use crate::api;

const LONGEST_DESCRIPTION: usize = 500;
const MOST_FILTERED: usize = 1000;

/// What the API is answered from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) pool: PgPool,
    pub(super) config: Arc<WebhooksConfig>,
    /// Wakes the sender.
    pub(super) wake: Arc<Notify>,
}

/// The routes and what they are described as.
pub(super) fn router() -> OpenApiRouter<Source> {
    OpenApiRouter::new()
        .routes(routes!(list, add))
        .routes(routes!(find, change, remove))
}

/// A webhook to add.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// What is called.
    pub url: String,
    /// What its owner calls it.
    #[serde(default)]
    pub description: String,
    /// Types of events; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_types: Option<BTreeSet<String>>,
    /// What narrows them further.
    #[serde(default)]
    pub filters: Filters,
    /// `whsec_…`; one is made if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
}

/// Changes of a webhook: what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookPatch {
    /// What is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What its owner calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Types of events; null for all.
    #[serde(default, skip_serializing_if = "TypesPatch::is_keep")]
    #[schema(value_type = Option<BTreeSet<String>>)]
    pub event_types: TypesPatch,
    /// What narrows them further, as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Filters>,
    /// Whether it is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

/// A change of the types of events; null stands for all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Option<BTreeSet<String>>", into = "Option<BTreeSet<String>>")]
pub enum TypesPatch {
    /// They stay as they are.
    #[default]
    Keep,
    /// All.
    All,
    /// These.
    Only(BTreeSet<String>),
}

impl TypesPatch {
    fn is_keep(&self) -> bool {
        *self == Self::Keep
    }
}

impl From<Option<BTreeSet<String>>> for TypesPatch {
    fn from(types: Option<BTreeSet<String>>) -> Self {
        types.map_or(Self::All, Self::Only)
    }
}

impl From<TypesPatch> for Option<BTreeSet<String>> {
    fn from(types: TypesPatch) -> Self {
        match types {
            TypesPatch::Only(types) => Some(types),
            TypesPatch::Keep | TypesPatch::All => None,
        }
    }
}

/// A webhook as answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
struct WebhookAnswer {
    /// Its id.
    id: Uuid,
    /// Whose it is.
    workspace: WorkspaceId,
    /// What is called.
    url: String,
    /// What its owner calls it.
    description: String,
    /// Types of events; none stands for all.
    event_types: Option<BTreeSet<String>>,
    /// What narrows them further.
    filters: Filters,
    /// Whether it is called.
    enabled: bool,
    /// Why it is not.
    disabled_reason: Option<DisabledReason>,
    /// Since when it is not (UTC).
    disabled_at: Option<DateTime<Utc>>,
    /// Since when every call has failed (UTC).
    failing_since: Option<DateTime<Utc>>,
    /// When it was added (UTC).
    created_at: DateTime<Utc>,
    /// When its owner changed it last (UTC).
    updated_at: DateTime<Utc>,
    /// At creation only.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl WebhookAnswer {
    fn new(workspace: WorkspaceId, endpoint: Endpoint) -> Self {
        let (disabled_reason, disabled_at) = endpoint.disabled.unzip();
        Self {
            id: endpoint.id,
            workspace,
            url: endpoint.url,
            description: endpoint.description,
            event_types: endpoint.interest.event_types,
            filters: endpoint.interest.filters,
            enabled: disabled_reason.is_none(),
            disabled_reason,
            disabled_at,
            failing_since: endpoint.failing_since,
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            secret: None,
        }
    }
}

/// Everything wrong with a webhook, in one problem.
fn check(
    url: &str,
    description: &str,
    interest: &Interest,
    config: &WebhooksConfig,
) -> Result<(), Problem> {
    let mut complaints: Vec<_> = address::complaint(url, config).into_iter().collect();
    if description.chars().count() > LONGEST_DESCRIPTION {
        complaints.push(format!(
            "description is longer than {LONGEST_DESCRIPTION} characters"
        ));
    }
    if description.contains('\0') {
        complaints.push("description has a NUL".to_owned());
    }
    for kind in interest.event_types.iter().flatten() {
        if EventType::from_name(kind).is_none() {
            let known = EventType::ALL.map(EventType::name).join(", ");
            complaints.push(format!(
                "event type {kind:?} is not known; there are {known}"
            ));
        }
    }
    if interest
        .event_types
        .as_ref()
        .is_some_and(BTreeSet::is_empty)
    {
        complaints.push("event_types is empty; leave it out for all types".to_owned());
    }
    let Filters {
        vehicles,
        providers,
    } = &interest.filters;
    for (name, list) in [("vehicles", vehicles), ("providers", providers)] {
        if list
            .as_ref()
            .is_some_and(|list| !(1..=MOST_FILTERED).contains(&list.len()))
        {
            complaints.push(format!(
                "filters.{name} must have 1 to {MOST_FILTERED} entries; leave it out for all"
            ));
        }
    }
    let vehicles = vehicles.iter().flatten().map(VehicleId::new);
    complaints.extend(
        vehicles
            .filter_map(Result::err)
            .map(|error| error.to_string()),
    );
    let providers = providers.iter().flatten().map(Provider::new);
    complaints.extend(
        providers
            .filter_map(Result::err)
            .map(|error| error.to_string()),
    );
    if complaints.is_empty() {
        return Ok(());
    }
    Err(unprocessable("invalid-webhook", complaints.join("; ")))
}

pub(super) fn unprocessable(name: &str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, name, detail)
}

/// There is no such webhook.
pub(super) fn not_found(workspace: &WorkspaceId, id: Uuid) -> Problem {
    let detail = format!("there is no webhook {id} in workspace {workspace}");
    Problem::not_found("webhook-not-found", detail)
}

/// Add a webhook.
///
/// The answer holds its secret; so does `…/secret`.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/webhooks",
    operation_id = "addWebhook",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
    ),
    request_body = NewWebhook,
    responses((status = 201, body = WebhookAnswer, description = "The webhook")),
    security(("credential" = ["manage"])),
)]
async fn add(
    State(source): State<Source>,
    Path(workspace): Path<String>,
    http::Json(new): http::Json<NewWebhook>,
) -> Result<(StatusCode, Json<WebhookAnswer>), Problem> {
    let workspace = api::workspace(workspace)?;
    let interest = Interest {
        event_types: new.event_types,
        filters: new.filters,
    };
    check(&new.url, &new.description, &interest, &source.config)?;
    let secret = secret_api::chosen(new.secret.as_deref())?;
    let (id, most) = (clock::new_id(), source.config.max_endpoints);
    let new = (new.url.as_str(), new.description.as_str(), &interest);
    let (for_whom, key) = (&workspace, &secret);
    let inserted = db::in_tx(&source.pool, "add_webhook", |mut transaction| async move {
        let done = store::insert(&mut transaction, for_whom, id, new, key, most).await?;
        Ok::<_, sqlx::Error>((transaction, done))
    })
    .await?;
    let endpoint = inserted.ok_or_else(|| {
        let detail = format!(
            "workspace {workspace} has {most} webhooks, the most that it may have; remove one, or raise \
             webhooks.max_endpoints"
        );
        Problem::new(StatusCode::CONFLICT, "too-many-webhooks", detail)
    })?;
    let mut answer = WebhookAnswer::new(workspace, endpoint);
    answer.secret = Some(secret.reveal());
    Ok((StatusCode::CREATED, Json(answer)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Page {
    /// How many the page has.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<Uuid>,
}

/// A page of webhooks.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookPage)]
struct Listed {
    /// By when they were added.
    items: Vec<WebhookAnswer>,
    /// Where the next page goes on; none behind the last page.
    next: Option<Uuid>,
}

/// A workspace's webhooks.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/webhooks",
    operation_id = "listWebhooks",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        Page,
    ),
    responses((status = 200, body = Listed, description = "A page of them")),
    security(("credential" = ["read"])),
)]
async fn list(
    State(source): State<Source>,
    Path(workspace): Path<String>,
    Query(page): Query<Page>,
) -> Result<Json<Listed>, Problem> {
    let workspace = api::workspace(workspace)?;
    let size = PageSize::asked(page.limit)?;
    let mut pg = source.pool.acquire().await?;
    let found = store::list(&mut pg, &workspace, page.after, size.to_look_for()).await?;
    let (items, next) = size.cut(found, |endpoint| endpoint.id);
    let items = items.into_iter();
    let items = items.map(|endpoint| WebhookAnswer::new(workspace.clone(), endpoint));
    Ok(Json(Listed {
        items: items.collect(),
        next,
    }))
}

/// One webhook.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}",
    operation_id = "getWebhook",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
    ),
    responses((status = 200, body = WebhookAnswer, description = "The webhook")),
    security(("credential" = ["read"])),
)]
async fn find(
    State(source): State<Source>,
    Path((workspace, id)): Path<(String, Uuid)>,
) -> Result<Json<WebhookAnswer>, Problem> {
    let workspace = api::workspace(workspace)?;
    let found = store::find(&mut *source.pool.acquire().await?, &workspace, id).await?;
    let endpoint = found.ok_or_else(|| not_found(&workspace, id))?;
    Ok(Json(WebhookAnswer::new(workspace, endpoint)))
}

/// Change a webhook, enable or disable it.
#[utoipa::path(
    patch,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}",
    operation_id = "changeWebhook",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
    ),
    request_body = WebhookPatch,
    responses((status = 200, body = WebhookAnswer, description = "The webhook now")),
    security(("credential" = ["manage"])),
)]
async fn change(
    State(source): State<Source>,
    Path((workspace, id)): Path<(String, Uuid)>,
    http::Json(patch): http::Json<WebhookPatch>,
) -> Result<Json<WebhookAnswer>, Problem> {
    let workspace = api::workspace(workspace)?;
    let (for_whom, patch, config) = (&workspace, &patch, &source.config);
    let changed = db::in_tx(
        &source.pool,
        "change_webhook",
        |mut transaction| async move {
            let Some(before) = store::lock(&mut transaction, for_whom, id).await? else {
                return Ok((transaction, Err(not_found(for_whom, id))));
            };
            let (wanted, enabled) = patched(before, patch);
            if let Err(problem) = check(&wanted.url, &wanted.description, &wanted.interest, config)
            {
                return Ok((transaction, Err(problem)));
            }
            let changed = store::update(&mut transaction, &wanted, enabled).await?;
            Ok::<_, sqlx::Error>((transaction, Ok(changed)))
        },
    )
    .await??;
    source.wake.notify_one();
    Ok(Json(WebhookAnswer::new(workspace, changed)))
}

/// The endpoint with what `patch` says, and whether it is to be called.
fn patched(mut endpoint: Endpoint, patch: &WebhookPatch) -> (Endpoint, bool) {
    if let Some(url) = &patch.url {
        endpoint.url.clone_from(url);
    }
    if let Some(description) = &patch.description {
        endpoint.description.clone_from(description);
    }
    match &patch.event_types {
        TypesPatch::Keep => {}
        TypesPatch::All => endpoint.interest.event_types = None,
        TypesPatch::Only(types) => endpoint.interest.event_types = Some(types.clone()),
    }
    if let Some(filters) = &patch.filters {
        endpoint.interest.filters.clone_from(filters);
    }
    let enabled = patch.enabled.unwrap_or(endpoint.disabled.is_none());
    (endpoint, enabled)
}

/// Remove a webhook, and its deliveries.
#[utoipa::path(
    delete,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}",
    operation_id = "removeWebhook",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
    ),
    responses((status = 204, description = "It is gone")),
    security(("credential" = ["manage"])),
)]
async fn remove(
    State(source): State<Source>,
    Path((workspace, id)): Path<(String, Uuid)>,
) -> Result<StatusCode, Problem> {
    let workspace = api::workspace(workspace)?;
    if store::remove(&mut *source.pool.acquire().await?, &workspace, id).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(not_found(&workspace, id))
    }
}
