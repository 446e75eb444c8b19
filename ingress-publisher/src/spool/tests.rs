//! The spool on a real disk, mistreated.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use super::segments::Segments;
use super::*;
use crate::testing::{self, parcel};

const ALL: usize = usize::MAX;

fn open(folder: &Path, rotate_at: u64, most: u64) -> (Segments, Depth) {
    let depth = Depth::new(most);
    let segments = Segments::open(0, folder.to_owned(), rotate_at, depth.clone());
    (segments.unwrap(), depth)
}

/// One commit of messages that are called `names`.
fn append(segments: &mut Segments, names: std::ops::Range<u32>) -> Result<(), AppendError> {
    let parcels: Vec<_> = names
        .map(|name| parcel(&name.to_string(), &[b'x'; 1000]))
        .collect();
    segments.append(&parcels, clock::now())
}

/// Reads everything and releases it.
fn drain(segments: &mut Segments) -> Vec<u32> {
    let mut names = Vec::new();
    loop {
        let stored = segments.read(3, ALL).unwrap();
        let Some(last) = stored.last() else {
            return names;
        };
        names.extend(stored.iter().map(|stored| {
            let name = stored.parcel.message_id.parse::<u32>();
            name.unwrap()
        }));
        segments.release(last);
    }
}

fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap();
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.to_string_lossy().ends_with(suffix));
    files.sort();
    files
}

#[test]
fn messages_come_out_in_order_over_many_segments_and_leave_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, depth) = open(folder.path(), 3000, u64::MAX);
    for group in 0..10 {
        append(&mut segments, group * 2..group * 2 + 2).unwrap();
    }
    assert!(files(folder.path(), ".redb").len() > 3);
    assert_eq!(depth.report(clock::now()).held.records, 20);
    // New ones go behind the old ones while these are read.
    let stored = segments.read(3, ALL).unwrap();
    segments.release(stored.last().unwrap());
    append(&mut segments, 20..25).unwrap();
    assert_eq!(drain(&mut segments), (3..25).collect::<Vec<_>>());
    assert!(segments.is_empty());
    assert_eq!(files(folder.path(), ".redb"), [] as [PathBuf; 0]);
    let report = depth.report(clock::now());
    assert_eq!(report.to_string(), "empty");
    assert_eq!((report.held.bytes, report.age), (0, Duration::ZERO));
}

#[test]
fn a_read_is_bounded_and_repeats_until_it_is_released() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, _) = open(folder.path(), u64::MAX, u64::MAX);
    append(&mut segments, 0..5).unwrap();
    assert_eq!(segments.read(10, 1).unwrap().len(), 1);
    assert_eq!(
        segments.read(3, ALL).unwrap(),
        segments.read(3, ALL).unwrap()
    );
    assert_eq!(drain(&mut segments), [0, 1, 2, 3, 4]);
}

#[test]
fn a_restart_finds_everything_that_was_not_released_and_its_depth() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, before) = open(folder.path(), 3000, u64::MAX);
    append(&mut segments, 0..4).unwrap();
    append(&mut segments, 4..8).unwrap();
    let held = before.report(clock::now()).held;
    drop(segments);
    let (mut segments, depth) = open(folder.path(), 3000, u64::MAX);
    let report = depth.report(clock::now() + Duration::from_mins(1));
    assert_eq!(report.held, held);
    assert!(report.age >= Duration::from_mins(1));
    append(&mut segments, 8..10).unwrap();
    assert_eq!(drain(&mut segments), (0..10).collect::<Vec<_>>());
}

/// What `kill -9` leaves: the files as they are while the store has them open.
fn killed(folder: &Path) -> TempDir {
    let left = tempfile::tempdir().unwrap();
    for file in files(folder, ".redb") {
        fs::copy(&file, left.path().join(file.file_name().unwrap())).unwrap();
    }
    left
}

#[test]
fn a_killed_publisher_has_lost_nothing_that_was_taken() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, _) = open(folder.path(), 5000, u64::MAX);
    for group in 0..8 {
        append(&mut segments, group * 2..group * 2 + 2).unwrap();
    }
    let left = killed(folder.path());
    let (mut again, _) = open(left.path(), 5000, u64::MAX);
    assert_eq!(drain(&mut again), (0..16).collect::<Vec<_>>());
}

#[test]
fn a_full_spool_takes_nothing_until_something_left() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, depth) = open(folder.path(), u64::MAX, 5000);
    append(&mut segments, 0..3).unwrap();
    assert!(matches!(
        append(&mut segments, 3..6),
        Err(AppendError::Full)
    ));
    let other = tempfile::tempdir().unwrap();
    let other = Segments::open(1, other.path().to_owned(), u64::MAX, depth.clone());
    assert!(
        matches!(append(&mut other.unwrap(), 3..6), Err(AppendError::Full)),
        "the bound is that of all partitions"
    );
    let stored = segments.read(2, ALL).unwrap();
    segments.release(stored.last().unwrap());
    append(&mut segments, 3..6).unwrap();
    assert_eq!(drain(&mut segments), [2, 3, 4, 5]);
}

#[test]
fn a_segment_that_cannot_be_opened_yet_is_kept_when_nothing_can_be_written_either() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, _) = open(folder.path(), u64::MAX, u64::MAX);
    append(&mut segments, 0..3).unwrap();
    drop(segments);
    // A link to itself cannot be opened, for a reason that is not the file's.
    let unusable = |path: &Path| std::os::unix::fs::symlink(path, path).unwrap();
    let (path, next) = (
        slot::segment_path(folder.path(), 1),
        slot::segment_path(folder.path(), 2),
    );
    let aside = folder.path().join("aside");
    fs::rename(&path, &aside).unwrap();
    unusable(&path);
    let (mut segments, _) = open(folder.path(), u64::MAX, u64::MAX);
    unusable(&next);
    for _ in 0..2 {
        assert!(matches!(
            append(&mut segments, 3..4),
            Err(AppendError::Failed(_))
        ));
    }
    assert!(path.is_symlink(), "it is not removed");
    fs::rename(&aside, &path).unwrap();
    fs::remove_file(&next).unwrap();
    append(&mut segments, 3..4).unwrap();
    assert_eq!(drain(&mut segments), [0, 1, 2, 3]);
}

/// A copy of a segment's file on a disk that can be told to fail.
#[derive(Debug)]
struct Faulty {
    file: fs::File,
    fails: Arc<AtomicBool>,
}

impl Faulty {
    fn copy_of(path: &Path) -> (Self, Arc<AtomicBool>) {
        let mut file = tempfile::tempfile().unwrap();
        std::io::copy(&mut fs::File::open(path).unwrap(), &mut file).unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        let backend = Self {
            file,
            fails: Arc::clone(&fails),
        };
        (backend, fails)
    }
}

impl redb::StorageBackend for Faulty {
    fn len(&self) -> Result<u64, std::io::Error> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), std::io::Error> {
        if self.fails.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("a bad day"));
        }
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), std::io::Error> {
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), std::io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), std::io::Error> {
        self.file.write_all_at(data, offset)
    }
}

/// The next reads fail, until the segment is opened again.
fn fail_reads(segments: &mut Segments, path: &Path) {
    let (backend, fails) = Faulty::copy_of(path);
    segments.put_over_oldest(backend);
    fails.store(true, Ordering::SeqCst);
}

#[test]
fn a_segment_whose_read_fails_once_is_read_again_and_what_comes_meanwhile_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, _) = open(folder.path(), u64::MAX, u64::MAX);
    append(&mut segments, 0..3).unwrap();
    fail_reads(&mut segments, &slot::segment_path(folder.path(), 1));
    assert!(segments.read(3, ALL).is_err());
    append(&mut segments, 3..5).unwrap();
    assert_eq!(drain(&mut segments), [0, 1, 2, 3, 4]);
    assert_eq!(files(folder.path(), ".damaged"), [] as [PathBuf; 0]);
}

#[test]
fn a_segment_that_can_never_be_read_is_set_aside_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, depth) = open(folder.path(), 2500, u64::MAX);
    append(&mut segments, 0..3).unwrap();
    append(&mut segments, 3..6).unwrap();
    let path = slot::segment_path(folder.path(), 1);
    for _ in 1..Segments::MOST_FAILURES {
        fail_reads(&mut segments, &path);
        assert!(segments.read(3, ALL).is_err());
    }
    fail_reads(&mut segments, &path);
    assert_eq!(drain(&mut segments), [3, 4, 5]);
    assert_eq!(files(folder.path(), ".damaged").len(), 1);
    assert_eq!(depth.report(clock::now()).held.bytes, 0);
}

#[test]
fn garbage_is_set_aside_and_the_rest_is_read() {
    for garbage in [
        b"this is no database".to_vec(),
        vec![0; 100_000],
        vec![0xff; 4096],
        b"redb\x1A\x0A\xA9\x0D\x0A".repeat(500),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (mut segments, _) = open(folder.path(), 2500, u64::MAX);
        for group in 0..3 {
            append(&mut segments, group * 3..group * 3 + 3).unwrap();
        }
        drop(segments);
        fs::write(slot::segment_path(folder.path(), 2), garbage).unwrap();
        let (mut segments, depth) = open(folder.path(), 2500, u64::MAX);
        assert_eq!(drain(&mut segments), [0, 1, 2, 6, 7, 8]);
        assert_eq!(depth.report(clock::now()).held.bytes, 0);
        assert_eq!(files(folder.path(), ".redb.damaged").len(), 1);
        assert_eq!(files(folder.path(), ".redb").len(), 0);
        // It is not looked at again, and its name is not used again.
        let (mut segments, _) = open(folder.path(), 2500, u64::MAX);
        assert!(segments.is_empty());
        append(&mut segments, 0..1).unwrap();
        assert_eq!(files(folder.path(), ".redb").len(), 1);
    }
}

#[test]
fn a_flipped_byte_in_a_message_costs_that_message_and_the_file_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, _) = open(folder.path(), u64::MAX, u64::MAX);
    let parcels: Vec<_> = (0..5)
        .map(|name| {
            parcel(
                &name.to_string(),
                format!("body {name} ").repeat(2000).as_bytes(),
            )
        })
        .collect();
    segments.append(&parcels, clock::now()).unwrap();
    drop(segments);
    let path = slot::segment_path(folder.path(), 1);
    let mut bytes = fs::read(&path).unwrap();
    let needle = b"body 3 body 3 body 3";
    let at = bytes.windows(needle.len()).position(|part| part == needle);
    bytes[at.unwrap() + 50] ^= 0x20;
    fs::write(&path, bytes).unwrap();
    let (mut segments, depth) = open(folder.path(), u64::MAX, u64::MAX);
    assert_eq!(drain(&mut segments), [0, 1, 2, 4]);
    assert_eq!(depth.report(clock::now()).held.bytes, 0);
    assert_eq!(files(folder.path(), ".damaged").len(), 1);
}

/// Whatever bytes a disk has changed, the service goes on, and publishes nothing that is not true.
#[test]
fn damage_anywhere_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let (mut segments, _) = open(folder.path(), u64::MAX, u64::MAX);
    append(&mut segments, 0..20).unwrap();
    let killed = killed(folder.path());
    drop(segments);
    for written in [folder.path(), killed.path()] {
        let sound = fs::read(slot::segment_path(written, 1)).unwrap();
        let used = sound
            .iter()
            .rposition(|byte| *byte != 0)
            .unwrap_or_default();
        for step in 0..150 {
            let damaged = tempfile::tempdir().unwrap();
            let mut bytes = sound.clone();
            // The head of the file densely, then all of it.
            let at = if step < 50 {
                step * 7
            } else {
                used * (step - 50) / 100
            };
            bytes[at] ^= 0xff;
            fs::write(slot::segment_path(damaged.path(), 1), bytes).unwrap();
            let (mut segments, _) = open(damaged.path(), u64::MAX, u64::MAX);
            let names = drain(&mut segments);
            assert!(
                names.is_sorted() && names.iter().all(|name| *name < 20),
                "{at}"
            );
            append(&mut segments, 0..1).unwrap();
            assert_eq!(drain(&mut segments), [0], "byte {at}");
        }
    }
}

#[test]
fn publishers_that_share_a_directory_have_a_slot_each_and_adopt_what_the_dead_left() {
    let (_folder, config) = testing::spool();
    let claim = || SpoolDirectory::claim(&config).unwrap();
    let write = |directory: &SpoolDirectory, partition, names| {
        let path = directory.slot.partition(partition).unwrap();
        let (rotate_at, depth) = (directory.rotate_at, directory.depth.clone());
        let mut segments = Segments::open(partition, path, rotate_at, depth).unwrap();
        append(&mut segments, names).unwrap();
    };
    let (first, second, third) = (claim(), claim(), claim());
    write(&first, 0, 0..2);
    write(&second, 0, 2..4);
    write(&third, 0, 4..6);
    write(&third, 1, 6..8);
    drop((first, third));
    // The second lives: its slot is left alone.
    let next = claim();
    let read = |partition| {
        let path = next.slot.partition(partition).unwrap();
        let segments = Segments::open(partition, path, ROTATE_AT, next.depth.clone());
        drain(&mut segments.unwrap())
    };
    assert_eq!(read(0), [0, 1, 4, 5]);
    assert_eq!(read(1), [6, 7]);
    assert_eq!(next.slot.partitions().unwrap(), [0, 1]);
    drop(second);
    drop(next);
    let last = claim();
    let path = last.slot.partition(0).unwrap();
    let segments = Segments::open(0, path, ROTATE_AT, last.depth.clone());
    assert_eq!(drain(&mut segments.unwrap()), [2, 3]);
}

#[test]
fn a_directory_that_cannot_be_written_says_so() {
    let (_folder, mut config) = testing::spool();
    config.directory = "/proc/headrace".to_owned();
    assert!(SpoolDirectory::claim(&config).is_err());
}
