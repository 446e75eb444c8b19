//! How much lies in the spool: the bound that all partitions share, and what is shown of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};

use super::segment::Contents;
use crate::metrics;

/// What all partitions of one publisher hold; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Depth(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    most: u64,
    held: Contents,
    /// When the oldest record of each partition was put aside.
    oldest: BTreeMap<u32, DateTime<Utc>>,
    /// Why each partition cannot be written to.
    failing: BTreeMap<u32, String>,
}

/// The depth at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    /// What is held.
    pub(crate) held: Contents,
    /// For how long the oldest record has been waiting.
    pub(crate) age: Duration,
    /// Why something cannot be written.
    pub(crate) failing: Option<String>,
}

impl Depth {
    /// Nothing yet, and never more than `most` bytes.
    pub(crate) fn new(most: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            most,
            held: Contents::default(),
            oldest: BTreeMap::new(),
            failing: BTreeMap::new(),
        })))
    }

    /// Makes room for `wanted`; false if there is none.
    pub(super) fn reserve(&self, wanted: Contents) -> bool {
        let mut inner = self.lock();
        let fits = inner.held.bytes.saturating_add(wanted.bytes) <= inner.most;
        if fits {
            inner.add(wanted);
        }
        fits
    }

    /// Counts what was found on the disk, whether or not it is within the bound.
    pub(super) fn found(&self, found: Contents) {
        self.lock().add(found);
    }

    /// `gone` is no longer there.
    pub(super) fn release(&self, gone: Contents) {
        let mut inner = self.lock();
        inner.held.records = inner.held.records.saturating_sub(gone.records);
        inner.held.bytes = inner.held.bytes.saturating_sub(gone.bytes);
        metrics::spool(-(gone.bytes as i64), -(gone.records as i64));
    }

    /// When the oldest record of `partition` was put aside; none if it holds nothing.
    pub(super) fn oldest(&self, partition: u32, at: Option<DateTime<Utc>>) {
        let mut inner = self.lock();
        match at {
            Some(at) => inner.oldest.insert(partition, at),
            None => inner.oldest.remove(&partition),
        };
    }

    /// Whether `partition` can be written to, and if not, why.
    pub(super) fn failing(&self, partition: u32, reason: Option<String>) {
        let mut inner = self.lock();
        match reason {
            Some(reason) => inner.failing.insert(partition, reason),
            None => inner.failing.remove(&partition),
        };
    }

    /// Whether messages wait, or cannot be put aside.
    pub(crate) fn is_holding(&self) -> bool {
        let inner = self.lock();
        inner.held.records > 0 || !inner.failing.is_empty()
    }

    /// Where things stand at the time `now`.
    pub(crate) fn report(&self, now: DateTime<Utc>) -> Report {
        let inner = self.lock();
        let oldest = inner.oldest.values().min();
        Report {
            held: inner.held,
            age: oldest.map_or(Duration::ZERO, |at| {
                (now - *at).to_std().unwrap_or_default()
            }),
            failing: inner.failing.values().next().cloned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn add(&mut self, more: Contents) {
        self.held.records += more.records;
        self.held.bytes += more.bytes;
        metrics::spool(more.bytes as i64, more.records as i64);
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What stays on the disk is no longer this publisher's.
        metrics::spool(-(self.held.bytes as i64), -(self.held.records as i64));
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Contents { records, bytes } = self.held;
        match &self.failing {
            Some(reason) => write!(f, "the spool takes nothing: {reason}; ")?,
            None if records == 0 => return write!(f, "empty"),
            None => {}
        }
        let age = self.age.as_secs();
        write!(f, "{records} messages, {bytes} bytes, oldest {age} s")
    }
}
