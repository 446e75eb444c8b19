//! A segment: one file of the spool, a small database of its own.
//!
//! It is written by one commit a group, each synced to the disk before it returns, and read in the
//! order of its numbers. Whatever the store does on a damaged file, a panic included, comes out of
//! here as an error.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Database, Durability, ReadableDatabase, ReadableTableMetadata, TableDefinition};

/// By number from 0, without gaps.
const RECORDS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("records");
/// Under the key `bytes`: the length of all records.
const TOTALS: TableDefinition<'_, &str, u64> = TableDefinition::new("totals");
const BYTES: &str = "bytes";
/// The store's own default is 1 GiB for each file. Records are read once and in order.
const CACHE: usize = 1024 * 1024;

/// Why a segment cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SegmentError {
    /// The store says no.
    #[error("the file cannot be used")]
    Store(#[source] Box<redb::Error>),
    /// The store stumbled over what it found.
    #[error("the file's content makes no sense: {0}")]
    Panicked(String),
}

impl<E: Into<redb::Error>> From<E> for SegmentError {
    fn from(error: E) -> Self {
        Self::Store(Box::new(error.into()))
    }
}

impl SegmentError {
    /// Whether the fault is not the file's: the same may work later.
    pub(super) fn is_passing(&self) -> bool {
        use std::io::ErrorKind::{InvalidData, NotFound, UnexpectedEof};
        let Self::Store(error) = self else {
            return false;
        };
        match &**error {
            redb::Error::Io(error) => {
                ![InvalidData, NotFound, UnexpectedEof].contains(&error.kind())
            }
            // After one failure the store refuses everything until the file is opened again.
            redb::Error::PreviousIo => true,
            _ => false,
        }
    }
}

/// What a segment holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// How many records.
    pub(crate) records: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
}

impl Contents {
    /// What is left of it without `part`.
    pub(super) fn less(self, part: Self) -> Self {
        Self {
            records: self.records.saturating_sub(part.records),
            bytes: self.bytes.saturating_sub(part.bytes),
        }
    }
}

/// An open segment.
pub(crate) struct Segment {
    path: PathBuf,
    /// None only while it is dropped.
    database: Option<Database>,
    contents: Contents,
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("path", &self.path)
            .field("contents", &self.contents)
            .finish_non_exhaustive()
    }
}

impl Segment {
    /// Makes a new, empty segment at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self, SegmentError> {
        guarded(|| {
            let database = Database::builder().set_cache_size(CACHE).create(path)?;
            Ok(Self {
                path: path.to_owned(),
                database: Some(database),
                contents: Contents::default(),
            })
        })
    }

    /// Opens the segment at `path`, repaired if its writer died.
    pub(crate) fn open(path: &Path) -> Result<Self, SegmentError> {
        guarded(|| {
            let database = Database::builder().set_cache_size(CACHE).open(path)?;
            let reading = database.begin_read()?;
            let contents = match reading.open_table(RECORDS) {
                Ok(records) => Contents {
                    records: records.len()?,
                    bytes: (reading.open_table(TOTALS)?.get(BYTES)?).map_or(0, |b| b.value()),
                },
                // Its writer died before the first commit.
                Err(redb::TableError::TableDoesNotExist(_)) => Contents::default(),
                Err(error) => return Err(error.into()),
            };
            drop(reading);
            Ok(Self {
                path: path.to_owned(),
                database: Some(database),
                contents,
            })
        })
    }

    /// The segment at `path`, read and written by `backend`.
    #[cfg(test)]
    pub(super) fn over(path: &Path, backend: impl redb::StorageBackend) -> Self {
        let mut builder = Database::builder();
        // Each read is one of the backend.
        let database = builder.set_cache_size(0).create_with_backend(backend);
        Self {
            path: path.to_owned(),
            database: Some(database.unwrap()),
            contents: Contents::default(),
        }
    }

    /// What it holds.
    pub(crate) fn contents(&self) -> Contents {
        self.contents
    }

    /// Adds `records` in one commit, which is on the disk when this returns.
    pub(crate) fn append(&mut self, records: &[Vec<u8>]) -> Result<(), SegmentError> {
        let before = self.contents;
        let added: usize = records.iter().map(Vec::len).sum();
        let after = Contents {
            records: before.records + records.len() as u64,
            bytes: before.bytes + added as u64,
        };
        self.guarded(|database| {
            let mut writing = database.begin_write()?;
            writing.set_durability(Durability::Immediate)?;
            {
                let mut table = writing.open_table(RECORDS)?;
                for (number, record) in (before.records..).zip(records) {
                    table.insert(number, record.as_slice())?;
                }
                writing.open_table(TOTALS)?.insert(BYTES, after.bytes)?;
            }
            writing.commit()?;
            Ok(())
        })?;
        self.contents = after;
        Ok(())
    }

    /// The records from number `from` on, at most `most` of them, and no further one once they have
    /// `bytes`.
    pub(crate) fn read(
        &self,
        from: u64,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Vec<u8>>, SegmentError> {
        self.guarded(|database| {
            let table = database.begin_read()?.open_table(RECORDS)?;
            let mut records = Vec::new();
            let mut held = 0;
            for entry in table.range(from..)?.take(most) {
                let record = entry?.1.value().to_vec();
                held += record.len();
                records.push(record);
                if held >= bytes {
                    break;
                }
            }
            Ok(records)
        })
    }

    fn guarded<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, SegmentError>,
    ) -> Result<T, SegmentError> {
        guarded(|| match &self.database {
            Some(database) => work(database),
            None => Err(SegmentError::Panicked("it is closed".to_owned())),
        })
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        let database = self.database.take();
        let closed = guarded(|| {
            if let Some(database) = database {
                database.close()?;
            }
            Ok(())
        });
        if let Err(error) = closed {
            tracing::debug!(path = %self.path.display(), %error, "a segment was not closed well");
        }
    }
}

/// What `work` returns, or how it panicked. What a panic leaves behind is dropped with its segment.
fn guarded<T>(work: impl FnOnce() -> Result<T, SegmentError>) -> Result<T, SegmentError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(SegmentError::Panicked(
            message.unwrap_or("no message").to_owned(),
        ))
    })
}
