//! SQL of what is done now and then: forgetting, and counting.

use std::time::Duration;

use sqlx::PgConnection;

use super::CHUNK;

/// Skips what waits for endpoints that are disabled and that no sender holds; returns how many.
pub(in crate::reactions) async fn skip(connection: &mut PgConnection) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "
        UPDATE reactions.delivery
        SET status = 'skipped', done_at = now(), claim = NULL
        WHERE id IN (
            SELECT delivery.id
            FROM reactions.delivery JOIN reactions.endpoint ON endpoint.id = delivery.endpoint
            WHERE delivery.status = 'pending' AND (delivery.claim IS NULL OR delivery.due_at <= now())
                AND NOT endpoint.enabled
            LIMIT $1
            FOR UPDATE OF delivery SKIP LOCKED
        )
        ",
        CHUNK,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes deliveries that were done longer than `retention` ago; returns how many.
pub(in crate::reactions) async fn forget(
    connection: &mut PgConnection,
    retention: Duration,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "
        DELETE FROM reactions.delivery
        WHERE id IN (
            SELECT id
            FROM reactions.delivery
            WHERE status <> 'pending' AND done_at < now() - make_interval(secs => $1)
            LIMIT $2
            FOR UPDATE SKIP LOCKED
        )
        ",
        retention.as_secs_f64(),
        CHUNK,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes deliveries of removed endpoints; returns how many.
pub(in crate::reactions) async fn forget_removed(
    connection: &mut PgConnection,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "
        DELETE FROM reactions.delivery
        WHERE id IN (
            SELECT delivery.id
            FROM reactions.delivery JOIN reactions.endpoint ON endpoint.id = delivery.endpoint
            WHERE endpoint.removed_at IS NOT NULL
            LIMIT $1
            FOR UPDATE OF delivery SKIP LOCKED
        )
        ",
        CHUNK,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Deletes removed endpoints of which no delivery is left. An hour passes before, in which a batch that
/// still knew the endpoint may end.
pub(in crate::reactions) async fn forget_endpoints(
    connection: &mut PgConnection,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "
        DELETE FROM reactions.endpoint
        WHERE removed_at < now() - interval '1 hour'
            AND NOT EXISTS (SELECT FROM reactions.delivery WHERE delivery.endpoint = endpoint.id)
        ",
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// What there is of everything.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::reactions) struct Counts {
    /// Enabled, and the last call did not fail.
    pub(in crate::reactions) enabled: i64,
    /// Enabled, and the last call failed.
    pub(in crate::reactions) failing: i64,
    pub(in crate::reactions) disabled: i64,
    pub(in crate::reactions) pending: i64,
    /// The age of the oldest pending delivery; zero if there is none.
    pub(in crate::reactions) oldest_seconds: f64,
}

/// Counts endpoints and pending deliveries, which reads all of them.
pub(in crate::reactions) async fn count(
    connection: &mut PgConnection,
) -> Result<Counts, sqlx::Error> {
    sqlx::query_as!(
        Counts,
        r#"
        SELECT
            (SELECT count(*) FROM reactions.endpoint
             WHERE removed_at IS NULL AND enabled AND failing_since IS NULL) AS "enabled!",
            (SELECT count(*) FROM reactions.endpoint
             WHERE removed_at IS NULL AND enabled AND failing_since IS NOT NULL) AS "failing!",
            (SELECT count(*) FROM reactions.endpoint
             WHERE removed_at IS NULL AND NOT enabled) AS "disabled!",
            count(*) AS "pending!",
            coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS "oldest_seconds!"
        FROM reactions.delivery
        WHERE status = 'pending'
        "#,
    )
    .fetch_one(connection)
    .await
}
