//! What the read API answers about vehicles.

use chrono::{DateTime, Utc};
use shared_model::{Provider, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::VehicleKey;
use crate::health::freshness::Freshness;
use crate::health::judgement::Cause;

/// A vehicle's health as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::health) struct Health {
    pub(in crate::health) vehicle: String,
    pub(in crate::health) last_received_at: Option<DateTime<Utc>>,
    pub(in crate::health) freshness: Freshness,
    pub(in crate::health) since: DateTime<Utc>,
    pub(in crate::health) cause: Option<Cause>,
    pub(in crate::health) incident: Option<Uuid>,
    pub(in crate::health) provider: Option<String>,
    pub(in crate::health) connection: Option<Uuid>,
}

/// The health of one vehicle, if it is known.
pub(in crate::health) async fn find(
    pg: &mut PgConnection,
    key: &VehicleKey,
) -> Result<Option<Health>, sqlx::Error> {
    sqlx::query_as!(
        Health,
        r#"
        SELECT vehicle, last_received_at, freshness AS "freshness: Freshness", since,
            cause AS "cause: Cause", incident, provider, connection
        FROM health.vehicle
        WHERE workspace = $1 AND vehicle = $2
        "#,
        key.workspace.as_str(),
        key.vehicle.as_str(),
    )
    .fetch_optional(pg)
    .await
}

/// Which vehicles; those of which all that is given holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::health) struct Filter {
    pub(in crate::health) freshness: Option<Freshness>,
    pub(in crate::health) cause: Option<Cause>,
    pub(in crate::health) provider: Option<Provider>,
    pub(in crate::health) incident: Option<Uuid>,
}

/// A workspace's vehicles that `filter` lets through, in the byte order of their ids, those after the
/// one given.
pub(in crate::health) async fn list(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
    filter: &Filter,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Health>, sqlx::Error> {
    sqlx::query_as!(
        Health,
        r#"
        SELECT vehicle, last_received_at, freshness AS "freshness: Freshness", since,
            cause AS "cause: Cause", incident, provider, connection
        FROM health.vehicle
        WHERE workspace = $1
            AND vehicle > COALESCE($2, '')
            AND ($3::text IS NULL OR freshness = $3)
            AND ($4::text IS NULL OR cause = $4)
            AND ($5::text IS NULL OR provider = $5)
            AND ($6::uuid IS NULL OR incident = $6)
        ORDER BY vehicle
        LIMIT $7
        "#,
        workspace.as_str(),
        after,
        filter.freshness.map(Freshness::name),
        filter.cause.map(Cause::name),
        filter.provider.as_ref().map(Provider::as_str),
        filter.incident,
        limit,
    )
    .fetch_all(pg)
    .await
}

/// How many vehicles are alike.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::health) struct Count {
    pub(in crate::health) freshness: Freshness,
    pub(in crate::health) cause: Option<Cause>,
    /// None where all providers are counted together.
    pub(in crate::health) provider: Option<String>,
    pub(in crate::health) vehicles: i64,
}

/// All vehicles by freshness and cause.
pub(in crate::health) async fn count_all(pg: &mut PgConnection) -> Result<Vec<Count>, sqlx::Error> {
    sqlx::query_as!(
        Count,
        r#"
        SELECT freshness AS "freshness: Freshness", cause AS "cause: Cause",
            NULL::text AS provider, count(*) AS "vehicles!"
        FROM health.vehicle
        GROUP BY freshness, cause
        "#,
    )
    .fetch_all(pg)
    .await
}

/// The vehicles of one workspace by freshness, cause and provider.
pub(in crate::health) async fn count(
    pg: &mut PgConnection,
    workspace: &WorkspaceId,
) -> Result<Vec<Count>, sqlx::Error> {
    sqlx::query_as!(
        Count,
        r#"
        SELECT freshness AS "freshness: Freshness", cause AS "cause: Cause", provider,
            count(*) AS "vehicles!"
        FROM health.vehicle
        WHERE workspace = $1
        GROUP BY freshness, cause, provider
        "#,
        workspace.as_str(),
    )
    .fetch_all(pg)
    .await
}
