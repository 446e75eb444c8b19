//! A vehicle's own events, as the log still has them, the newest first.
//!
//! The log has no index by vehicle, which every write would pay for. A vehicle's events are all in one
//! shard, so that is looked through backwards, a bounded stretch for each request; the cursor says how far
//! that went, and a page may be empty although there is a next one.

use axum::extract::State;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use runtime::http::{PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::{CloudEvent, EventType, VehicleId};
use sqlx::{PgConnection, PgPool};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{params, starting};
use crate::store::event_log::{self, Head, LoggedEvent};
use crate::store::log_view;
use crate::store::vehicle::{self, VehicleKey};

/// How many offsets one statement looks at.
const STRETCH: u64 = 10_000;
/// How many of those one request is worth.
const STRETCHES: usize = 10;
/// The types of events that are about one vehicle. When it was only heard from, with its values as before, is
/// told of for many vehicles at once (`vehicles.seen`) and is not among them.
const TYPES: [EventType; 3] = [
    EventType::VehicleRegistered,
    EventType::VehicleSnapshotChanged,
    EventType::VehicleHealthChanged,
];

/// The route, on the core's database.
pub fn routes() -> OpenApiRouter<PgPool> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// How many events at most: 1 to 1000, 100 unless said.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<i64>,
    /// Where to go on: the `next` of the page before.
    #[param(nullable = false)]
    after: Option<String>,
    /// Only events of these types, a comma between them: `vehicle.registered`, `vehicle.snapshot.changed`,
    /// `vehicle.health.changed`. All of them unless said.
    #[param(nullable = false)]
    types: Option<String>,
}

/// Some of a vehicle's events.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub struct VehicleEventPage {
    /// The newest first.
    #[schema(value_type = Vec<CloudEvent>)]
    items: Vec<LoggedEvent>,
    /// Where the next page goes on; none once the log holds nothing older. It may be there although
    /// `items` are few or none: so far the log was looked through.
    next: Option<String>,
}

/// A vehicle's events, the newest first, as far back as the event log goes.
///
/// What it was registered with, each change of its values and of its health. `vehicles.seen`, which only
/// moves times, is not among them: see the vehicle's snapshot, or its live updates.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/vehicles/{vehicle}/events",
    operation_id = "listVehicleEvents",
    tag = "vehicles",
    params(
        ("workspace" = String, Path, description = "The workspace"),
        ("vehicle" = String, Path, description = "The vehicle"),
        Asked,
    ),
    responses((status = 200, body = VehicleEventPage, description = "Some of the vehicle's events")),
    security(("credential" = ["read"])),
)]
pub(super) async fn list(
    State(pool): State<PgPool>,
    Path((workspace, vehicle)): Path<(String, String)>,
    Query(asked): Query<Asked>,
) -> Result<axum::Json<VehicleEventPage>, Problem> {
    let key = VehicleKey {
        workspace: params::workspace(&workspace)?,
        vehicle: VehicleId::new(vehicle)
            .map_err(|error| Problem::bad_request("invalid-vehicle", error.to_string()))?,
    };
    let types = types(asked.types.as_deref())?;
    let size = PageSize::asked(asked.limit)?;
    let before = asked.after.as_deref().map(offset_of_cursor).transpose()?;
    let mut pg = pool.acquire().await?;
    let shard = vehicle::shards(&mut pg, std::slice::from_ref(&key))
        .await?
        .remove(&key);
    let Some(shard) = shard else {
        let detail = format!("workspace {} has no vehicle {}", key.workspace, key.vehicle);
        return Err(Problem::not_found("vehicle-not-found", detail));
    };
    let heads = event_log::heads(&mut pg).await?;
    let head = heads.into_iter().find(|head| head.shard == shard);
    let search = Search {
        key,
        types,
        most: usize::try_from(size.to_look_for() - 1).unwrap_or_default(),
        head: head.ok_or_else(starting)?,
    };
    let (items, next) = search.run(&mut pg, before).await?;
    Ok(axum::Json(VehicleEventPage {
        items,
        next: next.map(cursor_of_offset),
    }))
}

/// What is looked for.
struct Search {
    key: VehicleKey,
    types: Vec<String>,
    most: usize,
    /// Of the vehicle's shard.
    head: Head,
}

impl Search {
    /// What is found before an offset, and before which to go on.
    async fn run(
        &self,
        pg: &mut PgConnection,
        before: Option<u64>,
    ) -> Result<(Vec<LoggedEvent>, Option<u64>), Problem> {
        let (shard, first) = (self.head.shard, self.head.first);
        let mut before = before.map_or(self.head.last + 1, |at| at.min(self.head.last + 1));
        let mut items = Vec::new();
        for _ in 0..STRETCHES {
            if before <= first {
                return Ok((items, None));
            }
            let from = before.saturating_sub(STRETCH).max(first);
            let missing = self.most - items.len();
            let range = (from, before);
            let found =
                log_view::about(pg, shard, &self.key, &self.types, range, missing as i64).await?;
            before = match found.last() {
                Some((last, _)) if found.len() == missing => *last,
                _ => from,
            };
            items.extend(found.into_iter().map(|(_, event)| event));
            if items.len() == self.most {
                break;
            }
        }
        Ok((items, Some(before).filter(|before| *before > first)))
    }
}

/// The types that are asked for, of those that are about one vehicle.
fn types(asked: Option<&str>) -> Result<Vec<String>, Problem> {
    let all = TYPES.map(EventType::name);
    let Some(asked) = asked else {
        return Ok(all.map(str::to_owned).to_vec());
    };
    let names = asked.split(',').map(str::trim);
    names
        .map(|name| {
            all.contains(&name).then(|| name.to_owned()).ok_or_else(|| {
                let detail = format!(
                    "{name:?} is no type of a vehicle's own events; there are {}",
                    all.join(", ")
                );
                Problem::bad_request("invalid-types", detail)
            })
        })
        .collect()
}

fn cursor_of_offset(before: u64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("before/{before}"))
}

fn offset_of_cursor(cursor: &str) -> Result<u64, Problem> {
    BASE64_URL_SAFE_NO_PAD
        .decode(cursor)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .and_then(|text| text.strip_prefix("before/")?.parse().ok())
        .ok_or_else(|| {
            let detail = "after is not the `next` of a page; leave it out for the first page";
            Problem::bad_request("invalid-cursor", detail)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_read_back_and_others_are_refused() {
        for offset in [1, 4711, u64::MAX] {
            assert_eq!(offset_of_cursor(&cursor_of_offset(offset)), Ok(offset));
        }
        for bad in ["", "!", "MTI", "YmVmb3JlLy0x"] {
            let problem = offset_of_cursor(bad).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-cursor", "{bad}");
        }
    }

    #[test]
    fn types_are_those_of_one_vehicle() {
        assert_eq!(types(None).unwrap().len(), 3);
        let two = types(Some("vehicle.registered, vehicle.health.changed")).unwrap();
        assert_eq!(two, ["vehicle.registered", "vehicle.health.changed"]);
        for bad in ["", "vehicles.seen", "vehicle.registered,"] {
            let problem = types(Some(bad)).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-types", "{bad}");
        }
    }
}
