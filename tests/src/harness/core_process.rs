//! Cores, relays and live updates as processes of their own, which can be killed and frozen.

use std::net::SocketAddr;
use std::path::Path;

use headrace::services::Service;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::world::INTERNAL_TOKEN;
use super::{World, process};

/// A core, a relay or the live updates that run as a process. It is killed when it is dropped.
#[derive(Debug)]
pub struct CoreProcess {
    child: Child,
    address: SocketAddr,
}

impl CoreProcess {
    /// Starts `service`, a core or a relay, in `world`, with further settings as environment variables;
    /// `program` is `headrace`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(
        world: &World,
        program: &Path,
        service: Service,
        settings: &[(&str, &str)],
    ) -> Self {
        let database = world.servers.private.postgres().url(&world.vhost);
        let own = [
            ("HEADRACE_ACCESS__INTERNAL_TOKEN", INTERNAL_TOKEN),
            ("AMQP_URL", world.amqp.as_str()),
            ("DATABASE_URL", &database),
            ("HEADRACE_DATABASE__MAX_CONNECTIONS", "6"),
        ];
        let all = own.into_iter().chain(settings.iter().copied());
        let (child, address) = process::start(program, service, all);
        Self { child, address }
    }

    /// Starts the live updates in `world`, with further settings as environment variables; `program` is
    /// `headrace`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_live(world: &World, program: &Path, settings: &[(&str, &str)]) -> Self {
        let core = world.core_url();
        let own = [
            ("HEADRACE_ACCESS__INTERNAL_TOKEN", INTERNAL_TOKEN),
            ("HEADRACE_CORE__URL", core.as_str()),
        ];
        let all = own.into_iter().chain(settings.iter().copied());
        let (child, address) = process::start(program, Service::Live, all);
        Self { child, address }
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Its resident memory, in bytes.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        process::resident_bytes(&self.child)
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
        kill_process(pid, signal).expect("it runs");
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    ///
    /// # Panics
    /// If it had ended by itself.
    pub async fn kill(mut self) {
        let ended = self.child.try_wait().expect("its end can be asked for");
        assert_eq!(ended, None, "it had ended by itself");
        self.child.kill().await.expect("it can be killed");
    }
}
