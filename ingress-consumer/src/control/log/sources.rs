//! `POST /internal/v1/sources/{source}/events`: facts that other services find, appended each once.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::http::StatusCode;
use runtime::db;
use runtime::http::{Json, Path, Problem};
use shared_model::event::Fact;
use shared_model::log::{SourceEvent, SourceEvents, SourceState};
use shared_model::partition::partition;
use shared_model::{ConnectionId, EventType, VehicleId, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::LogApi;
use crate::control::installation;
use crate::metrics;
use crate::store::event_log::{self, NewEvent};
use crate::store::vehicle::{self, VehicleKey};
use crate::store::{StoreError, event_source};

/// The sources, and what each may tell of.
const SOURCES: [(&str, &[EventType]); 1] = [(
    "health",
    &[
        EventType::VehicleHealthChanged,
        EventType::ProviderIncidentChanged,
    ],
)];
/// How many facts a request may have.
const MOST: usize = 10_000;

/// A fact that was checked.
#[derive(Debug, Clone)]
struct Found {
    workspace: WorkspaceId,
    fact: Fact,
}

pub async fn show(
    State(api): State<LogApi>,
    Path(source): Path<String>,
) -> Result<axum::Json<SourceState>, Problem> {
    allowed(&source)?;
    let appended = event_source::appended(&mut *api.pool.acquire().await?, &source).await?;
    Ok(axum::Json(SourceState { appended }))
}

pub async fn append(
    State(api): State<LogApi>,
    Path(source): Path<String>,
    Json(SourceEvents { events }): Json<SourceEvents>,
) -> Result<axum::Json<SourceState>, Problem> {
    let found = check(allowed(&source)?, &events)?;
    let shards = installation(&mut *api.pool.acquire().await?)
        .await?
        .partitions;
    let first = events.first().map(|event| event.number);
    let (source, found) = (source.as_str(), found.as_slice());
    let (appended, new) = db::in_tx(&api.pool, "append_found", |mut tx| async move {
        let appended = event_source::lock(&mut tx, source).await?;
        let new = match first.map(|first| already(appended, first, found.len())) {
            None => Ok((appended, &found[..0])),
            Some(Ok(already)) => {
                let new = &found[already..];
                let last = appended + new.len() as u64;
                if !new.is_empty() {
                    event_source::advance(&mut tx, source, last).await?;
                    let events = placed(&mut tx, new, shards).await?;
                    event_log::append(&mut tx, &events, None).await?;
                }
                Ok((last, new))
            }
            Some(Err(hole)) => Err(hole),
        };
        Ok::<_, StoreError>((tx, new))
    })
    .await?
    .map_err(|Hole { expected, found }| {
        let detail = format!("number {expected} of source {source} comes next, not {found}");
        Problem::new(StatusCode::CONFLICT, "hole-in-numbers", detail)
    })?;
    let mut counts = BTreeMap::<_, u64>::new();
    for found in new {
        *counts.entry(found.fact.event_type().name()).or_default() += 1;
    }
    for (kind, count) in counts {
        metrics::appended(kind, count);
    }
    Ok(axum::Json(SourceState { appended }))
}

fn allowed(source: &str) -> Result<&'static [EventType], Problem> {
    SOURCES
        .iter()
        .find(|(name, _)| *name == source)
        .map(|(_, kinds)| *kinds)
        .ok_or_else(|| {
            let names = SOURCES.map(|(name, _)| name).join(", ");
            let detail = format!("there is no source {source:?}; known: {names}");
            Problem::not_found("source-not-found", detail)
        })
}

/// The facts of `events`, which must have numbers that grow by one and be of `kinds`.
fn check(kinds: &[EventType], events: &[SourceEvent]) -> Result<Vec<Found>, Problem> {
    if events.len() > MOST {
        let detail = format!("{} events; send at most {MOST} at once", events.len());
        return Err(Problem::bad_request("too-many-events", detail));
    }
    let first = events.first().map_or(1, |event| event.number);
    if first == 0 || i64::try_from(first).is_err() {
        let detail = format!("number {first} cannot be; numbers begin with 1");
        return Err(Problem::bad_request("invalid-number", detail));
    }
    let check = |(event, number): (&SourceEvent, u64)| {
        if event.number != number {
            let detail = format!("number {} stands where {number} should", event.number);
            return Err(Problem::bad_request("invalid-number", detail));
        }
        let kind = EventType::from_name(&event.kind)
            .filter(|kind| kinds.contains(kind))
            .ok_or_else(|| {
                let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
                let detail = format!(
                    "number {number} is of type {:?}; allowed: {}",
                    event.kind,
                    names.join(", ")
                );
                Problem::bad_request("type-not-allowed", detail)
            })?;
        let fact = Fact::read(kind, &event.data).map_err(|error| {
            let detail = format!("number {number} is no {}: {error}", kind.name());
            Problem::bad_request("invalid-event", detail)
        })?;
        Ok(Found {
            workspace: event.workspace.clone(),
            fact,
        })
    };
    events.iter().zip(first..).map(check).collect()
}

/// Numbers between what was appended and what is offered are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Hole {
    expected: u64,
    found: u64,
}

/// How many of `count` facts that begin with number `first` were appended before.
fn already(appended: u64, first: u64, count: usize) -> Result<usize, Hole> {
    match (appended + 1).checked_sub(first) {
        None => Err(Hole {
            expected: appended + 1,
            found: first,
        }),
        Some(before) => Ok(usize::try_from(before).unwrap_or(count).min(count)),
    }
}

/// The events for `found`: a vehicle's in the shard of its other events, a connection's in that of its
/// status.
async fn placed(
    pg: &mut PgConnection,
    found: &[Found],
    shards: u32,
) -> Result<Vec<NewEvent>, StoreError> {
    let key = |found: &Found, vehicle: &VehicleId| VehicleKey {
        workspace: found.workspace.clone(),
        vehicle: vehicle.clone(),
    };
    let keys: Vec<_> = found
        .iter()
        .filter_map(|found| match &found.fact {
            Fact::VehicleHealthChanged(fact) => Some(key(found, &fact.vehicle)),
            _ => None,
        })
        .collect();
    let known = vehicle::shards(pg, &keys).await?;
    let shard = |found: &Found| {
        let hash =
            |connection, device: &str| partition(&found.workspace, connection, device, shards);
        match &found.fact {
            Fact::ProviderIncidentChanged(fact) => hash(fact.connection, ""),
            Fact::VehicleHealthChanged(fact) => known
                .get(&key(found, &fact.vehicle))
                .copied()
                .unwrap_or_else(|| hash(ConnectionId(Uuid::nil()), fact.vehicle.as_str())),
            _ => hash(ConnectionId(Uuid::nil()), ""),
        }
    };
    let event = |found: &Found| NewEvent {
        shard: shard(found),
        workspace: found.workspace.clone(),
        fact: found.fact.clone(),
    };
    Ok(found.iter().map(event).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_appended_once_and_a_hole_is_named() {
        assert_eq!(already(0, 1, 3), Ok(0));
        assert_eq!(already(2, 1, 3), Ok(2));
        assert_eq!(already(3, 1, 3), Ok(3));
        assert_eq!(already(9, 1, 3), Ok(3), "all of it long ago");
        assert_eq!(already(9, 10, 3), Ok(0));
        let hole = Hole {
            expected: 10,
            found: 12,
        };
        assert_eq!(already(9, 12, 3), Err(hole));
    }

    #[test]
    fn what_a_source_may_not_say_is_refused_by_its_number() {
        let event = |number, kind: &str| SourceEvent {
            number,
            workspace: WorkspaceId::new("w").unwrap(),
            kind: kind.to_owned(),
            data: serde_json::json!({}),
        };
        let refused = |events: &[SourceEvent]| {
            let problem = check(SOURCES[0].1, events).unwrap_err();
            (problem.kind, problem.detail)
        };
        let (kind, detail) = refused(&[event(4, "vehicle.registered")]);
        assert_eq!(kind, "urn:headrace:problem:type-not-allowed");
        assert!(detail.contains("number 4"), "{detail}");
        let (kind, detail) = refused(&[event(4, "vehicle.health.changed")]);
        assert_eq!(kind, "urn:headrace:problem:invalid-event");
        assert!(detail.contains("vehicle"), "{detail}");
        for numbers in [&[0][..], &[u64::MAX]] {
            let events: Vec<_> = numbers
                .iter()
                .map(|number| event(*number, "vehicle.health.changed"))
                .collect();
            assert_eq!(refused(&events).0, "urn:headrace:problem:invalid-number");
        }
    }
}
