//! Requests that wait for a vehicle to reach a version: read your own write.
//!
//! A wait holds no connection to the database. It ends in the moment in which this process has committed the
//! version; what another replica commits is found by a look every [`LOOK_EVERY`], one statement for all
//! waits of the process, and none while nobody waits. While the database is away, waits run out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use runtime::{Context, telemetry};
use sqlx::PgPool;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::store::{Written, view};
use crate::VehicleKey;
use crate::applier::is_passing;

/// How often to look for what other replicas have committed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// More requests than this do not wait at once.
const MOST: usize = 4_000;

type Awaited = HashMap<(String, String), (watch::Sender<i64>, usize)>;

/// The waits of one process; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Waits(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    awaited: Awaited,
    count: usize,
}

/// One request's wait for a vehicle.
#[derive(Debug)]
pub(super) struct Wait {
    waits: Waits,
    key: (String, String),
    reached: watch::Receiver<i64>,
}

impl Waits {
    /// Begins to wait for a vehicle; none if too many wait. Whoever looks at the vehicle after that
    /// misses nothing.
    pub(super) fn begin(&self, key: &VehicleKey) -> Option<Wait> {
        let key = (key.workspace.to_string(), key.vehicle.to_string());
        let mut shared = self.lock();
        if shared.count == MOST {
            return None;
        }
        shared.count += 1;
        let (sender, waiting) = shared
            .awaited
            .entry(key.clone())
            .or_insert_with(|| (watch::channel(0).0, 0));
        *waiting += 1;
        let reached = sender.subscribe();
        drop(shared);
        Some(Wait {
            waits: self.clone(),
            key,
            reached,
        })
    }

    /// Takes note of a row that is committed.
    pub(super) fn committed(&self, written: &Written) {
        let shared = self.lock();
        // The usual case, at the rate of the writes.
        if shared.awaited.is_empty() {
            return;
        }
        let key = (written.workspace.clone(), written.vehicle.clone());
        if let Some((sender, _)) = shared.awaited.get(&key) {
            sender.send_if_modified(|reached| {
                let is_newer = written.version > *reached;
                *reached = written.version.max(*reached);
                is_newer
            });
        }
    }

    /// Looks for what others commit, until the service stops.
    pub(super) async fn look(&self, pool: &PgPool, context: &Context) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let stop = context.stopping();
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            match stop.run_until_cancelled(self.look_once(pool)).await {
                None | Some(Ok(())) => {}
                Some(Err(error)) if is_passing(&error) => tracing::debug!(
                    error = %telemetry::chain(&error),
                    "the database is away; requests wait in vain"
                ),
                Some(Err(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn look_once(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let (workspaces, vehicles): (Vec<_>, Vec<_>) = self.lock().awaited.keys().cloned().unzip();
        if vehicles.is_empty() {
            return Ok(());
        }
        let mut connection = pool.acquire().await?;
        for written in view::versions(&mut connection, (&workspaces, &vehicles)).await? {
            self.committed(&written);
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wait {
    /// Until the vehicle is known to have reached `version`.
    pub(super) async fn until(&mut self, version: i64) {
        // The sender lives for as long as anybody waits.
        let reached = self.reached.wait_for(|reached| *reached >= version).await;
        drop(reached);
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut shared = self.waits.lock();
        shared.count -= 1;
        if let Some((_, waiting)) = shared.awaited.get_mut(&self.key) {
            *waiting -= 1;
            if *waiting == 0 {
                shared.awaited.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use shared_model::{VehicleId, WorkspaceId};

    use super::*;

    fn key(vehicle: &str) -> VehicleKey {
        VehicleKey {
            workspace: WorkspaceId::new("demo").unwrap(),
            vehicle: VehicleId::new(vehicle).unwrap(),
        }
    }

    fn written(vehicle: &str, version: i64) -> Written {
        Written {
            workspace: "demo".to_owned(),
            vehicle: vehicle.to_owned(),
            version,
        }
    }

    #[tokio::test]
    async fn a_wait_ends_with_its_version_and_leaves_nothing_behind() {
        let waits = Waits::default();
        let mut first = waits.begin(&key("bus-1")).unwrap();
        let mut second = waits.begin(&key("bus-1")).unwrap();
        waits.committed(&written("bus-2", 9));
        waits.committed(&written("bus-1", 3));
        // Late: it takes nothing back.
        waits.committed(&written("bus-1", 2));
        first.until(3).await;
        let too_far = tokio::time::timeout(Duration::ZERO, second.until(4)).await;
        assert!(too_far.is_err());
        drop(first);
        let other = waits.clone();
        tokio::join!(second.until(4), async move {
            other.committed(&written("bus-1", 5));
        });
        drop(second);
        let shared = waits.lock();
        assert!(shared.awaited.is_empty() && shared.count == 0);
    }

    #[test]
    fn only_so_many_wait() {
        let waits = Waits::default();
        let mut all: Vec<_> = (0..MOST)
            .map(|number| waits.begin(&key(&format!("bus-{}", number % 7))).unwrap())
            .collect();
        assert!(waits.begin(&key("bus-1")).is_none());
        all.pop();
        assert!(waits.begin(&key("bus-1")).is_some());
    }
}
