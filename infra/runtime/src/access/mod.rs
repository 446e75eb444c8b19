//! Access control: who sent a request, and whether they may.
//!
//! Every service checks every request itself, so that none can be reached around the gateway. What a
//! route asks for is read from the API's description ([`Rules`]); a route that is not described takes
//! only the installation's own credential.

mod audit;
mod config;
mod guard;
mod internal;
mod keys;
mod principal;
mod rule;

use std::sync::Arc;

use axum::http::StatusCode;

pub use audit::{AuditLog, Begun, Change, Concluded, CoreAudit, audited};
pub use config::AccessConfig;
pub(crate) use guard::{Guarded, guard};
pub use internal::{InternalToken, new_secret};
pub use keys::{ApiKey, KeyCheck, KeyGrant, KeySource, NoApiKey, NoKeys};
pub use principal::{Kind, Principal, Scope, UnknownScope, Workspaces};
pub use rule::{NoScope, Rule, Rules, SCHEME};

use crate::http::Problem;

/// Decides who sent a request; clones are handles on the same.
#[derive(Clone)]
pub struct Access {
    internal: InternalToken,
    keys: Arc<dyn KeySource>,
}

impl Access {
    /// Access as configured; API keys are looked up in `keys`.
    pub fn new(config: &AccessConfig, keys: Arc<dyn KeySource>) -> Self {
        Self {
            internal: InternalToken::of(config),
            keys,
        }
    }

    /// Who comes with `credential`.
    pub(crate) async fn principal(&self, credential: &str) -> Result<Principal, Problem> {
        if self.internal.is(credential) {
            return Ok(Principal::internal());
        }
        let unknown = "the credential is not known here; it may have been revoked or have expired";
        let Ok(key) = credential.parse::<ApiKey>() else {
            return Err(unauthorized(unknown));
        };
        let check = KeyCheck {
            digest: key.digest(),
            id: key.id,
        };
        let grant = self.keys.check(&check).await?;
        let grant = grant.ok_or_else(|| unauthorized(unknown))?;
        Ok(Principal {
            name: format!("key:{}", check.id),
            kind: Kind::ApiKey,
            workspaces: Workspaces::Of(grant.workspaces.into_iter().collect()),
            scopes: grant.scopes.into_iter().collect(),
        })
    }
}

/// The request does not say who sent it, or says so in vain.
pub(crate) fn unauthorized(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail)
}

/// The principal may not do this.
pub(crate) fn forbidden(name: &str, detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, name, detail)
}
