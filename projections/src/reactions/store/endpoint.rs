//! SQL of the table `reactions.endpoint`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use shared_model::WorkspaceId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::reactions::filter::{Filters, Interest};
use crate::reactions::secret::Secret;

/// Why an endpoint is disabled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// Its owner wants it so.
    ByHand,
    /// It answered 410.
    Gone,
    /// Every call has failed for `webhooks.disable_after`.
    Failing,
}

impl DisabledReason {
    /// The reason as stored.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ByHand => "by_hand",
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [Self::ByHand, Self::Gone, Self::Failing];
        all.into_iter().find(|reason| reason.name() == name)
    }
}

/// An endpoint, its secrets aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its id.
    pub id: Uuid,
    /// What is called.
    pub url: String,
    /// What its owner calls it.
    pub description: String,
    /// Which events it is told of.
    pub interest: Interest,
    /// Whether it is called; if not, why, and since when (UTC).
    pub disabled: Option<(DisabledReason, DateTime<Utc>)>,
    /// Since when every call has failed (UTC).
    pub failing_since: Option<DateTime<Utc>>,
    /// When it was added (UTC).
    pub created_at: DateTime<Utc>,
    /// When its owner changed it last (UTC).
    pub updated_at: DateTime<Utc>,
}

struct Row {
    id: Uuid,
    url: String,
    description: String,
    event_types: Option<Vec<String>>,
    vehicles: Option<Vec<String>>,
    providers: Option<Vec<String>>,
    disabled_reason: Option<String>,
    disabled_at: Option<DateTime<Utc>>,
    failing_since: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl TryFrom<Row> for Endpoint {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let disabled = match (&row.disabled_reason, row.disabled_at) {
            (Some(reason), Some(at)) => {
                let known = DisabledReason::from_name(reason).ok_or_else(|| {
                    let column = "reactions.endpoint.disabled_reason";
                    let problem = format!("{column} of {}: {reason:?} is not known", row.id);
                    sqlx::Error::Decode(problem.into())
                })?;
                Some((known, at))
            }
            _ => None,
        };
        Ok(Self {
            id: row.id,
            url: row.url,
            description: row.description,
            interest: interest(row.event_types, row.vehicles, row.providers),
            disabled,
            failing_since: row.failing_since,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

fn interest(
    event_types: Option<Vec<String>>,
    vehicles: Option<Vec<String>>,
    providers: Option<Vec<String>>,
) -> Interest {
    let set = |list: Option<Vec<String>>| list.map(BTreeSet::from_iter);
    Interest {
        event_types: set(event_types),
        filters: Filters {
            vehicles: set(vehicles),
            providers: set(providers),
        },
    }
}

fn stored(set: Option<&BTreeSet<String>>) -> Option<Vec<String>> {
    set.map(|set| set.iter().cloned().collect())
}

/// Adds an endpoint, unless the workspace has `most` already: then none.
pub(in crate::reactions) async fn insert(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
    new: (&str, &str, &Interest),
    secret: &Secret,
    most: u32,
) -> Result<Option<Endpoint>, sqlx::Error> {
    let (url, description, interest) = new;
    // Those who add to one workspace take turns, or together they would exceed the limit.
    sqlx::query!(
        "SELECT pg_advisory_xact_lock(hashtextextended('reactions.endpoint ' || $1, 0))",
        workspace.as_str()
    )
    .execute(&mut *connection)
    .await?;
    let inserted = sqlx::query_as!(
        Row,
        "
        INSERT INTO reactions.endpoint
            (id, workspace, url, description, event_types, vehicles, providers, secret, enabled,
             created_at, updated_at)
        SELECT $1, $2, $3, $4, $5, $6, $7, $8, true, now(), now()
        WHERE $9 > (SELECT count(*) FROM reactions.endpoint WHERE workspace = $2 AND removed_at IS NULL)
        RETURNING id, url, description, event_types, vehicles, providers, disabled_reason, disabled_at,
            failing_since, created_at, updated_at
        ",
        id,
        workspace.as_str(),
        url,
        description,
        stored(interest.event_types.as_ref()) as _,
        stored(interest.filters.vehicles.as_ref()) as _,
        stored(interest.filters.providers.as_ref()) as _,
        secret.bytes(),
        i64::from(most),
    )
    .fetch_optional(connection)
    .await?;
    inserted.map(Endpoint::try_from).transpose()
}

/// A workspace's endpoints in the order of their ids, after the one given.
pub(in crate::reactions) async fn list(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Endpoint>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        "
        SELECT id, url, description, event_types, vehicles, providers, disabled_reason, disabled_at,
            failing_since, created_at, updated_at
        FROM reactions.endpoint
        WHERE workspace = $1 AND removed_at IS NULL AND ($2::uuid IS NULL OR id > $2)
        ORDER BY id
        LIMIT $3
        ",
        workspace.as_str(),
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Endpoint::try_from).collect()
}

/// One endpoint, locked until the end of the transaction.
pub(in crate::reactions) async fn lock(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query!(
        "
        SELECT id
        FROM reactions.endpoint
        WHERE id = $1
        -- New deliveries refer to the row and need not wait.
        FOR NO KEY UPDATE
        ",
        id,
    )
    .fetch_optional(&mut *connection)
    .await?;
    find(connection, workspace, id).await
}

/// One endpoint.
pub(in crate::reactions) async fn find(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
) -> Result<Option<Endpoint>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "
        SELECT id, url, description, event_types, vehicles, providers, disabled_reason, disabled_at,
            failing_since, created_at, updated_at
        FROM reactions.endpoint
        WHERE workspace = $1 AND id = $2 AND removed_at IS NULL
        ",
        workspace.as_str(),
        id,
    )
    .fetch_optional(connection)
    .await?;
    row.map(Endpoint::try_from).transpose()
}

/// Writes what its owner may change of a locked endpoint. Enabled anew, or with another URL, it has not
/// failed yet.
pub(in crate::reactions) async fn update(
    connection: &mut PgConnection,
    endpoint: &Endpoint,
    enabled: bool,
) -> Result<Endpoint, sqlx::Error> {
    let Interest {
        event_types,
        filters,
    } = &endpoint.interest;
    let row = sqlx::query_as!(
        Row,
        "
        UPDATE reactions.endpoint
        SET url = $2, description = $3, event_types = $4, vehicles = $5, providers = $6,
            enabled = $7,
            disabled_reason = CASE WHEN NOT $7 THEN coalesce(disabled_reason, $8) END,
            disabled_at = CASE WHEN NOT $7 THEN coalesce(disabled_at, now()) END,
            failing_since = CASE WHEN url <> $2 OR ($7 AND NOT enabled) THEN NULL ELSE failing_since END,
            updated_at = now()
        WHERE id = $1
        RETURNING id, url, description, event_types, vehicles, providers, disabled_reason, disabled_at,
            failing_since, created_at, updated_at
        ",
        endpoint.id,
        endpoint.url,
        endpoint.description,
        stored(event_types.as_ref()) as _,
        stored(filters.vehicles.as_ref()) as _,
        stored(filters.providers.as_ref()) as _,
        enabled,
        DisabledReason::ByHand.name(),
    )
    .fetch_one(connection)
    .await?;
    Endpoint::try_from(row)
}

/// Disables an endpoint unless it is disabled already; says whether it was not.
pub(in crate::reactions) async fn disable(
    connection: &mut PgConnection,
    id: Uuid,
    reason: DisabledReason,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "
        UPDATE reactions.endpoint
        SET enabled = false, disabled_reason = $2, disabled_at = now()
        WHERE id = $1 AND enabled
        ",
        id,
        reason.name(),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes an endpoint and forgets its secrets; says whether there was one.
pub(in crate::reactions) async fn remove(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        r"
        UPDATE reactions.endpoint
        SET removed_at = now(), secret = '\x', previous_secret = NULL, previous_until = NULL
        WHERE workspace = $1 AND id = $2 AND removed_at IS NULL
        ",
        workspace.as_str(),
        id,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// An endpoint as far as it decides what becomes of an event.
#[derive(Debug)]
pub(in crate::reactions) struct Interested {
    /// Its id.
    pub(in crate::reactions) id: Uuid,
    /// Whose it is.
    pub(in crate::reactions) workspace: String,
    /// Whether it is called, and has not as much waiting for it as may wait.
    pub(in crate::reactions) takes: bool,
    /// Which events it is told of.
    pub(in crate::reactions) interest: Interest,
}

/// All endpoints of `workspaces`, of which each may have `most` deliveries pending. Counting them reads
/// up to so many entries of the index `delivery_due`.
pub(in crate::reactions) async fn of_workspaces(
    connection: &mut PgConnection,
    workspaces: &[String],
    most: u32,
) -> Result<Vec<Interested>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"
        SELECT id, workspace, event_types, vehicles, providers,
            enabled AND $2 > (
                SELECT count(*)
                FROM (
                    SELECT
                    FROM reactions.delivery
                    WHERE delivery.endpoint = endpoint.id AND delivery.status = 'pending'
                    LIMIT $2
                ) AS waiting
            ) AS "takes!"
        FROM reactions.endpoint
        WHERE workspace = ANY($1) AND removed_at IS NULL
        ORDER BY id
        "#,
        workspaces,
        i64::from(most),
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Interested {
            id: row.id,
            workspace: row.workspace,
            takes: row.takes,
            interest: interest(row.event_types, row.vehicles, row.providers),
        })
        .collect())
}
