//! A snapshot projection that runs, for tests.

use std::net::SocketAddr;
use std::time::Duration;

use runtime::Context;
use runtime::access::AccessConfig;
use runtime::config::{DatabaseConfig, HttpConfig};
use serde_json::Value;
use shared_model::event::{CloudEvent, EventType};
use sqlx::PgPool;

use crate::GapsConfig;
use crate::checkpoint;
use crate::fixture;
use crate::offsets::multirange;
use crate::schema::Schema;
use crate::service_tests::{Relay, changed};
use crate::snapshot::{self, SnapshotConfig};

pub(crate) const KIND: EventType = EventType::VehicleSnapshotChanged;

/// A snapshot projection that runs, and what it needs.
pub(crate) struct Running {
    /// Metrics are the process's, so each test has a shard of its own.
    pub(crate) shard: u32,
    pub(crate) relay: Relay,
    pub(crate) context: Context,
    pub(crate) http: SocketAddr,
    pub(crate) pool: PgPool,
    pub(crate) config: SnapshotConfig,
}

impl Running {
    pub(crate) async fn start(shard: u32) -> Self {
        let amqp = fixture::broker().await;
        let relay = Relay::new(&amqp).await;
        let config = SnapshotConfig {
            amqp,
            database: fixture::database(&snapshot::MIGRATIONS).await,
            http: HttpConfig::local(0),
            access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
            core: relay.core.config(),
            gaps: GapsConfig {
                after: Duration::from_secs(1),
            },
            ..SnapshotConfig::default()
        };
        let context = Context::new("snapshot-projection", "0");
        let started = snapshot::start(context.clone(), config.clone()).await;
        Self {
            shard,
            relay,
            context,
            http: started.unwrap().http,
            pool: pool(&config.database).await,
            config,
        }
    }

    pub(crate) async fn applied(&self) -> String {
        applied(&self.pool, "snapshot", self.shard).await
    }

    /// Logs an event.
    pub(crate) fn append(&self, kind: EventType, data: Value) -> CloudEvent {
        self.relay.core.append(self.shard, kind, data)
    }

    /// Logs an event and sends it.
    pub(crate) async fn send(&self, kind: EventType, data: Value) {
        self.relay.send_again(&self.append(kind, data)).await;
    }

    /// What a metric says of the shard.
    pub(crate) async fn metric(&self, name: &str) -> Option<f64> {
        let page = reqwest::get(format!("http://{}/metrics", self.http)).await;
        let page = page.unwrap().text().await.unwrap();
        let shard = format!("shard=\"{}\"", self.shard);
        let line = page
            .lines()
            .find(|line| line.starts_with(name) && line.contains(&shard))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    pub(crate) async fn stop(self) {
        self.context.stop().await.unwrap();
        self.relay.stop().await;
    }
}

pub(crate) async fn pool(config: &DatabaseConfig) -> PgPool {
    let url = config.url.as_ref().unwrap().expose();
    PgPool::connect(url).await.unwrap()
}

/// The offsets of a shard that were applied.
pub(crate) async fn applied(pool: &PgPool, schema: &'static str, shard: u32) -> String {
    let mut connection = pool.acquire().await.unwrap();
    let applied = checkpoint::load(&mut connection, Schema(schema)).await;
    applied
        .unwrap()
        .of(shard)
        .map(multirange)
        .unwrap_or_default()
}

pub(crate) fn bus(number: u64) -> Value {
    changed(&format!("bus-{number}"), 1, "%")
}
