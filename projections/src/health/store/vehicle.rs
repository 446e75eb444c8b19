//! Table `vehicle`: what is known of every vehicle's health.
//!
//! A sweep reads two partial indexes from their starts, `vehicle_deadline` to now and `vehicle_late` to
//! where the pipeline is, so it costs what has run out and not what there is.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared_model::{ConnectionId, Provider, VehicleId, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{broken, situation, transition, unsigned};
use crate::health::fold::Heard;
use crate::health::freshness::{Freshness, Judgement, Run};
use crate::health::judgement::Cause;
use crate::health::limits::LimitsByProvider;
use crate::health::situation::Situation;
use crate::health::vehicle::{News, Transition, Vehicle};
use crate::{VehicleChange, VehicleKey};

/// What vehicles are judged by.
#[derive(Debug, Clone, Copy)]
pub(in crate::health) struct Standards<'a> {
    /// How long a silence may last.
    pub(in crate::health) limits: &'a LimitsByProvider,
    /// Until when everything that was said has been applied (UTC).
    pub(in crate::health) proven_until: DateTime<Utc>,
    /// The time (UTC).
    pub(in crate::health) now: DateTime<Utc>,
}

/// A row that was written.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::health) struct Written {
    /// The vehicle.
    pub(in crate::health) key: VehicleKey,
    /// How its health changed, if it did.
    pub(in crate::health) transition: Option<Transition>,
}

struct Row {
    workspace: String,
    vehicle: String,
    connection: Option<Uuid>,
    provider: Option<String>,
    heard_since: Option<DateTime<Utc>>,
    last_received_at: Option<DateTime<Utc>>,
    freshness: Freshness,
    since: DateTime<Utc>,
    deadline: Option<DateTime<Utc>>,
    cause: Option<Cause>,
    incident: Option<Uuid>,
    said_freshness: Option<Freshness>,
    said_cause: Option<Cause>,
    said: i64,
}

impl TryFrom<Row> for Vehicle {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let provider = row.provider.map(Provider::try_from).transpose();
        let heard = row.heard_since.zip(row.last_received_at);
        Ok(Self {
            key: VehicleKey {
                workspace: WorkspaceId::new(row.workspace).map_err(broken("workspace"))?,
                vehicle: VehicleId::new(row.vehicle).map_err(broken("vehicle"))?,
            },
            connection: row.connection.map(ConnectionId),
            provider: provider.map_err(broken("provider"))?,
            heard: heard.map(|(since, last)| Run { since, last }),
            judgement: Judgement {
                freshness: row.freshness,
                since: row.since,
                deadline: row.deadline,
            },
            cause: row.cause,
            incident: row.incident,
            said: row.said_freshness.map(|said| (said, row.said_cause)),
            number: unsigned(row.said),
            is_new: false,
        })
    }
}

/// Merges `changes`, at most one per vehicle and in the order of their keys, into the table. A row that
/// was heard from as late as its change says, or later, is not written.
///
/// A vehicle whose newest receipt is too old to make it fresh is left to the next sweep: with a backlog of
/// events, the next of them may do so.
pub(in crate::health) async fn upsert(
    pg: &mut PgConnection,
    changes: &[VehicleChange<Heard>],
    standards: Standards<'_>,
) -> Result<Vec<Written>, sqlx::Error> {
    if changes.is_empty() {
        return Ok(Vec::new());
    }
    let Standards { limits, now, .. } = standards;
    let all_fresh = changes
        .iter()
        .all(|change| is_fresh(&change.change, standards));
    let mut around = if all_fresh {
        Situation::calm(standards.proven_until)
    } else {
        situation::load(pg, standards.proven_until).await?
    };
    let mut known = lock(pg, changes.iter().map(|change| &change.key)).await?;
    let unknown: Vec<_> = changes
        .iter()
        .filter(|change| !known.contains_key(&change.key))
        .collect();
    if !unknown.is_empty() {
        let added = add(pg, &unknown, now).await?;
        for (key, mut vehicle) in lock(pg, unknown.iter().map(|change| &change.key)).await? {
            vehicle.is_new = added.contains(&key);
            known.insert(key, vehicle);
        }
    }
    if !all_fresh {
        situation::load_past(pg, &mut around, known.values()).await?;
    }
    let mut written = Vec::new();
    let mut vehicles = Vec::new();
    for change in changes {
        let Some(before) = known.remove(&change.key) else {
            // Nobody removes vehicles.
            return Err(sqlx::Error::RowNotFound);
        };
        let mut vehicle = before.clone();
        let news = vehicle.take(&change.change, limits);
        let mut transition = None;
        if news == News::Receipts || before.is_new {
            let mut judged = vehicle.clone();
            let found = judged.judge(&before, limits, &around, now);
            let at_once = before.is_new || before.heard.is_none();
            if at_once || !judged.judgement.freshness.has_cause() {
                (vehicle, transition) = (judged, found);
            } else {
                vehicle.judgement.deadline = Some(now);
            }
        }
        if news != News::None || before.is_new {
            written.push(Written {
                key: change.key.clone(),
                transition,
            });
            vehicles.push(vehicle);
        }
    }
    update(pg, &vehicles).await?;
    let transitions = written.iter().filter_map(|row| row.transition.as_ref());
    transition::record(pg, transitions, &[], now).await?;
    Ok(written)
}

/// Whether a vehicle of which this is said is fresh, or was never heard from, whatever is known of it.
fn is_fresh(said: &Heard, standards: Standards<'_>) -> bool {
    said.receipts
        .last_key_value()
        .is_none_or(|(&newest, provider)| {
            // A receipt of no known provider may be judged by the limits of any.
            let limits = standards.limits;
            let limits = match provider {
                Some(_) => limits.of(provider.as_ref()),
                None => limits.shortest(),
            };
            newest > standards.now - limits.stale_after
        })
}

/// Adds the vehicles of `changes`, where nobody else has meanwhile; returns which it added.
async fn add(
    pg: &mut PgConnection,
    changes: &[&VehicleChange<Heard>],
    now: DateTime<Utc>,
) -> Result<Vec<VehicleKey>, sqlx::Error> {
    let workspaces: Vec<_> = changes.iter().map(|of| of.key.workspace.as_str()).collect();
    let vehicles: Vec<_> = changes.iter().map(|of| of.key.vehicle.as_str()).collect();
    let registrations = changes.iter().map(|of| of.change.registration.as_ref());
    let since: Vec<_> = registrations
        .map(|registration| registration.map_or(now, |registration| registration.at))
        .collect();
    let rows = sqlx::query!(
        r#"
        INSERT INTO health.vehicle (workspace, vehicle, freshness, since)
        SELECT new.workspace, new.vehicle, 'never_seen', new.since
        FROM UNNEST($1::text[], $2::text[], $3::timestamptz[]) AS new (workspace, vehicle, since)
        ORDER BY new.workspace COLLATE "C", new.vehicle COLLATE "C"
        ON CONFLICT (workspace, vehicle) DO NOTHING
        RETURNING workspace, vehicle
        "#,
        &workspaces as &[&str],
        &vehicles as &[&str],
        &since,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(VehicleKey {
                workspace: WorkspaceId::new(row.workspace).map_err(broken("workspace"))?,
                vehicle: VehicleId::new(row.vehicle).map_err(broken("vehicle"))?,
            })
        })
        .collect()
}

/// Locks the vehicles called `keys`, as far as they are known.
pub(super) async fn lock(
    pg: &mut PgConnection,
    keys: impl Iterator<Item = &VehicleKey>,
) -> Result<BTreeMap<VehicleKey, Vehicle>, sqlx::Error> {
    let (workspaces, vehicles): (Vec<_>, Vec<_>) = keys
        .map(|key| (key.workspace.as_str(), key.vehicle.as_str()))
        .unzip();
    let rows = sqlx::query_as!(
        Row,
        r#"
        SELECT workspace, vehicle, connection, provider, heard_since, last_received_at,
            freshness AS "freshness: Freshness", since, deadline, cause AS "cause: Cause", incident,
            said_freshness AS "said_freshness: Freshness", said_cause AS "said_cause: Cause", said
        FROM health.vehicle
        JOIN UNNEST($1::text[], $2::text[]) AS wanted (workspace, vehicle)
            USING (workspace, vehicle)
        ORDER BY workspace, vehicle
        FOR UPDATE OF vehicle
        "#,
        &workspaces as &[&str],
        &vehicles as &[&str],
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter()
        .map(|row| Vehicle::try_from(row).map(|vehicle| (vehicle.key.clone(), vehicle)))
        .collect()
}

/// Judges again, of the vehicles whose judgement may not hold any more, at most `limit`; returns how
/// many those were and what changed.
pub(in crate::health) async fn sweep(
    pg: &mut PgConnection,
    standards: Standards<'_>,
    limit: i64,
) -> Result<(usize, Vec<Transition>), sqlx::Error> {
    let Standards {
        limits,
        proven_until,
        now,
    } = standards;
    let mut around = situation::load(pg, proven_until).await?;
    let rows = sqlx::query_as!(
        Row,
        r#"
        WITH due AS (
            (
                SELECT workspace, vehicle FROM health.vehicle
                WHERE deadline <= $1 ORDER BY deadline LIMIT $3
            )
            UNION
            (
                SELECT workspace, vehicle FROM health.vehicle
                WHERE cause = 'pipeline_late' AND since <= $2 ORDER BY since LIMIT $3
            )
        )
        SELECT workspace, vehicle, connection, provider, heard_since, last_received_at,
            freshness AS "freshness: Freshness", since, deadline, cause AS "cause: Cause", incident,
            said_freshness AS "said_freshness: Freshness", said_cause AS "said_cause: Cause", said
        FROM health.vehicle
        JOIN due USING (workspace, vehicle)
        -- A vehicle that is heard from meanwhile has a new deadline and drops out.
        WHERE deadline <= $1 OR (cause = 'pipeline_late' AND since <= $2)
        ORDER BY workspace, vehicle
        FOR UPDATE OF vehicle
        "#,
        now,
        proven_until,
        limit,
    )
    .fetch_all(&mut *pg)
    .await?;
    let known = rows.into_iter().map(Vehicle::try_from);
    let known: Vec<_> = known.collect::<Result<_, _>>()?;
    situation::load_past(pg, &mut around, known.iter()).await?;
    let mut vehicles = known.clone();
    let judged = vehicles.iter_mut().zip(&known);
    let transitions: Vec<_> = judged
        .filter_map(|(vehicle, before)| vehicle.judge(before, limits, &around, now))
        .collect();
    update(pg, &vehicles).await?;
    transition::record(pg, transitions.iter(), &[], now).await?;
    Ok((vehicles.len(), transitions))
}

/// Writes vehicles that this transaction has locked.
async fn update(pg: &mut PgConnection, vehicles: &[Vehicle]) -> Result<(), sqlx::Error> {
    if vehicles.is_empty() {
        return Ok(());
    }
    let workspaces: Vec<_> = vehicles.iter().map(|v| v.key.workspace.as_str()).collect();
    let names: Vec<_> = vehicles.iter().map(|v| v.key.vehicle.as_str()).collect();
    let connections: Vec<_> = vehicles.iter().map(|v| v.connection.map(|c| c.0)).collect();
    let providers: Vec<_> = vehicles
        .iter()
        .map(|v| v.provider.as_ref().map(Provider::as_str))
        .collect();
    let heard_since: Vec<_> = vehicles
        .iter()
        .map(|v| v.heard.map(|run| run.since))
        .collect();
    let last: Vec<_> = vehicles
        .iter()
        .map(|v| v.heard.map(|run| run.last))
        .collect();
    let freshness: Vec<_> = vehicles
        .iter()
        .map(|v| v.judgement.freshness.name())
        .collect();
    let since: Vec<_> = vehicles.iter().map(|v| v.judgement.since).collect();
    let deadlines: Vec<_> = vehicles.iter().map(|v| v.judgement.deadline).collect();
    let causes: Vec<_> = vehicles.iter().map(|v| v.cause.map(Cause::name)).collect();
    let incidents: Vec<_> = vehicles.iter().map(|v| v.incident).collect();
    let said_freshness: Vec<_> = vehicles
        .iter()
        .map(|v| v.said.map(|of| of.0.name()))
        .collect();
    let said_causes: Vec<_> = vehicles
        .iter()
        .map(|v| v.said.and_then(|of| of.1).map(Cause::name))
        .collect();
    let said: Vec<_> = vehicles.iter().map(|v| v.number as i64).collect();
    let done = sqlx::query!(
        "
        UPDATE health.vehicle AS stored
        SET connection = new.connection, provider = new.provider, heard_since = new.heard_since,
            last_received_at = new.last_received_at, freshness = new.freshness, since = new.since,
            deadline = new.deadline, cause = new.cause, incident = new.incident,
            said_freshness = new.said_freshness, said_cause = new.said_cause, said = new.said
        FROM UNNEST(
            $1::text[], $2::text[], $3::uuid[], $4::text[], $5::timestamptz[], $6::timestamptz[],
            $7::text[], $8::timestamptz[], $9::timestamptz[], $10::text[], $11::uuid[], $12::text[],
            $13::text[], $14::bigint[]
        ) AS new
            (workspace, vehicle, connection, provider, heard_since, last_received_at, freshness,
             since, deadline, cause, incident, said_freshness, said_cause, said)
        WHERE stored.workspace = new.workspace AND stored.vehicle = new.vehicle
        ",
        &workspaces as &[&str],
        &names as &[&str],
        &connections as &[Option<Uuid>],
        &providers as &[Option<&str>],
        &heard_since as &[Option<DateTime<Utc>>],
        &last as &[Option<DateTime<Utc>>],
        &freshness as &[&str],
        &since,
        &deadlines as &[Option<DateTime<Utc>>],
        &causes as &[Option<&str>],
        &incidents as &[Option<Uuid>],
        &said_freshness as &[Option<&str>],
        &said_causes as &[Option<&str>],
        &said,
    )
    .execute(pg)
    .await?;
    if done.rows_affected() == vehicles.len() as u64 {
        Ok(())
    } else {
        Err(sqlx::Error::RowNotFound)
    }
}

/// Has the next sweeps judge everything again if it was judged by other limits. Returns how many
/// vehicles.
pub(in crate::health) async fn expire_other_limits(
    pg: &mut PgConnection,
    limits: &LimitsByProvider,
    now: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let limits: Value = limits.fingerprint();
    let known = sqlx::query_scalar!("SELECT limits FROM health.judged_by FOR UPDATE")
        .fetch_optional(&mut *pg)
        .await?;
    if known.as_ref() == Some(&limits) {
        return Ok(0);
    }
    sqlx::query!(
        "INSERT INTO health.judged_by (limits) VALUES ($1)
         ON CONFLICT (one) DO UPDATE SET limits = excluded.limits",
        limits,
    )
    .execute(&mut *pg)
    .await?;
    let done = sqlx::query!(
        "
        WITH judged AS (
            SELECT workspace, vehicle FROM health.vehicle
            WHERE last_received_at IS NOT NULL
            ORDER BY workspace, vehicle
            FOR UPDATE
        )
        UPDATE health.vehicle AS stored
        SET deadline = $1
        FROM judged
        WHERE stored.workspace = judged.workspace AND stored.vehicle = judged.vehicle
        ",
        now,
    )
    .execute(pg)
    .await?;
    Ok(done.rows_affected())
}
