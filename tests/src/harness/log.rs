//! The services' logs: many lines a test, so they are shown where they are asked for (`RUST_LOG`) or
//! where a test fails.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use runtime::telemetry::{self, Output};

/// How much of the log a failing test shows.
const TAIL: u64 = 48 * 1024;

/// Sets the process's logs up, once.
///
/// # Panics
/// If there is no place for temporary files.
pub fn init() {
    if std::env::var_os("RUST_LOG").is_some() {
        drop(telemetry::init("tests", Output::Stderr));
        return;
    }
    let log = tempfile::tempfile().expect("a temporary file can be made");
    let written = log.try_clone().expect("a file has a second handle");
    drop(telemetry::init("tests", Output::File(written)));
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        eprintln!("the end of the services' logs:\n{}", tail(&log));
    }));
}

/// The log's end. The handles share one position, which writing moves as well: what another thread
/// writes meanwhile may end up in the middle, but a test is failing anyway.
fn tail(mut log: &File) -> String {
    let mut text = Vec::new();
    let read = log
        .seek(SeekFrom::End(0))
        .and_then(|end| log.seek(SeekFrom::Start(end.saturating_sub(TAIL))))
        .and_then(|_| log.read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(error) => format!("(cannot be read: {error})"),
    }
}
