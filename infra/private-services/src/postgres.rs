//! A private PostgreSQL server.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process;
use std::time::Duration;

use rustix::process::Signal;
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::account::{Account, is_root};
use crate::binaries::{Binaries, PostgresSource};
use crate::data_dir::DataDir;
use crate::docker::{self, Container};
use crate::error::{Error, Service, io_error};
use crate::files::{create_dir, kept_secret};
use crate::pid_file::postgres_working_in;
use crate::ports;
use crate::server_process::{Exit, Launch, ServerProcess, poll_until, search_path, send};
use crate::{NAME, supervise};

/// Long, because a server that was killed first replays its log.
const START_PATIENCE: Duration = Duration::from_mins(1);
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// How long processes of a killed server may take to notice.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(2);

/// How much a crash of the machine may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Nothing that was committed.
    Full,
    /// Everything. A crash of the server alone, `kill -9` included, still costs nothing that was committed: writes have
    /// reached the operating system by then. For tests.
    Relaxed,
}

/// A PostgreSQL server of our own: 127.0.0.1 only, password login, one superuser [`NAME`] and a database of that name.
///
/// Dropping it does not stop it; dropping the last clone of its [`DataDir`] does.
pub struct Postgres {
    source: PostgresSource,
    dir: PathBuf,
    account: Option<Account>,
    durability: Durability,
    port: u16,
    password: String,
    container: Option<Container>,
    process: ServerProcess,
    /// Held while the server is being started.
    starting: Mutex<()>,
    data: DataDir,
}

/// How often to look whether somebody else told the server to shut down.
const SHUTDOWN_LOOK: Duration = Duration::from_secs(1);

impl Postgres {
    /// Starts the server on `data` and waits until it accepts connections. The first start creates the cluster.
    ///
    /// The port of the last start is used again if it is free.
    pub async fn start(
        binaries: &Binaries,
        data: &DataDir,
        durability: Durability,
    ) -> Result<Self, Error> {
        let source = binaries.postgres()?.clone();
        let account = match source {
            PostgresSource::Container => None,
            PostgresSource::Installed(_) => {
                let account = Account::to_become("postgres")?;
                if is_root() && account.is_none() {
                    return Err(Error::NoSuchUser("postgres"));
                }
                account
            }
        };
        if let Some(account) = &account {
            account.check_can_reach(data.path())?;
        }
        let dir = data.path().join("postgres");
        create_dir(&dir, 0o700, account.as_ref())?;
        let process = ServerProcess::new(
            Service::PostgreSql,
            dir.join("server.pid"),
            data.logs().join("postgres.log"),
            Signal::INT,
        );
        process.end_stale(STOP_PATIENCE).await?;
        let [port] = ports::settle(&dir.join("port"), account.as_ref())?;
        let password = kept_secret(&dir.join("password"), account.as_ref())?;
        let container = match source {
            PostgresSource::Installed(_) => None,
            PostgresSource::Container => Some(Container::named("postgres", port, &dir)?),
        };
        let postgres = Self {
            source,
            dir,
            account,
            durability,
            port,
            password,
            container,
            process,
            starting: Mutex::new(()),
            data: data.clone(),
        };
        postgres.launch().await?;
        postgres.create_database(NAME).await?;
        Ok(postgres)
    }

    /// A connection URL for `database`, password included.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        let Self { port, password, .. } = self;
        format!("postgres://{NAME}:{password}@127.0.0.1:{port}/{database}")
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The superuser's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The server's pid while it runs (of the Docker client where the server is a container).
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.pid()
    }

    /// Whether the server process exists.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Waits until the server process has ended; at once if it does not run.
    pub async fn wait_exit(&self) -> Exit {
        self.process.wait_exit().await
    }

    /// Creates `database` unless it exists.
    pub async fn create_database(&self, database: &str) -> Result<(), Error> {
        let probe = ["-XqAt", "-c", "SELECT 1", "-d", database];
        if self.client("psql", &probe).await.is_ok() {
            return Ok(());
        }
        self.client("createdb", &[database]).await
    }

    /// Writes all of `database` to `file`, as `pg_dump` does. Where the server is a container, the file is in it.
    pub async fn dump(&self, database: &str, file: &str) -> Result<(), Error> {
        self.client("pg_dump", &["--format=custom", "--file", file, database])
            .await
    }

    /// Reads what [`Self::dump`] wrote into `database`, which must be empty.
    pub async fn restore(&self, database: &str, file: &str) -> Result<(), Error> {
        let args = ["--exit-on-error", "--no-owner", "--dbname", database, file];
        self.client("pg_restore", &args).await
    }

    /// Stops the server: sessions are ended, data is flushed. By force after 15 s.
    pub async fn stop(&self) -> Result<(), Error> {
        self.process.stop(STOP_PATIENCE).await
    }

    /// Kills the server (SIGKILL) and does not wait. Supervision takes this for a crash.
    pub async fn kill(&self) -> Result<(), Error> {
        let killed = self.process.kill();
        if let Some(container) = &self.container {
            container.remove().await;
        }
        killed
    }

    /// Starts the server again with the same data and port, after stopping it if it runs.
    pub async fn restart(&self) -> Result<(), Error> {
        let _starting = self.starting.lock().await;
        self.stop().await?;
        self.launch().await
    }

    /// Announces that somebody else will end the server.
    pub(crate) fn expect_exit(&self) {
        self.process.expect_exit();
    }

    async fn launch(&self) -> Result<(), Error> {
        let patience = if let Some(container) = &self.container {
            container.remove().await;
            docker::START_PATIENCE
        } else {
            START_PATIENCE
        };
        let launch = match (&self.source, &self.container) {
            (PostgresSource::Installed(bin), _) => {
                self.ensure_cluster(bin).await?;
                self.end_orphans().await?;
                self.installed(bin)
            }
            (PostgresSource::Container, container) => container
                .as_ref()
                .ok_or(Error::NotRunning(Service::PostgreSql))?
                .postgres(&self.dir, self.port, &self.password, &self.settings()),
        };
        let pid = self.process.spawn(&launch)?;
        self.data.watch(pid);
        self.process
            .wait_ready(patience, || self.is_ready())
            .await?;
        tracing::info!(pid = self.pid(), port = self.port, "PostgreSQL is ready");
        Ok(())
    }

    fn installed(&self, bin: &Path) -> Launch {
        let mut args: Vec<OsString> = vec!["-D".into(), self.cluster().into()];
        let own = [
            format!("port={}", self.port),
            "listen_addresses=127.0.0.1".to_owned(),
            "unix_socket_directories=".to_owned(),
        ];
        for setting in own.into_iter().chain(self.settings()) {
            args.extend(["-c".into(), setting.into()]);
        }
        Launch {
            program: bin.join("postgres"),
            args,
            env: vec![("HOME", self.dir.clone().into())],
            account: self.account.clone(),
            work_dir: self.dir.clone(),
        }
    }

    fn settings(&self) -> Vec<String> {
        // Never synchronous_commit=off nor full_page_writes=off: those would lose or tear data when the server is killed.
        let fsync = match self.durability {
            Durability::Full => "fsync=on",
            Durability::Relaxed => "fsync=off",
        };
        [
            fsync,
            "synchronous_commit=on",
            "max_connections=200",
            "shared_buffers=128MB",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_line_prefix=%m [%p] %q%d ",
        ]
        .map(str::to_owned)
        .into()
    }

    fn cluster(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Creates the cluster if it is missing, or checks that this server can read it.
    async fn ensure_cluster(&self, bin: &Path) -> Result<(), Error> {
        let cluster = self.cluster();
        if let Ok(found) = fs::read_to_string(cluster.join("PG_VERSION")) {
            return check_version(bin, &cluster, found.trim()).await;
        }
        // Made elsewhere and moved, so that an interrupted attempt never looks like a cluster.
        let fresh = self.dir.join("data.new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh).map_err(io_error("remove", &fresh))?;
        }
        let mut initdb = process::Command::new(bin.join("initdb"));
        initdb
            .arg("-D")
            .arg(&fresh)
            .arg("--pwfile")
            .arg(self.dir.join("password"))
            .args(["--username", NAME, "--auth", "scram-sha-256"])
            .args(["--encoding", "UTF8", "--locale", "C"])
            .current_dir(&self.dir);
        if self.durability == Durability::Relaxed {
            initdb.arg("--no-sync");
        }
        if let Some(account) = &self.account {
            account.apply(&mut initdb);
        }
        run(initdb).await?;
        fs::rename(&fresh, &cluster).map_err(io_error("move", &fresh))
    }

    /// Ends what a killed server left behind: a new server refuses to start beside it.
    async fn end_orphans(&self) -> Result<(), Error> {
        let cluster = self.cluster();
        let gone = || postgres_working_in(&cluster).is_empty();
        if poll_until(ORPHAN_PATIENCE, gone).await {
            return Ok(());
        }
        for pid in postgres_working_in(&cluster) {
            send(Service::PostgreSql, pid, Signal::KILL)?;
        }
        if poll_until(STOP_PATIENCE, gone).await {
            return Ok(());
        }
        let pid = postgres_working_in(&cluster).first().copied().unwrap_or(0);
        Err(Error::Stray {
            service: Service::PostgreSql,
            pid,
        })
    }

    async fn is_ready(&self) -> bool {
        match &self.source {
            // What pg_ctl looks at: line 1 is the pid, line 8 the status. Asking the port could reach somebody else.
            PostgresSource::Installed(_) => {
                let text = fs::read_to_string(self.cluster().join("postmaster.pid"));
                text.is_ok_and(|text| says(&text, self.pid(), "ready"))
            }
            // While the image initialises, its server listens on the socket alone, not on the container's 127.0.0.1.
            PostgresSource::Container => self
                .client("psql", &["-XqAt", "-c", "SELECT 1", "-d", NAME])
                .await
                .is_ok(),
        }
    }

    /// Makes an end of an orderly shutdown that somebody else began, for as long as it is polled.
    ///
    /// On SIGTERM PostgreSQL refuses new clients but waits for the old ones, and a pool's never leave: it would neither
    /// serve nor end.
    pub(crate) async fn hasten_shutdowns(&self) -> Infallible {
        loop {
            tokio::time::sleep(SHUTDOWN_LOOK).await;
            let text =
                fs::read_to_string(self.cluster().join("postmaster.pid")).unwrap_or_default();
            if let Some(pid) = self.pid().filter(|pid| says(&text, Some(*pid), "stopping")) {
                tracing::warn!(
                    pid,
                    "PostgreSQL was told to wait for its clients and is told not to"
                );
                if let Err(error) = send(Service::PostgreSql, pid, Signal::INT) {
                    tracing::warn!(%error, "could not be told");
                }
            }
        }
    }

    /// Runs one of PostgreSQL's client programs against the server.
    async fn client(&self, program: &str, args: &[&str]) -> Result<(), Error> {
        let (mut command, port) = match (&self.source, &self.container) {
            (PostgresSource::Installed(bin), _) => {
                (process::Command::new(bin.join(program)), self.port)
            }
            (PostgresSource::Container, container) => {
                let mut docker = process::Command::new("docker");
                docker.args(container.iter().flat_map(Container::exec_args));
                docker.arg(program);
                (docker, 5432)
            }
        };
        command
            .args(["-h", "127.0.0.1", "-U", NAME, "-p", &port.to_string(), "-w"])
            .args(args)
            .env("PGPASSWORD", &self.password);
        // PGOPTIONS, PGSSLMODE and the like are meant for other servers.
        for (name, _) in std::env::vars_os() {
            if name != "PGPASSWORD" && name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        run(command).await.map(drop)
    }
}

impl supervise::Supervised for Postgres {
    fn process(&self) -> &ServerProcess {
        &self.process
    }

    async fn revive(&self) -> Result<(), Error> {
        let _starting = self.starting.lock().await;
        if self.process.has_crashed() {
            self.launch().await
        } else {
            Ok(())
        }
    }
}

/// Whether the lock file of the process `pid` gives `status` as its own.
fn says(postmaster_pid: &str, pid: Option<u32>, status: &str) -> bool {
    let mut lines = postmaster_pid.lines();
    let own = lines.next().and_then(|line| line.trim().parse().ok());
    own.is_some() && own == pid && lines.nth(6).is_some_and(|line| line.trim() == status)
}

async fn check_version(bin: &Path, cluster: &Path, found: &str) -> Result<(), Error> {
    let mut version = process::Command::new(bin.join("postgres"));
    version.arg("--version");
    let output = run(version).await?;
    // "postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"
    let installed = output
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .and_then(|version| version.split(|c: char| !c.is_ascii_digit()).next())
        .unwrap_or_default();
    if installed == found {
        return Ok(());
    }
    Err(Error::Version {
        data: cluster.to_owned(),
        found: found.to_owned(),
        installed: installed.to_owned(),
    })
}

/// Runs a tool to its end and gives what it printed.
async fn run(mut command: process::Command) -> Result<String, Error> {
    command.env("PATH", search_path());
    let program = PathBuf::from(command.get_program());
    let output = Command::from(command)
        .stdin(process::Stdio::null())
        .output()
        .await
        .map_err(io_error("run", &program))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Tool {
        program: program.display().to_string(),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_the_status_of_our_own_server() {
        let file = |status| format!("42\n/data\n1700000000\n20001\n\n127.0.0.1\n 1 2\n{status}\n");
        assert!(says(&file("ready   "), Some(42), "ready"));
        assert!(!says(&file("starting"), Some(42), "ready"));
        assert!(!says(&file("ready   "), Some(43), "ready"));
        assert!(!says("", None, "ready"));
    }
}
