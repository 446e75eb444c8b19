//! Finds single vehicles, with one statement for all that are asked for while others are found.
//!
//! Most of what it costs to find a vehicle is the way to the database and back, which a hundred vehicles
//! share. Nobody waits for a batch to fill: while there is little to do, a statement is for one vehicle.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use runtime::Context;
use runtime::db::{self, Disposition};
use runtime::http::Problem;
use sqlx::{PgConnection, PgPool};
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::{Mutex, oneshot};

use super::fold::Snapshot;
use super::store;
use crate::VehicleKey;

/// How many vehicles one statement finds at most.
const BATCH: usize = 100;
/// How many may be asked for and not yet found; who comes then waits to ask.
const QUEUE: usize = 8192;
/// How long a batch may take, which is for a server that does not answer: finding takes milliseconds.
const BATCH_LIMIT: Duration = Duration::from_secs(5);

/// Finds vehicles; clones share its workers.
#[derive(Debug, Clone)]
pub(super) struct Finder(mpsc::Sender<Wanted>);

/// What a search ends with: the vehicle's snapshot if it has one, or why it cannot be told.
type Found = Result<Option<Snapshot>, Problem>;

/// A vehicle that is asked for.
#[derive(Debug)]
struct Wanted {
    key: VehicleKey,
    reply: oneshot::Sender<Found>,
}

impl Finder {
    /// Finds with up to `workers` statements on `pool` at once, until the last clone is gone.
    pub(super) fn start(context: &Context, pool: &PgPool, workers: u32) -> Self {
        let (finder, queue) = mpsc::channel(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..workers {
            let worker = Worker {
                pool: pool.clone(),
                queue: Arc::clone(&queue),
            };
            // It outlasts the requests that are still answered while the service stops.
            context.spawn_infrastructure("snapshot-finder", worker.run());
        }
        Self(finder)
    }

    /// The vehicle's snapshot, if there is one.
    pub(super) async fn find(&self, key: &VehicleKey) -> Found {
        let (reply, found) = oneshot::channel();
        let key = key.clone();
        let asked = self.0.send(Wanted { key, reply }).await;
        asked.map_err(|error| Problem::internal(&error))?;
        found.await.map_err(|error| Problem::internal(&error))?
    }
}

/// One of those who find.
struct Worker {
    pool: PgPool,
    queue: Arc<Mutex<Receiver<Wanted>>>,
}

impl Worker {
    async fn run(self) -> anyhow::Result<()> {
        while let Some(batch) = self.next().await {
            let (keys, replies): (Vec<_>, Vec<_>) =
                batch.into_iter().map(|of| (of.key, of.reply)).unzip();
            let search = async { search(&mut *self.pool.acquire().await?, &keys).await };
            let found = tokio::time::timeout(BATCH_LIMIT, search).await;
            match found.unwrap_or_else(|_| Err(sqlx::Error::Io(io::ErrorKind::TimedOut.into()))) {
                Ok(found) => {
                    for (reply, found) in replies.into_iter().zip(found) {
                        // Unless who asked has gone.
                        drop(reply.send(found));
                    }
                }
                Err(error) => {
                    let problem = Problem::from(error);
                    for reply in replies.into_iter().chain(self.waiting()) {
                        drop(reply.send(Err(problem.clone())));
                    }
                }
            }
        }
        Ok(())
    }

    /// What waits to be found by now, as soon as there is anything; nothing once the last [`Finder`] is gone.
    async fn next(&self) -> Option<Vec<Wanted>> {
        let mut batch = Vec::new();
        let mut queue = self.queue.lock().await;
        if queue.recv_many(&mut batch, BATCH).await == 0 {
            return None;
        }
        // Who has gone meanwhile needs no answer.
        batch.retain(|wanted| !wanted.reply.is_closed());
        Some(batch)
    }

    /// All others who wait while the database is away: they would wait as long to learn the same.
    fn waiting(&self) -> Vec<oneshot::Sender<Found>> {
        // Where another worker has the queue, there is nothing in it.
        let Ok(mut queue) = self.queue.try_lock() else {
            return Vec::new();
        };
        let waiting = std::iter::from_fn(|| queue.try_recv().ok());
        waiting.map(|wanted| wanted.reply).collect()
    }
}

/// What is found of each key, in their order.
async fn search(
    connection: &mut PgConnection,
    keys: &[VehicleKey],
) -> Result<Vec<Found>, sqlx::Error> {
    // PostgreSQL plans a search for one once, and one for many each time.
    if keys.len() > 1 {
        match store::find_all(connection, keys).await {
            Ok(found) => return Ok(found.into_iter().map(Ok).collect()),
            Err(error) if db::disposition(&error) == Disposition::Retry => return Err(error),
            // A row that cannot be read fails those only who have asked for it.
            Err(_) => {}
        }
    }
    let mut found = Vec::with_capacity(keys.len());
    for key in keys {
        let one = store::find(connection, key).await;
        found.push(one.map_err(Problem::from));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use shared_model::{VehicleId, WorkspaceId};
    use tokio::task::JoinSet;

    use super::*;
    use crate::VehicleChange;
    use crate::fixture;
    use crate::snapshot::{LIVE, MIGRATIONS};

    fn bus(n: i64) -> VehicleKey {
        VehicleKey {
            workspace: WorkspaceId::new(if n % 2 == 0 { "even" } else { "odd" }).unwrap(),
            vehicle: VehicleId::new(format!("bus-{n}")).unwrap(),
        }
    }

    /// Half of 500 buses are known, each at its number as the version.
    async fn known(pool: &PgPool) {
        let changes: Vec<_> = (0..250)
            .map(|n| VehicleChange {
                key: bus(n),
                change: Snapshot {
                    version: n,
                    revision: n,
                    ..Snapshot::default()
                },
                events: Vec::new(),
            })
            .collect();
        let mut connection = pool.acquire().await.unwrap();
        store::upsert(&mut connection, LIVE, &changes)
            .await
            .unwrap();
    }

    /// Asks for all 500 buses at once; what is found is told with each one's number.
    async fn all(finder: &Finder) -> Vec<(i64, Found)> {
        let mut asked = JoinSet::new();
        for n in 0..500 {
            let finder = finder.clone();
            asked.spawn(async move { (n, finder.find(&bus(n)).await) });
        }
        asked.join_all().await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn everybody_finds_their_own_vehicle() {
        let pool = fixture::pool(&MIGRATIONS).await;
        known(&pool).await;
        let context = Context::new("finder", "0");
        for workers in [1, 3] {
            let finder = Finder::start(&context, &pool, workers);
            for (n, found) in all(&finder).await {
                let version = found.unwrap().map(|found| found.version);
                assert_eq!(version, (n < 250).then_some(n));
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_row_that_cannot_be_read_fails_who_asks_for_it() {
        let pool = fixture::pool(&MIGRATIONS).await;
        known(&pool).await;
        let spoil =
            r#"UPDATE snapshot.vehicle SET signals = '{"speed": 7}' WHERE vehicle = 'bus-7'"#;
        sqlx::query(spoil).execute(&pool).await.unwrap();
        let context = Context::new("finder", "0");
        let finder = Finder::start(&context, &pool, 1);
        for (n, found) in all(&finder).await {
            match found {
                Err(problem) => assert_eq!((n, problem.status), (7, 500)),
                Ok(found) => assert_eq!(found.is_some(), n < 250 && n != 7),
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_statement_that_does_not_end_is_given_up_for_all_who_wait() {
        let pool = fixture::pool(&MIGRATIONS).await;
        known(&pool).await;
        let context = Context::new("finder", "0");
        let finder = Finder::start(&context, &pool, 1);
        let mut locking = pool.begin().await.unwrap();
        sqlx::query("LOCK TABLE snapshot.vehicle")
            .execute(&mut *locking)
            .await
            .unwrap();
        let start = Instant::now();
        for (_, found) in all(&finder).await {
            let problem = found.unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:database-away");
        }
        // One batch after the other would take five times as long and more.
        assert!(start.elapsed() < 3 * BATCH_LIMIT);
        locking.rollback().await.unwrap();
        assert!(finder.find(&bus(1)).await.unwrap().is_some());
    }
}
