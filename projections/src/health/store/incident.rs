//! Table `incident`: outages of providers, as connections see them.

use chrono::{DateTime, Utc};
use runtime::clock;
use serde::Serialize;
use shared_model::event::ProviderIncidentChanged;
use shared_model::{ConnectionId, Provider, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{broken, transition, unsigned};
use crate::health::incident::{Condition, Patience, Step, step};

/// An incident that was opened or closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::health) struct IncidentChange {
    /// Whose connection it is.
    pub(in crate::health) workspace: WorkspaceId,
    /// The incident now.
    pub(in crate::health) fact: ProviderIncidentChanged,
}

/// Opens and closes incidents at `now`, when everything that was said until `proven_until` is known;
/// `patience` is that with a provider. Costs what is in trouble, not what there is.
pub(in crate::health) async fn sweep(
    pg: &mut PgConnection,
    patience: impl Fn(&Provider) -> Patience,
    proven_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<Vec<IncidentChange>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT workspace, connection, provider, out_since, out_reason, well_since, removed, incident
         FROM health.connection
         WHERE out_since IS NOT NULL OR incident IS NOT NULL
         ORDER BY workspace, connection
         FOR UPDATE",
    )
    .fetch_all(&mut *pg)
    .await?;
    let mut changes = Vec::new();
    for row in rows {
        let provider = Provider::try_from(row.provider).map_err(broken("provider"))?;
        let condition = Condition {
            out: row.out_since.zip(row.out_reason),
            well_since: row.well_since,
            is_removed: row.removed,
            has_incident: row.incident.is_some(),
        };
        let connection = Connection {
            workspace: WorkspaceId::new(row.workspace).map_err(broken("workspace"))?,
            id: ConnectionId(row.connection),
            provider,
        };
        let patience = patience(&connection.provider);
        match (step(&condition, patience, proven_until, now), row.incident) {
            (Some(Step::Open { began, reason }), None) => {
                changes.push(open(pg, connection, began, reason).await?);
            }
            (Some(Step::Close { ended }), Some(incident)) => {
                changes.push(close(pg, connection, incident, ended, now).await?);
            }
            _ => {}
        }
    }
    transition::record(pg, [].iter(), &changes, now).await?;
    Ok(changes)
}

struct Connection {
    workspace: WorkspaceId,
    id: ConnectionId,
    provider: Provider,
}

async fn open(
    pg: &mut PgConnection,
    Connection {
        workspace,
        id,
        provider,
    }: Connection,
    began: DateTime<Utc>,
    reason: String,
) -> Result<IncidentChange, sqlx::Error> {
    let incident = clock::new_id();
    let vehicles = sqlx::query_scalar!(
        r#"WITH opened AS (
             INSERT INTO health.incident
                 (incident, workspace, connection, provider, reason, opened_at, vehicles)
             SELECT $1::uuid, $2::text, $3::uuid, $4::text, $5::text, $6::timestamptz, count(*)
             FROM health.vehicle AS v
             LEFT JOIN health.connection AS own
                 ON own.workspace = v.workspace AND own.connection = v.connection
                AND own.provider = v.provider AND NOT own.removed
             WHERE v.workspace = $2 AND v.provider = $4
               AND (own.connection = $3 OR own.connection IS NULL)
             RETURNING vehicles
         ), noted AS (
             UPDATE health.connection SET incident = $1 WHERE workspace = $2 AND connection = $3
         )
         SELECT vehicles AS "vehicles!" FROM opened"#,
        incident,
        workspace.as_str(),
        id.0,
        provider.as_str(),
        reason,
        began,
    )
    .fetch_one(pg)
    .await?;
    Ok(IncidentChange {
        workspace,
        fact: ProviderIncidentChanged {
            incident,
            number: 1,
            connection: id,
            provider,
            state: "open".to_owned(),
            reason: Some(reason),
            opened_at: began,
            closed_at: None,
            vehicles: unsigned(vehicles),
        },
    })
}

async fn close(
    pg: &mut PgConnection,
    Connection {
        workspace,
        id,
        provider,
    }: Connection,
    incident: Uuid,
    ended: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<IncidentChange, sqlx::Error> {
    let row = sqlx::query!(
        r#"WITH noted AS (
             UPDATE health.connection SET incident = NULL WHERE workspace = $2 AND connection = $3
         )
         -- Whose clocks differ may see an end before the beginning.
         UPDATE health.incident SET closed_at = GREATEST(opened_at, $4)
         WHERE incident = $1
         RETURNING reason, opened_at, closed_at, vehicles"#,
        incident,
        workspace.as_str(),
        id.0,
        ended,
    )
    .fetch_one(&mut *pg)
    .await?;
    // Its vehicles have to be judged by something else from now on.
    sqlx::query!(
        "WITH behind AS (
             SELECT workspace, vehicle FROM health.vehicle
             WHERE incident = $1
             ORDER BY workspace, vehicle
             FOR UPDATE
         )
         UPDATE health.vehicle AS stored SET deadline = $2
         FROM behind
         WHERE stored.workspace = behind.workspace AND stored.vehicle = behind.vehicle",
        incident,
        now,
    )
    .execute(pg)
    .await?;
    Ok(IncidentChange {
        workspace,
        fact: ProviderIncidentChanged {
            incident,
            number: 2,
            connection: id,
            provider,
            state: "closed".to_owned(),
            reason: Some(row.reason),
            opened_at: row.opened_at,
            closed_at: row.closed_at,
            vehicles: unsigned(row.vehicles),
        },
    })
}

/// An incident as answered.
#[derive(Debug, Clone, PartialEq, Serialize, utoipa::ToSchema)]
pub(in crate::health) struct Incident {
    /// Its id; ids sort by when incidents were found.
    #[serde(rename = "incident")]
    pub(in crate::health) id: Uuid,
    /// `open` or `closed`.
    pub(in crate::health) state: String,
    /// The connection.
    pub(in crate::health) connection: Uuid,
    /// Its provider.
    pub(in crate::health) provider: String,
    /// Why, as a word.
    pub(in crate::health) reason: String,
    /// When it began (UTC).
    pub(in crate::health) opened_at: DateTime<Utc>,
    /// When it ended (UTC).
    pub(in crate::health) closed_at: Option<DateTime<Utc>>,
    /// How many vehicles are heard from through the connection.
    pub(in crate::health) vehicles: i64,
}

/// Which of two states an incident is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = IncidentState)]
pub(in crate::health) enum State {
    /// It goes on.
    Open,
    /// It is over.
    Closed,
}

/// A workspace's incidents, the newest first, those before `after`.
pub(in crate::health) async fn list(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    state: Option<State>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Incident>, sqlx::Error> {
    sqlx::query_as!(
        Incident,
        r#"SELECT incident AS id, CASE WHEN closed_at IS NULL THEN 'open' ELSE 'closed' END AS "state!",
             connection, provider, reason, opened_at, closed_at, vehicles
         FROM health.incident
         WHERE workspace = $1 AND ($2::uuid IS NULL OR incident < $2)
           AND ($3::boolean IS NULL OR (closed_at IS NULL) = $3)
         ORDER BY incident DESC
         LIMIT $4"#,
        workspace.as_str(),
        after,
        state.map(|state| state == State::Open),
        limit,
    )
    .fetch_all(pg)
    .await
}

/// One incident of a workspace.
pub(in crate::health) async fn find(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    incident: Uuid,
) -> Result<Option<Incident>, sqlx::Error> {
    sqlx::query_as!(
        Incident,
        r#"SELECT incident AS id, CASE WHEN closed_at IS NULL THEN 'open' ELSE 'closed' END AS "state!",
             connection, provider, reason, opened_at, closed_at, vehicles
         FROM health.incident
         WHERE workspace = $1 AND incident = $2"#,
        workspace.as_str(),
        incident,
    )
    .fetch_optional(pg)
    .await
}

/// How many incidents are open.
pub(in crate::health) async fn count_open(pg: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM health.incident WHERE closed_at IS NULL"#
    )
    .fetch_one(pg)
    .await
}

/// How many incidents of a workspace are open.
pub(in crate::health) async fn count_open_of(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "open!" FROM health.incident
         WHERE workspace = $1 AND closed_at IS NULL"#,
        workspace.as_str(),
    )
    .fetch_one(pg)
    .await
}
