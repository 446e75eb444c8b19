//! Looking whether everything adds up, when somebody asks and now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use runtime::amqp::Link;
use runtime::telemetry::chain;
use runtime::{Context, db};
use shared_model::topology;
use sqlx::PgPool;

use super::{Ledger, Report, ShardAccount, reconcile};
use crate::config::ReconcileConfig;
use crate::installation::Installation;
use crate::metrics;
use crate::store::{StoreError, event_log, ledger, session_source, subscriber};

/// How long events that were logged a moment ago may take to be published and applied. Subscribers tell how far
/// they are once a second.
const SETTLING: Duration = Duration::from_secs(4);
/// How often to look meanwhile.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// For how long something has to seem missing.
const CONFIRMING: Duration = Duration::from_secs(5);

/// The way to the ingress queues, once the service has one.
pub type Queues = Arc<OnceLock<Link>>;

/// Adds up what concerns `workspace`, or everything. Of the event log it is what stands in it now: while a system
/// works, there is always something that is not applied yet.
pub async fn look(
    pool: &PgPool,
    queues: &Queues,
    workspace: Option<&str>,
    patience: Duration,
) -> Result<Report, StoreError> {
    let ends = match workspace {
        Some(_) => BTreeMap::new(),
        None => settled(pool).await?,
    };
    // Along the way that frames go, so that what moves on meanwhile is seen at least once.
    let in_spools = session_source::holding(&mut *pool.acquire().await?).await?;
    let in_queues = waiting(pool, queues).await?;
    let (mut ledger, at) = db::in_tx(pool, "reconcile", |mut tx| async move {
        let at = ledger::begin(&mut tx).await?;
        let read = Ledger {
            accounts: ledger::accounts(&mut tx, workspace).await?,
            gaps: ledger::gaps(&mut tx, workspace).await?,
            shards: match workspace {
                Some(_) => Vec::new(),
                None => ledger::shards(&mut tx).await?,
            },
            holding: session_source::holding(&mut tx).await?,
            queued: in_queues,
        };
        Ok::<_, StoreError>((tx, (read, at)))
    })
    .await?;
    let shards = std::mem::take(&mut ledger.shards);
    let up_to = |shard: ShardAccount| match ends.get(&shard.shard) {
        Some(end) => shard.up_to(*end),
        None => shard,
    };
    ledger.shards = shards.into_iter().map(up_to).collect();
    let holding: BTreeSet<_> = ledger.holding.drain(..).chain(in_spools).collect();
    ledger.holding = holding.into_iter().collect();
    let patience = TimeDelta::from_std(patience).unwrap_or(TimeDelta::MAX);
    Ok(reconcile(&ledger, at, patience))
}

/// Where the log ends now, by shard, once all of it is published and applied, or has had time enough for that.
async fn settled(pool: &PgPool) -> Result<BTreeMap<u32, u64>, StoreError> {
    let begun = Instant::now();
    let mut ends = BTreeMap::new();
    loop {
        let mut pg = pool.acquire().await?;
        let heads = event_log::heads(&mut pg).await?;
        let places = subscriber::places(&mut pg, None).await?;
        drop(pg);
        if ends.is_empty() {
            ends = heads.iter().map(|head| (head.shard, head.last)).collect();
        }
        let is_past = |shard: &u32, offset: u64| ends.get(shard).is_none_or(|end| offset >= *end);
        let is_settled = heads.iter().all(|head| is_past(&head.shard, head.relayed))
            && places
                .iter()
                .all(|place| is_past(&place.shard, place.applied));
        if is_settled || begun.elapsed() >= SETTLING {
            return Ok(ends);
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Looks again where something seems to be missing: what a core has in hand is in no queue's count, and
/// is committed soon.
async fn look_twice(
    pool: &PgPool,
    queues: &Queues,
    patience: Duration,
) -> Result<Report, StoreError> {
    let report = look(pool, queues, None, patience).await?;
    if !report.is_missing() {
        return Ok(report);
    }
    tokio::time::sleep(CONFIRMING).await;
    look(pool, queues, None, patience).await
}

async fn waiting(pool: &PgPool, queues: &Queues) -> Result<Option<u64>, StoreError> {
    let installation = Installation::read(&mut *pool.acquire().await?).await?;
    let (Some(link), Some(installation)) = (queues.get(), installation) else {
        return Ok(None);
    };
    let partitions = (0..installation.partitions).map(topology::ingress_queue);
    let dead = topology::DEAD_LETTER_QUEUE.to_owned();
    let names: Vec<_> = partitions.chain([dead]).collect();
    Ok(link.waiting(&names).await)
}

/// Shows in the metrics whether everything adds up, until the service is asked to stop.
pub async fn run(
    context: Context,
    pool: PgPool,
    queues: Queues,
    config: ReconcileConfig,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(config.every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = context.stopping();
    let mut missing = false;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let looking = look_twice(&pool, &queues, config.late_after);
        match stop.run_until_cancelled(looking).await {
            None => break,
            Some(Ok(report)) => {
                metrics::reconciled(&report);
                let before = std::mem::replace(&mut missing, report.is_missing());
                if missing && !before {
                    tracing::error!("{}", report.summary);
                } else if before && !missing {
                    tracing::info!("{}", report.summary);
                }
            }
            Some(Err(error)) => {
                tracing::warn!(error = %chain(&error), "what adds up is looked at the next time");
            }
        }
    }
    Ok(())
}
