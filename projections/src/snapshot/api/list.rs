//! The list of a workspace's vehicles, page by page.

use axum::extract::{FromRequestParts, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use runtime::access::{Principal, TURN_LIMIT};
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::WorkspaceId;
use utoipa::{IntoParams, ToSchema};

use super::{Api, only_known};
use crate::api;
use crate::snapshot::answer::VehicleSnapshot;
use crate::snapshot::fields::{FieldName, Fields};
use crate::snapshot::filter::FilterQuery;
use crate::snapshot::{cursor, etag};

/// Who asks, and what they know already.
#[derive(FromRequestParts)]
pub(super) struct Caller {
    #[from_request(via(Extension))]
    principal: Principal,
    headers: HeaderMap,
}

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many vehicles the page has at most.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i64>,
    /// The `next` of the page before, which had the same filter.
    after: Option<String>,
}

impl PageQuery {
    pub(super) const NAMES: &[&str] = &["limit", "after"];
}

/// Which parts of a snapshot.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct FieldsQuery {
    /// Only these parts of each snapshot, separated by commas: its members, and `signals.<name>` for single
    /// signals. `vehicle` and `version` are always there.
    #[param(value_type = Option<Vec<FieldName>>, inline, style = Form, explode = false, min_items = 1,
        example = json!(["freshness", "signals.state_of_charge"]))]
    fields: Option<String>,
}

impl FieldsQuery {
    pub(super) const NAMES: &[&str] = &["fields"];

    pub(super) fn read(&self) -> Result<Fields, Problem> {
        Fields::read(self.fields.as_deref())
    }
}

/// One page of snapshots.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct VehiclePage {
    /// The snapshots, in the order of the bytes of the vehicles' ids.
    items: Vec<VehicleSnapshot>,
    /// Where the next page goes on, as its `after`; null on the last page.
    next: Option<String>,
}

/// The vehicles of a workspace.
///
/// Pages follow the ids, so a vehicle that changes meanwhile is neither skipped nor there twice.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/vehicles",
    operation_id = "listVehicles",
    tag = "vehicles",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        FilterQuery,
        FieldsQuery,
        PageQuery,
        ("If-None-Match" = Option<String>, Header, description = "The `ETag` of the page that is known"),
    ),
    responses(
        (status = 200, body = VehiclePage, description = "A page of snapshots",
            headers(("ETag" = String, description = "Another once anything but ages is another"))),
        (status = 304, description = "The page is the one that `If-None-Match` names"),
    ),
    security(("credential" = ["read"])),
)]
pub(super) async fn list(
    State(api): State<Api>,
    caller: Caller,
    Path(workspace): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    Query(page): Query<PageQuery>,
    Query(fields): Query<FieldsQuery>,
    Query(filter): Query<FilterQuery>,
) -> Result<Response, Problem> {
    let workspace = api::workspace(workspace)?;
    let known = [FilterQuery::NAMES, FieldsQuery::NAMES, PageQuery::NAMES];
    only_known(&query, &known)?;
    let size = PageSize::asked(page.limit)?;
    let (fields, filter) = (fields.read()?, filter.read()?);
    let fingerprint = filter.fingerprint();
    let after = page.after.as_deref();
    let after = after.map(|after| cursor::read(after, fingerprint));
    let after = after.transpose()?;
    let look_for = size.to_look_for();
    let (found, now) = api
        .list(
            &caller.principal,
            &workspace,
            after.as_ref(),
            look_for,
            &filter,
            TURN_LIMIT,
        )
        .await?;
    let (found, next) = size.cut(found, |(vehicle, _)| cursor::write(vehicle, fingerprint));
    let view = api.view(&workspace, &fields, now);
    let found = found.into_iter();
    let (items, tags): (Vec<_>, Vec<_>) = found
        .map(|(vehicle, snapshot)| {
            let name = vehicle.clone();
            let (item, tag) = view.of(vehicle, snapshot);
            (item, format!("{name}\n{tag}"))
        })
        .unzip();
    let tag = etag::of_list(tags.iter().map(String::as_str), next.as_deref());
    let answer = etag::headers(&tag);
    if etag::is_known(&caller.headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, answer).into_response());
    }
    Ok((answer, Json(VehiclePage { items, next })).into_response())
}
