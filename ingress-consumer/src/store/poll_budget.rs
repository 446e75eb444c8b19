//! Table `poll_budget`: when a provider may be asked next, for all replicas together.
//!
//! Requests of one budget leave one after the other, evenly spaced. So however many replicas and
//! connections share it, no stretch of time has more of them than the provider allows.

use std::time::Duration;

use sqlx::PgConnection;

use super::StoreError;

/// A budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetKey {
    /// A hash of whose it is.
    pub budget: String,
    /// Which of the provider's budgets.
    pub pool: &'static str,
}

/// Whether there is a place for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// It is reserved, after this wait.
    Reserved(Duration),
    /// The next free one is further away than the patience: after this wait.
    TooLate(Duration),
}

/// Reserves the next free place, if it is no further away than `patience`; the one after it is `spacing`
/// later.
pub async fn reserve(
    pg: &mut PgConnection,
    key: &BudgetKey,
    spacing: Duration,
    patience: Duration,
) -> Result<Place, StoreError> {
    let reserved = sqlx::query_scalar!(
        r#"INSERT INTO core.poll_budget AS b (budget, pool, free_at)
         VALUES ($1, $2, now() + make_interval(secs => $3))
         ON CONFLICT (budget, pool) DO UPDATE
         SET free_at = GREATEST(b.free_at, b.blocked_until, now()) + make_interval(secs => $3)
         WHERE GREATEST(b.free_at, b.blocked_until) <= now() + make_interval(secs => $4)
         RETURNING EXTRACT(EPOCH FROM free_at - make_interval(secs => $3) - now())::float8
                   AS "wait!""#,
        key.budget,
        key.pool,
        spacing.as_secs_f64(),
        patience.as_secs_f64(),
    )
    .fetch_optional(&mut *pg)
    .await?;
    if let Some(wait) = reserved {
        let wait = Duration::try_from_secs_f64(wait).unwrap_or_default();
        return Ok(Place::Reserved(wait));
    }
    let free = sqlx::query_scalar!(
        r#"SELECT EXTRACT(EPOCH FROM GREATEST(free_at, blocked_until) - now())::float8 AS "wait!"
         FROM core.poll_budget
         WHERE budget = $1 AND pool = $2"#,
        key.budget,
        key.pool,
    )
    .fetch_optional(pg)
    .await?;
    let wait = Duration::try_from_secs_f64(free.unwrap_or_default()).unwrap_or_default();
    Ok(Place::TooLate(wait))
}

/// Notes that the provider allows no request for `wait`.
pub async fn block(
    pg: &mut PgConnection,
    key: &BudgetKey,
    wait: Duration,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO core.poll_budget AS b (budget, pool, free_at, blocked_until)
         VALUES ($1, $2, now(), now() + make_interval(secs => $3))
         ON CONFLICT (budget, pool) DO UPDATE
         SET blocked_until = GREATEST(b.blocked_until, EXCLUDED.blocked_until)",
        key.budget,
        key.pool,
        wait.as_secs_f64(),
    )
    .execute(pg)
    .await?;
    Ok(())
}
