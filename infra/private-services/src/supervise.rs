//! Bringing back a server that ended without having been asked to.

use std::convert::Infallible;
use std::future::Future;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder as _, ExponentialBuilder};

use crate::error::{Error, Service};
use crate::server_process::ServerProcess;

const FIRST_DELAY: Duration = Duration::from_secs(1);
const LAST_DELAY: Duration = Duration::from_secs(15);
/// A server that ran this long is not in a loop of crashes: its next restart is quick again.
const SETTLED: Duration = Duration::from_mins(1);

/// What supervision saw or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// A server ended without having been asked to.
    Crashed {
        /// Which one.
        service: Service,
        /// How, where the system told.
        status: Option<ExitStatus>,
    },
    /// It is ready again, on the same ports.
    Restarted {
        /// Which one.
        service: Service,
        /// Its new pid.
        pid: u32,
    },
}

/// A server that can be brought back.
pub(crate) trait Supervised {
    fn process(&self) -> &ServerProcess;

    /// Starts it again if it has crashed, and only then: somebody else may have been quicker, or have stopped it.
    fn revive(&self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// Brings `server` back whenever it crashes, after 1 s to 15 s. May be dropped at any time.
pub(crate) async fn keep_running(
    server: &(impl Supervised + Sync),
    on_event: &(impl Fn(Event) + Sync),
) -> Infallible {
    let process = server.process();
    let service = process.service;
    let backoff = ExponentialBuilder::default()
        .with_min_delay(FIRST_DELAY)
        .with_max_delay(LAST_DELAY)
        .without_max_times();
    let mut delays = backoff.build();
    let mut since = Instant::now();
    loop {
        let status = process.wait_crash().await;
        tracing::warn!(%service, ?status, "crashed");
        on_event(Event::Crashed { service, status });
        if since.elapsed() >= SETTLED {
            delays = backoff.build();
        }
        while process.has_crashed() {
            tokio::time::sleep(delays.next().unwrap_or(LAST_DELAY)).await;
            if let Err(error) = server.revive().await {
                let error: &dyn std::error::Error = &error;
                tracing::error!(%service, error, "could not be restarted, will be tried again");
            }
        }
        since = Instant::now();
        if let Some(pid) = process.pid() {
            on_event(Event::Restarted { service, pid });
        }
    }
}
