//! Table `transition`: the history of vehicles' health.

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared_model::event::Fact;
use shared_model::{Provider, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::finding::{self, Finding};
use super::incident::IncidentChange;
use crate::VehicleKey;
use crate::health::freshness::Freshness;
use crate::health::judgement::Cause;
use crate::health::vehicle::Transition;

/// Adds what was found at `now` to the history, and to what the core is told. Comes last in a transaction.
pub(super) async fn record<'a>(
    pg: &mut PgConnection,
    transitions: impl Iterator<Item = &'a Transition>,
    incidents: &[IncidentChange],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let transitions: Vec<_> = transitions.collect();
    add(pg, &transitions, now).await?;
    let of_vehicles = transitions.iter().filter_map(|transition| {
        let fact = transition.fact()?;
        let workspace = transition.key.workspace.clone();
        Some(Finding::new(workspace, &Fact::VehicleHealthChanged(fact)))
    });
    let of_incidents = incidents.iter().map(|change| {
        let fact = Fact::ProviderIncidentChanged(change.fact.clone());
        Finding::new(change.workspace.clone(), &fact)
    });
    let findings: Vec<_> = of_incidents.chain(of_vehicles).collect();
    finding::append(pg, &findings, now).await
}

async fn add(
    pg: &mut PgConnection,
    transitions: &[&Transition],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if transitions.is_empty() {
        return Ok(());
    }
    let of = || transitions.iter();
    let workspaces: Vec<_> = of().map(|t| t.key.workspace.as_str()).collect();
    let vehicles: Vec<_> = of().map(|t| t.key.vehicle.as_str()).collect();
    let numbers: Vec<_> = of().map(|t| t.said.map(|said| said.0 as i64)).collect();
    let freshness: Vec<_> = of().map(|t| t.freshness.name()).collect();
    let previous: Vec<_> = of().map(|t| t.previous.map(Freshness::name)).collect();
    let causes: Vec<_> = of().map(|t| t.cause.map(Cause::name)).collect();
    let incidents: Vec<_> = of().map(|t| t.incident).collect();
    let providers: Vec<_> = of()
        .map(|t| t.provider.as_ref().map(Provider::as_str))
        .collect();
    let since: Vec<_> = of().map(|t| t.since).collect();
    let last: Vec<_> = of().map(|t| t.last_received_at).collect();
    sqlx::query!(
        "INSERT INTO health.transition
             (found_at, workspace, vehicle, number, freshness, previous, cause, incident, provider,
              since, last_received_at)
         SELECT $1, new.*
         FROM UNNEST(
             $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::uuid[],
             $9::text[], $10::timestamptz[], $11::timestamptz[]
         ) AS new",
        now,
        &workspaces as &[&str],
        &vehicles as &[&str],
        &numbers as &[Option<i64>],
        &freshness as &[&str],
        &previous as &[Option<&str>],
        &causes as &[Option<&str>],
        &incidents as &[Option<Uuid>],
        &providers as &[Option<&str>],
        &since,
        &last as &[Option<DateTime<Utc>>],
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// A change of a vehicle's health as answered.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = HealthChange)]
pub(in crate::health) struct Entry {
    #[serde(skip)]
    pub(in crate::health) id: i64,
    /// The vehicle.
    pub(in crate::health) vehicle: String,
    /// When it was found (UTC).
    pub(in crate::health) found_at: DateTime<Utc>,
    /// The freshness.
    pub(in crate::health) freshness: Freshness,
    /// The freshness before; none for a vehicle that was not known.
    pub(in crate::health) previous: Option<Freshness>,
    /// Why it is not fresh.
    pub(in crate::health) cause: Option<Cause>,
    /// The incident, where that is the cause.
    pub(in crate::health) incident: Option<Uuid>,
    /// The provider that the vehicle was last heard from through.
    pub(in crate::health) provider: Option<String>,
    /// Since when (UTC).
    pub(in crate::health) since: DateTime<Utc>,
    /// When it was last heard from (UTC).
    pub(in crate::health) last_received_at: Option<DateTime<Utc>>,
    /// The number of the event that says so; none where an incident's event stands for it.
    pub(in crate::health) number: Option<i64>,
}

/// Where an entry stands in the history.
pub(in crate::health) type Place = (DateTime<Utc>, i64);

/// Which part of the history, by when it was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::health) struct Period {
    /// From here on (UTC).
    pub(in crate::health) since: Option<DateTime<Utc>>,
    /// Up to before here (UTC).
    pub(in crate::health) until: Option<DateTime<Utc>>,
    /// Only what stands before this.
    pub(in crate::health) before: Option<Place>,
}

/// A workspace's history, the newest first.
pub(in crate::health) async fn of_workspace(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    period: Period,
    limit: i64,
) -> Result<Vec<Entry>, sqlx::Error> {
    let (before_at, before_entry) = period.before.unzip();
    sqlx::query_as!(
        Entry,
        r#"SELECT entry AS id, vehicle, found_at, freshness AS "freshness: Freshness",
             previous AS "previous: Freshness", cause AS "cause: Cause", incident, provider, since,
             last_received_at, number
         FROM health.transition
         WHERE workspace = $1
           AND found_at >= COALESCE($2::timestamptz, '-infinity') AND found_at < COALESCE($3::timestamptz, 'infinity')
           AND (found_at, entry) < (COALESCE($4::timestamptz, 'infinity'), COALESCE($5::bigint, 0))
         ORDER BY found_at DESC, entry DESC
         LIMIT $6"#,
        workspace.as_str(),
        period.since,
        period.until,
        before_at,
        before_entry,
        limit,
    )
    .fetch_all(pg)
    .await
}

/// A vehicle's history, the newest first.
pub(in crate::health) async fn of_vehicle(
    pg: &mut PgConnection,
    key: &VehicleKey,
    period: Period,
    limit: i64,
) -> Result<Vec<Entry>, sqlx::Error> {
    let (before_at, before_entry) = period.before.unzip();
    sqlx::query_as!(
        Entry,
        r#"SELECT entry AS id, vehicle, found_at, freshness AS "freshness: Freshness",
             previous AS "previous: Freshness", cause AS "cause: Cause", incident, provider, since,
             last_received_at, number
         FROM health.transition
         WHERE workspace = $1 AND vehicle = $2
           AND found_at >= COALESCE($3::timestamptz, '-infinity') AND found_at < COALESCE($4::timestamptz, 'infinity')
           AND (found_at, entry) < (COALESCE($5::timestamptz, 'infinity'), COALESCE($6::bigint, 0))
         ORDER BY found_at DESC, entry DESC
         LIMIT $7"#,
        key.workspace.as_str(),
        key.vehicle.as_str(),
        period.since,
        period.until,
        before_at,
        before_entry,
        limit,
    )
    .fetch_all(pg)
    .await
}
