//! A browser for tests of pages, found or installed as the servers are.

use std::path::PathBuf;

use crate::binaries::in_path;
use crate::error::Error;
use crate::install;

const PACKAGE: &str = "chromium";
const PROGRAMS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// Where Chromium is. Where it is not, it is installed: with `apt-get` as root or by passwordless `sudo`.
/// `progress` is told what happens, line by line, while that takes long.
pub async fn chromium(progress: impl Fn(&str)) -> Result<PathBuf, Error> {
    if let Some(found) = locate() {
        return Ok(found);
    }
    install::apt(&[PACKAGE], &progress)
        .await
        .map_err(|error| match error {
            // No container helps here.
            Error::Missing { packages, command } => Error::MissingProgram {
                package: packages,
                command,
            },
            other => other,
        })?;
    locate().ok_or_else(|| Error::MissingProgram {
        package: PACKAGE.to_owned(),
        command: install::by_hand(&[PACKAGE]),
    })
}

fn locate() -> Option<PathBuf> {
    PROGRAMS.into_iter().find_map(in_path)
}
