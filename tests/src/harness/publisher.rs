//! Publishers as processes of their own, which can be killed and frozen.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitStatus;

use headrace::services::Service;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;

use super::world::INTERNAL_TOKEN;
use super::{World, process};

/// A publisher that runs as a process. It is killed when it is dropped.
#[derive(Debug)]
pub struct PublisherProcess {
    child: Child,
    pid: Pid,
    address: SocketAddr,
}

impl PublisherProcess {
    /// Starts one in `world`, with further settings as environment variables; `program` is `headrace`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(world: &World, program: &Path, settings: &[(&str, &str)]) -> Self {
        let (core, spool) = (world.core_url(), world.spool());
        let spool = spool.to_str().expect("the directory's name is text");
        let own = [
            ("HEADRACE_ACCESS__INTERNAL_TOKEN", INTERNAL_TOKEN),
            ("AMQP_URL", world.amqp.as_str()),
            ("HEADRACE_CORE__URL", &core),
            ("HEADRACE_CORE__HEARTBEAT", "500ms"),
            ("HEADRACE_SPOOL__DIRECTORY", spool),
            ("HEADRACE_STREAM__BACKOFF_MIN", "100ms"),
            ("HEADRACE_STREAM__BACKOFF_MAX", "1s"),
        ];
        let all = own.into_iter().chain(settings.iter().copied());
        let (child, address) = process::start(program, Service::IngressPublisher, all);
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Self {
            child,
            pid: pid.expect("a process that runs has an id"),
            address,
        }
    }

    /// Where it listens for HTTP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The part of its instance's name that tells it from others on this machine.
    #[must_use]
    pub fn suffix(&self) -> String {
        format!("-{}", self.pid.as_raw_nonzero())
    }

    /// Sends it `signal`.
    ///
    /// # Panics
    /// If it has ended.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the publisher runs");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If the system does not tell of it.
    pub async fn ended(&mut self) -> ExitStatus {
        self.child.wait().await.expect("its end can be awaited")
    }

    /// Its resident memory, in bytes.
    ///
    /// # Panics
    /// If it has ended.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        process::resident_bytes(&self.child)
    }
}
