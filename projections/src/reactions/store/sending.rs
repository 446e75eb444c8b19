//! SQL of the senders: who takes what, and what came of it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::delivery::Status;
use super::endpoint::{self, DisabledReason};
use crate::reactions::schedule::Next;
use crate::reactions::secret::Secret;

/// How much a sender may take.
#[derive(Debug)]
pub(in crate::reactions) struct Room {
    /// Calls under way, by endpoint.
    pub(in crate::reactions) busy: Vec<(Uuid, usize)>,
    /// The most calls to one endpoint.
    pub(in crate::reactions) per_endpoint: usize,
    /// How many calls may begin now.
    pub(in crate::reactions) free: usize,
    /// For how long they are the sender's.
    pub(in crate::reactions) lease: Duration,
}

/// A delivery that a sender has taken.
#[derive(Debug, Clone)]
pub(in crate::reactions) struct Claimed {
    pub(in crate::reactions) id: Uuid,
    pub(in crate::reactions) claim: Uuid,
    pub(in crate::reactions) endpoint: Uuid,
    pub(in crate::reactions) workspace: String,
    pub(in crate::reactions) event: String,
    pub(in crate::reactions) body: String,
    pub(in crate::reactions) url: String,
    pub(in crate::reactions) retries: usize,
    pub(in crate::reactions) secret: Secret,
    /// The one before, while it signs along.
    pub(in crate::reactions) previous: Option<Secret>,
}

/// Takes due deliveries of enabled endpoints under the token `claim`, oldest first. An endpoint whose
/// last call failed is called once at a time, so that many of them leave room for the others.
///
/// It costs a look into the index `delivery_due` for each enabled endpoint.
pub(in crate::reactions) async fn claim(
    connection: &mut PgConnection,
    room: &Room,
    claim: Uuid,
) -> Result<Vec<Claimed>, sqlx::Error> {
    let busy: Vec<_> = room.busy.iter().map(|(endpoint, _)| *endpoint).collect();
    let counts: Vec<_> = room.busy.iter().map(|(_, count)| *count as i64).collect();
    let rows = sqlx::query!(
        r#"
        WITH due AS MATERIALIZED (
            SELECT found.id
            FROM reactions.endpoint
            LEFT JOIN UNNEST($1::uuid[], $2::bigint[]) AS busy (endpoint, calls)
                ON busy.endpoint = endpoint.id
            CROSS JOIN LATERAL (
                SELECT delivery.id, delivery.due_at
                FROM reactions.delivery
                WHERE delivery.endpoint = endpoint.id AND delivery.status = 'pending'
                    AND delivery.due_at <= now()
                ORDER BY delivery.due_at
                LIMIT greatest(
                    CASE WHEN endpoint.failing_since IS NULL THEN $3::bigint ELSE 1 END
                        - coalesce(busy.calls, 0),
                    0
                )
                -- What somebody else takes at this moment is theirs.
                FOR UPDATE SKIP LOCKED
            ) AS found
            WHERE endpoint.enabled AND endpoint.removed_at IS NULL
            -- Those that fail take what room the others leave.
            ORDER BY endpoint.failing_since IS NOT NULL, found.due_at
            LIMIT $4
        )
        UPDATE reactions.delivery
        SET claim = $5, due_at = now() + make_interval(secs => $6)
        FROM due, reactions.endpoint
        WHERE delivery.id = due.id AND endpoint.id = delivery.endpoint
        RETURNING delivery.id, delivery.endpoint, endpoint.workspace, delivery.event, delivery.body,
            endpoint.url, delivery.retries, endpoint.secret,
            CASE WHEN endpoint.previous_until > now() THEN endpoint.previous_secret END AS previous
        "#,
        &busy,
        &counts,
        room.per_endpoint as i64,
        room.free as i64,
        claim,
        room.lease.as_secs_f64(),
    )
    .fetch_all(connection)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            id: row.id,
            claim,
            endpoint: row.endpoint,
            workspace: row.workspace,
            event: row.event,
            body: row.body,
            url: row.url,
            retries: usize::try_from(row.retries).unwrap_or(0),
            secret: Secret::from_bytes(row.secret),
            previous: row.previous.map(Secret::from_bytes),
        })
        .collect())
}

/// What is kept of a call.
#[derive(Debug, Clone)]
pub(in crate::reactions) struct Record {
    pub(in crate::reactions) started_at: DateTime<Utc>,
    pub(in crate::reactions) duration: Duration,
    pub(in crate::reactions) outcome: &'static str,
    pub(in crate::reactions) status: Option<u16>,
    pub(in crate::reactions) error: Option<String>,
    pub(in crate::reactions) response: Option<String>,
    pub(in crate::reactions) next: Next,
}

/// What a record led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::reactions) enum Recorded {
    /// Where the delivery stands, and whether its endpoint was disabled.
    Kept(Status, Option<DisabledReason>),
    /// The lease had ended, and somebody else has the delivery.
    TakenOver,
}

/// Writes what came of a call, and what follows from it for the delivery and its endpoint, which is
/// disabled if it wants no more calls, or if every call has failed for `disable_after`.
pub(in crate::reactions) async fn record(
    connection: &mut PgConnection,
    claimed: &Claimed,
    record: &Record,
    disable_after: Duration,
) -> Result<Recorded, sqlx::Error> {
    let known = sqlx::query!(
        "
        SELECT endpoint.url, endpoint.enabled
        FROM reactions.delivery
        JOIN reactions.endpoint ON endpoint.id = delivery.endpoint
        WHERE delivery.id = $1 AND delivery.claim = $2
        ",
        claimed.id,
        claimed.claim,
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(known) = known else {
        return Ok(Recorded::TakenOver);
    };
    // What another URL answered says nothing of the one that is there now.
    let is_about_it = known.url == claimed.url;
    let standing = if is_about_it {
        standing(connection, claimed.endpoint, record.next, disable_after).await?
    } else {
        Standing {
            enabled: known.enabled,
            too_long: false,
        }
    };
    let (status, wait) = match record.next {
        Next::Done => (Status::Succeeded, Duration::ZERO),
        Next::GiveUp | Next::Gone => (Status::Failed, Duration::ZERO),
        Next::Retry(_) if !standing.enabled => (Status::Skipped, Duration::ZERO),
        Next::Retry(wait) => (Status::Pending, wait),
    };
    let number = sqlx::query_scalar!(
        "
        UPDATE reactions.delivery
        SET status = $3, attempts = attempts + 1, retries = retries + 1, claim = NULL,
            due_at = now() + make_interval(secs => $4),
            done_at = CASE WHEN $3 <> 'pending' THEN now() END
        -- A token that is no longer the row's belongs to a sender that was too slow.
        WHERE id = $1 AND claim = $2
        RETURNING attempts
        ",
        claimed.id,
        claimed.claim,
        status.name(),
        wait.as_secs_f64(),
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(number) = number else {
        return Ok(Recorded::TakenOver);
    };
    sqlx::query!(
        "
        INSERT INTO reactions.attempt
            (delivery, number, started_at, duration_ms, outcome, status, error, response)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ",
        claimed.id,
        number,
        record.started_at,
        i64::try_from(record.duration.as_millis()).unwrap_or(i64::MAX),
        record.outcome,
        record.status.map(i32::from),
        record.error,
        record.response,
    )
    .execute(&mut *connection)
    .await?;
    let reason = match record.next {
        Next::Gone if is_about_it => Some(DisabledReason::Gone),
        Next::Retry(_) | Next::GiveUp if standing.too_long => Some(DisabledReason::Failing),
        _ => None,
    };
    let disabled = match reason {
        Some(reason) if endpoint::disable(connection, claimed.endpoint, reason).await? => {
            Some(reason)
        }
        _ => None,
    };
    Ok(Recorded::Kept(status, disabled))
}

/// How an endpoint stands after a call.
struct Standing {
    enabled: bool,
    /// Every call has failed for longer than is borne.
    too_long: bool,
}

async fn standing(
    connection: &mut PgConnection,
    endpoint: Uuid,
    next: Next,
    disable_after: Duration,
) -> Result<Standing, sqlx::Error> {
    if next == Next::Done {
        // Mostly there is nothing to write, and so nothing to wait for.
        sqlx::query!(
            "UPDATE reactions.endpoint SET failing_since = NULL WHERE id = $1 AND failing_since IS NOT NULL",
            endpoint,
        )
        .execute(connection)
        .await?;
        return Ok(Standing {
            enabled: true,
            too_long: false,
        });
    }
    let row = sqlx::query!(
        r#"
        UPDATE reactions.endpoint
        SET failing_since = coalesce(failing_since, now())
        WHERE id = $1
        RETURNING enabled, failing_since <= now() - make_interval(secs => $2) AS "too_long!"
        "#,
        endpoint,
        disable_after.as_secs_f64(),
    )
    .fetch_one(connection)
    .await?;
    Ok(Standing {
        enabled: row.enabled,
        too_long: row.too_long,
    })
}
