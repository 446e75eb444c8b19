//! Health's read API.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, TimeDelta, Utc};
use runtime::http::{Path, Problem};
use serde::Serialize;
use serde_json::Number;
use sqlx::PgPool;

use super::connection_api;
use super::connection_store as connection;
use super::freshness::{Freshness, Limits};
use super::store::{self, Count};
use crate::api;

#[derive(Debug, Clone)]
struct Source {
    pool: PgPool,
    limits: Limits,
}

/// The routes, answered from `pool`.
pub(super) fn routes(pool: PgPool, limits: Limits) -> Router {
    Router::new()
        .route("/v1/workspaces/{workspace}/health", get(summary))
        .route(
            "/v1/workspaces/{workspace}/vehicles/{vehicle}/health",
            get(find),
        )
        .with_state(Source {
            pool: pool.clone(),
            limits,
        })
        .merge(connection_api::routes(pool))
}

/// A vehicle's health as answered.
#[derive(Debug, Serialize)]
struct HealthAnswer {
    workspace: String,
    vehicle: String,
    freshness: Freshness,
    last_received_at: Option<DateTime<Utc>>,
    since: DateTime<Utc>,
    stale_after_seconds: Number,
    offline_after_seconds: Number,
}

/// A workspace's vehicles by freshness.
#[derive(Debug, Default, Serialize)]
struct SummaryAnswer {
    workspace: String,
    vehicles: i64,
    fresh: i64,
    stale: i64,
    offline: i64,
    never_seen: i64,
    connections: connection::Summary,
}

impl SummaryAnswer {
    fn new(workspace: String, counts: &[Count], connections: connection::Summary) -> Self {
        let of = |freshness| -> i64 {
            let of = counts.iter().filter(|count| count.freshness == freshness);
            of.map(|count| count.vehicles).sum()
        };
        Self {
            workspace,
            vehicles: counts.iter().map(|count| count.vehicles).sum(),
            fresh: of(Freshness::Fresh),
            stale: of(Freshness::Stale),
            offline: of(Freshness::Offline),
            never_seen: of(Freshness::NeverSeen),
            connections,
        }
    }
}

async fn find(
    State(source): State<Source>,
    Path((workspace, vehicle)): Path<(String, String)>,
) -> Result<Json<HealthAnswer>, Problem> {
    let key = api::vehicle_key(workspace, vehicle)?;
    let found = store::find(&mut *source.pool.acquire().await?, &key).await?;
    let health = found.ok_or_else(|| api::vehicle_not_found(&key))?;
    Ok(Json(HealthAnswer {
        workspace: key.workspace.into(),
        vehicle: key.vehicle.into(),
        freshness: health.freshness,
        last_received_at: health.last_received_at,
        since: health.since,
        stale_after_seconds: seconds(source.limits.stale_after),
        offline_after_seconds: seconds(source.limits.offline_after),
    }))
}

async fn summary(
    State(source): State<Source>,
    Path(workspace): Path<String>,
) -> Result<Json<SummaryAnswer>, Problem> {
    let workspace = api::workspace(workspace)?;
    let mut pg = source.pool.acquire().await?;
    let counts = store::count(&mut pg, &workspace).await?;
    let connections = connection::count(&mut pg, &workspace).await?;
    Ok(Json(SummaryAnswer::new(
        workspace.into(),
        &counts,
        connections,
    )))
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
        let counts = [
            Count {
                freshness: Freshness::Fresh,
                vehicles: 3,
            },
            Count {
                freshness: Freshness::NeverSeen,
                vehicles: 2,
            },
        ];
        assert_eq!(
            serde_json::to_value(SummaryAnswer::new(
                "demo".into(),
                &counts,
                connection::Summary::default()
            ))
            .unwrap(),
            json!({"workspace": "demo", "vehicles": 5, "fresh": 3, "stale": 0, "offline": 0,
                "never_seen": 2,
                "connections": {"connected": 0, "subscribed": 0, "silent": 0, "disconnected": 0}})
        );
        let none = SummaryAnswer::new("demo".into(), &[], connection::Summary::default());
        assert_eq!(none.vehicles, 0);
    }
}
