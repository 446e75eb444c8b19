//! Configuration of the snapshot projection.

use runtime::config::{AmqpConfig, BatchLimit, Config, DatabaseConfig, HttpConfig, Problems};
use serde::{Deserialize, Serialize};

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
    /// How much to commit at once.
    pub batch: BatchLimit,
}

impl Default for SnapshotConfig {
    fn default() -> Self {
        Self {
            amqp: AmqpConfig::default(),
            database: DatabaseConfig::default(),
            http: HttpConfig::local(8083),
            batch: BatchLimit::default(),
        }
    }
}

impl Config for SnapshotConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.database.validate(problems);
        self.batch.validate(problems);
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}
