//! Configuration of the snapshot projection.

use std::collections::BTreeMap;
use std::time::Duration;

use runtime::access::AccessConfig;
use runtime::config::{AmqpConfig, BatchLimit, Config, DatabaseConfig, HttpConfig, Problems};
use serde::{Deserialize, Serialize};
use shared_model::Provider;

use crate::core_config::CoreConfig;
use crate::gaps_config::GapsConfig;
use crate::health::{self, LimitsByProvider, ProviderFreshness};

/// Configuration of the snapshot projection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotConfig {
    /// The broker.
    pub amqp: AmqpConfig,
    /// The database that holds the schema `snapshot`.
    pub database: DatabaseConfig,
    /// The read API.
    pub http: HttpConfig,
    /// Who may use the APIs.
    pub access: AccessConfig,
    /// How much to commit at once.
    pub batch: BatchLimit,
    /// The core, whose log has what does not arrive.
    pub core: CoreConfig,
    /// When a missing event is fetched.
    pub gaps: GapsConfig,
    /// How fresh vehicles are said to be.
    pub freshness: FreshnessConfig,
}

/// How fresh vehicles are said to be: the limits of the health projection, which must be the same there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshnessConfig {
    /// See [`health::FreshnessConfig::stale_after`].
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// See [`health::FreshnessConfig::offline_after`].
    #[serde(with = "humantime_serde")]
    pub offline_after: Duration,
    /// See [`health::FreshnessConfig::providers`].
    pub providers: BTreeMap<Provider, ProviderFreshness>,
}

impl Default for FreshnessConfig {
    fn default() -> Self {
        let health = health::FreshnessConfig::default();
        Self {
            stale_after: health.stale_after,
            offline_after: health.offline_after,
            providers: health.providers,
        }
    }
}

impl FreshnessConfig {
    /// The limits that vehicles are judged by.
    pub(super) fn limits(&self) -> LimitsByProvider {
        self.as_health().limits()
    }

    fn as_health(&self) -> health::FreshnessConfig {
        let Self {
            stale_after,
            offline_after,
            providers,
        } = self.clone();
        health::FreshnessConfig {
            stale_after,
            offline_after,
            providers,
            ..health::FreshnessConfig::default()
        }
    }
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            amqp: AmqpConfig::default(),
            database: DatabaseConfig::default(),
            http: HttpConfig::local(8083),
            access: AccessConfig::default(),
            batch: BatchLimit::default(),
            core: CoreConfig::default(),
            gaps: GapsConfig::default(),
            freshness: FreshnessConfig::default(),
        }
    }
}

impl Config for SnapshotConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.access.validate(problems);
        self.http.validate(problems);
        self.database.validate(problems);
        self.batch.validate(problems);
        self.core.validate(problems);
        self.gaps.validate(problems);
        self.freshness.as_health().validate(problems);
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}
