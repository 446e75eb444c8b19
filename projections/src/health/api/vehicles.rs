//! The health of single vehicles.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use shared_model::{Provider, VehicleId, WorkspaceId};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::seconds;
use crate::api;
use crate::health::Health;
use crate::health::freshness::Freshness;
use crate::health::judgement::Cause;
use crate::health::store::view::{self, Filter};

/// A vehicle's health as answered.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VehicleHealth)]
pub(super) struct HealthAnswer {
    /// The workspace.
    workspace: String,
    /// The vehicle.
    vehicle: String,
    /// How recently it was heard from.
    freshness: Freshness,
    /// When it was last heard from (UTC); none if it never was.
    last_received_at: Option<DateTime<Utc>>,
    /// Since when its freshness is what it is (UTC).
    since: DateTime<Utc>,
    /// Why it is not fresh; none if it is.
    cause: Option<Cause>,
    /// The outage, where that is the cause.
    incident: Option<Uuid>,
    /// The provider that it was last heard from through.
    provider: Option<String>,
    /// The connection that it was last heard from through.
    connection: Option<Uuid>,
    /// How long it may be silent before it is stale, in seconds.
    #[schema(value_type = f64)]
    stale_after_seconds: Number,
    /// How long it may be silent before it is offline, in seconds.
    #[schema(value_type = f64)]
    offline_after_seconds: Number,
}

impl HealthAnswer {
    fn new(workspace: String, found: view::Health, health: &Health) -> Self {
        let provider = found.provider.as_deref().map(str::parse::<Provider>);
        let limits = health.limits.of(provider.and_then(Result::ok).as_ref());
        Self {
            workspace,
            vehicle: found.vehicle,
            freshness: found.freshness,
            last_received_at: found.last_received_at,
            since: found.since,
            cause: found.cause,
            incident: found.incident,
            provider: found.provider,
            connection: found.connection,
            stale_after_seconds: seconds(limits.stale_after),
            offline_after_seconds: seconds(limits.offline_after),
        }
    }
}

/// The health of one vehicle.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/vehicles/{vehicle}/health",
    operation_id = "getVehicleHealth",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("vehicle" = inline(VehicleId), Path, description = "The vehicle"),
    ),
    responses((status = 200, body = HealthAnswer, description = "The vehicle's health")),
    security(("credential" = ["read"])),
)]
pub(super) async fn find(
    State(health): State<Health>,
    Path((workspace, vehicle)): Path<(String, String)>,
) -> Result<Json<HealthAnswer>, Problem> {
    let key = api::vehicle_key(workspace, vehicle)?;
    let found = view::find(&mut *health.pool.acquire().await?, &key).await?;
    let found = found.ok_or_else(|| api::vehicle_not_found(&key))?;
    Ok(Json(HealthAnswer::new(
        key.workspace.into(),
        found,
        &health,
    )))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only vehicles as fresh as this.
    #[param(inline)]
    freshness: Option<Freshness>,
    /// Only vehicles that are not fresh for this cause.
    #[param(inline)]
    cause: Option<Cause>,
    /// Only vehicles that were last heard from through this provider.
    #[param(inline)]
    provider: Option<Provider>,
    /// Only vehicles that this outage silences.
    incident: Option<Uuid>,
    /// How many the page has.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
}

/// A page of vehicles' health.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VehicleHealthPage)]
pub(super) struct Listed {
    /// By the bytes of the vehicles' ids.
    items: Vec<HealthAnswer>,
    /// Where the next page goes on; none behind the last page.
    next: Option<String>,
}

/// The health of a workspace's vehicles.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/health/vehicles",
    operation_id = "listVehicleHealth",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        Asked,
    ),
    responses((status = 200, body = Listed, description = "A page of them")),
    security(("credential" = ["read"])),
)]
pub(super) async fn list(
    State(health): State<Health>,
    Path(workspace): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Listed>, Problem> {
    let workspace = api::workspace(workspace)?;
    let size = PageSize::asked(asked.limit)?;
    let after = asked
        .after
        .as_deref()
        .map(api::vehicle_of_cursor)
        .transpose()?;
    let filter = Filter {
        freshness: asked.freshness,
        cause: asked.cause,
        provider: asked.provider,
        incident: asked.incident,
    };
    let mut pg = health.pool.acquire().await?;
    let after = after.as_ref().map(shared_model::VehicleId::as_str);
    let found = view::list(&mut pg, &workspace, &filter, after, size.to_look_for()).await?;
    let (found, next) = size.cut(found, |found| api::cursor_of_vehicle(&found.vehicle));
    let items = found.into_iter();
    let items = items.map(|found| HealthAnswer::new(workspace.to_string(), found, &health));
    Ok(Json(Listed {
        items: items.collect(),
        next,
    }))
}
