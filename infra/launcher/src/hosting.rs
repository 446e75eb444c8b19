//! Where services run: in this process, or each in a process of its own.

use std::fs::File;
use std::net::SocketAddr;
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
/// The bounds of the wait before a process that has ended is started again. Each wait is drawn from zero to
/// its bound, and the bound doubles.
const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(15);
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
            let http = private_services::free_address()?;
            settings.push(("http.listen".to_owned(), http.to_string()));
            let process = Process {
                service,
                settings,
                log: log_path(&self.logs, service),
            };
            let child = process.spawn()?;
            let stop = CancellationToken::new();
            let (until, env_file) = (stop.clone(), Arc::clone(&self.env_file));
            let supervisor = async move {
                supervise(service.name(), || process.spawn(), child, until, env_file).await
            };
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
}

/// Keeps the process called `name` running until it is asked to stop, then stops it. While it is down it
/// has no entry in the env file.
async fn supervise(
    name: &str,
    spawn: impl Fn() -> anyhow::Result<Running>,
    mut running: Running,
    stop: CancellationToken,
    env_file: Arc<EnvFile>,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(SOONEST, LATEST);
    loop {
        if let Some(pid) = running.child.id() {
            env_file.set_pid(name, pid);
        }
        let started = std::time::Instant::now();
        match stop.run_until_cancelled(running.child.wait()).await {
            None => return terminate(name, running.child).await,
            Some(status) => {
                env_file.remove_pid(name);
                tracing::error!(service = name, ?status, "a service ended");
                println!("{name} ended by itself ({})", words(&status));
            }
        }
        if started.elapsed() > SETTLED {
            backoff.reset();
        }
        running = loop {
            if backoff.wait(&stop).await.is_err() {
                return Ok(());
            }
            match spawn() {
                Ok(running) => break running,
                Err(error) => tracing::error!(service = name, "{error:#}"),
            }
        };
        let pid = running.child.id();
        tracing::info!(service = name, pid, "started again");
        if let Some(pid) = pid {
            println!("{name} is started again as process {pid}");
        }
    }
}

fn words(status: &std::io::Result<std::process::ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::env_file;

    /// A child that runs `script`.
    fn child(script: &str) -> anyhow::Result<Running> {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .stdin(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let lifeline = child.stdin.take();
        Ok(Running {
            child,
            _lifeline: lifeline,
        })
    }

    /// Waits until `state` is `wanted`.
    async fn eventually(state: impl Fn() -> bool, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !state() {
            assert!(Instant::now() < deadline, "still not so: {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn env_file(data: &Path) -> Arc<EnvFile> {
        let env_file = Arc::new(EnvFile::new(data).unwrap());
        env_file.publish().unwrap();
        env_file
    }

    fn pid(data: &Path) -> Option<String> {
        env_file::read(data, "PID_SOME_SERVICE")
    }

    #[tokio::test]
    async fn a_process_that_dies_at_once_is_not_started_in_a_loop_and_has_no_entry_meanwhile() {
        let data = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        let started = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&started);
        let dying = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            child("exit 7")
        };
        let (until, env_file) = (stop.clone(), env_file(data.path()));
        let supervisor = tokio::spawn(async move {
            supervise(
                "some-service",
                dying,
                child("exit 7").unwrap(),
                until,
                env_file,
            )
            .await
        });
        let starts = || started.load(Ordering::Relaxed);
        let begun = Instant::now();
        eventually(|| starts() == 3, "it was started three times").await;
        eventually(|| pid(data.path()).is_none(), "the dead one has no entry").await;
        // The third wait is drawn from four seconds, and many would fit without one.
        assert!(
            starts() < 10,
            "{} starts in {:?}",
            starts(),
            begun.elapsed()
        );
        stop.cancel();
        let limit = Duration::from_secs(5);
        let ended = tokio::time::timeout(limit, supervisor).await;
        ended
            .expect("a stop does not wait for the next start")
            .unwrap()
            .unwrap();
    }

    #[tokio::test]
    async fn a_process_that_is_killed_is_another_one_soon_and_the_last_one_is_stopped() {
        let data = tempfile::tempdir().unwrap();
        let stop = CancellationToken::new();
        // It ends well when it is asked to.
        let living = || child("trap 'exit 0' TERM; while :; do sleep 0.05; done");
        let (until, env_file) = (stop.clone(), env_file(data.path()));
        let supervisor = tokio::spawn(async move {
            supervise("some-service", living, living().unwrap(), until, env_file).await
        });
        eventually(|| pid(data.path()).is_some(), "it has an entry").await;
        let first = pid(data.path()).unwrap();
        let raw = Pid::from_raw(first.parse().unwrap()).unwrap();
        kill_process(raw, Signal::KILL).unwrap();
        let is_another = || pid(data.path()).is_some_and(|pid| pid != first);
        eventually(is_another, "another one has the entry").await;
        stop.cancel();
        supervisor.await.unwrap().unwrap();
    }
}
