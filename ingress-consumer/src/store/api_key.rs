//! Table `api_key`: who may use the APIs. Of a key's secret only the digest is here.

use chrono::{DateTime, TimeDelta, Utc};
use runtime::access::{KeyCheck, KeyGrant, Scope};
use sqlx::PgConnection;

use super::StoreError;

/// How old the note of a key's last use may be before it is written anew: not at every request.
const NOTE_EVERY: TimeDelta = TimeDelta::minutes(1);

/// A key as stored, without its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// What names it.
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// The workspaces that it reaches.
    pub workspaces: Vec<String>,
    /// What it may do there.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The principal that made it.
    pub created_by: String,
    /// When it ends, if it does.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked, if it was.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

/// Which keys are asked for.
#[derive(Debug, Clone, Copy)]
pub enum Which<'a> {
    /// Those that reach this workspace, and maybe others.
    Reaching(&'a str),
    /// Those that reach no other workspaces than these; all keys if none are given.
    Within(Option<&'a [String]>),
}

impl<'a> Which<'a> {
    fn reaching(self) -> Option<&'a str> {
        match self {
            Self::Reaching(workspace) => Some(workspace),
            Self::Within(_) => None,
        }
    }

    fn within(self) -> Option<&'a [String]> {
        match self {
            Self::Reaching(_) => None,
            Self::Within(workspaces) => workspaces,
        }
    }
}

struct Raw {
    id: String,
    name: String,
    workspaces: Vec<String>,
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    created_by: String,
    expires_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    last_used_at: Option<DateTime<Utc>>,
}

impl TryFrom<Raw> for KeyRow {
    type Error = StoreError;

    fn try_from(raw: Raw) -> Result<Self, StoreError> {
        Ok(Self {
            scopes: scopes(&raw.id, &raw.scopes)?,
            id: raw.id,
            name: raw.name,
            workspaces: raw.workspaces,
            created_at: raw.created_at,
            created_by: raw.created_by,
            expires_at: raw.expires_at,
            revoked_at: raw.revoked_at,
            last_used_at: raw.last_used_at,
        })
    }
}

fn scopes(id: &str, names: &[String]) -> Result<Vec<Scope>, StoreError> {
    let scopes = names.iter().map(|name| name.parse());
    scopes
        .collect::<Result<_, _>>()
        .map_err(|error: runtime::access::UnknownScope| {
            StoreError::inconsistent("core.api_key", "scopes", id, error)
        })
}

/// Stores a new key.
pub async fn insert(pg: &mut PgConnection, key: &KeyRow, digest: &str) -> Result<(), sqlx::Error> {
    let scopes: Vec<_> = key.scopes.iter().map(Scope::to_string).collect();
    sqlx::query!(
        "INSERT INTO core.api_key
             (id, digest, name, workspaces, scopes, created_at, created_by, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        key.id,
        digest,
        key.name,
        &key.workspaces,
        &scopes,
        key.created_at,
        key.created_by,
        key.expires_at,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// Keys in the order in which they were made, after the one called `after`.
pub async fn list(
    pg: &mut PgConnection,
    which: Which<'_>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<KeyRow>, StoreError> {
    let found = sqlx::query_as!(
        Raw,
        "SELECT id, name, workspaces, scopes, created_at, created_by, expires_at, revoked_at,
                last_used_at
         FROM core.api_key
         WHERE ($1::text IS NULL OR workspaces @> ARRAY[$1])
           AND ($2::text[] IS NULL OR workspaces <@ $2)
           -- No key is ever removed, so the one before is there.
           AND ($3::text IS NULL
                OR (created_at, id) > (SELECT k.created_at, k.id FROM core.api_key AS k
                                          -- Of other workspaces not even the times are told.
                                          WHERE k.id = $3
                                            AND ($1::text IS NULL OR k.workspaces @> ARRAY[$1])
                                            AND ($2::text[] IS NULL OR k.workspaces <@ $2)))
         ORDER BY created_at, id
         LIMIT $4",
        which.reaching(),
        which.within(),
        after,
        limit,
    )
    .fetch_all(pg)
    .await?;
    found.into_iter().map(TryInto::try_into).collect()
}

/// The key called `id`, if it is one of `which`.
pub async fn find(
    pg: &mut PgConnection,
    which: Which<'_>,
    id: &str,
) -> Result<Option<KeyRow>, StoreError> {
    let found = sqlx::query_as!(
        Raw,
        "SELECT id, name, workspaces, scopes, created_at, created_by, expires_at, revoked_at,
                last_used_at
         FROM core.api_key
         WHERE id = $3
           AND ($1::text IS NULL OR workspaces @> ARRAY[$1])
           AND ($2::text[] IS NULL OR workspaces <@ $2)",
        which.reaching(),
        which.within(),
        id,
    )
    .fetch_optional(pg)
    .await?;
    found.map(TryInto::try_into).transpose()
}

/// How many keys that count at `now` reach the workspace.
pub async fn count_valid(
    pg: &mut PgConnection,
    workspace: &str,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
         FROM core.api_key
         WHERE workspaces @> ARRAY[$1]
           AND revoked_at IS NULL
           AND (expires_at IS NULL OR expires_at > $2)"#,
        workspace,
        now,
    )
    .fetch_one(pg)
    .await
}

/// Revokes the key called `id` for good; whether it was valid until now.
pub async fn revoke(
    pg: &mut PgConnection,
    id: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "UPDATE core.api_key SET revoked_at = $2 WHERE id = $1 AND revoked_at IS NULL",
        id,
        now,
    )
    .execute(pg)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// What a key allows at `now`, and whether it is time to note its use.
pub async fn grant(
    pg: &mut PgConnection,
    check: &KeyCheck,
    now: DateTime<Utc>,
) -> Result<Option<(KeyGrant, bool)>, StoreError> {
    let found = sqlx::query!(
        "SELECT workspaces, scopes, expires_at, last_used_at
         FROM core.api_key
         WHERE id = $1 AND digest = $2 AND revoked_at IS NULL
           AND (expires_at IS NULL OR expires_at > $3)",
        check.id,
        check.digest,
        now,
    )
    .fetch_optional(pg)
    .await?;
    let Some(row) = found else {
        return Ok(None);
    };
    let grant = KeyGrant {
        scopes: scopes(&check.id, &row.scopes)?,
        workspaces: row.workspaces,
        expires_at: row.expires_at,
    };
    let is_due = row.last_used_at.is_none_or(|at| now - at >= NOTE_EVERY);
    Ok(Some((grant, is_due)))
}

/// Notes that the key called `id` was used, unless somebody else has noted it just now.
pub async fn note_use(
    pg: &mut PgConnection,
    id: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE core.api_key SET last_used_at = $2
         WHERE id = $1 AND (last_used_at IS NULL OR last_used_at <= $3)",
        id,
        now,
        now - NOTE_EVERY,
    )
    .execute(pg)
    .await?;
    Ok(())
}
