//! Table `verdict`: the latest observations of each vehicle that did not become its state.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use shared_model::{ConnectionId, Reading, SessionId, Signal};
use sqlx::PgConnection;

use super::StoreError;
use super::vehicle::VehicleKey;

/// An observation, or a signal without a value, that did not become its vehicle's state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rejected {
    /// When it was decided.
    pub decided_at: DateTime<Utc>,
    /// `duplicate`, `stale`, `conflict` or `no_value`.
    pub verdict: String,
    /// What was observed.
    pub signal: Signal,
    /// The value with its times and source; none for a signal without a value.
    pub reading: Option<Reading>,
    /// What it lost against, or is a repeat of.
    pub against: Option<Reading>,
    /// Its clock was ahead: `reading` tells the time that was not believed.
    #[serde(default)]
    pub clock_ahead: bool,
    /// The connection that it came over.
    pub connection: ConnectionId,
    /// The session that its frame was numbered in.
    pub session: SessionId,
    /// The frame's number.
    pub frame: u64,
}

/// Adds `rejected` to what is known, each list with the newest first, and keeps the newest `kept` of
/// each vehicle.
pub async fn record(
    pg: &mut PgConnection,
    rejected: &BTreeMap<VehicleKey, Vec<Rejected>>,
    kept: u16,
) -> Result<(), sqlx::Error> {
    if rejected.is_empty() || kept == 0 {
        return Ok(());
    }
    let workspaces: Vec<_> = rejected
        .keys()
        .map(|key| key.workspace.to_string())
        .collect();
    let vehicles: Vec<_> = rejected.keys().map(|key| key.vehicle.to_string()).collect();
    let recent: Vec<_> = rejected
        .values()
        .map(|list| json!(list[..list.len().min(kept.into())]))
        .collect();
    sqlx::query!(
        // Rows are locked in the order of the ORDER BY, the same in every transaction.
        "INSERT INTO core.verdict (workspace, vehicle, recent)
         SELECT *
         FROM UNNEST($1::text[], $2::text[], $3::jsonb[]) AS new (workspace, vehicle, recent)
         ORDER BY new.workspace, new.vehicle
         ON CONFLICT (workspace, vehicle) DO UPDATE
         SET recent = jsonb_path_query_array(
                 EXCLUDED.recent || core.verdict.recent, '$[0 to $last]', $4)",
        &workspaces,
        &vehicles,
        &recent,
        json!({"last": kept - 1}) as Value,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// What is known of `vehicle`, the newest first.
pub async fn recent(
    pg: &mut PgConnection,
    vehicle: &VehicleKey,
) -> Result<Vec<Rejected>, StoreError> {
    let found = sqlx::query_scalar!(
        "SELECT recent FROM core.verdict WHERE workspace = $1 AND vehicle = $2",
        vehicle.workspace.as_str(),
        vehicle.vehicle.as_str(),
    )
    .fetch_optional(pg)
    .await?;
    let row = || format!("{}/{}", vehicle.workspace, vehicle.vehicle);
    found.map_or_else(
        || Ok(Vec::new()),
        |list| {
            serde_json::from_value(list)
                .map_err(|error| StoreError::inconsistent("core.verdict", "recent", row(), error))
        },
    )
}
