//! The spool: messages on disk that the broker does not take at the moment.
//!
//! What it guarantees: a message that [`Spool::append`] has taken is on the disk, synced, and survives
//! the process, the machine's power, and a restart; it comes out of [`Spool::read`] until it is
//! released. Order is kept within a partition. One commit, with one sync, covers all messages that
//! are given together. How far a segment has been read is not written down: after a crash, messages
//! may be published again, with the same ids, which is harmless.
//!
//! Layout: `<spool.directory>/<slot>/<partition>/segment-<n>.redb`. See [`slot`] for how publishers
//! share a directory, [`segment`] for the files, [`segments`] for their order and for damage.
//!
//! What happens when the disk fails or is full: nothing is taken, the caller keeps its messages, and
//! the readiness report says why.

mod depth;
mod record;
mod segment;
mod segments;
mod slot;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use runtime::clock;

pub(crate) use depth::Depth;
use segments::Segments;
pub(crate) use segments::{AppendError, Stored};
use slot::Slot;

use crate::config::SpoolConfig;
use crate::parcel::Parcel;

/// Records of a segment before the next one is begun, in bytes.
const ROTATE_AT: u64 = 32 * 1024 * 1024;

/// This publisher's part of the spool's directory.
#[derive(Debug)]
pub(crate) struct SpoolDirectory {
    slot: Slot,
    depth: Depth,
    rotate_at: u64,
}

/// The spool of one partition.
#[derive(Debug)]
#[cfg_attr(test, derive(Clone))]
pub(crate) struct Spool {
    segments: Arc<Mutex<Segments>>,
    /// Holds the slot's lock.
    _directory: Arc<SpoolDirectory>,
}

impl SpoolDirectory {
    /// Takes a part of the directory; fails if it cannot be made or written.
    pub(crate) fn claim(config: &SpoolConfig) -> std::io::Result<Self> {
        Ok(Self {
            slot: Slot::claim(Path::new(&config.directory))?,
            depth: Depth::new(config.max_bytes),
            rotate_at: ROTATE_AT,
        })
    }

    /// How much lies in all of its partitions that are open.
    pub(crate) fn depth(&self) -> &Depth {
        &self.depth
    }

    /// Says what can never be published: messages of partitions beyond the last.
    pub(crate) fn check_partitions(&self, partitions: u32) -> std::io::Result<()> {
        for number in self.slot.partitions()? {
            if number >= u64::from(partitions) {
                tracing::error!(
                    partition = number,
                    partitions,
                    "the spool has messages of a partition that the installation does not have; \
                     they are left where they are"
                );
            }
        }
        Ok(())
    }
}

impl Spool {
    /// The spool of `partition`, with what an earlier run has left in it.
    pub(crate) fn open(directory: &Arc<SpoolDirectory>, partition: u32) -> std::io::Result<Self> {
        let path = directory.slot.partition(partition)?;
        let (rotate_at, depth) = (directory.rotate_at, directory.depth.clone());
        let segments = Segments::open(partition, path, rotate_at, depth)?;
        Ok(Self {
            segments: Arc::new(Mutex::new(segments)),
            _directory: Arc::clone(directory),
        })
    }

    /// Whether nobody else has the files open any more, not even a write that outlives who asked for
    /// it. Then dropping this handle closes them.
    #[cfg(test)]
    pub(crate) fn is_the_last(&self) -> bool {
        Arc::strong_count(&self.segments) == 1
    }

    /// Whether nothing is left to publish.
    pub(crate) async fn is_empty(&self) -> bool {
        self.blocking(|segments| segments.is_empty()).await
    }

    /// Adds `parcels`; they are on the disk when this returns.
    pub(crate) async fn append(&self, parcels: Vec<Parcel>) -> Result<(), AppendError> {
        self.blocking(move |segments| segments.append(&parcels, clock::now()))
            .await
    }

    /// The oldest parcels, at most `most`, and no further one once they have `bytes`. None while the
    /// disk cannot be read.
    pub(crate) async fn read(&self, most: usize, bytes: usize) -> Option<Vec<Stored>> {
        self.blocking(move |segments| match segments.read(most, bytes) {
            Ok(stored) => Some(stored),
            Err(error) => {
                tracing::warn!(
                    error = %runtime::telemetry::chain(&error),
                    "the spool cannot be read for now"
                );
                None
            }
        })
        .await
    }

    /// `stored` and all before it are published.
    pub(crate) async fn release(&self, stored: Stored) {
        self.blocking(move |segments| segments.release(&stored))
            .await;
    }

    /// Runs `work` where it may wait for the disk.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Segments) -> T + Send + 'static,
    ) -> T {
        let segments = Arc::clone(&self.segments);
        let working = tokio::task::spawn_blocking(move || {
            work(&mut segments.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match working.await {
            Ok(done) => done,
            // A panic of our own code (the store's do not get here): the service's, too.
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is going away, and with it whoever would go on from here.
                Err(_) => std::future::pending().await,
            },
        }
    }
}
