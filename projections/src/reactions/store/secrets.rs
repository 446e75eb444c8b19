//! SQL of endpoints' secrets.

use std::time::Duration;

use chrono::{DateTime, Utc};
use shared_model::WorkspaceId;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::reactions::secret::Secret;

/// The keys that an endpoint's calls are signed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::reactions) struct Secrets {
    /// The one in force.
    pub(in crate::reactions) current: Secret,
    /// The one before, and until when it signs along (UTC).
    pub(in crate::reactions) previous: Option<(Secret, DateTime<Utc>)>,
}

/// An endpoint's secrets.
pub(in crate::reactions) async fn secrets(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
) -> Result<Option<Secrets>, sqlx::Error> {
    let row = sqlx::query!(
        r#"
        SELECT secret, previous_secret, previous_until, previous_until > now() AS "overlaps!: Option<bool>"
        FROM reactions.endpoint
        WHERE workspace = $1 AND id = $2 AND removed_at IS NULL
        "#,
        workspace.as_str(),
        id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Secrets {
        current: Secret::from_bytes(row.secret),
        previous: row
            .previous_secret
            .zip(row.previous_until)
            .filter(|_| row.overlaps == Some(true))
            .map(|(secret, until)| (Secret::from_bytes(secret), until)),
    }))
}

/// Puts `secret` in force; the one before signs along for `overlap`. Says whether there is an endpoint.
pub(in crate::reactions) async fn rotate(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    id: Uuid,
    secret: &Secret,
    overlap: Duration,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "
        UPDATE reactions.endpoint
        SET previous_secret = secret, previous_until = now() + make_interval(secs => $4),
            secret = $3, updated_at = now()
        WHERE workspace = $1 AND id = $2 AND removed_at IS NULL
        ",
        workspace.as_str(),
        id,
        secret.bytes(),
        overlap.as_secs_f64(),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
