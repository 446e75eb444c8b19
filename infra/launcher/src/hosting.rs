//! Where services run: in this process, or each in a process of its own.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use runtime::backoff::Backoff;
use runtime::{Context, config, service};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::env_file::EnvFile;
use crate::services::{Service, Setting};

/// How long a process may take to stop: what a service takes at most, and some.
const STOP_LIMIT: Duration = Duration::from_secs(45);
/// A process that ran this long starts over with the shortest wait.
const SETTLED: Duration = Duration::from_mins(1);

/// A running service.
pub struct Hosted {
    /// Which.
    pub service: Service,
    /// Where its HTTP server listens.
    pub http: SocketAddr,
    place: Place,
}

enum Place {
    Here(Context),
    Process {
        stop: CancellationToken,
        supervisor: JoinHandle<anyhow::Result<()>>,
    },
}

/// Starts services.
pub struct Host {
    /// Each in a process of its own.
    pub processes: bool,
    /// Where processes write their logs.
    pub logs: PathBuf,
    /// Where their ids are kept.
    pub env_file: Arc<EnvFile>,
}

impl Host {
    /// Starts `service` with `settings`.
    pub async fn start(
        &self,
        service: Service,
        mut settings: Vec<Setting>,
    ) -> anyhow::Result<Hosted> {
        if self.processes {
            let http = free_address()?;
            settings.push(("http.listen".to_owned(), http.to_string()));
            let process = Process {
                service,
                settings,
                log: log_path(&self.logs, service),
            };
            let child = process.spawn()?;
            let stop = CancellationToken::new();
            let supervisor = process.supervise(child, stop.clone(), Arc::clone(&self.env_file));
            let place = Place::Process {
                stop,
                supervisor: tokio::spawn(supervisor),
            };
            return Ok(Hosted {
                service,
                http,
                place,
            });
        }
        settings.push(("http.listen".to_owned(), "127.0.0.1:0".to_owned()));
        let context = Context::new(service.name(), service::instance_name());
        let http = service
            .start(context.clone(), settings)
            .await
            .with_context(|| format!("{} does not start", service.name()))?;
        Ok(Hosted {
            service,
            http,
            place: Place::Here(context),
        })
    }
}

impl Hosted {
    /// Returns once the service has ended by itself, for good.
    pub async fn failed(&self) {
        match &self.place {
            Place::Here(context) => context.stop_requested().await,
            // A process is started again for as long as it takes.
            Place::Process { .. } => std::future::pending().await,
        }
    }

    /// Whether the service runs in this process, and so shares its metrics.
    pub const fn shares_process(&self) -> bool {
        matches!(self.place, Place::Here(_))
    }

    /// Stops the service in order.
    pub async fn stop(self) -> anyhow::Result<()> {
        match self.place {
            Place::Here(context) => context
                .stop()
                .await
                .with_context(|| format!("stopping {}", self.service.name())),
            Place::Process { stop, supervisor } => {
                stop.cancel();
                supervisor.await?
            }
        }
    }
}

fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind(("127.0.0.1", 0))?.local_addr()
}

fn log_path(logs: &Path, service: Service) -> PathBuf {
    logs.join(format!("{}.log", service.name()))
}

struct Process {
    service: Service,
    settings: Vec<Setting>,
    log: PathBuf,
}

/// A child, and the pipe whose end tells it that we are gone.
struct Running {
    child: Child,
    _lifeline: Option<ChildStdin>,
}

impl Process {
    fn spawn(&self) -> anyhow::Result<Running> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["service", "--end-with-parent", self.service.name()]);
        for (name, _) in std::env::vars_os() {
            // What concerns this service is among its settings; other services' keys it refuses.
            if name.to_string_lossy().starts_with("HEADRACE_") {
                command.env_remove(name);
            }
        }
        for key in ["DATABASE_URL", "AMQP_URL"] {
            command.env_remove(key);
        }
        command.envs(
            self.settings
                .iter()
                .map(|(key, value)| (config::variable(key), value)),
        );
        // A group of its own, so that Ctrl-C reaches the launcher alone, which stops in order.
        command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = command
            .spawn()
            .with_context(|| format!("{} does not start", self.service.name()))?;
        let lifeline = child.stdin.take();
        Ok(Running {
            child,
            _lifeline: lifeline,
        })
    }

    /// Keeps the process running until it is asked to stop, then stops it.
    async fn supervise(
        self,
        mut running: Running,
        stop: CancellationToken,
        env_file: Arc<EnvFile>,
    ) -> anyhow::Result<()> {
        let name = self.service.name();
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(15));
        loop {
            if let Some(pid) = running.child.id() {
                env_file.set_pid(name, pid);
            }
            let started = std::time::Instant::now();
            match stop.run_until_cancelled(running.child.wait()).await {
                None => return terminate(name, running.child).await,
                Some(status) => tracing::error!(service = name, ?status, "a service ended"),
            }
            if started.elapsed() > SETTLED {
                backoff.reset();
            }
            running = loop {
                if backoff.wait(&stop).await.is_err() {
                    return Ok(());
                }
                match self.spawn() {
                    Ok(running) => break running,
                    Err(error) => tracing::error!(service = name, "{error:#}"),
                }
            };
            tracing::info!(service = name, "started again");
        }
    }
}

async fn terminate(name: &str, mut child: Child) -> anyhow::Result<()> {
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    if let Some(pid) = pid {
        kill_process(pid, Signal::TERM).with_context(|| format!("{name} cannot be stopped"))?;
    }
    match tokio::time::timeout(STOP_LIMIT, child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => bail!("{name} did not stop well ({status}); its log says why"),
        Ok(Err(error)) => Err(error).with_context(|| format!("{name} cannot be waited for")),
        Err(_) => {
            child
                .kill()
                .await
                .with_context(|| format!("{name} cannot be killed"))?;
            bail!("{name} did not stop within {STOP_LIMIT:?} and was killed")
        }
    }
}
