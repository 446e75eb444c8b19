//! Directories and small files with an owner and a mode.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown};
use std::path::Path;

use crate::account::Account;
use crate::error::{Error, io_error};

/// How much of a log an error shows.
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 16 * 1024;
/// How large a log may be when its server is started.
const LOG_BYTES: u64 = 16 * 1024 * 1024;

/// Creates `path` with `mode` for `account` unless it exists, and its missing parents open to all for entering.
pub(crate) fn create_dir(path: &Path, mode: u32, account: Option<&Account>) -> Result<(), Error> {
    if !path.exists() {
        if let Some(parent) = path.parent() {
            create_dir(parent, 0o755, None)?;
        }
        match DirBuilder::new().mode(mode).create(path) {
            // The mode again, because the umask may have taken bits away that the server's user needs.
            Ok(()) => fs::set_permissions(path, Permissions::from_mode(mode))
                .map_err(io_error("set the mode of", path))?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io_error("create", path)(error)),
        }
    }
    give(path, account)
}

/// Replaces `path` by `content`, readable by nobody but `account`.
///
/// Written beside and renamed, so that a reader never sees half of it and a link in its place is not followed.
pub(crate) fn write_private(
    path: &Path,
    content: &str,
    mode: u32,
    account: Option<&Account>,
) -> Result<(), Error> {
    let fresh = path.with_extension("new");
    remove_if_present(&fresh)?;
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&fresh)
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .map_err(io_error("write", &fresh))?;
    give(&fresh, account)?;
    fs::rename(&fresh, path).map_err(io_error("replace", path))
}

/// The secret kept in `path`; made up on first use.
pub(crate) fn kept_secret(path: &Path, account: Option<&Account>) -> Result<String, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secret = format!("{:032x}", rand::random::<u128>());
            write_private(path, &secret, 0o600, account)?;
            Ok(secret)
        }
        Err(error) => Err(io_error("read", path)(error)),
    }
}

/// Removes a file that may not exist.
pub(crate) fn remove_if_present(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Sets a log aside that has grown large, in place of the one that was set aside before.
pub(crate) fn rotate_log(path: &Path) -> Result<(), Error> {
    match fs::metadata(path) {
        Ok(log) if log.len() > LOG_BYTES => {
            fs::rename(path, path.with_extension("old.log")).map_err(io_error("rename", path))
        }
        _ => Ok(()),
    }
}

/// The last lines of a log, or why they cannot be read.
pub(crate) fn tail(path: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().map_or_else(
        |error| format!("(unreadable: {error})"),
        |text| last_lines(&text),
    )
}

/// The last lines of `text`.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

fn give(path: &Path, account: Option<&Account>) -> Result<(), Error> {
    account.map_or(Ok(()), |account| {
        chown(path, Some(account.uid), Some(account.gid))
            .map_err(io_error("change the owner of", path))
    })
}
