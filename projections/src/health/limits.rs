//! How long a silence may last, by provider. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use shared_model::Provider;

use super::freshness::Limits;

/// The limits that vehicles are judged by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsByProvider {
    /// For providers that have none of their own, and while no provider is known.
    pub usual: Limits,
    /// For providers that report more seldom, or more often.
    pub providers: BTreeMap<Provider, Limits>,
}

impl LimitsByProvider {
    /// The limits for a vehicle that was last heard from through `provider`.
    #[must_use]
    pub fn of(&self, provider: Option<&Provider>) -> Limits {
        provider
            .and_then(|provider| self.providers.get(provider))
            .copied()
            .unwrap_or(self.usual)
    }

    /// The shortest that any provider has.
    #[must_use]
    pub fn shortest(&self) -> Limits {
        let others = self.providers.values();
        others.copied().fold(self.usual, |least, other| Limits {
            stale_after: least.stale_after.min(other.stale_after),
            offline_after: least.offline_after.min(other.offline_after),
        })
    }

    /// What tells these limits from others.
    pub(super) fn fingerprint(&self) -> Value {
        let one = |limits: &Limits| {
            json!([
                limits.stale_after.num_microseconds(),
                limits.offline_after.num_microseconds()
            ])
        };
        let providers: BTreeMap<_, _> = self
            .providers
            .iter()
            .map(|(provider, limits)| (provider.as_str(), one(limits)))
            .collect();
        json!({ "usual": one(&self.usual), "providers": providers })
    }
}

impl From<Limits> for LimitsByProvider {
    fn from(usual: Limits) -> Self {
        Self {
            usual,
            providers: BTreeMap::new(),
        }
    }
}
