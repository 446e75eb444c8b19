//! All vehicles of a workspace as one download: NDJSON, a snapshot a line.
//!
//! It is read page by page as the client takes it, so it needs the memory of a page and no connection in
//! between; each line is as of its page, and each vehicle is there once at most. The last line counts them:
//! a download without it was cut off.

use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use runtime::access::{Principal, TURN_LIMIT};
use runtime::http::{Path, Problem, Query};
use serde::Serialize;
use shared_model::{VehicleId, WorkspaceId};

use super::list::FieldsQuery;
use super::{Api, LONG_TURN_LIMIT, only_known};
use crate::api;
use crate::snapshot::fields::Fields;
use crate::snapshot::filter::{Filter, FilterQuery};

/// How many vehicles are read at once.
const PAGE: i64 = 500;

/// The last line.
#[derive(Debug, Serialize)]
struct Trailer {
    end: End,
}

#[derive(Debug, Serialize)]
struct End {
    vehicles: u64,
}

/// Why a download is cut off. The client sees a broken connection.
#[derive(Debug, thiserror::Error)]
enum CutOff {
    #[error("{}", .0.detail)]
    Problem(Problem),
    #[error("a line cannot be written")]
    Json(#[from] serde_json::Error),
    #[error("the service stops")]
    Stopping,
}

/// A download that is under way.
struct Export {
    api: Api,
    principal: Principal,
    workspace: WorkspaceId,
    fields: Fields,
    filter: Filter,
    after: Option<VehicleId>,
    vehicles: u64,
    is_done: bool,
}

/// All vehicles of a workspace in one download.
///
/// NDJSON: each line is a `VehicleSnapshot`, in the order of the bytes of the vehicles' ids, but for the last,
/// `{"end":{"vehicles":<count>}}`. A download without that line was cut off: begin again.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/export/vehicles",
    operation_id = "exportVehicles",
    tag = "vehicles",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        FilterQuery,
        FieldsQuery,
    ),
    responses(
        (status = 200, body = String, content_type = "application/x-ndjson", description = "A snapshot a line",
            headers(("Content-Disposition" = String, description = "The name of a file for it"))),
    ),
    security(("credential" = ["read"])),
)]
pub(super) async fn export(
    State(api): State<Api>,
    Extension(principal): Extension<Principal>,
    Path(workspace): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    Query(fields): Query<FieldsQuery>,
    Query(filter): Query<FilterQuery>,
) -> Result<Response, Problem> {
    let workspace = api::workspace(workspace)?;
    only_known(&query, &[FilterQuery::NAMES, FieldsQuery::NAMES])?;
    let name = format!("attachment; filename=\"vehicles-{workspace}.ndjson\"");
    let mut export = Export {
        api,
        principal,
        workspace,
        fields: fields.read()?,
        filter: filter.read()?,
        after: None,
        vehicles: 0,
        is_done: false,
    };
    // What is wrong from the beginning is a problem, rather than a download that is cut off.
    let first = export.page().await.map_err(|error| match error {
        CutOff::Problem(problem) => problem,
        error => Problem::internal(&error),
    })?;
    let rest = stream::try_unfold(export, Export::next);
    let first = stream::iter([Ok::<_, CutOff>(first)]);
    let body = Body::from_stream(stream::StreamExt::chain(first, rest));
    let headers = [
        (
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-ndjson"),
        ),
        (
            header::CACHE_CONTROL,
            HeaderValue::from_static("private, no-cache"),
        ),
        (
            header::CONTENT_DISPOSITION,
            // A workspace's alphabet is one of headers.
            HeaderValue::from_str(&name).unwrap_or(HeaderValue::from_static("attachment")),
        ),
    ];
    Ok((headers, body).into_response())
}

impl Export {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, CutOff> {
        if self.is_done {
            return Ok(None);
        }
        let stopping = self.api.stopping.clone();
        let page = stopping.run_until_cancelled(self.page()).await;
        match page.unwrap_or(Err(CutOff::Stopping)) {
            Ok(page) => Ok(Some((page, self))),
            Err(error) => {
                tracing::warn!(
                    workspace = %self.workspace,
                    vehicles = self.vehicles,
                    %error,
                    "a download of vehicles is cut off"
                );
                Err(error)
            }
        }
    }

    /// The lines of the next page, and behind the last of them the trailer.
    async fn page(&mut self) -> Result<Bytes, CutOff> {
        let after = self.after.as_ref();
        let patience = patience(after);
        let (workspace, filter) = (&self.workspace, &self.filter);
        let found = self
            .api
            .list(&self.principal, workspace, after, PAGE, filter, patience);
        let (found, now) = found.await.map_err(CutOff::Problem)?;
        let is_last = (found.len() as i64) < PAGE;
        let view = self.api.view(&self.workspace, &self.fields, now);
        let mut lines = Vec::new();
        let mut last = None;
        for (vehicle, snapshot) in found {
            last = Some(vehicle.clone());
            let (line, _) = view.of(vehicle, snapshot);
            serde_json::to_writer(&mut lines, &line)?;
            lines.push(b'\n');
            self.vehicles += 1;
        }
        self.after = last.map(VehicleId::new).transpose().map_err(|error| {
            let problem = Problem::internal(&error);
            CutOff::Problem(problem)
        })?;
        if is_last {
            let vehicles = self.vehicles;
            let end = End { vehicles };
            serde_json::to_writer(&mut lines, &Trailer { end })?;
            lines.push(b'\n');
            self.is_done = true;
        }
        Ok(lines.into())
    }
}

/// How long a page behind `after` waits for its turn. A download that cannot begin is refused soon; one that
/// has begun is not cut off lightly.
fn patience(after: Option<&VehicleId>) -> Duration {
    after.map_or(TURN_LIMIT, |_| LONG_TURN_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_download_that_has_begun_waits_long() {
        let vehicle = VehicleId::new("bus-1").unwrap();
        assert_eq!(patience(None), TURN_LIMIT);
        assert_eq!(patience(Some(&vehicle)), LONG_TURN_LIMIT);
    }
}
