//! One relay among others: it says that it runs, takes its share of the shards, and gives up what is
//! above it.
//!
//! Every quarter of the lease it says so anew, and at once when another relay comes, goes or lets go of
//! a shard. A relay that stops gives all of its shards up; one that dies loses them when the lease ends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use runtime::db;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::hold::Hold;
use super::share::{self, ShardView};
use super::worker::Worker;
use super::{RelayError, Shared};
use crate::metrics;
use crate::store::StoreError;
use crate::store::relay::{self, Grant};

/// How long the shards' tasks may take to let go at a stop. What they have not written down by then is
/// published again by others.
const LETTING_GO: Duration = Duration::from_secs(4);
/// How long the database may take to hear that the relay is gone.
const GOODBYE: Duration = Duration::from_secs(3);

/// A relay among others.
pub(super) struct Member {
    shared: Arc<Shared>,
    wakers: Arc<Vec<Notify>>,
    look: Arc<Notify>,
    held: BTreeMap<u32, Held>,
    tasks: JoinSet<(u32, u64, Result<(), RelayError>)>,
    says: watch::Sender<BTreeSet<u32>>,
}

/// A shard that the relay has.
struct Held {
    epoch: u64,
    deadline: watch::Sender<Instant>,
    give_up: CancellationToken,
}

/// What came of looking at the shards.
struct Looked {
    kept: Vec<u32>,
    give: Vec<u32>,
    taken: Vec<Grant>,
}

impl Member {
    pub(super) fn new(
        shared: Arc<Shared>,
        wakers: Arc<Vec<Notify>>,
        look: Arc<Notify>,
        says: watch::Sender<BTreeSet<u32>>,
    ) -> Self {
        Self {
            shared,
            wakers,
            look,
            held: BTreeMap::new(),
            tasks: JoinSet::new(),
            says,
        }
    }

    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let stop = self.shared.context.stopping().clone();
        let look = Arc::clone(&self.look);
        let mut ticks = tokio::time::interval(self.shared.settings.lease / 4);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = self.tasks.join_next() => self.ended(ended)?,
                _ = ticks.tick() => {
                    stop.run_until_cancelled(self.beat()).await.transpose()?;
                }
                () = look.notified() => {
                    stop.run_until_cancelled(self.beat()).await.transpose()?;
                }
            }
        }
        self.leave().await;
        Ok(())
    }

    /// Says that the relay runs, and takes and gives up what its share asks for.
    async fn beat(&mut self) -> Result<(), RelayError> {
        let asked_at = Instant::now();
        let lease = self.shared.settings.lease;
        match self.look().await {
            Ok(looked) => self.follow(looked, asked_at + lease * 4 / 5),
            Err(error) if error.is_passing() => {
                tracing::warn!(
                    error = %runtime::telemetry::chain(&error),
                    "the leases of the shards wait for the database"
                );
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    async fn look(&self) -> Result<Looked, StoreError> {
        let epochs: BTreeMap<_, _> = self
            .held
            .iter()
            .map(|(shard, held)| (*shard, held.epoch))
            .collect();
        let (shared, epochs) = (&*self.shared, &epochs);
        let (me, lease) = (shared.relay, shared.settings.lease);
        db::in_tx(&shared.pool, "lease_shards", |mut tx| async move {
            relay::limit_idle(&mut tx, lease).await?;
            let instance = shared.context.instance();
            if relay::announce(&mut tx, me, instance, lease).await? {
                relay::tell(&mut tx).await?;
            }
            let shards = relay::lock(&mut tx).await?;
            let running = relay::running(&mut tx).await?;
            let view = |leased: &relay::Leased| {
                // A shard that was this relay's before it lost hold of it can be taken anew.
                let is_held = epochs.get(&leased.shard) == Some(&leased.epoch);
                let owner = leased.owner.filter(|owner| *owner != me || is_held);
                ShardView {
                    shard: leased.shard,
                    owner,
                }
            };
            let views: Vec<_> = shards.iter().map(view).collect();
            let steps = share::steps(me, &running, &views);
            let mine = views.iter().filter(|view| view.owner == Some(me));
            let kept: Vec<_> = mine.map(|view| view.shard).collect();
            relay::renew(&mut tx, me, &kept, lease).await?;
            let taken = relay::take(&mut tx, me, &steps.take, lease).await?;
            let looked = Looked {
                kept,
                give: steps.give,
                taken,
            };
            Ok((tx, looked))
        })
        .await
    }

    fn follow(&mut self, looked: Looked, deadline: Instant) {
        self.held.retain(|shard, held| {
            let is_kept = looked.kept.contains(shard);
            if is_kept {
                held.deadline.send_replace(deadline);
            } else {
                lost(*shard, held.epoch);
                held.give_up.cancel();
            }
            is_kept
        });
        for shard in looked.give {
            if let Some(held) = self.held.get(&shard) {
                held.give_up.cancel();
            }
        }
        for grant in looked.taken {
            self.begin(grant, deadline);
        }
        self.say();
    }

    fn begin(&mut self, grant: Grant, until: Instant) {
        let Grant { shard, epoch, .. } = grant;
        tracing::info!(shard, epoch, relayed = grant.relayed, "took a shard");
        metrics::relay_lease("taken");
        let (deadline, of_deadline) = watch::channel(until);
        let give_up = self.shared.context.stopping().child_token();
        let hold = Hold {
            deadline: of_deadline,
            give_up: give_up.clone(),
        };
        let worker = Worker::new(
            Arc::clone(&self.shared),
            Arc::clone(&self.wakers),
            grant,
            hold,
        );
        self.tasks
            .spawn(async move { (shard, epoch, worker.run().await) });
        let entry = Held {
            epoch,
            deadline,
            give_up,
        };
        self.held.insert(shard, entry);
    }

    fn ended(
        &mut self,
        ended: Result<(u32, u64, Result<(), RelayError>), JoinError>,
    ) -> anyhow::Result<()> {
        let (shard, epoch, result) = ended?;
        if self
            .held
            .get(&shard)
            .is_some_and(|held| held.epoch == epoch)
        {
            self.held.remove(&shard);
            match &result {
                Ok(()) => {
                    tracing::info!(shard, epoch, "gave a shard up");
                    metrics::relay_lease("given_up");
                }
                Err(_) => lost(shard, epoch),
            }
            self.say();
        }
        match result {
            Ok(()) | Err(RelayError::Store(StoreError::LeaseLost)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Tells how many shards there are to measure.
    fn say(&self) {
        self.says.send_replace(self.held.keys().copied().collect());
    }

    /// Gives everything up, so that others need not wait for the leases to end.
    async fn leave(mut self) {
        let letting_go = async {
            while let Some(ended) = self.tasks.join_next().await {
                if let Err(error) = self.ended(ended) {
                    tracing::warn!("a shard was not given up in order: {error:#}");
                }
            }
        };
        if tokio::time::timeout(LETTING_GO, letting_go).await.is_err() {
            tracing::warn!("not all that is under way was confirmed; it will be published again");
        }
        self.tasks.shutdown().await;
        let (me, lease) = (self.shared.relay, self.shared.settings.lease);
        let leaving = db::in_tx(&self.shared.pool, "leave_shards", |mut tx| async move {
            relay::limit_idle(&mut tx, lease).await?;
            relay::leave(&mut tx, me).await?;
            Ok::<_, sqlx::Error>((tx, ()))
        });
        match tokio::time::timeout(GOODBYE, leaving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = %runtime::telemetry::chain(&error),
                "the relay's leases were not ended"
            ),
            Err(_) => tracing::warn!("the database did not hear that the relay stops"),
        }
    }
}

fn lost(shard: u32, epoch: u64) {
    tracing::warn!(shard, epoch, "lost hold of a shard");
    metrics::relay_lease("lost");
}
