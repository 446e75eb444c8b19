//! The API of deliveries: what was sent, what came of it, and sending again.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, SubsecRound, Utc};
use runtime::http::{self, PageSize, Path, Problem, Query};
use runtime::{clock, db};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use shared_model::WorkspaceId;
use sqlx::PgConnection;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::call::webhook_id;
use super::endpoint_api::{Source, not_found};
use super::filter::Body;
use super::store::CHUNK;
use super::store::delivery::{self as store, Attempt, Delivery, NewDelivery, Status};
use super::store::endpoint::{self, Endpoint};
use crate::api;

/// The routes and what they are described as.
pub(super) fn router() -> OpenApiRouter<Source> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(find))
        .routes(routes!(redeliver))
        .routes(routes!(recover))
        .routes(routes!(test))
}

/// A delivery as answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
struct DeliveryAnswer {
    /// Its id; ids sort by when deliveries were made.
    id: Uuid,
    /// Whose it is.
    webhook: Uuid,
    /// What the receiver knows the event by.
    webhook_id: String,
    /// The event's id.
    event: String,
    /// Its type, such as `vehicle.snapshot.changed`.
    event_type: String,
    /// What it is about.
    subject: Option<String>,
    /// Where the delivery stands.
    #[schema(value_type = Status)]
    status: String,
    /// How often the receiver was called.
    attempts: i32,
    /// When it was made (UTC).
    created_at: DateTime<Utc>,
    /// Of a pending one; while it is being sent, when it is sent again if nothing more is heard of that.
    next_attempt_at: Option<DateTime<Utc>>,
    /// When it was over, one way or another (UTC).
    done_at: Option<DateTime<Utc>>,
}

impl From<Delivery> for DeliveryAnswer {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            webhook: delivery.endpoint,
            webhook_id: webhook_id(delivery.endpoint, &delivery.event),
            event: delivery.event,
            event_type: delivery.event_type,
            subject: delivery.subject,
            status: delivery.status,
            attempts: delivery.attempts,
            created_at: delivery.created_at,
            next_attempt_at: delivery.done_at.is_none().then_some(delivery.due_at),
            done_at: delivery.done_at,
        }
    }
}

/// The same with what is sent and what came of it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DetailedDelivery)]
struct DetailedAnswer {
    #[serde(flatten)]
    delivery: DeliveryAnswer,
    /// What is sent.
    #[schema(value_type = Object)]
    body: Box<RawValue>,
    /// The calls, in order.
    log: Vec<Attempt>,
}

/// The endpoint, if it is one of the workspace's.
async fn require(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
) -> Result<Endpoint, Problem> {
    let found = endpoint::find(pg, workspace, id).await?;
    found.ok_or_else(|| not_found(workspace, id))
}

/// The same if it is called as well.
async fn require_enabled(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
) -> Result<Endpoint, Problem> {
    let endpoint = require(pg, workspace, id).await?;
    if endpoint.disabled.is_some() {
        let detail = "the webhook is disabled; enable it first (PATCH {\"enabled\": true})";
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "webhook-disabled",
            detail,
        ));
    }
    Ok(endpoint)
}

fn no_delivery(webhook: Uuid, id: Uuid) -> Problem {
    let detail = format!("webhook {webhook} has no delivery {id}, or it is kept no longer");
    Problem::not_found("delivery-not-found", detail)
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Filter {
    /// Only those that stand there.
    #[param(value_type = Option<Status>, inline)]
    status: Option<String>,
    /// How many the page has.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<Uuid>,
}

/// A page of deliveries.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryPage)]
struct Listed {
    /// The newest first.
    items: Vec<DeliveryAnswer>,
    /// Where the next page goes on; none behind the last page.
    next: Option<Uuid>,
}

/// A webhook's deliveries.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}/deliveries",
    operation_id = "listDeliveries",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
        Filter,
    ),
    responses((status = 200, body = Listed, description = "A page of them")),
    security(("credential" = ["read"])),
)]
async fn list(
    State(source): State<Source>,
    Path((workspace, webhook)): Path<(String, Uuid)>,
    Query(filter): Query<Filter>,
) -> Result<Json<Listed>, Problem> {
    let workspace = api::workspace(workspace)?;
    let size = PageSize::asked(filter.limit)?;
    let status = match filter.status.as_deref() {
        None => None,
        Some(name) => Some(Status::from_name(name).ok_or_else(|| {
            let known = Status::ALL.map(Status::name).join(", ");
            let detail = format!("status {name:?} is not known; there are {known}");
            Problem::bad_request("invalid-status", detail)
        })?),
    };
    let mut pg = source.pool.acquire().await?;
    require(&mut pg, &workspace, webhook).await?;
    let most = size.to_look_for();
    let found = store::list(&mut pg, webhook, status, filter.after, most).await?;
    let (items, next) = size.cut(found, |delivery| delivery.id);
    let items = items.into_iter().map(DeliveryAnswer::from).collect();
    Ok(Json(Listed { items, next }))
}

/// One delivery: what is sent, and what came of it.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}/deliveries/{delivery}",
    operation_id = "getDelivery",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
        ("delivery" = Uuid, Path, description = "The delivery"),
    ),
    responses((status = 200, body = DetailedAnswer, description = "The delivery")),
    security(("credential" = ["read"])),
)]
async fn find(
    State(source): State<Source>,
    Path((workspace, webhook, id)): Path<(String, Uuid, Uuid)>,
) -> Result<Json<DetailedAnswer>, Problem> {
    let workspace = api::workspace(workspace)?;
    let mut pg = source.pool.acquire().await?;
    require(&mut pg, &workspace, webhook).await?;
    let found = store::find(&mut pg, webhook, id).await?;
    let (delivery, body) = found.ok_or_else(|| no_delivery(webhook, id))?;
    let log = store::attempts(&mut pg, id).await?;
    let body = RawValue::from_string(body).map_err(|error| Problem::internal(&error))?;
    Ok(Json(DetailedAnswer {
        delivery: delivery.into(),
        body,
        log,
    }))
}

/// Send a delivery again, whatever came of it.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}/deliveries/{delivery}/redeliver",
    operation_id = "redeliver",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
        ("delivery" = Uuid, Path, description = "The delivery"),
    ),
    responses((status = 202, body = DeliveryAnswer, description = "It is sent again")),
    security(("credential" = ["manage"])),
)]
async fn redeliver(
    State(source): State<Source>,
    Path((workspace, webhook, id)): Path<(String, Uuid, Uuid)>,
) -> Result<(StatusCode, Json<DeliveryAnswer>), Problem> {
    let workspace = api::workspace(workspace)?;
    let mut pg = source.pool.acquire().await?;
    require_enabled(&mut pg, &workspace, webhook).await?;
    let is_due = store::redeliver(&mut pg, webhook, id).await?;
    let found = store::find(&mut pg, webhook, id).await?;
    let (delivery, _) = found.ok_or_else(|| no_delivery(webhook, id))?;
    if !is_due {
        let detail = "the delivery is being sent at this moment; look at what comes of it";
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "delivery-under-way",
            detail,
        ));
    }
    source.wake.notify_one();
    Ok((StatusCode::ACCEPTED, Json(delivery.into())))
}

/// Which deliveries to send again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Recover {
    /// Those that were made then or later (UTC).
    pub since: DateTime<Utc>,
}

/// How many deliveries are sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovered {
    /// How many.
    pub deliveries: u64,
}

/// Send again what failed or was skipped since a time.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}/recover",
    operation_id = "recoverDeliveries",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
    ),
    request_body = Recover,
    responses((status = 202, body = Recovered, description = "How many are sent again")),
    security(("credential" = ["manage"])),
)]
async fn recover(
    State(source): State<Source>,
    Path((workspace, webhook)): Path<(String, Uuid)>,
    http::Json(order): http::Json<Recover>,
) -> Result<(StatusCode, Json<Recovered>), Problem> {
    let workspace = api::workspace(workspace)?;
    let mut pg = source.pool.acquire().await?;
    require_enabled(&mut pg, &workspace, webhook).await?;
    let since = order.since.trunc_subsecs(6);
    let before = store::now(&mut pg).await?;
    let mut deliveries = 0;
    loop {
        let chunk = store::recover(&mut pg, webhook, since, before).await?;
        source.wake.notify_one();
        deliveries += chunk;
        if chunk < CHUNK.unsigned_abs() {
            break;
        }
    }
    Ok((StatusCode::ACCEPTED, Json(Recovered { deliveries })))
}

/// Send a test event.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}/test",
    operation_id = "testWebhook",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
    ),
    responses((status = 202, body = DeliveryAnswer, description = "The delivery of the test")),
    security(("credential" = ["manage"])),
)]
async fn test(
    State(source): State<Source>,
    Path((workspace, webhook)): Path<(String, Uuid)>,
) -> Result<(StatusCode, Json<DeliveryAnswer>), Problem> {
    let workspace = api::workspace(workspace)?;
    let (id, now) = (clock::new_id(), clock::now());
    let event = format!("test:{id}");
    let kind = "webhook.test";
    let body = Body {
        kind,
        timestamp: now,
        id: &event,
        workspace: &workspace,
        subject: None,
        data: &json!({"webhook": webhook}),
    };
    let body = body.text();
    let new = [NewDelivery {
        id,
        endpoint: webhook,
        event,
        event_type: kind.to_owned(),
        subject: None,
        body,
        status: Status::Pending,
    }];
    let (for_whom, new) = (&workspace, &new);
    let made = db::in_tx(&source.pool, "test_webhook", |mut transaction| async move {
        let allowed = require_enabled(&mut transaction, for_whom, webhook).await;
        if let Err(problem) = allowed {
            return Ok((transaction, Err(problem)));
        }
        store::insert(&mut transaction, new).await?;
        let made = store::find(&mut transaction, webhook, id).await?;
        let made = made.ok_or_else(|| no_delivery(webhook, id));
        Ok::<_, sqlx::Error>((transaction, made))
    })
    .await??;
    source.wake.notify_one();
    Ok((StatusCode::ACCEPTED, Json(made.0.into())))
}
