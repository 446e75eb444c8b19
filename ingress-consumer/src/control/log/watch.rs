//! Who waits for the log's next event is woken here.
//!
//! One connection per core listens for what writers announce, however many readers wait. While it is
//! lost, the heads are looked at every second; and while nobody waits, they are not looked at.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::backoff::Stopped;
use runtime::{Context, notifications};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::store::event_log;

/// The safety net beneath the notifications.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The heads of the shards, for those who wait until one moves; clones share them.
#[derive(Debug, Clone)]
pub struct LogWatch {
    heads: Arc<watch::Sender<BTreeMap<u32, u64>>>,
    stopping: CancellationToken,
}

/// One reader's wait.
#[derive(Debug)]
pub(super) struct Wait {
    heads: watch::Receiver<BTreeMap<u32, u64>>,
    stopping: CancellationToken,
}

impl LogWatch {
    /// Watches the log in the database of `pool`, until the service closes.
    #[must_use]
    pub fn start(context: &Context, pool: &PgPool) -> Self {
        let watch = Self {
            heads: Arc::new(watch::Sender::default()),
            stopping: context.stopping().clone(),
        };
        // Beside the pool, whose connections are for work.
        let own = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .connect_lazy_with(pool.connect_options().as_ref().clone());
        let (heads, pool) = (Arc::clone(&watch.heads), pool.clone());
        let closing = context.closing().clone();
        context.spawn_infrastructure("log watch", async move {
            let wake = Notify::new();
            let channels = [event_log::CHANNEL];
            let listening = notifications::listen(&own, &channels, |_| wake.notify_one());
            let both = async { tokio::join!(listening, look(&pool, &wake, &heads)) };
            closing.run_until_cancelled(Box::pin(both)).await;
            Ok(())
        });
        watch
    }

    /// Begins to wait: moves of a head from now on are not missed.
    pub(super) fn begin(&self) -> Wait {
        Wait {
            heads: self.heads.subscribe(),
            stopping: self.stopping.clone(),
        }
    }
}

impl Wait {
    /// Returns once `shard` has an event behind `after`, as far as is known; at the latest after `limit`,
    /// or when the service is to stop, which is an error.
    pub(super) async fn until_behind(
        &mut self,
        shard: u32,
        after: u64,
        limit: Duration,
    ) -> Result<(), Stopped> {
        let is_there = |heads: &BTreeMap<u32, u64>| heads.get(&shard).is_some_and(|h| *h > after);
        let moved = tokio::time::timeout(limit, self.heads.wait_for(is_there));
        let waited = self.stopping.run_until_cancelled(moved).await;
        // Whether it moved or the time is over, the reader looks for itself.
        waited.map(drop).ok_or(Stopped)
    }
}

/// Tells those who wait where the heads are, whenever woken.
async fn look(pool: &PgPool, wake: &Notify, heads: &watch::Sender<BTreeMap<u32, u64>>) {
    loop {
        // Announcements that come while one look is under way share the next.
        let woken = tokio::time::timeout(LOOK_EVERY, wake.notified()).await;
        if heads.receiver_count() == 0 {
            continue;
        }
        let found = async { event_log::heads(&mut *pool.acquire().await?).await };
        match found.await {
            Ok(found) => {
                let found: BTreeMap<_, _> = found.iter().map(|h| (h.shard, h.last)).collect();
                heads.send_if_modified(|known| {
                    let is_news = *known != found;
                    *known = found;
                    is_news
                });
            }
            // Readers that come anew are told that the database is away.
            Err(error) => tracing::debug!(%error, ?woken, "the heads are not known"),
        }
    }
}
