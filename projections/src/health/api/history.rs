//! The history of vehicles' health.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::time::from_unix_micros;
use shared_model::{VehicleId, WorkspaceId};
use utoipa::{IntoParams, ToSchema};

use crate::api;
use crate::health::Health;
use crate::health::store::transition::{self as store, Entry, Period, Place};
use crate::health::store::view;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// Only what was found then or later (RFC 3339).
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only what was found before (RFC 3339).
    #[param(format = DateTime)]
    until: Option<String>,
    /// How many the page has.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before.
    after: Option<String>,
}

impl Asked {
    fn period(&self) -> Result<Period, Problem> {
        let period = Period {
            since: time("since", self.since.as_deref())?,
            until: time("until", self.until.as_deref())?,
            before: self.after.as_deref().map(from_cursor).transpose()?,
        };
        match period.since.zip(period.until) {
            Some((since, until)) if since > until => {
                let detail = format!("since ({since}) is after until ({until})");
                Err(Problem::bad_request("invalid-time", detail))
            }
            _ => Ok(period),
        }
    }
}

/// A page of changes of vehicles' health.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HealthHistoryPage)]
pub(super) struct Listed {
    /// The newest first.
    items: Vec<Entry>,
    /// Where the next page goes on; none behind the last page.
    next: Option<String>,
}

/// What changed in the health of a workspace's vehicles.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/health/history",
    operation_id = "listHealthHistory",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        Asked,
    ),
    responses((status = 200, body = Listed, description = "A page of changes")),
    security(("credential" = ["read"])),
)]
pub(super) async fn of_workspace(
    State(health): State<Health>,
    Path(workspace): Path<String>,
    Query(asked): Query<Asked>,
) -> Result<Json<Listed>, Problem> {
    let workspace = api::workspace(workspace)?;
    let (size, period) = (PageSize::asked(asked.limit)?, asked.period()?);
    let mut pg = health.pool.acquire().await?;
    let found = store::of_workspace(&mut pg, &workspace, period, size.to_look_for()).await?;
    let (items, next) = size.cut(found, to_cursor);
    Ok(Json(Listed { items, next }))
}

/// What changed in the health of one vehicle.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/vehicles/{vehicle}/health/history",
    operation_id = "listVehicleHealthHistory",
    tag = "health",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("vehicle" = inline(VehicleId), Path, description = "The vehicle"),
        Asked,
    ),
    responses((status = 200, body = Listed, description = "A page of changes")),
    security(("credential" = ["read"])),
)]
pub(super) async fn of_vehicle(
    State(health): State<Health>,
    Path((workspace, vehicle)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Result<Json<Listed>, Problem> {
    let key = api::vehicle_key(workspace, vehicle)?;
    let (size, period) = (PageSize::asked(asked.limit)?, asked.period()?);
    let mut pg = health.pool.acquire().await?;
    let found = store::of_vehicle(&mut pg, &key, period, size.to_look_for()).await?;
    if found.is_empty() && view::find(&mut pg, &key).await?.is_none() {
        return Err(api::vehicle_not_found(&key));
    }
    let (items, next) = size.cut(found, to_cursor);
    Ok(Json(Listed { items, next }))
}

fn time(name: &str, text: Option<&str>) -> Result<Option<DateTime<Utc>>, Problem> {
    let Some(text) = text else { return Ok(None) };
    match DateTime::parse_from_rfc3339(text) {
        Ok(time) => Ok(Some(time.to_utc())),
        Err(error) => {
            let detail = format!(
                "{name} is {text:?} ({error}); write a time such as 2026-11-23T15:18:20Z (a `+` is \
                 written %2B in a query)"
            );
            Err(Problem::bad_request("invalid-time", detail))
        }
    }
}

fn to_cursor(entry: &Entry) -> String {
    format!("{}-{}", entry.found_at.timestamp_micros(), entry.id)
}

fn from_cursor(cursor: &str) -> Result<Place, Problem> {
    cursor
        .split_once('-')
        .and_then(|(at, entry)| {
            let at = from_unix_micros(at.parse().ok()?)?;
            Some((at, entry.parse().ok()?))
        })
        .ok_or_else(api::invalid_cursor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_in_order() {
        let asked = |since: &str, until: &str| Asked {
            since: Some(since.to_owned()),
            until: Some(until.to_owned()),
            limit: None,
            after: None,
        };
        let period = asked("2026-11-23T15:18:20Z", "2026-11-23T17:18:20.5+01:00")
            .period()
            .unwrap();
        assert!(period.since < period.until);
        for (since, until) in [
            ("yesterday", "2026-11-23T15:18:20Z"),
            ("2026-11-23T15:18:20Z", "2026-11-23"),
            ("2026-11-23T15:18:20Z", "2026-11-23T15:18:19Z"),
        ] {
            let problem = asked(since, until).period().unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-time");
        }
    }

    #[test]
    fn cursors_that_nobody_gave_are_refused() {
        let (at, entry) = from_cursor("1511436694000001-42").unwrap();
        assert_eq!((at.timestamp_micros(), entry), (1_511_436_694_000_001, 42));
        for bad in ["", "42", "-", "now-42", "99999999999999999999-1", "1-x"] {
            let problem = from_cursor(bad).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-cursor", "{bad}");
        }
    }
}
