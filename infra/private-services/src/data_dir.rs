//! The directory that holds everything of the private servers, owned by one program at a time.

use std::env;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::NAME;
use crate::account::is_root;
use crate::error::{Error, io_error};
use crate::files::create_dir;
use crate::pid_file::start_of;
use crate::watchdog::{Retention, Watchdog};

/// How long the watchdog of an owner that died may take to stop the servers.
const RELEASE_PATIENCE: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(50);

/// A locked data directory with a watchdog beside it. Clones share both.
///
/// Layout: `lock`, `logs/`, `postgres/`, `rabbitmq/`; other names are free for the owner.
///
/// When the last clone is dropped, or the process dies, the watchdog stops servers that still run in it, and removes the
/// directory if it is ephemeral.
#[derive(Debug, Clone)]
pub struct DataDir {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    retention: Retention,
    ownership: Mutex<Option<Ownership>>,
}

#[derive(Debug)]
struct Ownership {
    lock: File,
    watchdog: Watchdog,
}

impl DataDir {
    /// Creates the directory if needed, locks it and starts its watchdog.
    ///
    /// `None` means `/var/lib/headrace` for root, else `$XDG_DATA_HOME/headrace` or `~/.local/share/headrace`. Waits up to
    /// 20 s where the previous owner died and its servers are still being stopped; a living owner is [`Error::Locked`] at
    /// once.
    pub async fn prepare(path: Option<PathBuf>) -> Result<Self, Error> {
        let path = path.map_or_else(default_path, Ok)?;
        // Root's servers run as other users, who have to get in; what is secret inside has its own mode.
        create_dir(&path, if is_root() { 0o755 } else { 0o700 }, None)?;
        Self::own(&path, Retention::Keep).await
    }

    /// A fresh directory under the system's temporary directory, removed when it is closed or dropped or the process dies.
    pub async fn ephemeral() -> Result<Self, Error> {
        let parent = env::temp_dir();
        let path = tempfile::Builder::new()
            .prefix(&format!("{NAME}-"))
            .tempdir_in(&parent)
            .map_err(io_error("create a directory in", &parent))?
            .keep();
        if is_root() {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, open).map_err(io_error("set the mode of", &path))?;
        }
        Self::own(&path, Retention::Remove).await
    }

    /// The directory, absolute and free of symbolic links.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Where the servers' logs are.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.shared.path.join("logs")
    }

    /// Whether the directory is removed at the end.
    #[must_use]
    pub fn is_ephemeral(&self) -> bool {
        self.shared.retention == Retention::Remove
    }

    /// Lets the watchdog stop what still runs, waits for it, and gives the directory free. Does nothing the second time.
    ///
    /// Servers must not be started in the directory afterwards.
    pub async fn close(&self) -> Result<(), Error> {
        let Some(Ownership { lock, watchdog }) = self.shared.take() else {
            return Ok(());
        };
        let finished = tokio::task::spawn_blocking(move || watchdog.finish())
            .await
            .map_err(std::io::Error::other)
            .flatten();
        // Only now: whoever locks the directory next may rely on the servers being gone.
        drop(lock);
        finished.map_err(io_error("wait for the watchdog of", &self.shared.path))
    }

    /// Names a process that shall not outlive the owner of the directory.
    pub(crate) fn watch(&self, pid: u32) {
        let mut ownership = self
            .shared
            .ownership
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(ownership) = ownership.as_mut() {
            ownership.watchdog.tell(pid);
        }
    }

    async fn own(path: &Path, retention: Retention) -> Result<Self, Error> {
        let path = path.canonicalize().map_err(io_error("resolve", path))?;
        let lock = lock(&path).await?;
        let logs = path.join("logs");
        create_dir(&logs, 0o755, None)?;
        let watchdog = Watchdog::start(&path, retention, &lock, &logs.join("watchdog.log"))?;
        Ok(Self {
            shared: Arc::new(Shared {
                path,
                retention,
                ownership: Mutex::new(Some(Ownership { lock, watchdog })),
            }),
        })
    }
}

impl Shared {
    fn take(&self) -> Option<Ownership> {
        let ownership = self
            .ownership
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()?;
        // An empty lock file tells the next owner to wait for the watchdog rather than to complain about us.
        if let Err(error) = ownership.lock.set_len(0) {
            tracing::debug!(%error, "could not empty the lock file");
        }
        Some(ownership)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        drop(self.take());
    }
}

async fn lock(dir: &Path) -> Result<File, Error> {
    let path = dir.join("lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(io_error("open", &path))?;
    let deadline = Instant::now() + RELEASE_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&mut file);
                if holder.and_then(start_of).is_some() || Instant::now() >= deadline {
                    return Err(Error::Locked {
                        path: dir.to_owned(),
                        holder,
                    });
                }
                tokio::time::sleep(POLL).await;
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", process::id()))
        .map_err(io_error("write", &path))?;
    Ok(file)
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn default_path() -> Result<PathBuf, Error> {
    if is_root() {
        return Ok(Path::new("/var/lib").join(NAME));
    }
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set("HOME")?).join(".local/share")))
        .map(|base| base.join(NAME))
        .ok_or(Error::NoHome)
}
