//! A private RabbitMQ server, with the management and Prometheus plugins.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::account::Account;
use crate::binaries::{Binaries, RabbitMqSource};
use crate::data_dir::DataDir;
use crate::docker::{self, Container};
use crate::error::{Error, Service, io_error};
use crate::files::{create_dir, kept_secret, write_private};
use crate::management::Management;
use crate::pid_file::PidFile;
use crate::ports;
use crate::server_process::{Exit, Launch, POLL, ServerProcess, send};
use crate::{NAME, supervise};

const START_PATIENCE: Duration = Duration::from_secs(90);
/// An orderly stop takes 6 s even of an idle server: its statistics wait for their next turn.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
const EPMD_PATIENCE: Duration = Duration::from_secs(10);

/// A RabbitMQ server of our own: 127.0.0.1 only, one administrator [`NAME`] with a generated password.
///
/// Dropping it does not stop it; dropping the last clone of its [`DataDir`] does.
pub struct RabbitMq {
    source: RabbitMqSource,
    dir: PathBuf,
    log: PathBuf,
    account: Option<Account>,
    ports: Ports,
    password: String,
    management: Management,
    container: Option<Container>,
    process: ServerProcess,
    /// Erlang's port mapper. Ours alone, so that node names of other servers on this machine do not matter.
    epmd: StdMutex<Option<Child>>,
    /// Held while the server is being started.
    starting: Mutex<()>,
    data: DataDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    management: u16,
    prometheus: u16,
    distribution: u16,
    epmd: u16,
}

impl RabbitMq {
    /// Starts the server on `data` and waits until it accepts AMQP connections.
    ///
    /// The ports of the last start are used again where they are free.
    pub async fn start(binaries: &Binaries, data: &DataDir) -> Result<Self, Error> {
        let source = binaries.rabbitmq()?.clone();
        let account = match source {
            RabbitMqSource::Container => None,
            RabbitMqSource::Installed { .. } => Account::to_become("rabbitmq")?,
        };
        if let Some(account) = &account {
            account.check_can_reach(data.path())?;
        }
        let dir = data.path().join("rabbitmq");
        let log = data.logs().join("rabbitmq.log");
        create_dir(&dir, 0o700, account.as_ref())?;
        let process = ServerProcess::new(
            Service::RabbitMq,
            dir.join("server.pid"),
            log.clone(),
            Signal::TERM,
        );
        process.end_stale(STOP_PATIENCE).await?;
        // Before the ports are chosen: a port mapper of an earlier run would keep its port from being used again.
        end_stale_epmd(&dir).await?;
        let [amqp, management, prometheus, distribution, epmd] =
            ports::settle(&dir.join("ports"), account.as_ref())?;
        let password = kept_secret(&dir.join("password"), account.as_ref())?;
        let container = match source {
            RabbitMqSource::Installed { .. } => None,
            RabbitMqSource::Container => Some(Container::named("rabbitmq", amqp, &dir)?),
        };
        let rabbitmq = Self {
            source,
            log,
            account,
            ports: Ports {
                amqp,
                management,
                prometheus,
                distribution,
                epmd,
            },
            management: Management::new(management, password.clone())?,
            password,
            container,
            process,
            epmd: StdMutex::default(),
            starting: Mutex::new(()),
            data: data.clone(),
            dir,
        };
        rabbitmq.launch().await?;
        Ok(rabbitmq)
    }

    /// A connection URL for the virtual host `vhost` (`/` is the default one), password included.
    #[must_use]
    pub fn amqp_url(&self, vhost: &str) -> String {
        let Self {
            ports, password, ..
        } = self;
        let vhost = encode_segment(vhost);
        format!("amqp://{NAME}:{password}@127.0.0.1:{}/{vhost}", ports.amqp)
    }

    /// The management plugin: pages for people at `/`, the API under `/api`.
    #[must_use]
    pub fn management_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.management)
    }

    /// Where Prometheus scrapes.
    #[must_use]
    pub fn prometheus_url(&self) -> String {
        format!("http://127.0.0.1:{}/metrics", self.ports.prometheus)
    }

    /// The AMQP port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// The administrator's name, for AMQP and management.
    #[must_use]
    pub fn user(&self) -> &str {
        NAME
    }

    /// The administrator's password.
    #[must_use]
    pub fn password(&self) -> &str {
        &self.password
    }

    /// The pid of the Erlang machine while it runs (of the Docker client where the server is a container).
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

    /// Creates the virtual host `vhost` unless it exists, with all rights for our user.
    pub async fn create_vhost(&self, vhost: &str) -> Result<(), Error> {
        self.management.create_vhost(vhost).await
    }

    /// Deletes the virtual host `vhost` with its queues and connections, if it exists.
    pub async fn delete_vhost(&self, vhost: &str) -> Result<(), Error> {
        self.management.delete_vhost(vhost).await
    }

    /// Stops the server in order, and its port mapper. By force after 20 s.
    pub async fn stop(&self) -> Result<(), Error> {
        let stopped = self.process.stop(STOP_PATIENCE).await;
        self.end_epmd();
        stopped
    }

    /// Kills the server (SIGKILL) and does not wait. Supervision takes this for a crash.
    pub async fn kill(&self) -> Result<(), Error> {
        let killed = self.process.kill();
        if let Some(container) = &self.container {
            container.remove().await;
        }
        killed
    }

    /// Starts the server again with the same data and ports, after stopping it if it runs.
    pub async fn restart(&self) -> Result<(), Error> {
        let _starting = self.starting.lock().await;
        self.stop().await?;
        self.launch().await
    }

    /// Evaluates an Erlang expression in the running server: for settings that it reads anew but that
    /// neither its files nor the management API change while it runs.
    pub async fn evaluate(&self, expression: &str) -> Result<(), Error> {
        let launch = match (&self.source, &self.container) {
            (RabbitMqSource::Installed { server, .. }, _) => Launch {
                args: ["eval", expression].map(OsString::from).into(),
                ..self.installed(&server.with_file_name("rabbitmqctl"))
            },
            (RabbitMqSource::Container, container) => {
                let container = container
                    .as_ref()
                    .ok_or(Error::NotRunning(Service::RabbitMq))?;
                let own = container.exec_args().into_iter();
                let args = own.chain(["rabbitmqctl", "eval", expression]);
                self.launch_of(
                    "docker".into(),
                    args.map(OsString::from).collect(),
                    Vec::new(),
                )
            }
        };
        let program = launch.program.clone();
        let mut command = launch
            .command(&self.dir.join("evaluate.pid"), &self.log)
            .map_err(io_error("prepare", &program))?;
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = tokio::task::spawn_blocking(move || command.output());
        let output = running
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(io_error("run", &program))?;
        if output.status.success() {
            return Ok(());
        }
        let text = [output.stdout, output.stderr].concat();
        Err(Error::Tool {
            program: program.display().to_string(),
            status: output.status,
            output: String::from_utf8_lossy(&text).into_owned(),
        })
    }

    /// Announces that somebody else will end the server.
    pub(crate) fn expect_exit(&self) {
        self.process.expect_exit();
    }

    async fn launch(&self) -> Result<(), Error> {
        let (launch, patience, port_inside) = match (&self.source, &self.container) {
            (RabbitMqSource::Installed { server, epmd }, _) => {
                self.write_configuration()?;
                self.start_epmd(epmd).await?;
                (self.installed(server), START_PATIENCE, self.ports.amqp)
            }
            (RabbitMqSource::Container, container) => {
                let container = container
                    .as_ref()
                    .ok_or(Error::NotRunning(Service::RabbitMq))?;
                container.remove().await;
                let ports = [
                    self.ports.amqp,
                    self.ports.management,
                    self.ports.prometheus,
                ];
                let launch = container.rabbitmq(&self.dir, ports, &self.password);
                (launch, docker::START_PATIENCE, 5672)
            }
        };
        let pid = self.process.spawn(&launch)?;
        self.data.watch(pid);
        self.process
            .wait_ready(patience, || self.management.listens_on(port_inside))
            .await?;
        tracing::info!(
            pid = self.pid(),
            port = self.ports.amqp,
            "RabbitMQ is ready"
        );
        Ok(())
    }

    fn installed(&self, server: &Path) -> Launch {
        let path = |name: &str| -> OsString { self.dir.join(name).into() };
        let env = vec![
            ("HOME", path("home")),
            // The same whatever the ports are: data is filed under the node's name.
            ("RABBITMQ_NODENAME", format!("{NAME}@localhost").into()),
            ("RABBITMQ_MNESIA_BASE", path("data")),
            ("RABBITMQ_LOG_BASE", path("log")),
            ("RABBITMQ_LOGS", "-".into()),
            ("RABBITMQ_CONFIG_FILE", path("rabbitmq.conf")),
            ("RABBITMQ_ADVANCED_CONFIG_FILE", path("advanced.config")),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", path("enabled_plugins")),
            ("RABBITMQ_PID_FILE", path("rabbitmq.pid")),
            // Names no file, so that the machine's own settings in /etc are not read.
            ("RABBITMQ_CONF_ENV_FILE", path("rabbitmq-env.conf")),
            (
                "RABBITMQ_DIST_PORT",
                self.ports.distribution.to_string().into(),
            ),
            ("ERL_EPMD_PORT", self.ports.epmd.to_string().into()),
            ("ERL_EPMD_ADDRESS", "127.0.0.1".into()),
            // The start script then becomes the Erlang machine instead of standing between it and us.
            ("RUNNING_UNDER_SYSTEMD", "true".into()),
            (
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "+S 2:2 +sbwt none -kernel inet_dist_use_interface {127,0,0,1}".into(),
            ),
        ];
        self.launch_of(server.to_owned(), Vec::new(), env)
    }

    fn launch_of(
        &self,
        program: PathBuf,
        args: Vec<OsString>,
        env: Vec<(&'static str, OsString)>,
    ) -> Launch {
        Launch {
            program,
            args,
            env,
            account: self.account.clone(),
            work_dir: self.dir.clone(),
        }
    }

    fn write_configuration(&self) -> Result<(), Error> {
        let account = self.account.as_ref();
        let home = self.dir.join("home");
        create_dir(&home, 0o700, account)?;
        // Erlang refuses a cookie that others could read. Ours stands alone, so it may change at each start.
        let cookie = format!("{:032x}", rand::random::<u128>());
        write_private(&home.join(".erlang.cookie"), &cookie, 0o400, account)?;
        write_private(
            &self.dir.join("enabled_plugins"),
            "[rabbitmq_management,rabbitmq_prometheus].\n",
            0o644,
            account,
        )?;
        let configuration = configuration(self.ports, &self.password);
        write_private(
            &self.dir.join("rabbitmq.conf"),
            &configuration,
            0o600,
            account,
        )
    }

    async fn start_epmd(&self, program: &Path) -> Result<(), Error> {
        self.end_epmd();
        let port = self.ports.epmd;
        let args = ["-port", &port.to_string(), "-address", "127.0.0.1"].map(OsString::from);
        let child = self
            .launch_of(program.to_owned(), args.into(), Vec::new())
            .command(&epmd_pid_file(&self.dir).0, &self.log)
            .and_then(|mut command| command.spawn())
            .map_err(io_error("start", program))?;
        self.data.watch(child.id());
        *self.epmd.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        // Otherwise the server would start a port mapper of its own, which nobody would end.
        let listening = async {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(EPMD_PATIENCE, listening)
            .await
            .map_err(|error| io_error("connect to", program)(error.into()))
    }

    fn end_epmd(&self) {
        let child = self
            .epmd
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut child) = child
            && let Err(error) = child.kill().and_then(|()| child.wait())
        {
            tracing::debug!(%error, "could not end epmd");
        }
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        // The server does without it; only other nodes would ask it.
        self.end_epmd();
    }
}

impl supervise::Supervised for RabbitMq {
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

fn epmd_pid_file(dir: &Path) -> PidFile {
    PidFile(dir.join("epmd.pid"))
}

async fn end_stale_epmd(dir: &Path) -> Result<(), Error> {
    let file = epmd_pid_file(dir);
    let Some(pid) = file.running() else {
        return Ok(());
    };
    send(Service::RabbitMq, pid, Signal::KILL)?;
    while file.running() == Some(pid) {
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

fn configuration(ports: Ports, password: &str) -> String {
    let Ports {
        amqp,
        management,
        prometheus,
        ..
    } = ports;
    // The consumer timeout is the default, spelled out: a delivery unacknowledged for 30 minutes closes the channel.
    format!(
        "listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = {prometheus}
default_user = {NAME}
default_pass = {password}
default_user_tags.administrator = true
loopback_users = none
disk_free_limit.absolute = 100MB
vm_memory_high_watermark.relative = 0.2
consumer_timeout = 1800000
log.console.level = info
"
    )
}

/// A name as one segment of a URL's path.
pub(crate) fn encode_segment(name: &str) -> String {
    name.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_virtual_host_is_an_encoded_slash() {
        assert_eq!(encode_segment("/"), "%2F");
        assert_eq!(encode_segment("test-1.a"), "test-1.a");
    }
}
