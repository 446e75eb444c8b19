//! Health's read API.

mod history;
mod incidents;
mod vehicles;

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use chrono::TimeDelta;
use runtime::clock;
use runtime::http::{Path, Problem};
use serde::Serialize;
use serde_json::Number;
use shared_model::WorkspaceId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Health;
use super::connection_api;
use super::connection_store as connection;
use super::freshness::Freshness;
use super::judgement::Cause;
use super::store::incident::{self, Incident, State as IncidentState};
use super::store::view::{self, Count};
use crate::api;

/// How many open incidents a summary lists.
const LISTED_INCIDENTS: i64 = 100;

/// The routes and what they are described as.
pub(super) fn router() -> OpenApiRouter<Health> {
    OpenApiRouter::new()
        .routes(routes!(summary))
        .routes(routes!(vehicles::list))
        .routes(routes!(vehicles::find))
        .routes(routes!(incidents::list))
        .routes(routes!(incidents::find))
        .routes(routes!(history::of_workspace))
        .routes(routes!(history::of_vehicle))
}

/// The routes, answered for `health`.
pub(super) fn routes(health: &Health) -> OpenApiRouter {
    router()
        .with_state(health.clone())
        .merge(connection_api::routes(health.pool.clone()))
}

/// How many vehicles are how fresh.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = VehiclesByFreshness)]
struct ByFreshness {
    /// All of them.
    vehicles: i64,
    /// Heard from recently.
    fresh: i64,
    /// Not heard from for longer than `stale_after_seconds`.
    stale: i64,
    /// Not heard from for longer than `offline_after_seconds`.
    offline: i64,
    /// Registered, and never heard from since.
    never_seen: i64,
}

impl ByFreshness {
    fn add(&mut self, count: &Count) {
        self.vehicles += count.vehicles;
        *match count.freshness {
            Freshness::Fresh => &mut self.fresh,
            Freshness::Stale => &mut self.stale,
            Freshness::Offline => &mut self.offline,
            Freshness::NeverSeen => &mut self.never_seen,
        } += count.vehicles;
    }
}

/// How many vehicles are not fresh, and why.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = VehiclesByCause)]
struct ByCause {
    /// They say nothing, as far as anybody knows.
    source_silent: i64,
    /// What would tell may still be on its way.
    pipeline_late: i64,
    /// Their provider's connection is out.
    provider_outage: i64,
}

/// A workspace's health.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkspaceHealth)]
struct Summary {
    /// The workspace.
    workspace: String,
    #[serde(flatten)]
    all: ByFreshness,
    /// Why vehicles are not fresh.
    causes: ByCause,
    /// By the provider that vehicles were last heard from through.
    providers: BTreeMap<String, ByFreshness>,
    /// Connections by status.
    connections: connection::Summary,
    /// Outages of providers that go on.
    open_incidents: i64,
    /// The newest of those, 100 at most.
    incidents: Vec<Incident>,
    /// How far what is known here is behind the event log, in seconds; none while the core does not say.
    pipeline_lag_seconds: Option<f64>,
}

impl Summary {
    fn new(workspace: String, counts: &[Count]) -> Self {
        let mut summary = Self {
            workspace,
            all: ByFreshness::default(),
            causes: ByCause::default(),
            providers: BTreeMap::new(),
            connections: connection::Summary::default(),
            open_incidents: 0,
            incidents: Vec::new(),
            pipeline_lag_seconds: None,
        };
        for count in counts {
            summary.all.add(count);
            if let Some(provider) = &count.provider {
                let of_provider = summary.providers.entry(provider.clone()).or_default();
                of_provider.add(count);
            }
            if let Some(cause) = count.cause {
                *match cause {
                    Cause::SourceSilent => &mut summary.causes.source_silent,
                    Cause::PipelineLate => &mut summary.causes.pipeline_late,
                    Cause::ProviderOutage => &mut summary.causes.provider_outage,
                } += count.vehicles;
            }
        }
        summary
    }
}

/// How a workspace's vehicles, connections and providers are doing.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/health",
    operation_id = "getWorkspaceHealth",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
    ),
    responses((status = 200, body = Summary, description = "The workspace's health")),
    security(("credential" = ["read"])),
)]
async fn summary(
    State(health): State<Health>,
    Path(workspace): Path<String>,
) -> Result<Json<Summary>, Problem> {
    let workspace = api::workspace(workspace)?;
    let mut pg = health.pool.acquire().await?;
    let counts = view::count(&mut pg, &workspace).await?;
    let open = Some(IncidentState::Open);
    let lag = health.pipeline.lag(clock::now());
    Ok(Json(Summary {
        connections: connection::count(&mut pg, &workspace).await?,
        open_incidents: incident::count_open_of(&mut pg, &workspace).await?,
        incidents: incident::list(&mut pg, &workspace, open, None, LISTED_INCIDENTS).await?,
        pipeline_lag_seconds: lag.map(TimeDelta::as_seconds_f64),
        ..Summary::new(workspace.into(), &counts)
    }))
}

/// Whole seconds as a whole number.
fn seconds(delta: TimeDelta) -> Number {
    Number::from_f64(delta.as_seconds_f64())
        .filter(|_| delta.subsec_nanos() != 0)
        .unwrap_or_else(|| delta.num_seconds().into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_seconds_are_whole_numbers() {
        assert_eq!(json!(seconds(TimeDelta::minutes(5))), json!(300));
        assert_eq!(json!(seconds(TimeDelta::milliseconds(1500))), json!(1.5));
    }

    #[test]
    fn a_summary_adds_up_and_knows_zero() {
        let count = |freshness, cause, provider: Option<&str>, vehicles| Count {
            freshness,
            cause,
            provider: provider.map(str::to_owned),
            vehicles,
        };
        let counts = [
            count(Freshness::Fresh, None, Some("viriciti"), 3),
            count(Freshness::Fresh, None, Some("rfms"), 1),
            count(
                Freshness::Stale,
                Some(Cause::ProviderOutage),
                Some("rfms"),
                4,
            ),
            count(Freshness::Offline, Some(Cause::SourceSilent), None, 5),
            count(Freshness::NeverSeen, None, Some("viriciti"), 2),
        ];
        assert_eq!(
            serde_json::to_value(Summary::new("demo".into(), &counts)).unwrap(),
            json!({"workspace": "demo", "vehicles": 15, "fresh": 4, "stale": 4, "offline": 5,
                "never_seen": 2,
                "causes": {"source_silent": 5, "pipeline_late": 0, "provider_outage": 4},
                "providers": {
                    "rfms": {"vehicles": 5, "fresh": 1, "stale": 4, "offline": 0, "never_seen": 0},
                    "viriciti": {"vehicles": 5, "fresh": 3, "stale": 0, "offline": 0, "never_seen": 2}},
                "connections": {"connected": 0, "subscribed": 0, "silent": 0, "disconnected": 0},
                "open_incidents": 0, "incidents": [], "pipeline_lag_seconds": null})
        );
        assert_eq!(Summary::new("demo".into(), &[]).all, ByFreshness::default());
    }
}
