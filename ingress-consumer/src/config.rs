//! Configuration of the core and the relay.

mod audit;
mod connections;
mod dead_letters;
mod ingest;
mod log;
mod parked;
mod pipeline;
mod polling;
mod reconcile;
mod relay;

use std::time::Duration;

use runtime::access::AccessConfig;
use runtime::config::{AmqpConfig, BatchLimit, Config, DatabaseConfig, HttpConfig, Problems};
use serde::{Deserialize, Serialize};

pub use audit::AuditConfig;
pub use connections::ConnectionsConfig;
pub use dead_letters::DeadLettersConfig;
pub use ingest::IngestConfig;
pub use log::LogConfig;
pub use parked::ParkedConfig;
pub use pipeline::PipelineConfig;
pub use polling::PollingConfig;
pub use reconcile::ReconcileConfig;
pub use relay::{RelayConfig, RelaySettings};

const DAY: Duration = Duration::from_hours(24);

/// Adds which of `values`, by key, PostgreSQL could not count up to, or are 0.
fn counts(problems: &mut Problems, values: &[(&str, u64)]) {
    let most = u64::from(u32::MAX) << 16;
    for (key, value) in values {
        if !(1..=most).contains(value) {
            problems.add(key, value, "write 1 or more");
        }
    }
}

const PARTITIONS: u32 = 4;
const PARTITION_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Configuration of the service `ingress-consumer`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerConfig {
    /// The broker.
    pub amqp: AmqpConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// The control API.
    pub http: ConsumerHttp,
    /// Who may use the APIs.
    pub access: AccessConfig,
    /// The ingress queue's shape, fixed at the installation's first start.
    pub ingress: IngressConfig,
    /// How batches are taken from the queue.
    pub batch: BatchLimit,
    /// How observations are accepted.
    pub acceptance: AcceptanceConfig,
    /// The event log.
    pub log: LogConfig,
    /// Which publisher reads which stream.
    pub ownership: OwnershipConfig,
    /// What connections may name.
    pub connections: ConnectionsConfig,
    /// How polled providers are asked.
    pub polling: PollingConfig,
    /// HTTP provider-ingest.
    pub ingest: IngestConfig,
    /// How long and how much is kept of what cannot be interpreted.
    pub parked: ParkedConfig,
    /// How long and how much is kept of what the broker gave up.
    pub dead_letters: DeadLettersConfig,
    /// How long it is known who has changed what.
    pub audit: AuditConfig,
    /// How it is judged whether everything adds up.
    pub reconcile: ReconcileConfig,
    /// What the pipeline's overview points to.
    pub pipeline: PipelineConfig,
}

/// Where the core listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConsumerHttp(pub HttpConfig);

impl Default for ConsumerHttp {
    fn default() -> Self {
        Self(HttpConfig::local(8081))
    }
}

/// The ingress queue's shape.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngressConfig {
    /// How many partitions; 4 unless set before the first start, and the same ever after.
    pub partitions: Option<u32>,
    /// The bound of each partition's queue in bytes; 256 MiB unless set before the first start.
    pub partition_max_bytes: Option<u64>,
}

impl IngressConfig {
    /// The partitions of a new installation.
    #[must_use]
    pub fn initial_partitions(&self) -> u32 {
        self.partitions.unwrap_or(PARTITIONS)
    }

    /// The bound of each partition's queue in a new installation, in bytes.
    #[must_use]
    pub fn initial_partition_max_bytes(&self) -> u64 {
        self.partition_max_bytes.unwrap_or(PARTITION_MAX_BYTES)
    }
}

/// How observations are accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcceptanceConfig {
    /// How far a vehicle's clock may be ahead before its time is not believed.
    #[serde(with = "humantime_serde")]
    pub clock_skew: Duration,
    /// How long noise may wait before a sweep publishes it.
    #[serde(with = "humantime_serde")]
    pub sweep_after: Duration,
    /// How many of a vehicle's latest observations that did not become its state are remembered.
    pub verdicts_kept: u16,
    /// How long it is kept which frames of a session were seen, after its last one; then only how many.
    #[serde(with = "humantime_serde")]
    pub session_retention: Duration,
}

impl Default for AcceptanceConfig {
    fn default() -> Self {
        Self {
            clock_skew: Duration::from_mins(5),
            sweep_after: Duration::from_mins(1),
            verdicts_kept: 20,
            session_retention: 30 * DAY,
        }
    }
}

/// Which publisher reads which stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnershipConfig {
    /// For how long a stream is a publisher's from its last heartbeat on.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How many streams may be on their way from one publisher to another for balance alone.
    pub moves: u32,
    /// How long an owner may read on beside its successor, until that one is subscribed.
    #[serde(with = "humantime_serde")]
    pub handover_limit: Duration,
    /// How long both read once the successor is subscribed, unless its provider begins to send before.
    #[serde(with = "humantime_serde")]
    pub overlap: Duration,
}

impl Default for OwnershipConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(15),
            moves: 10,
            handover_limit: Duration::from_mins(1),
            overlap: Duration::from_secs(10),
        }
    }
}

impl OwnershipConfig {
    fn validate(&self, problems: &mut Problems) {
        if !(Duration::from_secs(1)..=Duration::from_mins(10)).contains(&self.lease) {
            problems.add(
                "ownership.lease",
                &self.lease,
                "write a duration from 1s to 10m, three heartbeats or more",
            );
        }
        if self.moves == 0 {
            problems.add("ownership.moves", &self.moves, "write 1 or more");
        }
        if self.overlap > self.handover_limit {
            problems.add(
                "ownership.overlap",
                &self.overlap,
                "write a duration up to ownership.handover_limit",
            );
        }
        if !(Duration::from_secs(1)..=DAY).contains(&self.handover_limit) {
            problems.add(
                "ownership.handover_limit",
                &self.handover_limit,
                "write a duration from 1s to 1day",
            );
        }
    }
}

impl Config for ConsumerConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.access.validate(problems);
        self.http.0.validate(problems);
        self.database.validate(problems);
        if let Some(partitions) = self.ingress.partitions
            && !(1..=1024).contains(&partitions)
        {
            problems.add(
                "ingress.partitions",
                &partitions,
                "write a number from 1 to 1024",
            );
        }
        if let Some(bytes) = self.ingress.partition_max_bytes
            && bytes < 1024 * 1024
        {
            problems.add(
                "ingress.partition_max_bytes",
                &bytes,
                "write at least 1048576 (1 MiB)",
            );
        }
        self.batch.validate(problems);
        self.log.validate(problems);
        self.ownership.validate(problems);
        self.connections.validate(problems);
        self.polling.validate(problems);
        self.ingest.validate(problems);
        self.parked.validate(problems);
        self.dead_letters.validate(problems);
        self.audit.validate(problems);
        self.reconcile.validate(problems);
        self.pipeline.validate(problems);
        if !(Duration::from_millis(100)..=DAY).contains(&self.acceptance.sweep_after) {
            problems.add(
                "acceptance.sweep_after",
                &self.acceptance.sweep_after,
                "write a duration from 100ms to 1day",
            );
        }
        if self.acceptance.clock_skew > DAY {
            problems.add(
                "acceptance.clock_skew",
                &self.acceptance.clock_skew,
                "write a duration up to 1day",
            );
        }
        if self.acceptance.verdicts_kept > 200 {
            problems.add(
                "acceptance.verdicts_kept",
                &self.acceptance.verdicts_kept,
                "write a number from 0 to 200",
            );
        }
        if !(Duration::from_secs(1)..=3650 * DAY).contains(&self.acceptance.session_retention) {
            problems.add(
                "acceptance.session_retention",
                &self.acceptance.session_retention,
                "write a duration from 1s to 3650days",
            );
        }
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}
