//! Configuration of the snapshot projection.

use runtime::access::AccessConfig;
use runtime::config::{AmqpConfig, BatchLimit, Config, DatabaseConfig, HttpConfig, Problems};
use serde::{Deserialize, Serialize};

use crate::core_config::CoreConfig;
use crate::gaps_config::GapsConfig;

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
        }
    }
}

impl Config for SnapshotConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.access.validate(problems);
        self.database.validate(problems);
        self.batch.validate(problems);
        self.core.validate(problems);
        self.gaps.validate(problems);
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}
