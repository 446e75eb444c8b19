//! API keys as they are asked for and shown.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use runtime::access::Scope;
use serde::{Deserialize, Serialize};
use shared_model::WorkspaceId;
use utoipa::{IntoParams, ToSchema};

use crate::store::api_key::KeyRow;

/// A key to make for one workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewApiKey {
    /// What you call it: 1 to 200 characters.
    #[schema(example = "dispatch board", min_length = 1, max_length = 200)]
    pub name: String,
    /// What it may do: one scope or more, none that you do not have yourself.
    #[schema(value_type = Vec<Scope>, min_items = 1)]
    pub scopes: BTreeSet<Scope>,
    /// When it ends (UTC); never unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key to make for one workspace or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWideApiKey {
    /// What you call it: 1 to 200 characters.
    #[schema(example = "night shift", min_length = 1, max_length = 200)]
    pub name: String,
    /// The workspaces that it reaches: 1 to 1000, none that you do not reach yourself.
    #[schema(value_type = Vec<WorkspaceId>, example = json!(["depot", "harbour"]), min_items = 1, max_items = 1000)]
    pub workspaces: BTreeSet<WorkspaceId>,
    /// What it may do: one scope or more, none that you do not have yourself.
    #[schema(value_type = Vec<Scope>, min_items = 1)]
    pub scopes: BTreeSet<Scope>,
    /// When it ends (UTC); never unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

/// A key as shown: all but what its holder sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyView {
    /// What names it; the audit log calls its holder `key:<id>`.
    #[schema(example = "9f86d081884c7d65")]
    pub id: String,
    /// What its owner calls it.
    pub name: String,
    /// The workspaces that it reaches; of a workspace's list, that workspace alone.
    pub workspaces: Vec<String>,
    /// Whether it reaches other workspaces too, which are not told here.
    pub shared: bool,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// `active`, `expired` or `revoked`.
    #[schema(example = "active")]
    pub state: String,
    /// When it was made (UTC).
    pub created_at: DateTime<Utc>,
    /// Who made it: `key:<id>`, `jwt:<subject>`, `internal` or `command`.
    pub created_by: String,
    /// When it ends (UTC), if it does.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked (UTC), if it was.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used (UTC), to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
}

impl ApiKeyView {
    /// `row` at `now`, to somebody who may know of all its workspaces.
    #[must_use]
    pub fn new(row: KeyRow, now: DateTime<Utc>) -> Self {
        let state = if row.revoked_at.is_some() {
            "revoked"
        } else if row.expires_at.is_some_and(|end| end <= now) {
            "expired"
        } else {
            "active"
        };
        Self {
            id: row.id,
            name: row.name,
            workspaces: row.workspaces,
            shared: false,
            scopes: row.scopes,
            state: state.to_owned(),
            created_at: row.created_at,
            created_by: row.created_by,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            last_used_at: row.last_used_at,
        }
    }

    /// `row` at `now`, to somebody in `workspace`, who is not told of the other ones.
    #[must_use]
    pub fn within(workspace: &str, row: KeyRow, now: DateTime<Utc>) -> Self {
        let shared = row.workspaces.iter().any(|other| other != workspace);
        Self {
            workspaces: vec![workspace.to_owned()],
            shared,
            ..Self::new(row, now)
        }
    }
}

/// A key that was just made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CreatedApiKey {
    /// The key, to be sent as `Authorization: Bearer <key>`. It is not shown again.
    pub key: String,
    /// All else about it.
    #[serde(flatten)]
    pub view: ApiKeyView,
}

/// A page of API keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiKeyPage {
    /// The keys, the oldest first.
    pub items: Vec<ApiKeyView>,
    /// Where the next page begins, if there is one.
    pub next: Option<String>,
}

/// Which part of a list of keys is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyQuery {
    /// The most keys of the page.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    pub(super) limit: Option<i64>,
    /// The `next` of the page before: the list goes on behind it.
    #[param(pattern = "^[0-9a-f]{16}$", nullable = false)]
    pub(super) after: Option<String>,
}
