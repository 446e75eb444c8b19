//! SQL of the tables `reactions.delivery` and `reactions.attempt`, as their owners see them.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::CHUNK;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, utoipa::ToSchema)]
#[schema(as = DeliveryStatus, rename_all = "snake_case")]
pub enum Status {
    /// It waits for its first or next attempt.
    Pending,
    /// The receiver has it.
    Succeeded,
    /// It was given up.
    Failed,
    /// It was not attempted, or no further, since its endpoint was disabled.
    Skipped,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 4] = [Self::Pending, Self::Succeeded, Self::Failed, Self::Skipped];

    /// The status as stored and answered.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    /// The status called `name`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// A delivery to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::reactions) struct NewDelivery {
    /// Its id.
    pub(in crate::reactions) id: Uuid,
    /// To whom.
    pub(in crate::reactions) endpoint: Uuid,
    /// The event's id.
    pub(in crate::reactions) event: String,
    /// The event's type.
    pub(in crate::reactions) event_type: String,
    /// The event's subject.
    pub(in crate::reactions) subject: Option<String>,
    /// What is sent.
    pub(in crate::reactions) body: String,
    /// [`Status::Pending`], or [`Status::Skipped`] for a disabled endpoint.
    pub(in crate::reactions) status: Status,
}

/// Makes deliveries, each once for its endpoint and event; returns how many are new.
pub(in crate::reactions) async fn insert(
    connection: &mut PgConnection,
    deliveries: &[NewDelivery],
) -> Result<u64, sqlx::Error> {
    let of = |text: fn(&NewDelivery) -> &str| -> Vec<String> {
        deliveries.iter().map(|new| text(new).to_owned()).collect()
    };
    let ids: Vec<_> = deliveries.iter().map(|new| new.id).collect();
    let endpoints: Vec<_> = deliveries.iter().map(|new| new.endpoint).collect();
    let subjects: Vec<_> = deliveries.iter().map(|new| new.subject.clone()).collect();
    let done = sqlx::query!(
        r#"
        INSERT INTO reactions.delivery
            (id, endpoint, event, event_type, subject, body, status, created_at, due_at, done_at)
        SELECT new.*, now(), now(), CASE WHEN new.status <> 'pending' THEN now() END
        FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
            AS new (id, endpoint, event, event_type, subject, body, status)
        -- Everybody inserts in the same order, so nobody waits in a circle.
        ORDER BY new.endpoint, new.event COLLATE "C"
        ON CONFLICT (endpoint, event) DO NOTHING
        "#,
        &ids,
        &endpoints,
        &of(|new| &new.event),
        &of(|new| &new.event_type),
        &subjects as &[Option<String>],
        &of(|new| &new.body),
        &of(|new| new.status.name()),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// A delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::reactions) struct Delivery {
    pub(in crate::reactions) id: Uuid,
    pub(in crate::reactions) endpoint: Uuid,
    pub(in crate::reactions) event: String,
    pub(in crate::reactions) event_type: String,
    pub(in crate::reactions) subject: Option<String>,
    pub(in crate::reactions) status: String,
    pub(in crate::reactions) attempts: i32,
    pub(in crate::reactions) created_at: DateTime<Utc>,
    pub(in crate::reactions) due_at: DateTime<Utc>,
    pub(in crate::reactions) done_at: Option<DateTime<Utc>>,
}

/// An endpoint's deliveries, newest first, before the one given.
pub(in crate::reactions) async fn list(
    connection: &mut PgConnection,
    endpoint: Uuid,
    status: Option<Status>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Delivery>, sqlx::Error> {
    sqlx::query_as!(
        Delivery,
        "
        SELECT id, endpoint, event, event_type, subject, status, attempts, created_at, due_at, done_at
        FROM reactions.delivery
        WHERE endpoint = $1 AND ($2::text IS NULL OR status = $2) AND ($3::uuid IS NULL OR id < $3)
        ORDER BY id DESC
        LIMIT $4
        ",
        endpoint,
        status.map(Status::name),
        after,
        limit,
    )
    .fetch_all(connection)
    .await
}

/// One delivery of an endpoint, with what is sent.
pub(in crate::reactions) async fn find(
    connection: &mut PgConnection,
    endpoint: Uuid,
    id: Uuid,
) -> Result<Option<(Delivery, String)>, sqlx::Error> {
    let row = sqlx::query!(
        "
        SELECT id, endpoint, event, event_type, subject, status, attempts, created_at, due_at, done_at, body
        FROM reactions.delivery
        WHERE endpoint = $1 AND id = $2
        ",
        endpoint,
        id,
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| {
        let delivery = Delivery {
            id: row.id,
            endpoint: row.endpoint,
            event: row.event,
            event_type: row.event_type,
            subject: row.subject,
            status: row.status,
            attempts: row.attempts,
            created_at: row.created_at,
            due_at: row.due_at,
            done_at: row.done_at,
        };
        (delivery, row.body)
    }))
}

/// A call, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[schema(as = DeliveryAttempt)]
pub(in crate::reactions) struct Attempt {
    /// From 1.
    number: i32,
    /// When the receiver was called (UTC).
    started_at: DateTime<Utc>,
    /// How long that took, in milliseconds.
    duration_ms: i64,
    /// What came of it, as a word.
    outcome: String,
    /// The status of the receiver's answer.
    status: Option<i32>,
    /// Why there was no answer.
    error: Option<String>,
    /// The beginning of the answer.
    response: Option<String>,
}

/// A delivery's attempts in order.
pub(in crate::reactions) async fn attempts(
    connection: &mut PgConnection,
    delivery: Uuid,
) -> Result<Vec<Attempt>, sqlx::Error> {
    sqlx::query_as!(
        Attempt,
        "
        SELECT number, started_at, duration_ms, outcome, status, error, response
        FROM reactions.attempt
        WHERE delivery = $1
        ORDER BY number
        ",
        delivery,
    )
    .fetch_all(connection)
    .await
}

/// Puts a delivery at the start of the schedule, due now, unless a sender holds it; says whether it did.
pub(in crate::reactions) async fn redeliver(
    connection: &mut PgConnection,
    endpoint: Uuid,
    id: Uuid,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "
        UPDATE reactions.delivery
        SET status = 'pending', retries = 0, due_at = now(), done_at = NULL, claim = NULL
        WHERE endpoint = $1 AND id = $2 AND (claim IS NULL OR due_at <= now())
        ",
        endpoint,
        id,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// The same for some of those that were made at `since` or later and failed or were skipped before
/// `before`; returns how many, at most [`CHUNK`].
pub(in crate::reactions) async fn recover(
    connection: &mut PgConnection,
    endpoint: Uuid,
    since: DateTime<Utc>,
    before: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "
        UPDATE reactions.delivery
        SET status = 'pending', retries = 0, due_at = now(), done_at = NULL
        WHERE id IN (
            SELECT id
            FROM reactions.delivery
            WHERE endpoint = $1 AND status IN ('failed', 'skipped') AND created_at >= $2 AND done_at < $3
            LIMIT $4
            FOR UPDATE
        )
        ",
        endpoint,
        since,
        before,
        CHUNK,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The database's time.
pub(in crate::reactions) async fn now(
    connection: &mut PgConnection,
) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"SELECT now() AS "now!""#)
        .fetch_one(connection)
        .await
}
