//! Scheduled polling: the providers that are asked.
//!
//! Any number of replicas look for due connections in the database and claim what is due for a while,
//! renewed for as long as a run goes on. One claim covers all feeds of a connection, so a connection is
//! never asked for twice at the same time. What a page says and where to read on are committed together,
//! under the claim's epoch: a replica that was believed dead has no effect any more.
//!
//! While a provider is away, its feeds are tried again after growing waits. While the database is away,
//! nothing is asked. A replica that dies leaves its connections to the others once its leases end.

mod ask;
mod client;
mod limit;
mod page;
mod run;
mod sessions;

use std::sync::Arc;
use std::time::Duration;

use runtime::Context;
use runtime::backoff::Backoff;
use runtime::telemetry::chain;
use sqlx::PgPool;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::acceptance::Acceptance;
use crate::config::PollingConfig;
use crate::store::StoreError;
use crate::store::poll::{self, Claim};

use client::ProviderClient;
pub use run::new_sessions;
use sessions::Sessions;

/// A connection that is due but locked by somebody is not looked for without a pause.
const SHORTEST_WAIT: Duration = Duration::from_millis(20);

/// What all runs of a replica share.
#[derive(Debug)]
struct Polling {
    pool: PgPool,
    acceptance: Acceptance,
    config: PollingConfig,
    client: ProviderClient,
    sessions: Sessions,
    owner: String,
    stop: CancellationToken,
}

/// Polls until the service is asked to stop.
pub async fn run(
    context: Context,
    pool: PgPool,
    acceptance: Acceptance,
    config: PollingConfig,
) -> anyhow::Result<()> {
    let stop = context.stopping().clone();
    let most = usize::from(config.concurrency);
    if most == 0 {
        stop.cancelled().await;
        return Ok(());
    }
    let polling = Arc::new(Polling {
        client: ProviderClient::new(&config)?,
        sessions: Sessions::default(),
        owner: context.instance().to_owned(),
        stop: stop.clone(),
        pool,
        acceptance,
        config,
    });
    let mut runs = JoinSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    while !stop.is_cancelled() {
        while let Some(ended) = runs.try_join_next() {
            well(ended)?;
        }
        // Before the database is asked, so that our end of a lease is never after its own.
        let until = Instant::now() + polling.config.lease;
        let wait = match polling.claim(most - runs.len()).await {
            Ok((claims, wait)) => {
                backoff.reset();
                for claim in claims {
                    runs.spawn(run::run(Arc::clone(&polling), claim, until));
                }
                wait
            }
            Err(error) if error.is_passing() => {
                tracing::warn!(error = %chain(&error), "due connections are looked for later");
                backoff.next_wait()
            }
            Err(error) => return Err(error.into()),
        };
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = runs.join_next() => well(ended)?,
            () = tokio::time::sleep(wait) => {}
        }
    }
    let finishing = async {
        while let Some(ended) = runs.join_next().await {
            well(ended)?;
        }
        Ok(())
    };
    // A run that is cut off has no effect but that its lease has to end.
    context
        .letting_go()
        .run_until_cancelled(finishing)
        .await
        .unwrap_or(Ok(()))
}

impl Polling {
    /// Claims up to `free` connections; says how soon to look again.
    async fn claim(&self, free: usize) -> Result<(Vec<Claim>, Duration), StoreError> {
        if free == 0 {
            // The end of a run makes room, and wakes.
            return Ok((Vec::new(), self.config.look_every));
        }
        let limit = i64::try_from(free).unwrap_or(i64::MAX);
        let mut pg = self.pool.acquire().await?;
        let claims = poll::claim(&mut pg, &self.owner, self.config.lease, limit).await?;
        let wait = match poll::next_due(&mut pg).await {
            Ok(Some(wait)) => wait.clamp(SHORTEST_WAIT, self.config.look_every.max(SHORTEST_WAIT)),
            Ok(None) => self.config.look_every,
            Err(error) => {
                // What is claimed already is not dropped for that: nobody else could ask for it.
                tracing::warn!(error = %chain(&error), "when the next connection is due is not known");
                self.config.look_every
            }
        };
        Ok((claims, wait))
    }
}

/// A run that panics is a fault of ours that nobody may overlook.
fn well(ended: Result<(), JoinError>) -> anyhow::Result<()> {
    ended.map_err(|error| anyhow::anyhow!("a run panicked: {error}"))
}
