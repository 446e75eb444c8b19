//! Which sources are not read, and why: where senders say what keeps them, and waiting sources ask.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::metrics;

/// Why a source is not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseReason {
    /// The window is full although the broker takes messages: confirms or the disk are slow.
    WindowFull,
    /// The broker refuses messages: a queue is full, or missing.
    Refused,
    /// The broker takes no messages from anybody: a memory or disk alarm.
    Blocked,
    /// The broker is not there.
    BrokerAway,
    /// The spool is full.
    SpoolFull,
}

impl PauseReason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::WindowFull,
        Self::Refused,
        Self::Blocked,
        Self::BrokerAway,
        Self::SpoolFull,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::WindowFull => "window_full",
            Self::Refused => "refused",
            Self::Blocked => "blocked",
            Self::BrokerAway => "broker_away",
            Self::SpoolFull => "spool_full",
        }
    }
}

/// What keeps each partition, and how many sources wait for it; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Board(Arc<Mutex<Vec<Lane>>>);

#[derive(Debug, Clone, Default)]
struct Lane {
    cause: Option<PauseReason>,
    waiting: i64,
    /// Under which reason those that wait are counted.
    counted: Option<PauseReason>,
}

impl Board {
    /// Nothing keeps any of `partitions`.
    pub(crate) fn new(partitions: u32) -> Self {
        let lanes = vec![Lane::default(); partitions as usize];
        Self(Arc::new(Mutex::new(lanes)))
    }

    /// The sender of `partition` says what keeps it, if anything does.
    pub(crate) fn state(&self, partition: u32, cause: Option<PauseReason>) {
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get_mut(partition as usize) {
            lane.cause = cause;
        }
        recount(&mut lanes);
    }

    /// A handle for one source.
    pub(crate) fn source(&self) -> Waits {
        Waits {
            board: self.clone(),
            partition: Arc::default(),
        }
    }

    fn wait(&self, partition: u32, change: i64) {
        let mut lanes = self.lock();
        if let Some(lane) = lanes.get_mut(partition as usize) {
            lane.waiting += change;
        }
        recount(&mut lanes);
    }

    fn reason(&self, partition: u32) -> PauseReason {
        reason(&self.lock(), partition as usize)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one source waits, and why; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Waits {
    board: Board,
    /// For which partition it waits.
    partition: Arc<Mutex<Option<u32>>>,
}

impl Waits {
    /// Why the source is not read at the moment, if it is not.
    pub(crate) fn paused(&self) -> Option<PauseReason> {
        let partition = *self.lock();
        partition.map(|partition| self.board.reason(partition))
    }

    /// The source waits for room in front of `partition` until the guard is dropped.
    pub(crate) fn begin(&self, partition: u32) -> Pause<'_> {
        *self.lock() = Some(partition);
        self.board.wait(partition, 1);
        Pause {
            waits: self,
            partition,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<u32>> {
        self.partition
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// While it lives, a source is not read.
#[derive(Debug)]
pub(crate) struct Pause<'a> {
    waits: &'a Waits,
    partition: u32,
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        *self.waits.lock() = None;
        self.waits.board.wait(self.partition, -1);
    }
}

/// What keeps `partition`. All share one window, so it may be another that has filled it.
fn reason(lanes: &[Lane], partition: usize) -> PauseReason {
    let own = lanes.get(partition).and_then(|lane| lane.cause);
    own.or_else(|| lanes.iter().find_map(|lane| lane.cause))
        .unwrap_or(PauseReason::WindowFull)
}

fn recount(lanes: &mut [Lane]) {
    for partition in 0..lanes.len() {
        let now = (lanes[partition].waiting > 0).then(|| reason(lanes, partition));
        let before = std::mem::replace(&mut lanes[partition].counted, now);
        if before != now {
            for (reason, change) in [(before, -1), (now, 1)] {
                if let Some(reason) = reason {
                    metrics::paused(reason, change);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_waits_has_the_reason_of_its_sender() {
        let board = Board::new(2);
        let source = board.source();
        assert_eq!(source.paused(), None);
        let pause = source.begin(0);
        assert_eq!(source.paused(), Some(PauseReason::WindowFull));
        board.state(0, Some(PauseReason::BrokerAway));
        assert_eq!(source.paused(), Some(PauseReason::BrokerAway));
        board.state(0, Some(PauseReason::SpoolFull));
        assert_eq!(source.clone().paused(), Some(PauseReason::SpoolFull));
        drop(pause);
        assert_eq!(source.paused(), None);
    }

    #[test]
    fn another_partition_may_have_filled_the_window() {
        let board = Board::new(2);
        let source = board.source();
        let _pause = source.begin(0);
        board.state(1, Some(PauseReason::Refused));
        assert_eq!(source.paused(), Some(PauseReason::Refused));
        board.state(1, None);
        assert_eq!(source.paused(), Some(PauseReason::WindowFull));
    }
}
