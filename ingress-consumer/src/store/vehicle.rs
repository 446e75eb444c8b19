//! Table `vehicle`: the one state of every vehicle.
//!
//! Hot queries, by primary key and a few microseconds a row:
//! [`load`] is an index scan a vehicle; [`upsert`] an insert with arbiter index `vehicle_pkey`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use runtime::telemetry::chain;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use shared_model::{ConnectionId, VehicleId, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{StoreError, small, unsigned};
use crate::decide::VehicleState;

/// What names a vehicle.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VehicleKey {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// The vehicle.
    pub vehicle: VehicleId,
}

/// A vehicle as stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Vehicle {
    /// The event log's shard that all of its events go to.
    pub shard: u32,
    /// When it became known.
    pub registered_at: DateTime<Utc>,
    /// The connection that brought it.
    pub registered_by: ConnectionId,
    /// Its state.
    pub state: VehicleState,
}

struct Row {
    workspace: String,
    vehicle: String,
    shard: i32,
    version: i64,
    revision: i64,
    signals: Value,
    published: Value,
    last_received_at: Option<DateTime<Utc>>,
    unsent_since: Option<DateTime<Utc>>,
    registered_at: DateTime<Utc>,
    registered_by: Uuid,
}

fn read<T: DeserializeOwned>(
    column: &'static str,
    value: Value,
    row: impl Fn() -> String,
) -> Result<T, StoreError> {
    serde_json::from_value(value)
        .map_err(|error| StoreError::inconsistent("core.vehicle", column, row(), error))
}

fn stored_key(workspace: String, vehicle: String) -> Result<VehicleKey, StoreError> {
    let id = || format!("{workspace}/{vehicle}");
    Ok(VehicleKey {
        workspace: read("workspace", json!(workspace), id)?,
        vehicle: read("vehicle", json!(vehicle), id)?,
    })
}

impl Row {
    fn into_vehicle(self) -> Result<(VehicleKey, Vehicle), StoreError> {
        let id = || format!("{}/{}", self.workspace, self.vehicle);
        let key = stored_key(self.workspace.clone(), self.vehicle.clone())?;
        let state = VehicleState {
            version: unsigned(self.version),
            revision: unsigned(self.revision),
            signals: read("signals", self.signals.clone(), id)?,
            published: read("published", self.published.clone(), id)?,
            last_received_at: self.last_received_at,
            unsent_since: self.unsent_since,
        };
        let vehicle = Vehicle {
            shard: small(self.shard),
            registered_at: self.registered_at,
            registered_by: ConnectionId(self.registered_by),
            state,
        };
        Ok((key, vehicle))
    }
}

/// The vehicles of `keys` that are stored.
pub async fn load(
    pg: &mut PgConnection,
    keys: &[&VehicleKey],
) -> Result<BTreeMap<VehicleKey, Vehicle>, StoreError> {
    let workspaces: Vec<_> = keys.iter().map(|key| key.workspace.to_string()).collect();
    let vehicles: Vec<_> = keys.iter().map(|key| key.vehicle.to_string()).collect();
    let rows = sqlx::query_as!(
        Row,
        "SELECT workspace, vehicle, shard, version, revision, signals, published,
                last_received_at, unsent_since, registered_at, registered_by
         FROM core.vehicle
         JOIN UNNEST($1::text[], $2::text[]) AS key (workspace, vehicle) USING (workspace, vehicle)",
        &workspaces,
        &vehicles,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter().map(Row::into_vehicle).collect()
}

/// Up to `limit` vehicles behind the one given, in the order of their keys.
pub async fn page(
    pg: &mut PgConnection,
    after: Option<&VehicleKey>,
    limit: i64,
) -> Result<Vec<(VehicleKey, Vehicle)>, StoreError> {
    // No workspace and no vehicle has an empty name.
    let (workspace, vehicle) = after.map_or(("", ""), |key| {
        (key.workspace.as_str(), key.vehicle.as_str())
    });
    let rows = sqlx::query_as!(
        Row,
        "SELECT workspace, vehicle, shard, version, revision, signals, published,
                last_received_at, unsent_since, registered_at, registered_by
         FROM core.vehicle
         WHERE (workspace, vehicle) > ($1, $2)
         ORDER BY workspace, vehicle
         LIMIT $3",
        workspace,
        vehicle,
        limit,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter().map(Row::into_vehicle).collect()
}

/// The shards of the vehicles of `keys` that are stored.
pub async fn shards(
    pg: &mut PgConnection,
    keys: &[VehicleKey],
) -> Result<BTreeMap<VehicleKey, u32>, StoreError> {
    let workspaces: Vec<_> = keys.iter().map(|key| key.workspace.to_string()).collect();
    let vehicles: Vec<_> = keys.iter().map(|key| key.vehicle.to_string()).collect();
    let rows = sqlx::query!(
        "SELECT workspace, vehicle, shard
         FROM core.vehicle
         JOIN UNNEST($1::text[], $2::text[]) AS key (workspace, vehicle) USING (workspace, vehicle)",
        &workspaces,
        &vehicles,
    )
    .fetch_all(pg)
    .await?;
    let shards = rows.into_iter().map(|row| {
        let shard = small(row.shard);
        stored_key(row.workspace, row.vehicle).map(|key| (key, shard))
    });
    shards.collect()
}

/// Stores vehicles whose revision was raised by one. [`StoreError::Conflict`] if any of them is not
/// at the revision before; then nothing may be kept of the transaction.
pub async fn upsert(
    pg: &mut PgConnection,
    vehicles: &BTreeMap<VehicleKey, Vehicle>,
) -> Result<(), StoreError> {
    let written = write(pg, vehicles).await?;
    if written.len() == vehicles.len() {
        Ok(())
    } else {
        Err(StoreError::Conflict)
    }
}

/// Stores vehicles at revision 1 that are not stored yet, and returns those.
pub async fn register(
    pg: &mut PgConnection,
    vehicles: &BTreeMap<VehicleKey, Vehicle>,
) -> Result<Vec<VehicleKey>, StoreError> {
    // A vehicle that is stored is not at revision 0, so the guard leaves it alone.
    write(pg, vehicles).await
}

/// Writes the vehicles that are stored at the revision before, or not at all; returns which.
async fn write(
    pg: &mut PgConnection,
    vehicles: &BTreeMap<VehicleKey, Vehicle>,
) -> Result<Vec<VehicleKey>, StoreError> {
    if vehicles.is_empty() {
        return Ok(Vec::new());
    }
    let mut columns = Columns::default();
    for (key, vehicle) in vehicles {
        columns.push(key, vehicle);
    }
    let rows = sqlx::query!(
        // Rows are locked in the order of the ORDER BY, the same in every transaction.
        "INSERT INTO core.vehicle
             (workspace, vehicle, shard, version, revision, signals, published,
              last_received_at, unsent_since, registered_at, registered_by)
         SELECT *
         FROM UNNEST($1::text[], $2::text[], $3::int[], $4::bigint[], $5::bigint[], $6::jsonb[],
                     $7::jsonb[], $8::timestamptz[], $9::timestamptz[], $10::timestamptz[],
                     $11::uuid[])
              AS new (workspace, vehicle, shard, version, revision, signals, published,
                      last_received_at, unsent_since, registered_at, registered_by)
         ORDER BY new.workspace, new.vehicle
         ON CONFLICT (workspace, vehicle) DO UPDATE
         SET version = EXCLUDED.version,
             revision = EXCLUDED.revision,
             signals = EXCLUDED.signals,
             published = EXCLUDED.published,
             last_received_at = EXCLUDED.last_received_at,
             unsent_since = EXCLUDED.unsent_since
         WHERE core.vehicle.revision = EXCLUDED.revision - 1
         RETURNING workspace, vehicle",
        &columns.workspaces,
        &columns.vehicles,
        &columns.shards,
        &columns.versions,
        &columns.revisions,
        &columns.signals,
        &columns.published,
        &columns.last_received_at as &[Option<DateTime<Utc>>],
        &columns.unsent_since as &[Option<DateTime<Utc>>],
        &columns.registered_at,
        &columns.registered_by,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter()
        .map(|row| stored_key(row.workspace, row.vehicle))
        .collect()
}

#[derive(Default)]
struct Columns {
    workspaces: Vec<String>,
    vehicles: Vec<String>,
    shards: Vec<i32>,
    versions: Vec<i64>,
    revisions: Vec<i64>,
    signals: Vec<Value>,
    published: Vec<Value>,
    last_received_at: Vec<Option<DateTime<Utc>>>,
    unsent_since: Vec<Option<DateTime<Utc>>>,
    registered_at: Vec<DateTime<Utc>>,
    registered_by: Vec<Uuid>,
}

impl Columns {
    fn push(&mut self, key: &VehicleKey, vehicle: &Vehicle) {
        let state = &vehicle.state;
        self.workspaces.push(key.workspace.to_string());
        self.vehicles.push(key.vehicle.to_string());
        self.shards.push(vehicle.shard as i32);
        self.versions.push(state.version as i64);
        self.revisions.push(state.revision as i64);
        self.signals.push(json!(state.signals));
        self.published.push(json!(state.published));
        self.last_received_at.push(state.last_received_at);
        self.unsent_since.push(state.unsent_since);
        self.registered_at.push(vehicle.registered_at);
        self.registered_by.push(vehicle.registered_by.0);
    }
}

/// Locks vehicles that have held something unsent since before `before`, the longest first, but
/// leaves out those that somebody is writing at the moment.
pub async fn lock_unsent(
    pg: &mut PgConnection,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<BTreeMap<VehicleKey, Vehicle>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        // SKIP LOCKED: never waits, so it cannot deadlock with writers, whose order it does not keep.
        "SELECT workspace, vehicle, shard, version, revision, signals, published,
                last_received_at, unsent_since, registered_at, registered_by
         FROM core.vehicle
         WHERE unsent_since < $1
         ORDER BY unsent_since
         LIMIT $2
         FOR UPDATE SKIP LOCKED",
        before,
        limit,
    )
    .fetch_all(pg)
    .await?;
    let readable = rows.into_iter().filter_map(|row| match row.into_vehicle() {
        Ok(vehicle) => Some(vehicle),
        Err(error) => {
            // Its values are published by whoever can read it; the others must not wait for that.
            tracing::error!(error = %chain(&error), "a vehicle is left out of the sweep");
            None
        }
    });
    Ok(readable.collect())
}
