//! What a reader has missed, read from the log page by page.
//!
//! A page is bounded in bytes, so that many readers may catch up at the same time. A page that is being
//! read goes on being read while its reader is sent signs of life, however long the core takes.

use std::collections::VecDeque;
use std::sync::Arc;

use runtime::telemetry::chain;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use super::event::LogEvent;
use super::filter::Filter;
use super::position::{Position, Unusable};
use super::reader::Shared;
use crate::core_log::CoreError;

/// How many offsets of the log are asked for at once.
const PAGE: u64 = 2000;
/// How many bytes of what is wanted of it a page holds; its last event may be longer.
const PAGE_BYTES: usize = 256 * 1024;

/// How far a reader has come with the log.
pub(super) struct CatchUp {
    /// Up to where it is read; none until it is known whether anything has to be.
    target: Option<Position>,
    /// What was read and not sent yet.
    page: Option<Page>,
    /// What is being read: in a task of its own, so that a reader that takes nothing does not keep its turn.
    reading: Option<AbortOnDropHandle<Result<Page, Failed>>>,
    /// How many offsets to ask for.
    most: u64,
}

/// Events of one shard.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) shard: u32,
    pub(super) events: VecDeque<LogEvent>,
    /// Up to this offset everything that may be wanted is in the events.
    pub(super) end: u64,
    /// Whether it ends before what was asked for, since it is full.
    pub(super) is_full: bool,
}

/// What comes of catching up next.
#[derive(Debug)]
pub(super) enum Progress {
    /// The next event of a shard that may be wanted.
    Event(u32, Box<LogEvent>),
    /// Nothing more that may be wanted is before this offset of a shard.
    UpTo(u32, u64),
    /// The core does not answer.
    Away,
    /// The target is reached.
    Done,
}

/// Why nothing was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    Core(CoreError),
    #[error("the log cannot be read on")]
    Unusable(Unusable),
    #[error("reading it broke off")]
    Broken(JoinError),
}

impl CatchUp {
    /// Reads up to `target`, or nothing.
    pub(super) const fn new(target: Option<Position>) -> Self {
        Self {
            target,
            page: None,
            reading: None,
            most: PAGE,
        }
    }

    /// What comes next for a reader that is at `position`. Where it is interrupted, it goes on.
    pub(super) async fn next(
        &mut self,
        log: &Arc<Shared>,
        filter: &Arc<Filter>,
        position: &Position,
    ) -> Result<Progress, Unusable> {
        loop {
            if let Some(page) = &mut self.page {
                let shard = page.shard;
                if let Some(event) = page.events.pop_front() {
                    return Ok(Progress::Event(shard, Box::new(event)));
                }
                let end = page.end;
                self.page = None;
                return Ok(Progress::UpTo(shard, end));
            }
            let reading = if let Some(reading) = &mut self.reading {
                reading
            } else {
                let Some((shard, target)) = self.missing(position) else {
                    return Ok(Progress::Done);
                };
                let after = position.of(shard);
                let most = self.most.min(target - after);
                let (log, filter) = (Arc::clone(log), Arc::clone(filter));
                let generation = position.generation;
                let reading =
                    async move { log.read(generation, shard, after, most, &filter).await };
                let reading = tokio::spawn(reading);
                self.reading.insert(AbortOnDropHandle::new(reading))
            };
            let read = reading.await;
            self.reading = None;
            match read.unwrap_or_else(|error| Err(Failed::Broken(error))) {
                Ok(page) => {
                    // What the core reads for nothing is soon little.
                    self.most = if page.is_full {
                        (self.most / 2).max(1)
                    } else {
                        (self.most * 2).min(PAGE)
                    };
                    self.page = Some(page);
                }
                Err(Failed::Unusable(why)) => return Err(why),
                Err(error) => {
                    tracing::debug!(error = %chain(&error), "a reader waits for the log");
                    return Ok(Progress::Away);
                }
            }
        }
    }

    /// The first shard of which something is missing, and up to where.
    fn missing(&self, position: &Position) -> Option<(u32, u64)> {
        let target = self.target.as_ref()?;
        let mut shards = 0..target.shards();
        let shard = shards.find(|shard| position.of(*shard) < target.of(*shard))?;
        Some((shard, target.of(shard)))
    }
}

impl Shared {
    /// What `filter` may want of the events of `shard` that follow the offset `after`, among up to `most`
    /// offsets.
    pub(super) async fn read(
        &self,
        generation: u64,
        shard: u32,
        after: u64,
        most: u64,
        filter: &Filter,
    ) -> Result<Page, Failed> {
        // Never closed.
        let _turn = self.reading.acquire().await;
        let workspace = &filter.workspace;
        let mut stretch = self.core.read_of(shard, after, most, workspace).await?;
        if stretch.generation != generation || stretch.end <= after {
            return Err(Failed::Unusable(Unusable::Restored));
        }
        let mut page = Page {
            shard,
            events: VecDeque::new(),
            end: stretch.end,
            is_full: false,
        };
        let mut bytes = 0;
        while let Some(line) = stretch.lines.next().await? {
            let Some(event) = LogEvent::read(line) else {
                tracing::error!(shard, after, "an event cannot be read");
                continue;
            };
            if !filter.may_want(&event) {
                continue;
            }
            bytes += event.line.len();
            let offset = event.offset;
            page.events.push_back(event);
            if bytes >= PAGE_BYTES && offset < stretch.end {
                page.end = offset;
                page.is_full = true;
                break;
            }
        }
        Ok(page)
    }
}

impl From<CoreError> for Failed {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Gone { .. } => Self::Unusable(Unusable::Truncated),
            CoreError::Restored(_) => Self::Unusable(Unusable::Restored),
            error => Self::Core(error),
        }
    }
}
