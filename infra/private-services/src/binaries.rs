//! Where the servers are on this machine.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::docker;
use crate::error::Error;
use crate::install;
use crate::server_process::search_path;

/// Directories that hold one directory with a `bin` for each PostgreSQL version.
const POSTGRES_VERSIONS: [&str; 2] = ["/usr/lib/postgresql", "/usr"];
/// What we run of PostgreSQL. A client-only installation has just the last two.
const POSTGRES_TOOLS: [&str; 4] = ["postgres", "initdb", "psql", "createdb"];
/// Run directly: Debian's `/usr/sbin/rabbitmq-server` changes the user and the directory.
const RABBITMQ_SERVER: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
const ERLANG: &str = "/usr/lib/erlang";

/// How PostgreSQL is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PostgresSource {
    /// From this directory of executables.
    Installed(PathBuf),
    /// From an image, by the Docker engine.
    Container,
}

/// How RabbitMQ is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RabbitMqSource {
    /// From these executables.
    Installed {
        /// `rabbitmq-server`.
        server: PathBuf,
        /// Erlang's port mapper.
        epmd: PathBuf,
    },
    /// From an image, by the Docker engine.
    Container,
}

/// What was found. Both are present after [`Binaries::locate_or_install`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binaries {
    /// The database; `None` when it was not found.
    pub postgres: Option<PostgresSource>,
    /// The broker; `None` when it was not found.
    pub rabbitmq: Option<RabbitMqSource>,
}

impl Binaries {
    /// Looks where Debian, Red Hat and the search path have the servers. Runs nothing.
    #[must_use]
    pub fn locate() -> Self {
        Self {
            postgres: locate_postgres().map(PostgresSource::Installed),
            rabbitmq: locate_rabbitmq(),
        }
    }

    /// Looks for the servers and gets those that are missing: with `apt-get` as root or by passwordless `sudo`, else as
    /// containers if a Docker engine answers. `progress` is told what happens, line by line, while that takes long.
    ///
    /// Packages do not start their own servers. Where nothing helps, [`Error::Missing`] names packages and command.
    pub async fn locate_or_install(progress: impl Fn(&str)) -> Result<Self, Error> {
        let found = Self::locate();
        let packages = found.missing_packages();
        if packages.is_empty() {
            return Ok(found);
        }
        let refused = match install::apt(&packages, &progress).await {
            Ok(()) => match Self::locate() {
                found if found.missing_packages().is_empty() => return Ok(found),
                _ => install::missing(&packages),
            },
            Err(error) => error,
        };
        if !docker::answers().await {
            return Err(refused);
        }
        progress("running the missing servers as containers");
        Ok(Self {
            postgres: found.postgres.or(Some(PostgresSource::Container)),
            rabbitmq: found.rabbitmq.or(Some(RabbitMqSource::Container)),
        })
    }

    pub(crate) fn postgres(&self) -> Result<&PostgresSource, Error> {
        self.postgres
            .as_ref()
            .ok_or_else(|| install::missing(&[install::POSTGRES_PACKAGE]))
    }

    pub(crate) fn rabbitmq(&self) -> Result<&RabbitMqSource, Error> {
        self.rabbitmq
            .as_ref()
            .ok_or_else(|| install::missing(&[install::RABBITMQ_PACKAGE]))
    }

    fn missing_packages(&self) -> Vec<&'static str> {
        let mut packages = Vec::new();
        if self.postgres.is_none() {
            packages.push(install::POSTGRES_PACKAGE);
        }
        if self.rabbitmq.is_none() {
            packages.push(install::RABBITMQ_PACKAGE);
        }
        packages
    }
}

fn locate_postgres() -> Option<PathBuf> {
    let mut versions: Vec<(u32, PathBuf)> = POSTGRES_VERSIONS
        .iter()
        .flat_map(|base| subdirectories(Path::new(base)))
        .filter_map(|dir| {
            let name = dir.file_name()?.to_str()?;
            let version = name.strip_prefix("pgsql-").unwrap_or(name).parse().ok()?;
            Some((version, dir.join("bin")))
        })
        .collect();
    versions.sort_by_key(|(version, _)| Reverse(*version));
    let complete = |bin: &PathBuf| POSTGRES_TOOLS.iter().all(|tool| bin.join(tool).is_file());
    versions
        .into_iter()
        .map(|(_, bin)| bin)
        .find(complete)
        .or_else(|| {
            let server = in_path("postgres")?.canonicalize().ok()?;
            Some(server.parent()?.to_owned()).filter(complete)
        })
}

fn locate_rabbitmq() -> Option<RabbitMqSource> {
    let server = Some(PathBuf::from(RABBITMQ_SERVER))
        .filter(|server| server.is_file())
        .or_else(|| in_path("rabbitmq-server"))?;
    let epmd = in_path("epmd").or_else(|| {
        subdirectories(Path::new(ERLANG))
            .map(|dir| dir.join("epmd"))
            .chain([Path::new(ERLANG).join("bin/epmd")])
            .chain(subdirectories(Path::new(ERLANG)).map(|dir| dir.join("bin/epmd")))
            .find(|epmd| epmd.is_file())
    })?;
    Some(RabbitMqSource::Installed { server, epmd })
}

pub(crate) fn in_path(program: impl AsRef<OsStr>) -> Option<PathBuf> {
    std::env::split_paths(&search_path())
        .map(|dir| dir.join(program.as_ref()))
        .find(|file| file.is_file())
}

fn subdirectories(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
}
