//! Who asks, and what they may do. Pure.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a principal may do.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Read a workspace's data.
    Read,
    /// Deliver frames to a workspace's connections.
    Ingest,
    /// Change what belongs to a workspace: connections, webhooks, API keys.
    Manage,
    /// See and mend what belongs to no workspace: the pipeline, dead letters, subscribers.
    Operate,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Ingest, Self::Manage, Self::Operate];

    /// The scope's name, as tokens and the API's description write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Ingest => "ingest",
            Self::Manage => "manage",
            Self::Operate => "operate",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no scope.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no scope; there are read, ingest, manage and operate")]
pub struct UnknownScope(String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, UnknownScope> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.name() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// The workspaces that a principal may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workspaces {
    /// Every one.
    All,
    /// These, by name.
    Of(BTreeSet<String>),
}

/// What kind of credential a principal came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The installation's own: the services among themselves.
    Internal,
    /// An API key.
    ApiKey,
    /// A JSON web token.
    Token,
}

impl Kind {
    /// The kind's name, in metrics and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::ApiKey => "api_key",
            Self::Token => "token",
        }
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Who, unique among all: `internal`, `key:<id>` or `jwt:<subject>`.
    pub name: String,
    /// How they said so.
    pub kind: Kind,
    /// What they may touch.
    pub workspaces: Workspaces,
    /// What they may do there.
    pub scopes: BTreeSet<Scope>,
    /// When their credential ends (UTC), if it does.
    pub expires_at: Option<DateTime<Utc>>,
}

impl Principal {
    /// The installation itself, which may do everything.
    #[must_use]
    pub fn internal() -> Self {
        Self {
            name: "internal".to_owned(),
            kind: Kind::Internal,
            workspaces: Workspaces::All,
            scopes: Scope::ALL.into(),
            expires_at: None,
        }
    }

    /// Whether the principal has `scope`.
    #[must_use]
    pub fn has(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }

    /// Whether the principal may touch `workspace` at all.
    #[must_use]
    pub fn reaches(&self, workspace: &str) -> bool {
        match &self.workspaces {
            Workspaces::All => true,
            Workspaces::Of(names) => names.contains(workspace),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_known_by_its_name() {
        for scope in Scope::ALL {
            assert_eq!(scope.name().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.name());
        }
        let error = "admin".parse::<Scope>().unwrap_err().to_string();
        assert!(error.contains("\"admin\"") && error.contains("manage"));
    }

    #[test]
    fn a_principal_reaches_its_own_workspaces() {
        let mut principal = Principal::internal();
        assert!(principal.reaches("any"));
        principal.workspaces = Workspaces::Of(["ours".to_owned()].into());
        assert!(principal.reaches("ours") && !principal.reaches("theirs"));
    }
}
