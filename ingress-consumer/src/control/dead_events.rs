//! Dead events: those that the broker refused too often, listed, shown and redriven.

use std::fmt;
use std::str::FromStr;

use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::db;
use runtime::http::{Json, PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use shared_model::CloudEvent;
use utoipa::openapi::schema::{Array, ArrayBuilder, ObjectBuilder, Type};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::Control;
use super::params::{AtDeadEvent, InWorkspace};
use crate::metrics;
use crate::store::StoreError;
use crate::store::blocked_event::{self, Dead, Place};
use crate::store::event_log::LoggedEvent;

/// How many events one request redrives at most.
const MOST: i64 = 1000;

pub fn router() -> OpenApiRouter<Control> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(redrive))
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.shard, self.offset)
    }
}

impl FromStr for Place {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let parse = || {
            let (shard, offset) = text.split_once(':')?;
            let is_number = |text: &str, longest| {
                (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())
            };
            // As the description says, and less than the database can count to.
            if !is_number(shard, 9) || !is_number(offset, 18) {
                return None;
            }
            Some(Self {
                shard: shard.parse().ok()?,
                offset: offset.parse().ok()?,
            })
        };
        parse().ok_or_else(|| {
            let detail =
                format!("{text:?} is no event; write its id, shard:offset, such as 2:1041");
            Problem::bad_request("invalid-event-id", detail)
        })
    }
}

/// A dead event as listed.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadEvent {
    /// The event's id: its shard and its offset.
    id: String,
    /// The event's type.
    #[serde(rename = "type")]
    kind: String,
    /// The vehicle or connection that it is about.
    subject: Option<String>,
    /// When it was committed (UTC).
    time: DateTime<Utc>,
    /// The size of the event's data in bytes.
    bytes: u64,
    /// When the broker first refused it (UTC).
    blocked_at: DateTime<Utc>,
    /// When it was given up on (UTC).
    died_at: DateTime<Utc>,
    /// How often it was refused.
    attempts: u32,
    /// What the broker said last.
    reason: String,
}

impl From<Dead> for DeadEvent {
    fn from(dead: Dead) -> Self {
        Self {
            id: dead.place.to_string(),
            kind: dead.event_type,
            subject: dead.subject,
            time: dead.logged_at,
            bytes: dead.bytes,
            blocked_at: dead.blocked_at,
            died_at: dead.died_at,
            attempts: dead.attempts,
            reason: dead.reason,
        }
    }
}

/// Which part of the list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DeadQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    limit: Option<i64>,
    /// The `next` of the page before, an event's id: the list goes on behind it.
    #[param(pattern = "^[0-9]{1,9}:[0-9]{1,18}$", nullable = false)]
    after: Option<String>,
}

/// A page of dead events.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadEventPage {
    /// The events, in the order of the log.
    items: Vec<DeadEvent>,
    /// Where the next page begins, if there may be one.
    next: Option<String>,
}

/// List a workspace's dead events
///
/// Those that the broker refused too often. They are kept until they are redriven.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/dead-events",
    operation_id = "listDeadEvents",
    tag = "pipeline",
    params(InWorkspace, DeadQuery),
    responses((status = 200, description = "A page of dead events.", body = DeadEventPage)),
    security(("credential" = ["read"]))
)]
async fn list(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Query(query): Query<DeadQuery>,
) -> Result<axum::Json<DeadEventPage>, Problem> {
    let workspace = at.workspace()?;
    let size = PageSize::asked(query.limit)?;
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let mut pg = control.pool.acquire().await?;
    let limit = size.to_look_for();
    let found = blocked_event::dead(&mut pg, workspace.as_str(), None, after, limit).await?;
    let (found, next) = size.cut(found, |dead| dead.place.to_string());
    Ok(axum::Json(DeadEventPage {
        items: found.into_iter().map(Into::into).collect(),
        next,
    }))
}

/// A dead event with its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct WholeDeadEvent {
    #[serde(flatten)]
    view: DeadEvent,
    /// As it would be published.
    #[schema(value_type = CloudEvent)]
    event: LoggedEvent,
}

/// Show a dead event with its content
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/dead-events/{id}",
    operation_id = "showDeadEvent",
    tag = "pipeline",
    params(AtDeadEvent),
    responses((status = 200, description = "The event.", body = WholeDeadEvent)),
    security(("credential" = ["read"]))
)]
async fn show(
    State(control): State<Control>,
    Path(at): Path<AtDeadEvent>,
) -> Result<axum::Json<WholeDeadEvent>, Problem> {
    let workspace = at.workspace()?;
    let place: Place = at.id.parse()?;
    let mut pg = control.pool.acquire().await?;
    let dead = blocked_event::dead(&mut pg, workspace.as_str(), Some(place), None, 1).await?;
    let event = blocked_event::dead_event(&mut pg, workspace.as_str(), place).await?;
    let Some((dead, event)) = dead.into_iter().next().zip(event) else {
        let detail = format!("there is no dead event {place} here");
        return Err(Problem::not_found("dead-event-not-found", detail));
    };
    Ok(axum::Json(WholeDeadEvent {
        view: dead.into(),
        event,
    }))
}

fn ids() -> Array {
    let id = ObjectBuilder::new()
        .schema_type(Type::String)
        .pattern(Some("^[0-9]{1,9}:[0-9]{1,18}$"));
    ArrayBuilder::new()
        .description(Some("Their ids, `shard:offset`; none with `all`."))
        .max_items(Some(1000))
        .items(id)
        .build()
}

/// Which dead events to redrive: those with these ids, or all of the workspace's.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RedriveOrder {
    /// Their ids, `shard:offset`; none with `all`.
    #[serde(default)]
    #[schema(schema_with = ids)]
    pub ids: Vec<String>,
    /// All of them, up to 1000 at once; not with `ids`.
    #[serde(default)]
    pub all: bool,
    /// Only say how many.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RedriveOutcome {
    /// Whether this only says what would be.
    pub dry_run: bool,
    /// How many events are, or would be, handed to the relay.
    pub events: u64,
    /// Whether there may be more: order the same again.
    pub more: bool,
}

impl RedriveOrder {
    /// The ids' places; none for all.
    fn places(&self) -> Result<Option<Vec<Place>>, Problem> {
        if self.all != self.ids.is_empty() {
            let detail = "name the events with ids, or write all: true";
            return Err(Problem::bad_request("invalid-order", detail));
        }
        if self.ids.len() > MOST.unsigned_abs().try_into().unwrap_or(usize::MAX) {
            let detail = format!("there are {} ids; write {MOST} or less", self.ids.len());
            return Err(Problem::bad_request("too-many-ids", detail));
        }
        if self.all {
            return Ok(None);
        }
        let places: Result<Vec<_>, _> = self.ids.iter().map(|id| id.parse()).collect();
        places.map(Some)
    }
}

/// Have the relay publish dead events once more
///
/// Either those that `ids` names or, with `all`, up to 1000 of the workspace's. Ids that are not of dead
/// events of the workspace are left out.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/dead-events/redrive",
    operation_id = "redriveDeadEvents",
    tag = "pipeline",
    params(InWorkspace),
    request_body = RedriveOrder,
    responses((status = 200, description = "How many were, or would be.", body = RedriveOutcome)),
    security(("credential" = ["manage"]))
)]
async fn redrive(
    State(control): State<Control>,
    Path(at): Path<InWorkspace>,
    Json(order): Json<RedriveOrder>,
) -> Result<axum::Json<RedriveOutcome>, Problem> {
    let workspace = at.workspace()?;
    let places = order.places()?;
    let (workspace, places) = (workspace.as_str(), places.as_deref());
    if order.dry_run {
        let mut pg = control.pool.acquire().await?;
        return Ok(axum::Json(RedriveOutcome {
            dry_run: true,
            events: blocked_event::count_dead(&mut pg, workspace, places).await?,
            more: false,
        }));
    }
    let events = db::in_tx(&control.pool, "redrive_events", |mut tx| async move {
        let events = blocked_event::redrive(&mut tx, workspace, places, MOST).await?;
        Ok::<_, StoreError>((tx, events))
    })
    .await?;
    metrics::redriven(events);
    tracing::info!(
        workspace,
        events,
        "dead events are handed to the relay again"
    );
    Ok(axum::Json(RedriveOutcome {
        dry_run: false,
        events,
        more: events == MOST.unsigned_abs(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_what_it_is_about() {
        let order = |ids: &[&str], all| RedriveOrder {
            ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            all,
            dry_run: false,
        };
        assert_eq!(order(&[], true).places().unwrap(), None);
        let place = Place {
            shard: 2,
            offset: 1041,
        };
        assert_eq!(
            order(&["2:1041"], false).places().unwrap(),
            Some(vec![place])
        );
        assert_eq!(place.to_string(), "2:1041");
        for (ids, all) in [(vec![], false), (vec!["1:1"], true)] {
            let problem = order(&ids, all).places().unwrap_err();
            assert!(problem.detail.contains("all: true"), "{}", problem.detail);
        }
        for id in [
            "",
            "1",
            "1:",
            ":1",
            "-1:1",
            "1:-1",
            "1:x",
            "+1:1",
            "1:99999999999999999999",
            "9999999999:1",
        ] {
            let problem = order(&[id], false).places().unwrap_err();
            assert!(
                problem.detail.contains("shard:offset"),
                "{}",
                problem.detail
            );
        }
        let many = vec!["1:1"; 1001];
        assert!(
            order(&many, false)
                .places()
                .unwrap_err()
                .detail
                .contains("1000")
        );
    }
}
