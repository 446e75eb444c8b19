//! `GET /internal/v1/state`: what the core knows now, as the newest events would say it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use axum::extract::State;
use runtime::http::{PageSize, Problem, Query};
use serde::Deserialize;
use shared_model::event::Fact;
use shared_model::log::{StateItem, StatePage};
use shared_model::{ConnectionId, VehicleId, WorkspaceId};
use sqlx::PgConnection;

use super::LogApi;
use crate::acceptance::registered;
use crate::decide::{self, VehicleState};
use crate::store::vehicle::{self, Vehicle, VehicleKey};
use crate::store::{StoreError, connection, status};

/// Which part is asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// The `next` of the page before.
    after: Option<String>,
    /// How many vehicles or connections.
    limit: Option<i64>,
}

/// Where a page begins: vehicles come first, then connections.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Cursor {
    Vehicles(Option<VehicleKey>),
    Connections(Option<ConnectionId>),
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vehicles(None) => write!(f, "vehicles"),
            Self::Vehicles(Some(key)) => write!(f, "vehicles/{}/{}", key.workspace, key.vehicle),
            Self::Connections(None) => write!(f, "connections"),
            Self::Connections(Some(id)) => write!(f, "connections/{}", id.0),
        }
    }
}

impl FromStr for Cursor {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (kind, after) = text
            .split_once('/')
            .map_or((text, None), |(kind, after)| (kind, Some(after)));
        match (kind, after) {
            ("vehicles", None) => Ok(Self::Vehicles(None)),
            ("connections", None) => Ok(Self::Connections(None)),
            ("vehicles", Some(after)) => {
                // A vehicle's name may have a slash; a workspace's has none.
                let (workspace, vehicle) = after.split_once('/').ok_or(())?;
                Ok(Self::Vehicles(Some(VehicleKey {
                    workspace: WorkspaceId::new(workspace).map_err(drop)?,
                    vehicle: VehicleId::new(vehicle).map_err(drop)?,
                })))
            }
            ("connections", Some(after)) => {
                Ok(Self::Connections(Some(after.parse().map_err(drop)?)))
            }
            _ => Err(()),
        }
    }
}

pub async fn page(
    State(api): State<LogApi>,
    Query(asked): Query<Asked>,
) -> Result<axum::Json<StatePage>, Problem> {
    let size = PageSize::asked(asked.limit)?;
    let cursor = asked.after.map_or(Ok(Cursor::Vehicles(None)), |after| {
        after.parse().map_err(|()| {
            let detail = format!("after is {after:?}; write the `next` of the page before");
            Problem::bad_request("invalid-cursor", detail)
        })
    })?;
    let mut pg = api.pool.acquire().await?;
    let (items, next) = match cursor {
        Cursor::Vehicles(after) => {
            let found = vehicle::page(&mut pg, after.as_ref(), size.to_look_for()).await?;
            let (found, next) = size.cut(found, |(key, _)| key.clone());
            let next = next.map_or(Cursor::Connections(None), |key| Cursor::Vehicles(Some(key)));
            (vehicles(&mut pg, found).await?, Some(next))
        }
        Cursor::Connections(after) => {
            let found = status::page(&mut pg, after, size.to_look_for()).await?;
            let (found, next) = size.cut(found, |changed| changed.fact.connection);
            let items = found.into_iter().map(|changed| {
                item(
                    changed.workspace,
                    &Fact::ConnectionStatusChanged(changed.fact),
                )
            });
            let next = next.map(|id| Cursor::Connections(Some(id)));
            (items.collect(), next)
        }
    };
    let next = next.map(|cursor| cursor.to_string());
    Ok(axum::Json(StatePage { items, next }))
}

fn item(workspace: WorkspaceId, fact: &Fact) -> StateItem {
    StateItem {
        workspace,
        kind: fact.event_type().name().to_owned(),
        data: fact.to_data(),
    }
}

async fn vehicles(
    pg: &mut PgConnection,
    vehicles: Vec<(VehicleKey, Vehicle)>,
) -> Result<Vec<StateItem>, StoreError> {
    let connections: BTreeSet<_> = vehicles
        .iter()
        .map(|(_, vehicle)| vehicle.registered_by)
        .collect();
    let connections: Vec<_> = connections.into_iter().collect();
    let providers = connection::providers(pg, &connections).await?;
    let mut items = Vec::new();
    for (key, vehicle) in vehicles {
        let provider = providers.get(&vehicle.registered_by).ok_or_else(|| {
            let row = format!("{}/{}", key.workspace, key.vehicle);
            let error = "the connection is not there";
            StoreError::inconsistent("core.vehicle", "registered_by", row, error)
        })?;
        let fact = registered(&key, &vehicle, provider.clone());
        items.push(item(key.workspace.clone(), &fact));
        if vehicle.state.version > 0 {
            let fact = decide::snapshot_changed(&key.vehicle, &published(vehicle.state), &[]);
            items.push(item(key.workspace, &fact));
        }
    }
    Ok(items)
}

/// The state with the values that others were told, and the times of now.
fn published(mut state: VehicleState) -> VehicleState {
    let told = &state.published;
    state.signals.retain(|signal, _| told.contains_key(signal));
    for (signal, reading) in &mut state.signals {
        if let Some(value) = told.get(signal) {
            reading.value = *value;
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_reads_back_whatever_a_vehicle_is_called() {
        let key = |vehicle: &str| VehicleKey {
            workspace: WorkspaceId::new("depot-1").unwrap(),
            vehicle: VehicleId::new(vehicle).unwrap(),
        };
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        for cursor in [
            Cursor::Vehicles(None),
            Cursor::Vehicles(Some(key("bus-1"))),
            Cursor::Vehicles(Some(key("a/b c?d=%/"))),
            Cursor::Connections(None),
            Cursor::Connections(Some(id)),
        ] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        for wrong in [
            "",
            "vehicles/",
            "vehicles/w",
            "vehicles/W/v",
            "connections/1",
        ] {
            assert_eq!(wrong.parse::<Cursor>(), Err(()), "{wrong}");
        }
    }
}
