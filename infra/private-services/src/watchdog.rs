//! The process that stops the servers when we cannot.
//!
//! It waits on a pipe that only we hold. The kernel closes the pipe when we end, by `kill -9` as well; then the watchdog
//! stops what still runs and removes an ephemeral directory. If the servers were stopped before, it finds nothing to do.
//! It also holds the directory's lock (as its standard output), so that the next owner waits until the servers are gone.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::error::{Error, io_error};
use crate::pid_file::start_of;

const SCRIPT: &str = include_str!("watchdog.sh");

/// What becomes of the directory at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Retention {
    Keep,
    Remove,
}

/// A running watchdog. Dropping it is the signal to clean up.
#[derive(Debug)]
pub(crate) struct Watchdog {
    child: Child,
    pipe: ChildStdin,
}

impl Watchdog {
    /// Starts to watch over the servers in `dir`.
    pub(crate) fn start(
        dir: &Path,
        retention: Retention,
        lock: &File,
        log: &Path,
    ) -> Result<Self, Error> {
        let lock = lock
            .try_clone()
            .map_err(io_error("share the lock of", dir))?;
        let log_file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .map_err(io_error("open", log))?;
        let mut child = Command::new("sh")
            .args(["-c", SCRIPT, "watchdog"])
            .arg(dir)
            .arg(match retention {
                Retention::Keep => "keep",
                Retention::Remove => "remove",
            })
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(lock)
            .stderr(log_file)
            // Ctrl-C in the terminal is for us: the watchdog has to outlive it.
            .process_group(0)
            .spawn()
            .map_err(io_error("start a watchdog for", dir))?;
        let pipe = child.stdin.take().ok_or_else(|| {
            let source = std::io::Error::other("no pipe");
            io_error("start a watchdog for", dir)(source)
        })?;
        Ok(Self { child, pipe })
    }

    /// Names a process that shall not outlive us, even if its pid file is removed.
    pub(crate) fn tell(&mut self, pid: u32) {
        // A process that has ended already needs no watching.
        if let Some(start) = start_of(pid)
            && let Err(error) = writeln!(self.pipe, "{pid} {start}")
        {
            tracing::warn!(pid, %error, "the watchdog is gone");
        }
    }

    /// Lets the watchdog clean up and blocks until it is done.
    pub(crate) fn finish(self) -> std::io::Result<()> {
        let Self { mut child, pipe } = self;
        drop(pipe);
        child.wait().map(drop)
    }
}
