//! Cores as processes of their own, which can be killed and frozen.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::World;

/// A core that runs as a process. It is killed when it is dropped.
#[derive(Debug)]
pub struct CoreProcess {
    child: Child,
    address: SocketAddr,
}

impl CoreProcess {
    /// Starts `program`, a core, in `world`, with further settings as environment variables.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(world: &World, program: &Path, settings: &[(&str, &str)]) -> Self {
        // Free now, and nobody else on the machine is after this one.
        let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|free| free.local_addr());
        let address = address.expect("there is a free port");
        let mut command = Command::new(program);
        // What is meant for the tests is no setting of a service, and would be refused.
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"HEADRACE_") {
                command.env_remove(name);
            }
        }
        command
            .env("AMQP_URL", &world.amqp)
            .env(
                "DATABASE_URL",
                world.servers.private.postgres().url(&world.vhost),
            )
            .env("HEADRACE_DATABASE__MAX_CONNECTIONS", "6")
            .env("HEADRACE_HTTP__LISTEN", address.to_string())
            .envs(settings.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        if std::env::var_os("RUST_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        let child = command.spawn().expect("the core starts");
        Self { child, address }
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends it `signal`.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = self
            .child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()));
        let pid = pid.expect("a process that runs has an id");
        kill_process(pid, signal).expect("the core runs");
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// If it had ended by itself.
    pub async fn kill(mut self) {
        let ended = self.child.try_wait().expect("its end can be asked for");
        assert_eq!(ended, None, "the core had ended by itself");
        self.child.kill().await.expect("it can be killed");
    }
}
