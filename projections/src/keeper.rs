//! What knows how far a projection is, tells the core, and fetches from the core's log what does not
//! arrive. What the log no longer holds is made up for by the core's state.
//!
//! While the core or the database is away nothing is known and nothing is fetched; everything goes on
//! by itself afterwards. Replicas may fetch the same events: what is applied twice changes nothing.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use runtime::clock;
use runtime::db::{self, Disposition};
use runtime::telemetry;
use shared_model::log::{LogState, Progress, ShardState};
use tokio::time::MissedTickBehavior;

use crate::activity::Activity;
use crate::applier::{Applied, Applier, is_missing_table, missing};
use crate::batch::fold;
use crate::checkpoint;
use crate::core_log::{CoreError, CoreLog};
use crate::fill::Filler;
use crate::gap::{Due, Gaps};
use crate::gaps_config::GapsConfig;
use crate::metrics;
use crate::offsets::Offsets;
use crate::projection::Projection;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many events of a gap are fetched before looking again, so that the core hears of the progress.
const FETCH_MOST: u64 = 20_000;
/// How many events, and bytes of them, are in memory and in a transaction at once.
pub(crate) const AT_ONCE: usize = 5_000;
pub(crate) const BYTES_AT_ONCE: usize = 4 * 1024 * 1024;

/// Keeps one projection up with the log.
pub(crate) struct Keeper<'a, P> {
    applier: &'a Applier<'a, P>,
    core: &'a CoreLog,
    activity: &'a Activity,
    config: GapsConfig,
    gaps: Gaps,
    /// What is missing for good, as it was last logged.
    lost: BTreeMap<u32, Vec<RangeInclusive<u64>>>,
    /// Whether the core's last answer was an error.
    is_deaf: bool,
    /// The tables that were missing at the last look.
    absent: Vec<String>,
}

/// What to do after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Wait,
    LookAgain,
}

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Core(#[from] CoreError),
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

impl<'a, P: Projection> Keeper<'a, P> {
    pub(crate) fn new(
        applier: &'a Applier<'a, P>,
        core: &'a CoreLog,
        activity: &'a Activity,
        config: GapsConfig,
    ) -> Self {
        Self {
            applier,
            core,
            activity,
            config,
            gaps: Gaps::default(),
            lost: BTreeMap::new(),
            is_deaf: false,
            absent: Vec::new(),
        }
    }

    /// Looks every so often until the service stops.
    pub(crate) async fn run(&mut self) -> anyhow::Result<()> {
        let stop = self.applier.context.stopping();
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            loop {
                match stop.run_until_cancelled(self.look()).await {
                    Some(Ok(Next::LookAgain)) => {}
                    None | Some(Ok(Next::Wait)) => break,
                    Some(Err(error)) => {
                        self.note(error)?;
                        break;
                    }
                }
            }
        }
        Ok(())
    }

    /// Only what is wrong with the program or the schema ends the service.
    fn note(&mut self, error: LookError) -> anyhow::Result<()> {
        match error {
            LookError::Database(error) if is_missing_table(&error) => {
                // What is missing was said by whoever looked for it.
                tracing::debug!(error = %telemetry::chain(&error), "the checkpoint is not known");
            }
            LookError::Database(error) if db::disposition(&error) == Disposition::Retry => {
                tracing::warn!(
                    projection = P::NAME,
                    error = %telemetry::chain(&error),
                    "the database is away; the lag is not known"
                );
            }
            LookError::Core(error) => {
                metrics::reported(P::NAME, "failed");
                if self.is_deaf {
                    return Ok(());
                }
                self.is_deaf = true;
                if matches!(error, CoreError::Restored(_)) {
                    let service = self.applier.context.service();
                    tracing::error!(
                        projection = P::NAME,
                        error = %telemetry::chain(&error),
                        "what was applied is not what the core's log says; purge the queue, then fill the \
                         tables anew (`{service} --help` lists the command)"
                    );
                } else {
                    tracing::warn!(
                        projection = P::NAME,
                        error = %telemetry::chain(&error),
                        "the core cannot be asked; the lag is not known and nothing is fetched until it can"
                    );
                }
            }
            LookError::Database(error) => return Err(error.into()),
            LookError::Other(error) => return Err(error),
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<Next, LookError> {
        let Some(applied) = self.applied().await? else {
            return Ok(Next::Wait);
        };
        let progress = Progress {
            applied: applied.checkpoints(),
        };
        let asked_at = clock::now();
        let log = self.core.report(P::NAME, &progress).await?;
        self.applier.projection.learn(&log, asked_at);
        if self.is_deaf {
            self.is_deaf = false;
            tracing::info!(projection = P::NAME, "the core answers again");
        }
        metrics::reported(P::NAME, "ok");
        measure::<P>(&applied, &log);
        let is_idle = self.activity.is_idle_for(LOOK_EVERY.min(self.config.after));
        let (now, mut next) = (Instant::now(), Next::Wait);
        let mut has_lost = false;
        for shard in &log.shards {
            let of = applied.of(shard.shard);
            let due = self.gaps.look(of, shard, is_idle, now, self.config.after);
            self.tell_lost(shard, &due);
            has_lost |= !due.lost.is_empty();
            for range in due.fetch {
                let (start, end) = range.into_inner();
                let most = end.min(start.saturating_add(FETCH_MOST - 1));
                if self.fetch(shard.shard, start..=most).await? && most < end {
                    next = Next::LookAgain;
                }
            }
        }
        if has_lost {
            self.fill().await;
        }
        Ok(next)
    }

    /// Makes up for events that the log no longer holds: what the core knows now holds their effect. If it
    /// cannot be had, the next look tries again.
    async fn fill(&self) {
        let projection = self.applier.projection;
        let filling = async {
            let filler = Filler {
                applier: Applier { ..*self.applier },
                core: self.core,
                say: &|line| tracing::info!(projection = P::NAME, "{line}"),
            };
            let known = &filler.read_state().await?;
            db::in_tx(projection.pool(), P::TRANSACTION, |mut tx| async move {
                checkpoint::hold(&mut tx, projection.schema()).await?;
                checkpoint::record(&mut tx, projection.schema(), known).await?;
                Ok::<_, sqlx::Error>((tx, ()))
            })
            .await?;
            Ok::<_, anyhow::Error>(())
        };
        match filling.await {
            Ok(()) => tracing::info!(
                projection = P::NAME,
                "the core's state stands in for the events that were lost"
            ),
            Err(error) => tracing::warn!(
                projection = P::NAME,
                error = format!("{error:#}"),
                "the core's state cannot be read; it is tried again"
            ),
        }
    }

    /// What was applied; none while a table is missing.
    async fn applied(&mut self) -> Result<Option<Offsets>, sqlx::Error> {
        let projection = self.applier.projection;
        let schema = projection.schema();
        let mut connection = projection.pool().acquire().await?;
        let absent = checkpoint::missing(&mut connection, schema, P::TABLES).await?;
        if let Some(tables) = self.applier.tables {
            if absent.is_empty() {
                tables.up();
            } else if absent != self.absent {
                let what = format!("missing: {}", absent.join(", "));
                missing(self.applier.context.service(), tables, &what);
            }
            self.absent = absent;
            if !self.absent.is_empty() {
                return Ok(None);
            }
        }
        Ok(Some(checkpoint::load(&mut connection, schema).await?))
    }

    /// Fetches events that are missing, and applies them as if they had been delivered; whether all of
    /// them were there.
    async fn fetch(&self, shard: u32, range: RangeInclusive<u64>) -> Result<bool, LookError> {
        let (first, last) = (*range.start(), *range.end());
        tracing::warn!(
            projection = P::NAME,
            shard,
            first,
            last,
            "events did not arrive and are fetched from the log"
        );
        let mut events = match self.core.read(shard, range).await {
            Ok(events) => events,
            Err(error @ CoreError::Gone { .. }) => {
                // The next answer says what the log still holds.
                tracing::error!(projection = P::NAME, "{error}");
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        };
        let mut fetched = 0;
        loop {
            let messages = events.next(AT_ONCE, BYTES_AT_ONCE).await?;
            if messages.is_empty() {
                return Ok(fetched == last - first + 1);
            }
            let count = messages.len();
            let folding = tokio::task::spawn_blocking(move || fold(&messages));
            let folded = folding.await.map_err(anyhow::Error::from)?;
            let stop = self.applier.context.stopping();
            if self.applier.apply(&folded, count, stop).await? == Applied::LetGo {
                return Ok(false);
            }
            fetched += count as u64;
            metrics::fetched(P::NAME, count as u64);
        }
    }

    /// Says, once, what only the core's state can make up for.
    fn tell_lost(&mut self, shard: &ShardState, due: &Due) {
        let lost = due.lost.iter().map(|of| of.end() - of.start() + 1).sum();
        metrics::lost(P::NAME, shard.shard, lost);
        let known = self.lost.insert(shard.shard, due.lost.clone());
        if due.lost.is_empty() || known.is_some_and(|known| known == due.lost) {
            return;
        }
        tracing::error!(
            projection = P::NAME,
            shard = shard.shard,
            events = lost,
            offsets = ?due.lost,
            "events were never applied and the log no longer holds them; the core's state is read instead"
        );
    }
}

/// Says how far each shard is behind.
fn measure<P: Projection>(applied: &Offsets, log: &LogState) {
    let now = clock::now();
    for shard in &log.shards {
        let behind = shard.head.saturating_sub(applied.checkpoint(shard.shard));
        let waited = shard
            .waiting_since
            .filter(|_| behind > 0)
            .map(|since| now - since);
        let seconds = waited.map_or(0.0, |waited| waited.as_seconds_f64().max(0.0));
        metrics::lag(P::NAME, shard.shard, behind, seconds);
    }
}
