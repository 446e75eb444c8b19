//! Slots: several publishers of one machine share the spool's directory, each with a part of its own.
//!
//! A publisher takes the first slot (`0`, `1`, …) whose file `lock` it can lock, for as long as it
//! lives; the operating system gives the lock back however the process ends. What publishers that
//! died have left in other slots is moved into its own and published with it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// More publishers than any machine has.
const SLOTS: u32 = 1024;
const PREFIX: &str = "segment-";
const SUFFIX: &str = ".redb";

/// A slot that is ours.
#[derive(Debug)]
pub(crate) struct Slot {
    path: PathBuf,
    _lock: File,
}

impl Slot {
    /// Takes a slot below `directory`, which is made if it is not there, and adopts what others left.
    pub(crate) fn claim(directory: &Path) -> io::Result<Self> {
        make(directory)?;
        let mut free = None;
        for number in 0..SLOTS {
            let path = directory.join(number.to_string());
            if let Some(lock) = lock(&path)? {
                free = Some(Self { path, _lock: lock });
                break;
            }
        }
        let slot = free.ok_or_else(|| io::Error::other("every slot is taken"))?;
        for number in numbered(directory, "", "")? {
            let other = directory.join(number.to_string());
            if other == slot.path {
                continue;
            }
            // Held while its segments move, so that nobody takes it meanwhile.
            if let Some(_lock) = lock(&other)? {
                slot.adopt(&other)?;
            }
        }
        Ok(slot)
    }

    /// The directory of a partition's segments.
    pub(crate) fn partition(&self, partition: u32) -> io::Result<PathBuf> {
        let path = self.path.join(partition.to_string());
        make(&path)?;
        Ok(path)
    }

    /// The partitions that have a directory here.
    pub(crate) fn partitions(&self) -> io::Result<Vec<u64>> {
        numbered(&self.path, "", "")
    }

    fn adopt(&self, other: &Path) -> io::Result<()> {
        for partition in numbered(other, "", "")? {
            let from = other.join(partition.to_string());
            let to = self.path.join(partition.to_string());
            make(&to)?;
            for (next, number) in (next_segment(&to)?..).zip(segments(&from)?) {
                fs::rename(segment_path(&from, number), segment_path(&to, next))?;
                tracing::info!(
                    from = %from.display(),
                    to = %segment_path(&to, next).display(),
                    "a segment of a publisher that is gone is adopted"
                );
            }
            sync(&to)?;
        }
        Ok(())
    }
}

/// The numbers of the segments in a partition's directory, in order.
pub(super) fn segments(directory: &Path) -> io::Result<Vec<u64>> {
    numbered(directory, PREFIX, SUFFIX)
}

/// Where segment `number` of a partition's directory is.
pub(super) fn segment_path(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{PREFIX}{number}{SUFFIX}"))
}

/// The number of the next segment; one that was set aside keeps its own.
pub(super) fn next_segment(directory: &Path) -> io::Result<u64> {
    let damaged = numbered(directory, PREFIX, &format!("{SUFFIX}{DAMAGED}"))?;
    let last = segments(directory)?.into_iter().chain(damaged).max();
    Ok(last.map_or(1, |last| last + 1))
}

/// What the name of a segment that was set aside ends with.
pub(super) const DAMAGED: &str = ".damaged";

/// Has the names in `directory` written to the disk.
pub(super) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// Frames are nobody else's business.
fn make(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(0o700).create(directory)?;
    let parent = directory
        .parent()
        .filter(|path| !path.as_os_str().is_empty());
    sync(parent.unwrap_or(Path::new(".")))
}

fn lock(slot: &Path) -> io::Result<Option<File>> {
    make(slot)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(slot.join("lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The numbers in names that are `prefix`, a number and `suffix`, in order.
fn numbered(directory: &Path, prefix: &str, suffix: &str) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let number: Option<u64> = name
            .to_str()
            .and_then(|name| name.strip_prefix(prefix)?.strip_suffix(suffix))
            .and_then(|number| number.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}
