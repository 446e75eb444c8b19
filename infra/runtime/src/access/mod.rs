//! Access control: who sent a request, and whether they may.
//!
//! Every service checks every request itself, so that none can be reached around the gateway. What a
//! route asks for is read from the API's description ([`Rules`]); a route that is not described takes
//! only the installation's own credential.

mod audit;
mod config;
mod core_keys;
mod credential;
mod guard;
#[cfg(test)]
mod guard_tests;
mod internal;
mod jwt;
mod key_cache;
mod keys;
mod limits;
mod metrics;
mod principal;
mod refusal;
mod rule;
mod shares;
#[cfg(test)]
mod tests;
mod turns;

use std::sync::Arc;

pub use audit::{AuditLog, Begun, Change, Concluded, CoreAudit, audited};
pub use config::{AccessConfig, KeysConfig, RateConfig};
pub use core_keys::CoreKeys;
pub(crate) use guard::{Guarded, guard};
pub use internal::{InternalToken, new_secret};
pub use jwt::JwtConfig;
pub use keys::{ApiKey, KeyCheck, KeyGrant, KeySource, NoApiKey, NoKeys};
pub use principal::{Kind, Principal, Scope, UnknownScope, Workspaces};
pub(crate) use refusal::Refusal;
pub use rule::{NoScope, Rule, Rules, SCHEME};
pub use shares::Shares;
pub use turns::{TURN_LIMIT, Turn, Turns, in_turn};

use jwt::Tokens;
use key_cache::KeyCache;
use limits::PrincipalLimits;

/// Decides who sent a request; clones are handles on the same.
#[derive(Clone)]
pub struct Access(Arc<Parts>);

struct Parts {
    internal: InternalToken,
    keys: KeyCache,
    /// None where no issuer is configured.
    tokens: Option<Tokens>,
    limits: PrincipalLimits,
}

impl Access {
    /// Access as configured; API keys are looked up in `keys`, and what it says is remembered for a while.
    pub fn new(config: &AccessConfig, keys: Arc<dyn KeySource>) -> Self {
        Self(Arc::new(Parts {
            internal: InternalToken::of(config),
            keys: KeyCache::new(config, keys),
            tokens: Tokens::of(&config.jwt),
            limits: PrincipalLimits::new(&config.rate),
        }))
    }

    /// Access as configured; API keys are those that the core at `core` knows.
    pub fn with_core(config: &AccessConfig, core: &str) -> anyhow::Result<Self> {
        let keys = CoreKeys::new(core, &InternalToken::of(config))?;
        Ok(Self::new(config, Arc::new(keys)))
    }

    /// Who comes with `credential`.
    pub(crate) async fn principal(&self, credential: &str) -> Result<Principal, Refusal> {
        let Parts {
            internal,
            keys,
            tokens,
            ..
        } = &*self.0;
        if internal.is(credential) {
            return Ok(Principal::internal());
        }
        if let Ok(key) = credential.parse::<ApiKey>() {
            return of_key(keys, key).await;
        }
        match tokens {
            Some(tokens) if jwt::looks_like_one(credential) => tokens.principal(credential).await,
            _ => Err(Refusal::unknown()),
        }
    }

    /// Counts a request of `principal`, who may have asked too much.
    pub(crate) fn count(&self, principal: &Principal) -> Result<(), Refusal> {
        self.0.limits.count(principal)
    }
}

async fn of_key(keys: &KeyCache, key: ApiKey) -> Result<Principal, Refusal> {
    let check = KeyCheck {
        digest: key.digest(),
        id: key.id,
    };
    let grant = keys.check(&check).await?.ok_or_else(Refusal::unknown)?;
    Ok(Principal {
        name: format!("key:{}", check.id),
        kind: Kind::ApiKey,
        workspaces: Workspaces::Of(grant.workspaces.iter().cloned().collect()),
        scopes: grant.scopes.iter().copied().collect(),
        expires_at: grant.expires_at,
    })
}
