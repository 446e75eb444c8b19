//! The health of single vehicles.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use shared_model::Provider;
use uuid::Uuid;

use super::seconds;
use crate::api;
use crate::health::Health;
use crate::health::freshness::Freshness;
use crate::health::judgement::Cause;
use crate::health::store::view::{self, Filter};

/// A vehicle's health as answered.
#[derive(Debug, Serialize)]
pub(super) struct HealthAnswer {
    workspace: String,
    vehicle: String,
    freshness: Freshness,
    last_received_at: Option<DateTime<Utc>>,
    since: DateTime<Utc>,
    cause: Option<Cause>,
    incident: Option<Uuid>,
    provider: Option<String>,
    connection: Option<Uuid>,
    stale_after_seconds: Number,
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

#[derive(Debug, Deserialize)]
pub(super) struct Asked {
    freshness: Option<Freshness>,
    cause: Option<Cause>,
    provider: Option<Provider>,
    incident: Option<Uuid>,
    limit: Option<i64>,
    after: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Listed {
    items: Vec<HealthAnswer>,
    /// Where the next page goes on; none behind the last page.
    next: Option<String>,
}

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
