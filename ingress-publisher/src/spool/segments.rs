//! The segments of one partition, in order: the newest is written, the oldest is read.
//!
//! A segment that was read to its end is deleted. One that is damaged is set aside under another name,
//! with one error in the log, and the next one is gone on with; of a segment whose records alone are
//! damaged, the good ones are still read first. Trouble that may pass is waited out, but one file cannot
//! keep those behind it for ever.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::{fs, io};

use chrono::{DateTime, Utc};

use super::depth::Depth;
use super::record;
use super::segment::{Contents, Segment, SegmentError};
use super::slot::{self, DAMAGED, segment_path};
use crate::metrics;
use crate::parcel::Parcel;

/// How often in a row an open segment may fail to be read, for a reason that may pass, before it is set
/// aside: minutes, since its reader waits up to 2 s in between. What keeps it from being opened (no
/// file handles, a full disk) is not its own fault and is waited out.
const MOST_FAILURES: u32 = 200;

/// The segments of one partition.
#[derive(Debug)]
pub(crate) struct Segments {
    partition: u32,
    directory: PathBuf,
    /// How many bytes of records a segment has before the next one is begun.
    rotate_at: u64,
    depth: Depth,
    next_number: u64,
    entries: VecDeque<Entry>,
}

/// One segment. Only the oldest and the newest are kept open.
#[derive(Debug)]
struct Entry {
    number: u64,
    open: Option<Segment>,
    contents: Contents,
    /// What of it has been published.
    done: Contents,
    /// Whether this run made it and could write it so far.
    writable: bool,
    damaged: bool,
    /// How often in a row it could not be read although it was open.
    failures: u32,
}

/// A parcel that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The parcel.
    pub(crate) parcel: Parcel,
    /// What is done with in its segment once it is published.
    through: Contents,
}

/// Why nothing was written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    /// The bound is reached.
    #[error("the spool is full")]
    Full,
    /// The disk or the store says no.
    #[error("the spool cannot be written")]
    Failed(#[source] SegmentError),
}

impl Segments {
    /// The segments that are in `directory`.
    pub(crate) fn open(
        partition: u32,
        directory: PathBuf,
        rotate_at: u64,
        depth: Depth,
    ) -> io::Result<Self> {
        let numbers = slot::segments(&directory)?;
        let mut segments = Self {
            next_number: slot::next_segment(&directory)?,
            partition,
            directory,
            rotate_at,
            depth,
            entries: VecDeque::new(),
        };
        for number in numbers {
            segments.entries.push_back(Entry::new(number));
            let at = segments.entries.len() - 1;
            match segments.open_at(at) {
                Ok(()) => segments.entries[at].open = None,
                // It is tried again once its turn comes.
                Err(error) if error.is_passing() => {
                    tracing::warn!(
                        path = %segment_path(&segments.directory, number).display(),
                        error = %runtime::telemetry::chain(&error),
                        "a segment of the spool cannot be opened for now"
                    );
                }
                Err(error) => segments.set_aside(at, &error),
            }
        }
        if let Err(error) = segments.read(1, 1) {
            tracing::warn!(partition, %error, "the spool cannot be read for now");
        }
        Ok(segments)
    }

    /// Whether nothing is left to publish.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds `parcels` in one commit, which is on the disk when this returns.
    pub(crate) fn append(
        &mut self,
        parcels: &[Parcel],
        at: DateTime<Utc>,
    ) -> Result<(), AppendError> {
        let records: Vec<_> = parcels
            .iter()
            .map(|parcel| record::encode(parcel, at))
            .collect();
        let added = Contents {
            records: records.len() as u64,
            bytes: records.iter().map(|record| record.len() as u64).sum(),
        };
        if !self.depth.reserve(added) {
            return Err(AppendError::Full);
        }
        match self.write(&records) {
            Ok(()) => {
                if self.entries.iter().map(Entry::left).eq([added]) {
                    self.depth.oldest(self.partition, Some(at));
                }
                self.depth.failing(self.partition, None);
                Ok(())
            }
            Err(error) => {
                self.depth.release(added);
                let reason = runtime::telemetry::chain(&error).to_string();
                self.depth.failing(self.partition, Some(reason));
                self.give_up_newest();
                Err(AppendError::Failed(error))
            }
        }
    }

    /// The oldest parcels, at most `most`, and no further one once they have `bytes`. Fails only for
    /// trouble that may pass.
    pub(crate) fn read(&mut self, most: usize, bytes: usize) -> Result<Vec<Stored>, SegmentError> {
        while let Some(oldest) = self.entries.front() {
            let from = oldest.done.records;
            let read = self
                .open_at(0)
                .and_then(|()| self.entries[0].read(from, most, bytes));
            match read {
                Ok(records) if records.is_empty() => self.finish_oldest(),
                Ok(records) => {
                    self.entries[0].failures = 0;
                    let stored = self.decode(&records);
                    if !stored.is_empty() {
                        return Ok(stored);
                    }
                }
                Err(error) => {
                    if error.is_passing() && self.entries[0].failed() < MOST_FAILURES {
                        return Err(error);
                    }
                    self.set_aside(0, &error);
                }
            }
        }
        self.depth.oldest(self.partition, None);
        Ok(Vec::new())
    }

    /// `stored` and all before it are published.
    pub(crate) fn release(&mut self, stored: &Stored) {
        self.release_through(stored.through);
        if self.is_empty() {
            self.depth.oldest(self.partition, None);
        }
    }

    fn release_through(&mut self, through: Contents) {
        let Some(oldest) = self.entries.front_mut() else {
            return;
        };
        self.depth.release(through.less(oldest.done));
        oldest.done = through;
        if through.records >= oldest.contents.records {
            self.finish_oldest();
        }
    }

    fn write(&mut self, records: &[Vec<u8>]) -> Result<(), SegmentError> {
        let is_writable = |entry: &Entry| {
            entry.writable && entry.open.is_some() && entry.contents.bytes < self.rotate_at
        };
        if !self.entries.back().is_some_and(is_writable) {
            let segment = Segment::create(&segment_path(&self.directory, self.next_number))?;
            slot::sync(&self.directory).map_err(redb::Error::from)?;
            // Only the oldest is still needed open.
            if self.entries.len() > 1
                && let Some(full) = self.entries.back_mut()
            {
                full.open = None;
            }
            self.entries.push_back(Entry {
                open: Some(segment),
                writable: true,
                ..Entry::new(self.next_number)
            });
            self.next_number += 1;
        }
        let Some(newest) = self.entries.back_mut() else {
            return Ok(());
        };
        if let Some(segment) = &mut newest.open {
            segment.append(records)?;
            newest.contents = segment.contents();
        }
        Ok(())
    }

    /// What a failed commit leaves is found when the file is opened again.
    fn give_up_newest(&mut self) {
        let Some(newest) = self.entries.back_mut() else {
            return;
        };
        // One of an earlier run that could not be opened yet has no known contents, but has some.
        let is_ours = std::mem::replace(&mut newest.writable, false);
        newest.open = None;
        if is_ours && newest.contents == Contents::default() {
            let path = segment_path(&self.directory, newest.number);
            self.entries.pop_back();
            remove(&path);
        }
    }

    fn open_at(&mut self, at: usize) -> Result<(), SegmentError> {
        let entry = &mut self.entries[at];
        if entry.open.is_none() {
            let segment = Segment::open(&segment_path(&self.directory, entry.number))?;
            let found = segment.contents();
            self.depth.found(found.less(entry.contents));
            entry.contents = found;
            entry.open = Some(segment);
        }
        Ok(())
    }

    /// The good ones of the oldest segment's next records.
    fn decode(&mut self, records: &[Vec<u8>]) -> Vec<Stored> {
        let Some(oldest) = self.entries.front_mut() else {
            return Vec::new();
        };
        let mut through = oldest.done;
        let mut stored: Vec<Stored> = Vec::new();
        let mut oldest_at = None;
        for record in records {
            through.records += 1;
            through.bytes += record.len() as u64;
            match record::decode(record) {
                Ok((parcel, at)) => {
                    oldest_at.get_or_insert(at);
                    stored.push(Stored { parcel, through });
                }
                Err(error) => {
                    if !std::mem::replace(&mut oldest.damaged, true) {
                        tracing::error!(
                            path = %segment_path(&self.directory, oldest.number).display(),
                            record = through.records,
                            %error,
                            "a segment of the spool holds a damaged record and will be set aside \
                             once its good ones are published"
                        );
                    }
                    // Done with together with the one before it.
                    if let Some(last) = stored.last_mut() {
                        last.through = through;
                    }
                }
            }
        }
        if stored.is_empty() {
            self.release_through(through);
        } else {
            self.depth.oldest(self.partition, oldest_at);
        }
        stored
    }

    /// The oldest segment holds nothing that is still to be published.
    fn finish_oldest(&mut self) {
        let Some(oldest) = self.entries.pop_front() else {
            return;
        };
        self.depth.release(oldest.left());
        let path = segment_path(&self.directory, oldest.number);
        let damaged = oldest.damaged;
        drop(oldest);
        if damaged {
            rename(&path);
        } else {
            remove(&path);
        }
    }

    fn set_aside(&mut self, at: usize, error: &SegmentError) {
        let Some(entry) = self.entries.remove(at) else {
            return;
        };
        self.depth.release(entry.left());
        let path = segment_path(&self.directory, entry.number);
        let left = entry.left().records;
        drop(entry);
        tracing::error!(
            path = %path.display(),
            error = %runtime::telemetry::chain(error),
            messages = left,
            "a segment of the spool is damaged and is set aside; what it still held is not published"
        );
        rename(&path);
    }
}

impl Entry {
    fn new(number: u64) -> Self {
        Self {
            number,
            open: None,
            contents: Contents::default(),
            done: Contents::default(),
            writable: false,
            damaged: false,
            failures: 0,
        }
    }

    /// It could not be read: what the store has open is of no more use, and is not written either.
    /// How often in a row that has happened.
    fn failed(&mut self) -> u32 {
        if self.open.take().is_some() {
            self.writable = false;
            self.failures += 1;
        }
        self.failures
    }

    fn left(&self) -> Contents {
        self.contents.less(self.done)
    }

    fn read(&self, from: u64, most: usize, bytes: usize) -> Result<Vec<Vec<u8>>, SegmentError> {
        let records = match &self.open {
            Some(segment) => segment.read(from, most, bytes)?,
            None => Vec::new(),
        };
        if records.is_empty() && self.left().records > 0 {
            return Err(SegmentError::Panicked(
                "records are missing that it says it has".to_owned(),
            ));
        }
        Ok(records)
    }
}

#[cfg(test)]
impl Segments {
    /// Has the oldest segment read by `backend` until it is opened again.
    pub(super) fn put_over_oldest(&mut self, backend: impl redb::StorageBackend) {
        let oldest = &mut self.entries[0];
        let path = segment_path(&self.directory, oldest.number);
        oldest.open = Some(Segment::over(&path, backend));
    }

    pub(super) const MOST_FAILURES: u32 = MOST_FAILURES;
}

fn remove(path: &std::path::Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a segment that is done with cannot be removed");
    }
}

fn rename(path: &std::path::Path) {
    metrics::spool_segment_damaged();
    let mut aside = path.as_os_str().to_owned();
    aside.push(DAMAGED);
    if let Err(error) = fs::rename(path, &aside) {
        tracing::warn!(path = %path.display(), %error, "a damaged segment cannot be renamed");
    }
}
