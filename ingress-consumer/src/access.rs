//! Access control of the core itself, from its own tables: API keys, and the audit log.
//!
//! The other services ask the core for the same over its internal API.

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use runtime::access::{AuditLog, Change, KeyCheck, KeyGrant, KeySource};
use runtime::http::Problem;
use runtime::{clock, db, telemetry};
use sqlx::PgPool;
use uuid::Uuid;

use crate::store::{StoreError, api_key, audit};

/// The database as the source of API keys and as the audit log.
#[derive(Debug, Clone)]
pub struct PgAccess {
    pool: PgPool,
}

impl PgAccess {
    /// What the database behind `pool` holds.
    #[must_use]
    pub const fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn grant(&self, check: &KeyCheck) -> Result<Option<KeyGrant>, StoreError> {
        let now = clock::now();
        let mut pg = self.pool.acquire().await?;
        let Some((grant, is_due)) = api_key::grant(&mut pg, check, now).await? else {
            return Ok(None);
        };
        // A note that fails is no reason to turn anybody away.
        if is_due && let Err(error) = api_key::note_use(&mut pg, &check.id, now).await {
            tracing::warn!(
                key = check.id,
                error = %telemetry::chain(&error),
                "the use of an API key cannot be noted"
            );
        }
        Ok(Some(grant))
    }
}

impl KeySource for PgAccess {
    fn check<'a>(
        &'a self,
        check: &'a KeyCheck,
    ) -> BoxFuture<'a, Result<Option<KeyGrant>, Problem>> {
        Box::pin(async move { self.grant(check).await.map_err(problem) })
    }
}

/// Before the schema is up to date, there are no keys to look up.
fn problem(error: StoreError) -> Problem {
    match error {
        StoreError::Database(error) if db::has_state(&error, &["42P01"]) => {
            crate::control::starting()
        }
        other => other.into(),
    }
}

impl AuditLog for PgAccess {
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, anyhow::Result<Uuid>> {
        Box::pin(async move {
            let (id, now) = (clock::new_id(), clock::now());
            let mut pg = self.pool.acquire().await?;
            audit::insert(&mut pg, id, now, change).await?;
            Ok(id)
        })
    }

    fn conclude(&self, id: Uuid, status: u16) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async move {
            let mut pg = self.pool.acquire().await?;
            let is_there = audit::conclude(&mut pg, id, status).await?;
            is_there.then_some(()).context("there is no such entry")
        })
    }
}
