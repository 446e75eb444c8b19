//! The sweep: publishes noise that has waited long enough, so that read models always converge to
//! the state, at a bounded rate.
//!
//! Any number of cores may sweep at once: each takes vehicles that nobody else has locked.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::telemetry::chain;
use runtime::{Context, clock, db};
use shared_model::event::{Fact, VehicleSeen, VehiclesSeen};
use shared_model::{EventType, WorkspaceId};
use sqlx::{PgPool, Postgres, Transaction};

use crate::decide;
use crate::metrics;
use crate::store::StoreError;
use crate::store::event_log::{self, NewEvent};
use crate::store::vehicle::{self, Vehicle, VehicleKey};

/// How many vehicles one transaction publishes.
const AT_ONCE: i64 = 500;
/// How many vehicles one `vehicles.seen` tells of at most: some tens of kilobytes.
const SEEN_TOGETHER: usize = 100;

/// Sweeps until the service is asked to stop.
pub async fn run(context: Context, pool: PgPool, after: Duration) -> anyhow::Result<()> {
    // Noise waits for `after` and at most a tenth longer.
    let mut ticks = tokio::time::interval((after / 10).max(Duration::from_millis(50)));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = context.stopping();
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        loop {
            let Some(swept) = stop.run_until_cancelled(sweep_once(&pool, after)).await else {
                return Ok(());
            };
            match swept {
                Ok(swept) if swept == AT_ONCE as u64 => {}
                Ok(_) => break,
                Err(error) => {
                    // Nothing depends on this one: the next tick tries again.
                    tracing::warn!(error = %chain(&error), "a sweep is put off");
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Publishes up to [`AT_ONCE`] vehicles whose noise has waited for `after`; returns how many.
pub async fn sweep_once(pool: &PgPool, after: Duration) -> Result<u64, StoreError> {
    let Swept {
        changed,
        seen,
        seen_events,
    } = db::in_tx(pool, "sweep", |tx| sweep_in(tx, after)).await?;
    let (changed_type, seen_type) = (
        EventType::VehicleSnapshotChanged.name(),
        EventType::VehiclesSeen.name(),
    );
    metrics::swept(changed_type, changed);
    metrics::swept(seen_type, seen);
    metrics::appended(changed_type, changed);
    metrics::appended(seen_type, seen_events);
    Ok(changed + seen)
}

type Tx = Transaction<'static, Postgres>;

/// How many vehicles a sweep published, and in how many events those whose values had not moved.
struct Swept {
    changed: u64,
    seen: u64,
    seen_events: u64,
}

async fn sweep_in(mut tx: Tx, after: Duration) -> Result<(Tx, Swept), StoreError> {
    let before = clock::now() - after;
    let unsent = vehicle::lock_unsent(&mut tx, before, AT_ONCE).await?;
    let (vehicles, events) = publish(unsent);
    vehicle::upsert(&mut tx, &vehicles).await?;
    event_log::append(&mut tx, &events, None).await?;
    let is_change =
        |event: &&NewEvent| event.fact.event_type() == EventType::VehicleSnapshotChanged;
    let changed = events.iter().filter(is_change).count();
    let swept = Swept {
        changed: changed as u64,
        seen: (vehicles.len() - changed) as u64,
        seen_events: (events.len() - changed) as u64,
    };
    Ok((tx, swept))
}

/// The vehicles with their noise published, and the events that publish it: one per vehicle whose
/// values moved, and one per workspace, shard and
/// hundred of those whose times moved.
fn publish(
    unsent: BTreeMap<VehicleKey, Vehicle>,
) -> (BTreeMap<VehicleKey, Vehicle>, Vec<NewEvent>) {
    let mut vehicles = BTreeMap::new();
    let mut events = Vec::new();
    let mut seen = BTreeMap::<(WorkspaceId, u32), Vec<VehicleSeen>>::new();
    for (key, vehicle) in unsent {
        let state = match decide::sweep(&vehicle.state) {
            decide::Swept::Changed(state) => {
                events.push(NewEvent {
                    shard: vehicle.shard,
                    workspace: key.workspace.clone(),
                    fact: decide::snapshot_changed(&key.vehicle, &state, &[]),
                });
                state
            }
            decide::Swept::Seen(state) => {
                let group = seen
                    .entry((key.workspace.clone(), vehicle.shard))
                    .or_default();
                group.push(decide::vehicle_seen(&key.vehicle, &state));
                state
            }
        };
        vehicles.insert(key, Vehicle { state, ..vehicle });
    }
    for ((workspace, shard), vehicles) in seen {
        events.extend(vehicles.chunks(SEEN_TOGETHER).map(|vehicles| NewEvent {
            shard,
            workspace: workspace.clone(),
            fact: Fact::VehiclesSeen(VehiclesSeen {
                vehicles: vehicles.to_vec(),
            }),
        }));
    }
    (vehicles, events)
}
