//! Dead events: those that the broker refused too often, listed, shown and redriven.

use std::fmt;
use std::str::FromStr;

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use runtime::db;
use runtime::http::{Json, PageSize, Path, Problem, Query};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Control;
use super::connections::workspace;
use crate::metrics;
use crate::store::StoreError;
use crate::store::blocked_event::{self, Dead, Place};

/// How many events one request redrives at most.
const MOST: i64 = 1000;

pub fn routes() -> Router<Control> {
    const BASE: &str = "/v1/workspaces/{workspace}/dead-events";
    Router::new()
        .route(BASE, get(list))
        .route(&format!("{BASE}/{{id}}"), get(show))
        .route(&format!("{BASE}/redrive"), post(redrive))
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
            // As the database counts.
            let shard = shard.parse::<i32>().ok()?.try_into().ok()?;
            let offset = offset.parse::<i64>().ok()?.try_into().ok()?;
            Some(Self { shard, offset })
        };
        parse().ok_or_else(|| {
            let detail =
                format!("{text:?} is no event; write its id, shard:offset, such as 2:1041");
            Problem::bad_request("invalid-event-id", detail)
        })
    }
}

/// A dead event as listed.
#[derive(Debug, Serialize)]
struct View {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    subject: Option<String>,
    time: DateTime<Utc>,
    bytes: u64,
    blocked_at: DateTime<Utc>,
    died_at: DateTime<Utc>,
    attempts: u32,
    reason: String,
}

impl From<Dead> for View {
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
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeadQuery {
    limit: Option<i64>,
    after: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed {
    items: Vec<View>,
    next: Option<String>,
}

async fn list(
    State(control): State<Control>,
    Path(name): Path<String>,
    Query(query): Query<DeadQuery>,
) -> Result<axum::Json<Listed>, Problem> {
    let workspace = workspace(&name)?;
    let size = PageSize::asked(query.limit)?;
    let after = query.after.as_deref().map(str::parse).transpose()?;
    let mut pg = control.pool.acquire().await?;
    let limit = size.to_look_for();
    let found = blocked_event::dead(&mut pg, workspace.as_str(), None, after, limit).await?;
    let (found, next) = size.cut(found, |dead| dead.place.to_string());
    Ok(axum::Json(Listed {
        items: found.into_iter().map(Into::into).collect(),
        next,
    }))
}

#[derive(Debug, Serialize)]
struct WholeView {
    #[serde(flatten)]
    view: View,
    /// As it would be published.
    event: Value,
}

async fn show(
    State(control): State<Control>,
    Path((name, id)): Path<(String, String)>,
) -> Result<axum::Json<WholeView>, Problem> {
    let workspace = workspace(&name)?;
    let place: Place = id.parse()?;
    let mut pg = control.pool.acquire().await?;
    let dead = blocked_event::dead(&mut pg, workspace.as_str(), Some(place), None, 1).await?;
    let event = blocked_event::dead_event(&mut pg, workspace.as_str(), place).await?;
    let Some((dead, event)) = dead.into_iter().next().zip(event) else {
        let detail = format!("there is no dead event {place} here");
        return Err(Problem::not_found("dead-event-not-found", detail));
    };
    Ok(axum::Json(WholeView {
        view: dead.into(),
        event: serde_json::to_value(event).map_err(|error| Problem::internal(&error))?,
    }))
}

/// Which dead events to redrive: those with these ids, or all of the workspace's.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedriveOrder {
    /// Their ids, `shard:offset`.
    #[serde(default)]
    pub ids: Vec<String>,
    /// All of them, up to 1000 at once.
    #[serde(default)]
    pub all: bool,
    /// Only say how many.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of the order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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

async fn redrive(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(order): Json<RedriveOrder>,
) -> Result<axum::Json<RedriveOutcome>, Problem> {
    let workspace = workspace(&name)?;
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
            "1:99999999999999999999",
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
