//! Filling tables from the core: its state first, then the log behind it.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use runtime::backoff::{Backoff, Stopped};
use runtime::telemetry;
use shared_model::log::{LogState, Progress};

use crate::applier::{Applied, Applier};
use crate::batch::{Folded, fold, fold_state};
use crate::checkpoint;
use crate::core_log::{CoreError, CoreLog};
use crate::keeper::{AT_ONCE, BYTES_AT_ONCE};
use crate::offsets::Offsets;
use crate::projection::Projection;

const TELL_EVERY: Duration = Duration::from_secs(2);
/// How often the core is asked the same before that counts as a failure: over a minute or more.
const ATTEMPTS: usize = 20;

/// Where progress is told.
pub(crate) type Say<'a> = &'a (dyn Fn(&str) + Sync);

/// Fills one set of tables.
pub(crate) struct Filler<'a, P> {
    pub(crate) applier: Applier<'a, P>,
    pub(crate) core: &'a CoreLog,
    pub(crate) say: Say<'a>,
}

impl<P: Projection> Filler<'_, P> {
    /// Reads all that the core knows. Returns the events that count as applied by that: those of the log
    /// as it stood before.
    pub(crate) async fn read_state(&self) -> anyhow::Result<Offsets> {
        let heads = self.ask(|| self.core.state()).await?;
        let (mut items, mut left_out) = (0, 0);
        let mut told = Instant::now();
        let mut cursor: Option<String> = None;
        loop {
            let page = self.ask(|| self.core.page(cursor.as_deref())).await?;
            items += page.items.len();
            let folded = fold_state(page.items);
            left_out += folded.rejections.len();
            self.apply(&folded, 1).await?;
            if page.next.is_none() {
                break;
            }
            cursor = page.next;
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                (self.say)(&format!("state: {items} vehicles and connections so far"));
            }
        }
        (self.say)(&format!("state: {items} vehicles and connections"));
        if left_out > 0 {
            (self.say)(&format!(
                "state: {left_out} of them cannot be applied and are left out; the log says why"
            ));
        }
        let mut offsets = Offsets::default();
        for shard in &heads.shards {
            offsets.insert_range(shard.shard, 1..=shard.head);
        }
        Ok(offsets)
    }

    /// Tells the core that the tables were filled anew, with what has been applied. If it cannot be
    /// told, the worker goes on telling it.
    pub(crate) async fn tell_anew(&self, applied: &Offsets) {
        let progress = Progress {
            applied: applied.checkpoints(),
        };
        let told = self.ask(|| self.core.report_anew(P::NAME, &progress)).await;
        if let Err(error) = told {
            (self.say)(&format!("the core was not told of it: {error:#}"));
        }
    }

    /// Applies what the log holds behind the checkpoints, up to where it stands now. Returns how many
    /// events that were.
    pub(crate) async fn catch_up(&self) -> anyhow::Result<u64> {
        let log = self.ask(|| self.core.state()).await?;
        let mut applied = 0;
        let mut attempt = 1;
        let mut backoff = backoff();
        loop {
            match self.read(&log, &mut applied).await? {
                Ok(()) => return Ok(applied),
                Err(error) => self.again(error, &mut attempt, &mut backoff).await?,
            }
        }
    }

    /// Reads on from the checkpoints, which move with each batch.
    async fn read(
        &self,
        log: &LogState,
        applied: &mut u64,
    ) -> anyhow::Result<Result<(), CoreError>> {
        let checkpoints = self.checkpoints().await?;
        let mut told = Instant::now();
        for shard in &log.shards {
            let (number, head) = (shard.shard, shard.head);
            let checkpoint = checkpoints.get(&number).copied().unwrap_or(0);
            if checkpoint >= head {
                continue;
            }
            let mut events = match self.core.read(number, checkpoint + 1..=head).await {
                Ok(events) => events,
                Err(error) => return Ok(Err(error)),
            };
            let mut at = checkpoint;
            loop {
                let messages = match events.next(AT_ONCE, BYTES_AT_ONCE).await {
                    Ok(messages) => messages,
                    Err(error) => return Ok(Err(error)),
                };
                if messages.is_empty() {
                    break;
                }
                let count = messages.len();
                let folding = tokio::task::spawn_blocking(move || fold(&messages));
                self.apply(&folding.await?, count).await?;
                *applied += count as u64;
                at += count as u64;
                if told.elapsed() >= TELL_EVERY {
                    told = Instant::now();
                    (self.say)(&format!("log: shard {number} at {at} of {head}"));
                }
            }
            if at < head {
                bail!("the core's log ends at {at} in shard {number}, and should at {head}");
            }
        }
        Ok(Ok(()))
    }

    async fn checkpoints(&self) -> Result<BTreeMap<u32, u64>, sqlx::Error> {
        let projection = self.applier.projection;
        let mut connection = projection.pool().acquire().await?;
        let applied = checkpoint::load(&mut connection, projection.schema()).await?;
        Ok(applied.checkpoints())
    }

    async fn apply(&self, folded: &Folded<P::Change>, messages: usize) -> anyhow::Result<()> {
        let stop = self.applier.context.stopping();
        match self.applier.apply(folded, messages, stop).await? {
            Applied::Committed => Ok(()),
            Applied::LetGo => Err(Stopped.into()),
        }
    }

    /// Asks the core, again and again while it is away.
    async fn ask<T, F>(&self, question: impl Fn() -> F) -> anyhow::Result<T>
    where
        F: Future<Output = Result<T, CoreError>>,
    {
        let mut attempt = 1;
        let mut backoff = backoff();
        loop {
            match question().await {
                Ok(answer) => return Ok(answer),
                Err(error) => self.again(error, &mut attempt, &mut backoff).await?,
            }
        }
    }

    /// Waits before the core is asked again, unless that is of no use.
    async fn again(
        &self,
        error: CoreError,
        attempt: &mut usize,
        backoff: &mut Backoff,
    ) -> anyhow::Result<()> {
        let is_passing = match &error {
            CoreError::Away(_) | CoreError::CutOff => true,
            CoreError::Refused { status, .. } => status.is_server_error(),
            CoreError::Gone { .. }
            | CoreError::Restored(_)
            | CoreError::Unreadable(_)
            | CoreError::TooLong
            | CoreError::Unlabelled => false,
        };
        if !is_passing || *attempt == ATTEMPTS {
            return Err(error).context("the core cannot be asked");
        }
        (self.say)(&format!(
            "waiting for the core: {}",
            telemetry::chain(&error)
        ));
        *attempt += 1;
        Ok(backoff.wait(self.applier.context.stopping()).await?)
    }
}

fn backoff() -> Backoff {
    Backoff::new(Duration::from_millis(200), Duration::from_secs(10))
}
