//! A server as a child process: started detached from the terminal, waited for, signalled.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::future::Future;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

use crate::account::Account;
use crate::error::{Error, Service, io_error};
use crate::files::{remove_if_present, rotate_log, tail};
use crate::pid_file::{PidFile, WRITE_AND_EXEC};

/// Between two looks at something outside that cannot wake us.
pub(crate) const POLL: Duration = Duration::from_millis(50);

/// Why a server does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to stop.
    Asked,
    /// It ended by itself or was killed. `None` where the system did not tell how.
    Unexpected(Option<ExitStatus>),
}

#[derive(Debug, Clone, Copy)]
enum State {
    Running(u32),
    Ended(Exit),
}

/// What to run.
#[derive(Debug)]
pub(crate) struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(&'static str, OsString)>,
    pub(crate) account: Option<Account>,
    pub(crate) work_dir: PathBuf,
}

impl Launch {
    /// The command behind a shell that writes `pid_file` first.
    ///
    /// Output goes to `log`. The environment is the given one alone, because servers read many variables that somebody may
    /// have set for other servers; only what a Docker client needs comes through.
    pub(crate) fn command(&self, pid_file: &Path, log: &Path) -> io::Result<Command> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", WRITE_AND_EXEC])
            .arg(pid_file)
            .arg(&self.program)
            .args(&self.args)
            .current_dir(&self.work_dir)
            .env_clear()
            .env("PATH", search_path())
            .env("LANG", "C.UTF-8")
            .envs(std::env::vars_os().filter(|(name, _)| {
                name == "HOME"
                    || name
                        .to_str()
                        .is_some_and(|name| name.starts_with("DOCKER_"))
            }))
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for us: we stop the servers in order.
            .process_group(0);
        if let Some(account) = &self.account {
            account.apply(&mut command);
        }
        Ok(command)
    }
}

/// The search path, with the directories of system tools that an ordinary user's path lacks.
pub(crate) fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path
}

/// One server: not running, running, ended.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    pub(crate) service: Service,
    pid_file: PidFile,
    log: PathBuf,
    stop_signal: Signal,
    state: Arc<watch::Sender<State>>,
    stop_asked: Arc<AtomicBool>,
}

impl ServerProcess {
    pub(crate) fn new(
        service: Service,
        pid_file: PathBuf,
        log: PathBuf,
        stop_signal: Signal,
    ) -> Self {
        Self {
            service,
            pid_file: PidFile(pid_file),
            log,
            stop_signal,
            state: Arc::new(watch::Sender::new(State::Ended(Exit::Asked))),
            stop_asked: Arc::default(),
        }
    }

    /// Starts the server and gives its pid; it is not ready yet. It must not be running.
    pub(crate) fn spawn(&self, launch: &Launch) -> Result<u32, Error> {
        remove_if_present(&self.pid_file.0)?;
        rotate_log(&self.log)?;
        let mut child = launch
            .command(&self.pid_file.0, &self.log)
            .and_then(|mut command| command.spawn())
            .map_err(io_error("start", &launch.program))?;
        let pid = child.id();
        self.stop_asked.store(false, Ordering::Release);
        self.state.send_replace(State::Running(pid));
        let (state, stop_asked) = (Arc::clone(&self.state), Arc::clone(&self.stop_asked));
        // A thread rather than a task: the server may outlive the async runtime that started it (tests have one each).
        thread::Builder::new()
            .name(format!("wait {}", self.service))
            .spawn(move || {
                let status = child.wait().ok();
                let exit = if stop_asked.load(Ordering::Acquire) {
                    Exit::Asked
                } else {
                    Exit::Unexpected(status)
                };
                state.send_replace(State::Ended(exit));
            })
            .map_err(io_error("wait for", &launch.program))?;
        Ok(pid)
    }

    pub(crate) fn pid(&self) -> Option<u32> {
        match *self.state.borrow() {
            State::Running(pid) => Some(pid),
            State::Ended(_) => None,
        }
    }

    /// Whether it ended without having been asked to.
    pub(crate) fn has_crashed(&self) -> bool {
        matches!(*self.state.borrow(), State::Ended(Exit::Unexpected(_)))
    }

    pub(crate) async fn wait_exit(&self) -> Exit {
        self.wait_for(|state| match state {
            State::Running(_) => None,
            State::Ended(exit) => Some(*exit),
        })
        .await
    }

    /// Waits until it has ended without having been asked to.
    pub(crate) async fn wait_crash(&self) -> Option<ExitStatus> {
        self.wait_for(|state| match state {
            State::Ended(Exit::Unexpected(status)) => Some(*status),
            _ => None,
        })
        .await
    }

    /// Takes its end, whenever it comes, for a stop that was asked for.
    pub(crate) fn expect_exit(&self) {
        self.stop_asked.store(true, Ordering::Release);
    }

    /// Stops it in order, or by force when it takes longer than `patience`.
    pub(crate) async fn stop(&self, patience: Duration) -> Result<(), Error> {
        self.expect_exit();
        if let Some(pid) = self.pid() {
            send(self.service, pid, self.stop_signal)?;
            if tokio::time::timeout(patience, self.wait_exit())
                .await
                .is_err()
            {
                tracing::warn!(service = %self.service, pid, ?patience, "does not stop: killing it");
                self.kill()?;
                self.wait_exit().await;
            }
        }
        // A server that crashed before is from now on one that shall not run.
        self.state.send_modify(|state| {
            if matches!(state, State::Ended(_)) {
                *state = State::Ended(Exit::Asked);
            }
        });
        Ok(())
    }

    /// Kills it. Does not wait.
    pub(crate) fn kill(&self) -> Result<(), Error> {
        let pid = self.pid().ok_or(Error::NotRunning(self.service))?;
        send(self.service, pid, Signal::KILL)
    }

    /// Ends a server of an earlier run whose watchdog did not.
    pub(crate) async fn end_stale(&self, patience: Duration) -> Result<(), Error> {
        let Some(pid) = self.pid_file.running() else {
            return Ok(());
        };
        tracing::warn!(service = %self.service, pid, "still runs from earlier: stopping it");
        for (signal, patience) in [(self.stop_signal, patience), (Signal::KILL, patience)] {
            send(self.service, pid, signal)?;
            if poll_until(patience, || self.pid_file.running() != Some(pid)).await {
                return Ok(());
            }
        }
        Err(Error::Stray {
            service: self.service,
            pid,
        })
    }

    /// Polls `probe` until it says that the server is ready. Fails at once when the server ends.
    pub(crate) async fn wait_ready<F>(
        &self,
        patience: Duration,
        mut probe: impl FnMut() -> F,
    ) -> Result<(), Error>
    where
        F: Future<Output = bool>,
    {
        let ready = async {
            while !probe().await {
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::select! {
            _ = self.wait_exit() => Err(Error::EndedAtStart {
                service: self.service,
                log: self.log.clone(),
                tail: tail(&self.log),
            }),
            in_time = tokio::time::timeout(patience, ready) => in_time.map_err(|_| Error::NotReady {
                service: self.service,
                waited: patience,
                log: self.log.clone(),
                tail: tail(&self.log),
            }),
        }
    }

    async fn wait_for<T: Copy>(&self, pick: impl Fn(&State) -> Option<T>) -> T {
        let mut states = self.state.subscribe();
        loop {
            let picked = pick(&states.borrow_and_update());
            if let Some(picked) = picked {
                return picked;
            }
            if states.changed().await.is_err() {
                // We hold the sender ourselves, so this does not happen; waiting is right if it ever does.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Looks at `done` until it holds (true) or `patience` is over (false).
pub(crate) async fn poll_until(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Sends a signal; a process that is gone already is fine.
pub(crate) fn send(service: Service, pid: u32, signal: Signal) -> Result<(), Error> {
    let Some(target) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
        return Ok(());
    };
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(errno) => Err(Error::Signal {
            service,
            pid,
            source: errno.into(),
        }),
    }
}
