//! The log's tails: what the core commits, as soon as it does.
//!
//! One for each shard, however many readers there are. Each asks the core for what follows, and the core
//! answers once there is something. While the core is away, readers stay and are told nothing new; the
//! tails go on where they were.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use runtime::backoff::{Backoff, Stopped};
use runtime::http::Check;
use runtime::telemetry::chain;
use runtime::{Context, clock};

use super::event::LogEvent;
use super::hub::Hub;
use super::position::Position;
use crate::core_log::{CoreError, CoreLog, Stretch};
use crate::metrics;

/// How long the core may wait for the next event before it answers that there is none.
const WAIT: Duration = Duration::from_secs(10);
/// How many events are handed on at once, and how many bytes of them.
const AT_ONCE: usize = 500;
const BYTES_AT_ONCE: usize = 512 * 1024;

/// Reads the log to its readers.
pub(super) struct Tails {
    pub(super) context: Context,
    pub(super) core: CoreLog,
    pub(super) hub: Arc<Hub>,
    /// Whether the core answers.
    pub(super) check: Check,
}

/// Why a tail does not go on.
enum Broken {
    Stopped(Stopped),
    /// What it reads is not the log that it has read so far.
    Other,
}

impl Tails {
    /// Reads until the service is to stop.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let stop = self.context.stopping();
        loop {
            let asked = stop.run_until_cancelled(self.core.state()).await;
            match asked.ok_or(Stopped)? {
                Ok(log) => {
                    let start = self.hub.begin(&log);
                    self.check.up();
                    backoff.reset();
                    let shards = 0..start.shards();
                    let tails = shards.map(|shard| self.follow(shard, &start));
                    if let Err(Broken::Stopped(stopped)) = try_join_all(tails).await {
                        return Err(stopped.into());
                    }
                }
                Err(error) => self.is_away(&error),
            }
            backoff.wait(stop).await?;
        }
    }

    fn is_away(&self, error: &CoreError) {
        tracing::warn!(error = %chain(error), "the log cannot be read");
        self.check.down(&chain(error));
    }

    async fn follow(&self, shard: u32, start: &Position) -> Result<Infallible, Broken> {
        let stop = self.context.stopping();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        let mut at = start.of(shard);
        let mut away_since = None;
        loop {
            // After an outage nothing is waited for, so that it is soon known to be over.
            let wait = away_since.map_or(WAIT, |_: Instant| Duration::ZERO);
            let reading = self.step(shard, start.generation, &mut at, wait);
            let read = stop.run_until_cancelled(reading).await;
            match read.ok_or(Broken::Stopped(Stopped))? {
                Ok(()) => {
                    self.check.up();
                    backoff.reset();
                    away_since = None;
                }
                Err(Failed::Other) => return Err(Broken::Other),
                Err(Failed::Core(CoreError::Gone { .. } | CoreError::Restored(_))) => {
                    return Err(Broken::Other);
                }
                Err(Failed::Core(error)) => {
                    self.is_away(&error);
                    let since = away_since.get_or_insert_with(Instant::now);
                    metrics::live_lag(shard, since.elapsed().as_secs_f64());
                    backoff.wait(stop).await.map_err(Broken::Stopped)?;
                }
            }
        }
    }

    /// Hands on what follows the offset `at`, and moves it.
    async fn step(
        &self,
        shard: u32,
        generation: u64,
        at: &mut u64,
        wait: Duration,
    ) -> Result<(), Failed> {
        let mut stretch = self.core.follow(shard, *at, wait).await?;
        if stretch.generation != generation || stretch.end < *at {
            return Err(Failed::Other);
        }
        if stretch.end == *at {
            metrics::live_lag(shard, 0.0);
        }
        while *at < stretch.end {
            self.hand_on(shard, at, &mut stretch).await?;
            // Readers get a turn between two helpings.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn hand_on(
        &self,
        shard: u32,
        at: &mut u64,
        stretch: &mut Stretch,
    ) -> Result<(), CoreError> {
        let mut events = Vec::new();
        let (mut bytes, mut end) = (0, *at);
        while end < stretch.end && events.len() < AT_ONCE && bytes < BYTES_AT_ONCE {
            // The log is dense, so each line is the next offset.
            let line = stretch.lines.next().await?.ok_or(CoreError::CutOff)?;
            end += 1;
            bytes += line.len();
            if let Some(event) = LogEvent::read(line).filter(|event| event.offset == end) {
                events.push(event);
            } else {
                tracing::error!(shard, offset = end, "an event cannot be read");
            }
        }
        if let Some(newest) = events.last() {
            let late = clock::now() - newest.time;
            metrics::live_lag(shard, late.as_seconds_f64().max(0.0));
        }
        self.hub.publish(shard, events, end);
        *at = end;
        Ok(())
    }
}

/// Why a step came to nothing.
enum Failed {
    Core(CoreError),
    /// The log is another.
    Other,
}

impl From<CoreError> for Failed {
    fn from(error: CoreError) -> Self {
        Self::Core(error)
    }
}
