//! The snapshots' read API.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use runtime::clock;
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::event::PublishedReading;
use sqlx::PgPool;

use super::fold::Snapshot;
use super::store;
use crate::api;

/// The routes, answered from `pool`.
pub(super) fn routes(pool: PgPool) -> Router {
    Router::new()
        .route("/v1/workspaces/{workspace}/vehicles", get(list))
        .route(
            "/v1/workspaces/{workspace}/vehicles/{vehicle}/snapshot",
            get(find),
        )
        .with_state(pool)
}

/// A vehicle's snapshot as answered.
#[derive(Debug, Serialize)]
struct SnapshotAnswer {
    workspace: String,
    vehicle: String,
    version: i64,
    /// Since the vehicle was last heard from; none if it never was.
    age_seconds: Option<f64>,
    signals: BTreeMap<String, PublishedReading>,
}

impl SnapshotAnswer {
    fn new(workspace: String, vehicle: String, snapshot: Snapshot, now: DateTime<Utc>) -> Self {
        Self {
            workspace,
            vehicle,
            version: snapshot.version,
            age_seconds: snapshot.last_received_at.map(|last| age(last, now)),
            signals: snapshot.readings(),
        }
    }
}

/// Whole milliseconds, in seconds. A receipt that another clock puts into the future is new.
fn age(last_received_at: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    let millis = (now - last_received_at).num_milliseconds();
    millis.max(0) as f64 / 1000.0
}

#[derive(Debug, Deserialize)]
struct PageQuery {
    limit: Option<i64>,
    after: Option<String>,
}

/// One page of snapshots.
#[derive(Debug, Serialize)]
struct PageAnswer {
    items: Vec<SnapshotAnswer>,
    /// Where the next page goes on; none behind the last page.
    next: Option<String>,
}

async fn find(
    State(pool): State<PgPool>,
    Path((workspace, vehicle)): Path<(String, String)>,
) -> Result<Json<SnapshotAnswer>, Problem> {
    let key = api::vehicle_key(workspace, vehicle)?;
    let found = store::find(&mut *pool.acquire().await?, &key).await?;
    let snapshot = found.ok_or_else(|| api::vehicle_not_found(&key))?;
    Ok(Json(SnapshotAnswer::new(
        key.workspace.into(),
        key.vehicle.into(),
        snapshot,
        clock::now(),
    )))
}

async fn list(
    State(pool): State<PgPool>,
    Path(workspace): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Json<PageAnswer>, Problem> {
    let workspace = api::workspace(workspace)?;
    let size = PageSize::asked(query.limit)?;
    let after = query
        .after
        .as_deref()
        .map(api::vehicle_of_cursor)
        .transpose()?;
    let mut connection = pool.acquire().await?;
    let look_for = size.to_look_for();
    let found = store::list(&mut connection, &workspace, after.as_ref(), look_for).await?;
    let (found, next) = size.cut(found, |(vehicle, _)| api::cursor_of_vehicle(vehicle));
    let now = clock::now();
    let items = found
        .into_iter()
        .map(|(vehicle, snapshot)| {
            SnapshotAnswer::new(workspace.to_string(), vehicle, snapshot, now)
        })
        .collect();
    Ok(Json(PageAnswer { items, next }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared_model::time::from_unix_millis;

    use super::*;
    use crate::Change;
    use crate::snapshot::fold::tests::changed;

    fn at(millis: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + millis).unwrap()
    }

    #[test]
    fn a_snapshot_is_written_as_promised() {
        let (_, snapshot) = Snapshot::of(changed(1, 2)).unwrap().remove(0);
        let answer = SnapshotAnswer::new("demo".into(), "bus-1".into(), snapshot, at(5_250));
        let reading = json!({"value": 2, "unit": "%", "observed_at": "2017-11-23T11:31:38Z",
            "received_at": "2017-11-23T11:31:38Z", "provider": "viriciti"});
        assert_eq!(
            serde_json::to_value(answer).unwrap(),
            json!({"workspace": "demo", "vehicle": "bus-1", "version": 2, "age_seconds": 1.25,
                "signals": {"signal_0": reading, "signal_1": reading}})
        );
    }

    #[test]
    fn a_vehicle_never_heard_from_has_no_age() {
        let answer = SnapshotAnswer::new("demo".into(), "bus-1".into(), Snapshot::default(), at(0));
        assert_eq!(
            serde_json::to_value(answer).unwrap(),
            json!({"workspace": "demo", "vehicle": "bus-1", "version": 0, "age_seconds": null,
                "signals": {}})
        );
    }

    #[test]
    fn an_age_is_never_negative() {
        assert!(age(at(1), at(0)).abs() < f64::EPSILON);
        assert!((age(at(0), at(1_234)) - 1.234).abs() < f64::EPSILON);
    }
}
