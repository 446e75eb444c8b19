//! Calls webhooks: takes deliveries that are due, calls, and writes what came of it.
//!
//! * A delivery is taken under a lease. A sender that dies between the call and the record leaves a
//!   lease behind that runs out, and the call is made again, with the same `webhook-id`.
//! * There are at most `webhooks.concurrency` calls at the same time, of them `webhooks.endpoint_concurrency`
//!   to one endpoint, and one to an endpoint whose last call failed: one that hangs holds up nobody else.
//! * While the database is away nothing is taken, and what came of calls waits for it, as long as the
//!   process lives.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use runtime::backoff::Backoff;
use runtime::{Context, clock, db, telemetry};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::call::Caller;
use super::config::WebhooksConfig;
use super::schedule::{self, Next};
use super::store::delivery::Status;
use super::store::sending::{self, Claimed, Record, Recorded, Room};
use crate::applier::is_passing;
use crate::metrics;

/// What calls need.
pub(super) struct Sender {
    pub(super) context: Context,
    pub(super) pool: PgPool,
    pub(super) caller: Caller,
    pub(super) config: Arc<WebhooksConfig>,
    /// Something may be due.
    pub(super) wake: Arc<Notify>,
}

impl Sender {
    /// Sends until the service stops; calls that are under way then are finished.
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let sender = Arc::new(self);
        let stop = sender.context.stopping();
        let mut calls = Calls::default();
        let mut looks = tokio::time::interval(sender.config.look_every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !stop.is_cancelled() {
            calls.reap()?;
            match sender.take(&calls).await {
                Ok(taken) => {
                    for claimed in taken {
                        calls.begin(&sender, claimed);
                    }
                }
                Err(error) if is_passing(&error) => tracing::warn!(
                    error = %telemetry::chain(&error),
                    "the database is away; webhooks wait"
                ),
                Err(error) => return Err(error.into()),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                _ = looks.tick() => {}
                () = sender.wake.notified() => {}
                ended = calls.next() => ended?,
            }
        }
        while !calls.tasks.is_empty() {
            calls.next().await?;
        }
        Ok(())
    }

    async fn take(&self, calls: &Calls) -> Result<Vec<Claimed>, sqlx::Error> {
        let free = self.config.concurrency.saturating_sub(calls.tasks.len());
        if free == 0 {
            return Ok(Vec::new());
        }
        let room = Room {
            busy: calls
                .busy
                .iter()
                .map(|(endpoint, calls)| (*endpoint, *calls))
                .collect(),
            per_endpoint: self.config.endpoint_concurrency,
            free,
            lease: self.config.lease,
        };
        let (room, claim) = (&room, clock::new_id());
        db::in_tx(
            &self.pool,
            "claim_deliveries",
            |mut transaction| async move {
                let claimed = sending::claim(&mut transaction, room, claim).await?;
                Ok::<_, sqlx::Error>((transaction, claimed))
            },
        )
        .await
    }

    async fn deliver(&self, claimed: Claimed) -> anyhow::Result<()> {
        let (started_at, started) = (clock::now(), Instant::now());
        let calling = self.caller.call(&claimed, started_at);
        let Some(called) = self.context.letting_go().run_until_cancelled(calling).await else {
            return Ok(());
        };
        let duration = started.elapsed();
        metrics::webhook_attempt(called.outcome.name(), duration.as_secs_f64());
        let jitter = rand::random::<f64>();
        let schedule = self.config.schedule();
        let record = Record {
            started_at,
            duration,
            outcome: called.outcome.name(),
            status: match called.outcome {
                schedule::Outcome::Answered { status, .. } => Some(status),
                _ => None,
            },
            error: called.error,
            response: called.response,
            next: schedule::next(&called.outcome, claimed.retries, &schedule, jitter),
        };
        self.record(&claimed, &record).await
    }

    /// Writes what came of a call, however long the database is away.
    async fn record(&self, claimed: &Claimed, record: &Record) -> anyhow::Result<()> {
        let disable_after = self.config.disable_after;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let hard = self.context.letting_go();
        loop {
            let writing = db::in_tx(&self.pool, "record_attempt", |mut transaction| async move {
                let recorded =
                    sending::record(&mut transaction, claimed, record, disable_after).await?;
                Ok::<_, sqlx::Error>((transaction, recorded))
            });
            let error = match hard.run_until_cancelled(writing).await {
                // The lease runs out, and the call is made again.
                None => return Ok(()),
                Some(Ok(recorded)) => {
                    tell(claimed, record, recorded);
                    return Ok(());
                }
                Some(Err(error)) => error,
            };
            if !is_passing(&error) {
                return Err(error.into());
            }
            tracing::warn!(
                error = %telemetry::chain(&error),
                "the database is away; what came of a webhook's call waits"
            );
            if backoff.wait(hard).await.is_err() {
                return Ok(());
            }
        }
    }
}

/// Says and counts what a call led to.
fn tell(claimed: &Claimed, record: &Record, recorded: Recorded) {
    let (workspace, endpoint) = (&claimed.workspace, claimed.endpoint);
    let (status, disabled) = match recorded {
        Recorded::Kept(status, disabled) => (status, disabled),
        Recorded::TakenOver => {
            tracing::warn!(workspace, %endpoint, delivery = %claimed.id,
                "a call took longer than its lease, and somebody else makes it again");
            return;
        }
    };
    match (status, record.next) {
        (Status::Succeeded, _) => metrics::webhook_deliveries(status.name(), 1),
        (Status::Pending, Next::Retry(wait)) => tracing::info!(
            workspace, %endpoint, delivery = %claimed.id, outcome = record.outcome,
            status = record.status, error = record.error, again_in = ?wait, "a webhook's call failed"
        ),
        _ => {
            metrics::webhook_deliveries(status.name(), 1);
            tracing::warn!(
                workspace, %endpoint, delivery = %claimed.id, outcome = record.outcome,
                status = record.status, error = record.error, "a webhook's delivery was given up"
            );
        }
    }
    if let Some(reason) = disabled {
        let reason = reason.name();
        tracing::warn!(workspace, %endpoint, reason, "a webhook was disabled");
    }
}

/// Calls under way.
#[derive(Default)]
struct Calls {
    tasks: JoinSet<(Uuid, anyhow::Result<()>)>,
    /// How many there are by endpoint.
    busy: HashMap<Uuid, usize>,
}

impl Calls {
    fn begin(&mut self, sender: &Arc<Sender>, claimed: Claimed) {
        let (sender, endpoint) = (Arc::clone(sender), claimed.endpoint);
        *self.busy.entry(endpoint).or_default() += 1;
        self.tasks
            .spawn(async move { (endpoint, sender.deliver(claimed).await) });
    }

    /// Takes note of all that have ended.
    fn reap(&mut self) -> anyhow::Result<()> {
        while let Some(ended) = self.tasks.try_join_next() {
            self.note(ended)?;
        }
        Ok(())
    }

    /// Waits for one to end; without end if there is none.
    async fn next(&mut self) -> anyhow::Result<()> {
        match self.tasks.join_next().await {
            Some(ended) => self.note(ended),
            None => std::future::pending().await,
        }
    }

    fn note(
        &mut self,
        ended: Result<(Uuid, anyhow::Result<()>), tokio::task::JoinError>,
    ) -> anyhow::Result<()> {
        let (endpoint, result) = ended?;
        if let Some(count) = self.busy.get_mut(&endpoint) {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(&endpoint);
            }
        }
        result
    }
}
