//! The snapshot of one vehicle, at once or once it has reached a version.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use runtime::access::Principal;
use runtime::clock;
use runtime::http::{Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::{VehicleId, WorkspaceId};
use utoipa::{IntoParams, ToSchema};

use super::{Api, OWN_WAITS};
use crate::snapshot::answer::VehicleSnapshot;
use crate::snapshot::etag;
use crate::snapshot::fields::{FieldName, Fields};
use crate::snapshot::fold::Snapshot;
use crate::{VehicleKey, api};

/// How long to wait for a version, unless asked otherwise.
const USUAL_WAIT: f64 = 5.0;
/// The longest wait.
const LONGEST_WAIT: f64 = 10.0;

/// What is asked of a vehicle's snapshot.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SnapshotQuery {
    /// Only these parts of the snapshot, separated by commas: its members, and `signals.<name>` for single
    /// signals. `vehicle` and `version` are always there.
    #[param(value_type = Option<Vec<FieldName>>, inline, style = Form, explode = false, min_items = 1,
        example = json!(["freshness", "signals.state_of_charge"]))]
    fields: Option<String>,
    /// Answer once the snapshot has at least this version, such as that of an event.
    #[param(minimum = 0)]
    min_version: Option<i64>,
    /// For how many seconds to wait for `min_version`.
    #[param(minimum = 0, maximum = 10, default = 5)]
    wait: Option<f64>,
}

/// The version that a request waits for, and for how long at most.
#[derive(Debug, PartialEq)]
struct Least {
    version: i64,
    wait: Duration,
}

impl SnapshotQuery {
    fn least(&self) -> Result<Least, Problem> {
        let version = self.min_version.unwrap_or_default();
        if version < 0 {
            let detail = format!("min_version is {version}; write a version, 0 or more");
            return Err(Problem::bad_request("invalid-min-version", detail));
        }
        let wait = self.wait.unwrap_or(USUAL_WAIT);
        if !(0.0..=LONGEST_WAIT).contains(&wait) {
            let detail =
                format!("wait is {wait}; write a number of seconds from 0 to {LONGEST_WAIT}");
            return Err(Problem::bad_request("invalid-wait", detail));
        }
        let wait = Duration::from_secs_f64(wait);
        Ok(Least { version, wait })
    }
}

/// The vehicle has not reached the version in time; its problem also says which it has.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VersionNotReached {
    #[serde(flatten)]
    problem: Problem,
    /// The version that the snapshot has.
    version: i64,
}

impl VersionNotReached {
    fn new(version: i64, least: i64) -> Self {
        let detail = format!(
            "the snapshot is at version {version} and not yet at {least}; ask again, and if it never comes, \
             whether there is such a version"
        );
        Self {
            problem: Problem::new(StatusCode::CONFLICT, "version-not-reached", detail),
            version,
        }
    }
}

impl IntoResponse for VersionNotReached {
    fn into_response(self) -> Response {
        let headers = [
            (
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/problem+json"),
            ),
            (header::RETRY_AFTER, HeaderValue::from_static("1")),
        ];
        (StatusCode::CONFLICT, headers, Json(self)).into_response()
    }
}

/// The snapshot of one vehicle.
///
/// With `min_version` the answer waits until the snapshot has that version: whoever knows the version of
/// their own write, from an event or a webhook, reads that write or something newer.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/vehicles/{vehicle}/snapshot",
    operation_id = "getSnapshot",
    tag = "vehicles",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("vehicle" = inline(VehicleId), Path, description = "The vehicle"),
        SnapshotQuery,
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the snapshot that is known"),
    ),
    responses(
        (status = 200, body = VehicleSnapshot, description = "The snapshot",
            headers(("ETag" = String, description = "Another once anything but the age is another"))),
        (status = 304, description = "The snapshot is the one that `If-None-Match` names"),
        (status = 409, body = VersionNotReached, content_type = "application/problem+json",
            description = "`min_version` was not reached in time: ask again after `Retry-After`",
            headers(("Retry-After" = u32, description = "In seconds"))),
    ),
    security(("credential" = ["read"])),
)]
pub(super) async fn find(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path((workspace, vehicle)): Path<(String, String)>,
    Query(query): Query<SnapshotQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let key = api::vehicle_key(workspace, vehicle)?;
    let fields = Fields::read(query.fields.as_deref())?;
    let least = query.least()?;
    let found = api.reach(&principal, &key, &least).await?;
    let snapshot = found.ok_or_else(|| api::vehicle_not_found(&key))?;
    if snapshot.version < least.version {
        return Ok(VersionNotReached::new(snapshot.version, least.version).into_response());
    }
    let view = api.view(&key.workspace, &fields, clock::now());
    let (answer, tag) = view.of(key.vehicle.to_string(), snapshot);
    let with = etag::headers(&tag);
    if etag::is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, with).into_response());
    }
    Ok((with, Json(answer)).into_response())
}

impl Api {
    /// The vehicle's snapshot as soon as it is at least at a version, or as it is in the end.
    async fn reach(
        &self,
        principal: &Principal,
        key: &VehicleKey,
        least: &Least,
    ) -> Result<Option<Snapshot>, Problem> {
        if least.version == 0 {
            return self.finder.find(key).await;
        }
        let own = self.own_waits.of(&principal.name).try_acquire_owned();
        let Ok(_own) = own else {
            let detail = format!(
                "{OWN_WAITS} requests with this credential wait for a version; have fewer at once"
            );
            let status = StatusCode::TOO_MANY_REQUESTS;
            return Err(Problem::new(status, "too-many-waiting", detail));
        };
        // Before the look, so that nothing is committed unnoticed in between.
        let Some(mut wait) = self.waits.begin(key) else {
            let detail = "too many requests wait for a version; try again, or without min_version";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(Problem::new(status, "too-many-waiting", detail));
        };
        let found = self.finder.find(key).await?;
        if found
            .as_ref()
            .is_some_and(|found| found.version >= least.version)
        {
            return Ok(found);
        }
        let reached = tokio::time::timeout(least.wait, wait.until(least.version));
        match self.stopping.run_until_cancelled(reached).await {
            // However the wait has ended, what is there now is the answer.
            Some(Ok(()) | Err(_)) | None => self.finder.find(key).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn least(min_version: Option<i64>, wait: Option<f64>) -> Result<Least, Problem> {
        let query = SnapshotQuery {
            fields: None,
            min_version,
            wait,
        };
        query.least()
    }

    #[test]
    fn a_wait_has_bounds() {
        let of = |version, millis| Least {
            version,
            wait: Duration::from_millis(millis),
        };
        assert_eq!(least(None, None).unwrap(), of(0, 5000));
        assert_eq!(least(Some(7), Some(0.25)).unwrap(), of(7, 250));
        assert_eq!(least(Some(7), Some(10.0)).unwrap(), of(7, 10_000));
        for wait in [-0.1, 10.1, f64::NAN, f64::INFINITY] {
            let problem = least(Some(7), Some(wait)).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-wait");
        }
        let problem = least(Some(-1), None).unwrap_err();
        assert_eq!(problem.kind, "urn:headrace:problem:invalid-min-version");
    }
}
