//! How events are committed, whether they came from the queue, from the log or from the core's state.

use std::collections::BTreeSet;
use std::time::Duration;

use runtime::Context;
use runtime::backoff::Backoff;
use runtime::db::{self, Disposition};
use runtime::http::Check;
use runtime::telemetry;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::batch::{Folded, VehicleChange};
use crate::checkpoint;
use crate::metrics::{self, Outcome};
use crate::part::{Part, Refused};
use crate::projection::Projection;

/// Commits for one projection.
#[derive(Debug)]
pub(crate) struct Applier<'a, P> {
    pub(crate) context: &'a Context,
    pub(crate) projection: &'a P,
    /// Down while a table is missing, which then is waited for; without it, that is an error.
    pub(crate) tables: Option<&'a Check>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Applied {
    /// All of it is committed, or left out for good.
    Committed,
    /// It must come again: the service stops while the database is away, or `lost` came first.
    LetGo,
}

/// What became of a part of a batch.
enum Written<R> {
    /// Committed; these rows changed, and so many of connections.
    Rows(Vec<R>, u64),
    /// The database refuses the content.
    Refused(sqlx::Error),
    LetGo,
}

/// What the parts of a batch changed.
#[derive(Default)]
struct Total {
    vehicles: BTreeSet<(String, String)>,
    connections: u64,
}

impl<P: Projection> Applier<'_, P> {
    /// Commits what a batch of so many messages says, in one transaction if the database takes it all,
    /// however long the database is away, unless `lost` comes first.
    pub(crate) async fn apply(
        &self,
        folded: &Folded<P::Change>,
        messages: usize,
        lost: &CancellationToken,
    ) -> anyhow::Result<Applied> {
        for rejection in &folded.rejections {
            let reason = rejection.error.reason();
            tracing::error!(
                projection = P::NAME,
                message_id = rejection.message_id,
                reason,
                error = %telemetry::chain(&rejection.error),
                "a message cannot be applied and is left out"
            );
            metrics::rejected(P::NAME, reason);
        }
        let span = tracing::info_span!(
            "apply events",
            projection = P::NAME,
            messages,
            vehicles = folded.changes.len()
        );
        // A batch may belong to many traces; it continues the first.
        telemetry::continue_trace(&span, folded.traceparent.as_deref());
        Ok(match self.write_all(folded, lost).instrument(span).await? {
            Some(total) => {
                count::<P>(folded, &total);
                Applied::Committed
            }
            None => Applied::LetGo,
        })
    }

    /// Writes all of a batch; none if it must come again.
    async fn write_all(
        &self,
        folded: &Folded<P::Change>,
        lost: &CancellationToken,
    ) -> anyhow::Result<Option<Total>> {
        let mut total = Total::default();
        let mut parts = vec![Part {
            vehicles: &folded.changes,
            connections: &folded.connections,
            offsets: Some(&folded.offsets),
        }];
        while let Some(part) = parts.pop() {
            let error = match self.persist(part, lost).await? {
                Written::Rows(rows, connections) => {
                    total
                        .vehicles
                        .extend(rows.into_iter().map(|row| self.projection.committed(row)));
                    total.connections += connections;
                    continue;
                }
                Written::LetGo => return Ok(None),
                Written::Refused(error) => error,
            };
            match part.refused() {
                Refused::Halves(first, second) => parts.extend([second, first]),
                Refused::Vehicle(VehicleChange { key, .. }) => {
                    tracing::error!(
                        projection = P::NAME,
                        workspace = %key.workspace,
                        vehicle = %key.vehicle,
                        error = %telemetry::chain(&error),
                        "the database refuses what events say about a vehicle; it is left out"
                    );
                    metrics::rejected(P::NAME, "refused_by_database");
                }
                Refused::Connection(change) => {
                    tracing::error!(
                        projection = P::NAME,
                        workspace = %change.workspace,
                        connection = %change.fact.connection,
                        error = %telemetry::chain(&error),
                        "the database refuses what events say about a connection; it is left out"
                    );
                    metrics::rejected(P::NAME, "refused_by_database");
                }
                Refused::Neither => return Err(error.into()),
            }
        }
        Ok(Some(total))
    }

    /// Commits a part, and the events that it ends with.
    async fn write(&self, part: Part<'_, P::Change>) -> Result<(Vec<P::Row>, u64), sqlx::Error> {
        let projection = self.projection;
        db::in_tx(projection.pool(), P::TRANSACTION, |mut tx| async move {
            checkpoint::hold(&mut tx, projection.schema()).await?;
            // Connections first: that is the order in which others lock them.
            let connections = match part.connections {
                [] => 0,
                connections => projection.write_connections(&mut tx, connections).await?,
            };
            let rows = match part.vehicles {
                [] => Vec::new(),
                vehicles => projection.write(&mut tx, vehicles).await?,
            };
            if let Some(offsets) = part.offsets {
                checkpoint::record(&mut tx, projection.schema(), offsets).await?;
            }
            Ok::<_, sqlx::Error>((tx, (rows, connections)))
        })
        .await
    }

    async fn persist(
        &self,
        part: Part<'_, P::Change>,
        lost: &CancellationToken,
    ) -> anyhow::Result<Written<P::Row>> {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let letting_go = self.context.letting_go();
        loop {
            let error = match letting_go.run_until_cancelled(self.write(part)).await {
                None => return Ok(Written::LetGo),
                Some(Ok((rows, connections))) => return Ok(Written::Rows(rows, connections)),
                Some(Err(error)) => error,
            };
            match (self.tables, db::disposition(&error)) {
                (Some(tables), _) if is_missing_table(&error) => {
                    missing(self.context.service(), tables, &telemetry::chain(&error));
                }
                (_, Disposition::Retry) => tracing::warn!(
                    projection = P::NAME,
                    error = %telemetry::chain(&error),
                    "the database is away; the batch waits"
                ),
                (_, Disposition::Poison) => return Ok(Written::Refused(error)),
                (_, Disposition::Fatal) => return Err(error.into()),
            }
            let waited = lost
                .run_until_cancelled(backoff.wait(self.context.stopping()))
                .await;
            if !matches!(waited, Some(Ok(()))) {
                return Ok(Written::LetGo);
            }
        }
    }
}

/// Whether a table, or its schema, is not there.
pub(crate) fn is_missing_table(error: &sqlx::Error) -> bool {
    db::has_state(error, &["42P01", "3F000"])
}

/// What to do about `error`: as for any database, but for a table that is to be filled anew first.
pub(crate) fn disposition(error: &sqlx::Error) -> Disposition {
    if is_missing_table(error) {
        Disposition::Retry
    } else {
        db::disposition(error)
    }
}

/// Whether the same may work later: the database is away, or a table is missing, which the worker says.
pub(crate) fn is_passing(error: &sqlx::Error) -> bool {
    disposition(error) == Disposition::Retry
}

/// Says that tables are missing, and what to do about it.
pub(crate) fn missing(service: &str, tables: &Check, what: &dyn std::fmt::Display) {
    tables.down(what);
    tracing::error!(
        error = %what,
        "a table is missing and events wait; run `{service} migrate` if the whole schema is gone, then \
         the command that fills the tables (`{service} --help` lists it)"
    );
}

/// Counts the events of a committed batch, by whether they changed anything.
fn count<P: Projection>(folded: &Folded<P::Change>, total: &Total) {
    let mut applied = BTreeSet::<usize>::new();
    for VehicleChange { key, events, .. } in &folded.changes {
        let key = (key.workspace.to_string(), key.vehicle.to_string());
        if total.vehicles.contains(&key) {
            applied.extend(events);
        }
    }
    let (applied, told) = (applied.len() as u64, total.connections);
    let unchanged = folded.vehicle_events as u64 - applied;
    let untold = folded.connection_events.saturating_sub(told);
    metrics::batch(P::NAME);
    metrics::events(P::NAME, Outcome::Applied, applied + told);
    metrics::events(P::NAME, Outcome::Unchanged, unchanged + untold);
    metrics::events(P::NAME, Outcome::Ignored, folded.ignored);
}
