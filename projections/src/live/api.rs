//! The streams' API: server-sent events.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use runtime::access::Principal;
use runtime::http::{Path, Problem, Query};
use shared_model::WorkspaceId;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::end::invalid_position;
use super::filter::Filter;
use super::position::Position;
use super::reader::{Reader, Shared};
use crate::api;

const LAST_EVENT_ID: &str = "last-event-id";
const STREAM: &str = "text/event-stream";

/// The routes.
pub(super) fn router() -> OpenApiRouter<Arc<Shared>> {
    OpenApiRouter::new()
        .routes(routes!(follow_workspace))
        .routes(routes!(follow_vehicle))
}

/// What is asked of a workspace's stream.
#[derive(Debug, Default, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it describes what is read by hand, since a name may come several times"
)]
struct AskedOfWorkspace {
    /// Only events of these types, a comma between them; the parameter may be repeated. All unless said.
    types: Option<String>,
    /// Only events about these vehicles, a comma between them; the parameter may be repeated. All events
    /// unless said, those about no vehicle too.
    vehicle: Option<String>,
    /// The position to go on from, where `Last-Event-ID` cannot be sent.
    after: Option<String>,
}

/// What is asked of a vehicle's stream.
#[derive(Debug, Default, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(
    dead_code,
    reason = "it describes what is read by hand, since a name may come several times"
)]
struct AskedOfVehicle {
    /// Only events of these types, a comma between them; the parameter may be repeated. All unless said.
    types: Option<String>,
    /// The position to go on from, where `Last-Event-ID` cannot be sent.
    after: Option<String>,
}

/// Follow a workspace's events as they are committed.
///
/// Server-sent events. The first is `hello`; then each has the type of the event as its name, the event as
/// JSON on one line as its data, and the position behind it as its id. With `Last-Event-ID`, everything
/// behind that position comes first. `end` says, as a problem, why the stream ends.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/live",
    operation_id = "followWorkspace",
    tag = "live",
    params(
        ("workspace" = String, Path, description = "The workspace"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was taken"),
        AskedOfWorkspace,
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream", description = "Events, without end"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "The log was restored: connect without a position, then read the snapshots"),
        (status = 410, body = Problem, content_type = "application/problem+json",
            description = "The log no longer has what follows: connect without a position, then read the snapshots"),
    ),
    security(("credential" = ["read"])),
)]
async fn follow_workspace(
    State(shared): State<Arc<Shared>>,
    Path(workspace): Path<String>,
    Query(query): Query<Vec<(String, String)>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Asked::of(query, &["types", "vehicle", "after"])?;
    let filter = Filter::asked(api::workspace(workspace)?, &asked.types, &asked.vehicles)?;
    open(&shared, &principal, &headers, filter, asked.after).await
}

/// Follow a vehicle's events as they are committed.
///
/// As a workspace's, with only what is about the vehicle. An event about several vehicles comes with this one
/// alone. A vehicle that is not known yet may be followed.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/vehicles/{vehicle}/live",
    operation_id = "followVehicle",
    tag = "live",
    params(
        ("workspace" = String, Path, description = "The workspace"),
        ("vehicle" = String, Path, description = "The vehicle"),
        ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was taken"),
        AskedOfVehicle,
    ),
    responses(
        (status = 200, body = String, content_type = "text/event-stream", description = "Events, without end"),
        (status = 409, body = Problem, content_type = "application/problem+json",
            description = "The log was restored: connect without a position, then read the snapshot"),
        (status = 410, body = Problem, content_type = "application/problem+json",
            description = "The log no longer has what follows: connect without a position, then read the snapshot"),
    ),
    security(("credential" = ["read"])),
)]
async fn follow_vehicle(
    State(shared): State<Arc<Shared>>,
    Path((workspace, vehicle)): Path<(String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let asked = Asked::of(query, &["types", "after"])?;
    let key = api::vehicle_key(workspace, vehicle)?;
    let mut filter = Filter::asked(key.workspace, &asked.types, &[])?;
    filter.vehicles = Some([key.vehicle.to_string()].into());
    open(&shared, &principal, &headers, filter, asked.after).await
}

#[derive(Debug, Default)]
struct Asked {
    types: Vec<String>,
    vehicles: Vec<String>,
    after: Option<String>,
}

impl Asked {
    fn of(query: Vec<(String, String)>, known: &[&str]) -> Result<Self, Problem> {
        let mut asked = Self::default();
        for (name, value) in query {
            match name.as_str() {
                _ if !known.contains(&name.as_str()) => {
                    let known = known.join(", ");
                    let detail = format!("{name:?} is no parameter of a stream; there are {known}");
                    return Err(Problem::bad_request("invalid-query", detail));
                }
                "types" => asked.types.push(value),
                "vehicle" => asked.vehicles.push(value),
                _ => asked.after = Some(value),
            }
        }
        Ok(asked)
    }
}

async fn open(
    shared: &Arc<Shared>,
    principal: &Principal,
    headers: &HeaderMap,
    filter: Filter,
    after: Option<String>,
) -> Result<Response, Problem> {
    // A client that comes back sends the same query again, and knows better by now.
    let position = match headers.get(LAST_EVENT_ID) {
        Some(id) => Some(id.to_str().unwrap_or_default().to_owned()),
        None => after,
    };
    let position = position.filter(|text| !text.is_empty());
    let position = position.map(|text| text.parse().map_err(|_| invalid_position()));
    let position = position.transpose()?;
    let head = shared.hub.head().ok_or_else(away)?;
    let seat = shared.hub.seat(&principal.name)?;
    let position = match position {
        None => head,
        Some(position) => usable(shared, position, &head, &filter.workspace).await?,
    };
    let credential = [header::AUTHORIZATION, HeaderName::from_static("x-api-key")];
    let credential = credential
        .into_iter()
        .filter_map(|name| Some((name.clone(), headers.get(&name)?.clone())));
    let credential = credential.collect();
    let reader = Reader::new(Arc::clone(shared), seat, filter, credential, position);
    let headers = [
        (header::CONTENT_TYPE, STREAM),
        (header::CACHE_CONTROL, "no-store"),
        // Some proxies gather what small answers there are.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    let body = Body::from_stream(stream::unfold(reader, Reader::next));
    Ok((headers, body).into_response())
}

/// The position, if the log can be read on from it; the core is asked only where memory does not tell.
async fn usable(
    shared: &Shared,
    position: Position,
    head: &Position,
    workspace: &WorkspaceId,
) -> Result<Position, Problem> {
    if position.shards() != head.shards() {
        return Err(invalid_position());
    }
    if head.covers(&position) && shared.hub.reaches_back_to(&position) {
        return Ok(position);
    }
    let asked = async {
        // Never closed.
        let _turn = shared.reading.acquire().await;
        shared.core.state().await
    };
    let log = asked.await.map_err(|error| {
        let error = runtime::telemetry::chain(&error);
        tracing::warn!(%workspace, %error, "a reader cannot go on where it was");
        away()
    })?;
    if log.generation != head.generation {
        // It was restored a moment ago, and what is in memory is of before.
        return Err(away());
    }
    Ok(position.usable_in(&log)?)
}

fn away() -> Problem {
    let detail = "the core, which has the events, is away for the moment; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "core-away", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_come_several_times_and_others_not_at_all() {
        let query = |names: &[&str]| {
            let pairs = names
                .iter()
                .map(|&name| (name.to_owned(), name.to_uppercase()));
            Asked::of(pairs.collect(), &["types", "after"])
        };
        let asked = query(&["types", "after", "types"]).unwrap();
        assert_eq!(asked.types, ["TYPES", "TYPES"]);
        assert_eq!(asked.after.as_deref(), Some("AFTER"));
        for bad in ["vehicle", "limit"] {
            let problem = query(&[bad]).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-query");
        }
    }
}
