//! What publishers say of their connections, and what is said when there is no publisher to say it.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::telemetry::chain;
use runtime::{Context, db};
use shared_model::event::Fact;
use shared_model::partition::partition;
use shared_model::{ConnectionId, EventType, StatusReport};
use sqlx::PgPool;

use super::Acceptance;
use crate::metrics;
use crate::store::StoreError;
use crate::store::event_log::{self, NewEvent};
use crate::store::status::{self, Changed};

/// How often to look for connections that nobody reads any more.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Acceptance {
    /// Keeps the latest of `reports` and tells others of what is news.
    pub async fn accept_statuses(&self, reports: &[StatusReport]) -> Result<(), StoreError> {
        let latest = &latest(reports);
        if latest.is_empty() {
            return Ok(());
        }
        let changed = db::in_tx(&self.pool, "accept_statuses", |mut tx| async move {
            let changed = status::apply(&mut tx, latest).await?;
            event_log::append(&mut tx, &events(&changed, self.shards), None).await?;
            Ok::<_, StoreError>((tx, changed.len()))
        })
        .await?;
        metrics::appended(EventType::ConnectionStatusChanged.name(), changed as u64);
        Ok(())
    }
}

/// The last report of each connection.
fn latest(reports: &[StatusReport]) -> Vec<StatusReport> {
    let mut latest = BTreeMap::<ConnectionId, &StatusReport>::new();
    for report in reports {
        let known = latest.entry(report.connection).or_insert(report);
        if (report.epoch, report.number) > (known.epoch, known.number) {
            *known = report;
        }
    }
    latest.into_values().cloned().collect()
}

/// The events that tell of `changed`, each in its connection's shard.
#[must_use]
pub fn events(changed: &[Changed], shards: u32) -> Vec<NewEvent> {
    let event = |changed: &Changed| NewEvent {
        shard: partition(&changed.workspace, changed.fact.connection, "", shards),
        workspace: changed.workspace.clone(),
        fact: Fact::ConnectionStatusChanged(changed.fact.clone()),
    };
    changed.iter().map(event).collect()
}

/// Says `disconnected` for connections whose owner was lost and that nobody was given since, until the
/// service is asked to stop.
///
/// After a start, and after the database was away, it first leaves publishers the time to say that they
/// are there: meanwhile none could renew its lease.
pub async fn watch(
    context: Context,
    pool: PgPool,
    shards: u32,
    grace: Duration,
) -> anyhow::Result<()> {
    let mut wait = 2 * grace;
    let stop = context.stopping();
    while stop
        .run_until_cancelled(tokio::time::sleep(wait))
        .await
        .is_some()
    {
        let looking = db::in_tx(&pool, "disown_streams", |mut tx| async move {
            let changed = status::disown(&mut tx, grace).await?;
            event_log::append(&mut tx, &events(&changed, shards), None).await?;
            Ok::<_, StoreError>((tx, changed.len()))
        });
        wait = match looking.await {
            Ok(changed) => {
                metrics::appended(EventType::ConnectionStatusChanged.name(), changed as u64);
                LOOK_EVERY
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "lost owners are looked for later");
                2 * grace
            }
        };
    }
    Ok(())
}
