//! The sweep: publishes noise that has waited long enough, so that read models always converge to
//! the state, at a bounded rate.
//!
//! Any number of cores may sweep at once: each takes vehicles that nobody else has locked.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::db::{self, AsSqlError, Disposition};
use runtime::{Context, clock};
use shared_model::event::{Fact, VehicleSeen, VehiclesSeen};
use shared_model::{EventType, WorkspaceId};
use sqlx::{PgPool, Postgres, Transaction};

use crate::decide::{self, Swept};
use crate::metrics;
use crate::store::StoreError;
use crate::store::event_log::{self, NewEvent};
use crate::store::vehicle::{self, Vehicle, VehicleKey};

/// How many vehicles one transaction publishes, and how many share one event at most.
const AT_ONCE: i64 = 500;

/// Sweeps until the service is asked to stop.
pub async fn run(context: Context, pool: PgPool, after: Duration) -> anyhow::Result<()> {
    // Noise waits for `after` and at most a tenth longer.
    let mut ticks = tokio::time::interval((after / 10).max(Duration::from_millis(50)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = context.stopping();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        loop {
            match sweep_once(&pool, after).await {
                Ok(swept) if swept == AT_ONCE as u64 && !stop.is_cancelled() => {}
                Ok(_) => break,
                Err(error)
                    if matches!(error, StoreError::Conflict)
                        || error
                            .as_sql_error()
                            .is_some_and(|e| db::disposition(e) == Disposition::Retry) =>
                {
                    tracing::warn!(
                        error = %runtime::telemetry::chain(&error),
                        "a sweep is put off"
                    );
                    break;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Publishes up to [`AT_ONCE`] vehicles whose noise has waited for `after`; returns how many.
pub async fn sweep_once(pool: &PgPool, after: Duration) -> Result<u64, StoreError> {
    let (changed, seen) = db::in_tx(pool, "sweep", |tx| sweep_in(tx, after)).await?;
    metrics::swept(EventType::VehicleSnapshotChanged.name(), changed);
    metrics::swept(EventType::VehiclesSeen.name(), seen);
    Ok(changed + seen)
}

type Tx = Transaction<'static, Postgres>;

async fn sweep_in(mut tx: Tx, after: Duration) -> Result<(Tx, (u64, u64)), StoreError> {
    let before = clock::now() - after;
    let unsent = vehicle::lock_unsent(&mut tx, before, AT_ONCE).await?;
    let (vehicles, events) = publish(unsent);
    vehicle::upsert(&mut tx, &vehicles).await?;
    event_log::append(&mut tx, &events, None).await?;
    let changed = events
        .iter()
        .filter(|e| e.fact.event_type() == EventType::VehicleSnapshotChanged)
        .count();
    Ok((tx, (changed as u64, (vehicles.len() - changed) as u64)))
}

/// The vehicles with their noise published, and the events that publish it: one per vehicle whose
/// values moved, and one per workspace and shard for all those whose times moved.
fn publish(
    unsent: BTreeMap<VehicleKey, Vehicle>,
) -> (BTreeMap<VehicleKey, Vehicle>, Vec<NewEvent>) {
    let mut vehicles = BTreeMap::new();
    let mut events = Vec::new();
    let mut seen = BTreeMap::<(WorkspaceId, u32), Vec<VehicleSeen>>::new();
    for (key, vehicle) in unsent {
        let state = match decide::sweep(&vehicle.state) {
            Swept::Changed(state) => {
                events.push(NewEvent {
                    shard: vehicle.shard,
                    workspace: key.workspace.clone(),
                    fact: decide::snapshot_changed(&key.vehicle, &state, &[]),
                });
                state
            }
            Swept::Seen(state) => {
                let group = seen
                    .entry((key.workspace.clone(), vehicle.shard))
                    .or_default();
                group.push(decide::vehicle_seen(&key.vehicle, &state));
                state
            }
        };
        vehicles.insert(key, Vehicle { state, ..vehicle });
    }
    events.extend(
        seen.into_iter()
            .map(|((workspace, shard), vehicles)| NewEvent {
                shard,
                workspace,
                fact: Fact::VehiclesSeen(VehiclesSeen { vehicles }),
            }),
    );
    (vehicles, events)
}
