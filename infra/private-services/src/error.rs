//! What can go wrong with private servers, worded for the person at the terminal.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// One of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// The database.
    PostgreSql,
    /// The broker.
    RabbitMq,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PostgreSql => "PostgreSQL",
            Self::RabbitMq => "RabbitMQ",
        })
    }
}

/// Why private servers could not be found, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A server is not installed and this process may not install it.
    #[error("not installed: {packages}; install with `{command}`, or start a Docker engine")]
    Missing {
        /// Debian package names, separated by spaces.
        packages: String,
        /// The command that installs them.
        command: String,
    },
    /// A program is not installed and this process may not install it.
    #[error("not installed: {package}; install with `{command}`")]
    MissingProgram {
        /// Its Debian package.
        package: String,
        /// The command that installs it.
        command: String,
    },
    /// The package manager failed.
    #[error("could not install {packages} ({status}); run `{command}` by hand\n{output}")]
    Install {
        /// Debian package names, separated by spaces.
        packages: String,
        /// The command to run by hand.
        command: String,
        /// How the package manager ended.
        status: ExitStatus,
        /// The last lines that it wrote.
        output: String,
    },
    /// No place for a data directory is known.
    #[error("no default data directory: neither XDG_DATA_HOME nor HOME is set")]
    NoHome,
    /// Another program owns the data directory.
    #[error("data directory {} is in use{}", .path.display(), .holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The pid of its owner, when it could be read.
        holder: Option<u32>,
    },
    /// The server's user may not enter a directory on the way to the data.
    #[error("user `{user}` may not enter {0}, which leads to {1}: choose another data directory, or run `chmod o+x {0}`", .directory.display(), .data.display())]
    Unreachable {
        /// The user that the server runs as.
        user: String,
        /// The directory that blocks the way.
        directory: PathBuf,
        /// Where the server's data is.
        data: PathBuf,
    },
    /// The user that the server has to run as does not exist.
    #[error("there is no user `{0}`, and the server refuses to run as root")]
    NoSuchUser(&'static str),
    /// The data was made by another major version of PostgreSQL.
    #[error("{} was made by PostgreSQL {found}, installed is {installed}: install version {found}, or choose another data directory", .data.display())]
    Version {
        /// The cluster's directory.
        data: PathBuf,
        /// The version that made the data.
        found: String,
        /// The version of the server.
        installed: String,
    },
    /// The server ended before it was ready.
    #[error("{service} ended while starting; the last lines of {}:\n{tail}", .log.display())]
    EndedAtStart {
        /// Which server.
        service: Service,
        /// Its log file.
        log: PathBuf,
        /// The last lines of that file.
        tail: String,
    },
    /// The server did not become ready in time.
    #[error("{service} was not ready after {waited:?}; the last lines of {}:\n{tail}", .log.display())]
    NotReady {
        /// Which server.
        service: Service,
        /// How long it was given.
        waited: Duration,
        /// Its log file.
        log: PathBuf,
        /// The last lines of that file.
        tail: String,
    },
    /// A process of an earlier run does not end, even by SIGKILL.
    #[error("{service} process {pid} of an earlier run does not end")]
    Stray {
        /// Which server.
        service: Service,
        /// The process.
        pid: u32,
    },
    /// The server is not running.
    #[error("{0} is not running")]
    NotRunning(Service),
    /// A signal could not be sent.
    #[error("could not signal {service} process {pid}")]
    Signal {
        /// Which server.
        service: Service,
        /// The process.
        pid: u32,
        /// What the system said.
        source: io::Error,
    },
    /// A tool that ships with a server failed.
    #[error("{program} failed ({status}): {output}")]
    Tool {
        /// The tool.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote.
        output: String,
    },
    /// RabbitMQ's management API could not be reached.
    #[error("RabbitMQ's management API did not answer")]
    Management(#[from] reqwest::Error),
    /// RabbitMQ's management API refused.
    #[error("RabbitMQ's management API answered {status} to {request}")]
    ManagementStatus {
        /// Method and path.
        request: String,
        /// The HTTP status.
        status: u16,
    },
    /// A file or process operation failed.
    #[error("could not {action} {}", .path.display())]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// `map_err` adapter that keeps what was tried on which path.
pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
