//! Upkeep: the event log's partitions are made well before their days come and dropped once everybody
//! has read them, and old sessions become sums.
//!
//! Any number of cores may do so at once. What fails is put off to the next time.

pub mod plan;

use chrono::NaiveDate;
use runtime::telemetry::chain;
use runtime::{Context, clock, db};
use shared_model::SessionId;
use sqlx::PgPool;
use uuid::Uuid;

use crate::config::ConsumerConfig;
use crate::installation::{Installation, Moment};
use crate::metrics;
use crate::store::{StoreError, log_days, session};
use plan::{Holder, days_ahead, overdue, plan};

/// How many rows of sessions are looked at each time.
const SESSIONS_AT_ONCE: i64 = 5000;

/// Looks after the log until the service is asked to stop.
pub async fn run(context: &Context, pool: &PgPool, config: &ConsumerConfig) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(config.log.upkeep_every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let stop = context.stopping();
    let mut upkeep = Upkeep {
        pool,
        config,
        held: None,
        sessions: SessionId(Uuid::nil()),
    };
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if stop.run_until_cancelled(upkeep.once()).await.is_none() {
            break;
        }
    }
    Ok(())
}

struct Upkeep<'a> {
    pool: &'a PgPool,
    config: &'a ConsumerConfig,
    /// The day that was held last, and by whom: it is said once.
    held: Option<(NaiveDate, Vec<Holder>)>,
    /// The last session that was looked at.
    sessions: SessionId,
}

impl Upkeep<'_> {
    async fn once(&mut self) {
        let days = self.config.log.partition_days_ahead;
        let ingress = &self.config.ingress;
        let prepared = Installation::prepare(self.pool, ingress, days, Moment::Running).await;
        if let Err(error) = prepared {
            // There are days of time left to try again.
            tracing::warn!(
                error = %chain(&error),
                "the event log's next partitions could not be made"
            );
        }
        if let Err(error) = self.drop_old_days().await {
            tracing::warn!(error = %chain(&error), "old days of the event log stay for now");
        }
        if let Err(error) = self.archive_sessions().await {
            tracing::warn!(error = %chain(&error), "old sessions stay for now");
        }
    }

    async fn drop_old_days(&mut self) -> Result<(), StoreError> {
        let retention = self.config.log.retention;
        let plan = {
            let mut pg = self.pool.acquire().await?;
            let (now, days) = log_days::days(&mut pg).await?;
            let oldest = log_days::oldest(&mut pg).await?;
            let age = oldest.map(|oldest| now - oldest);
            metrics::log_days(days.len(), days_ahead(&days, now), age);
            let ends = log_days::ends(&mut pg, &overdue(&days, now, retention)).await?;
            plan(&ends, &log_days::readers(&mut pg).await?)
        };
        for (kind, events) in &plan.kept_back {
            metrics::log_kept_back(kind, *events);
        }
        if let Some((day, holders)) = &plan.held
            && self.held != plan.held
        {
            let holders: Vec<_> = holders.iter().map(ToString::to_string).collect();
            tracing::warn!(
                %day,
                held_by = holders.join(", "),
                "a day of the event log is kept beyond its retention, since it was not read to its end"
            );
        }
        self.held = plan.held;
        for day in plan.drop {
            if drop_day(self.pool, day).await? {
                metrics::log_dropped();
                tracing::info!(%day, "a day of the event log was dropped");
            }
        }
        Ok(())
    }

    async fn archive_sessions(&mut self) -> Result<(), StoreError> {
        let before = clock::now() - self.config.acceptance.session_retention;
        let after = self.sessions;
        let archived = db::in_tx(self.pool, "archive_sessions", |mut tx| async move {
            let archived = session::archive(&mut tx, after, before, SESSIONS_AT_ONCE).await?;
            Ok::<_, StoreError>((tx, archived))
        })
        .await?;
        metrics::archived(archived.rows);
        // Behind the last one it begins from the front.
        self.sessions = archived.last.unwrap_or(SessionId(Uuid::nil()));
        Ok(())
    }
}

/// Drops a day if everybody has still read it to its end now that nobody can write; whether it did.
pub async fn drop_day(pool: &PgPool, day: NaiveDate) -> Result<bool, StoreError> {
    db::in_tx(pool, "drop_log_day", |mut tx| async move {
        log_days::lock(&mut tx).await?;
        let ends = log_days::ends(&mut tx, &[day]).await?;
        let plan = plan(&ends, &log_days::readers(&mut tx).await?);
        let dropped = !plan.drop.is_empty() && log_days::drop_day(&mut tx, day).await?;
        Ok((tx, dropped))
    })
    .await
}
