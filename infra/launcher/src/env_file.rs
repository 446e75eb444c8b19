//! The file `env` in the data directory: what scripts need to know of a running system, as lines of
//! `KEY=VALUE`. There once everything is ready, gone at the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The file and what stands in it.
#[derive(Debug)]
pub struct EnvFile {
    path: PathBuf,
    values: Mutex<Values>,
}

#[derive(Debug, Default)]
struct Values {
    written: bool,
    lines: BTreeMap<String, String>,
}

impl EnvFile {
    /// The file in the directory `data`. One that a killed process left behind is removed.
    pub fn new(data: &Path) -> std::io::Result<Self> {
        let path = data.join("env");
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self {
                path,
                values: Mutex::default(),
            }),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets `key`, in the file too if it is there.
    pub fn set(&self, key: impl Into<String>, value: impl ToString) {
        self.change(|lines| {
            lines.insert(key.into(), value.to_string());
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<String, String>)) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut values.lines);
        if values.written
            && let Err(error) = self.replace(&values)
        {
            tracing::warn!(path = %self.path.display(), %error, "the env file cannot be written");
        }
    }

    /// Sets the process id of `name`, such as `ingress-publisher`.
    pub fn set_pid(&self, name: &str, pid: u32) {
        self.set(pid_key(name), pid);
    }

    /// Removes the process id of `name`: while it is down, its old id may become anybody's.
    pub fn remove_pid(&self, name: &str) {
        self.change(|lines| {
            lines.remove(&pid_key(name));
        });
    }

    /// Writes the file: from now on it is there and kept up to date.
    pub fn publish(&self) -> std::io::Result<()> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.written = true;
        self.replace(&values)
    }

    /// Replaces the file as a whole, so that nobody reads half of it.
    fn replace(&self, values: &Values) -> std::io::Result<()> {
        let next = self.path.with_extension("next");
        // It holds passwords.
        let mut file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)?;
        for (key, value) in &values.lines {
            writeln!(file, "{key}={value}")?;
        }
        file.sync_all()?;
        std::fs::rename(next, &self.path)
    }

    /// Removes the file.
    pub fn remove(&self) {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        values.written = false;
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "there was no env file to remove");
        }
    }
}

fn pid_key(name: &str) -> String {
    format!("PID_{}", name.replace('-', "_").to_uppercase())
}

/// The value of `key` in the env file of the system that runs on `data`, if one does.
pub fn read(data: &Path, key: &str) -> Option<String> {
    let text = std::fs::read_to_string(data.join("env")).ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.to_owned())
}
