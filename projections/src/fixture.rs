//! What tests share: one PostgreSQL and one RabbitMQ of the test binary's own, a database and a
//! virtual host per test.

use std::future::Future;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use private_services::{Binaries, PrivateServices};
use runtime::config::{AmqpConfig, DatabaseConfig, SecretUrl};
use runtime::db::{self, Migrations};
use runtime::telemetry;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::runtime::{Handle, Runtime};

/// By which the tests pass for another service.
pub(crate) const INTERNAL_TOKEN: &str = "the-internal-token-of-the-tests";
static NEXT: AtomicU32 = AtomicU32::new(0);
static SERVERS: LazyLock<Servers> = LazyLock::new(|| {
    // A runtime of their own: those of the tests end with the tests.
    std::thread::spawn(Servers::start)
        .join()
        .expect("the private servers start")
});

struct Servers {
    services: PrivateServices,
    runtime: Runtime,
}

impl Servers {
    fn start() -> Self {
        // HTTP clients need a TLS provider even for plain connections.
        rustls::crypto::ring::default_provider()
            .install_default()
            .unwrap();
        telemetry::metrics_registry();
        let runtime = Runtime::new().unwrap();
        let services = runtime.block_on(async {
            let binaries = Binaries::locate_or_install(|line| eprintln!("{line}"))
                .await
                .unwrap();
            PrivateServices::ephemeral(&binaries).await.unwrap()
        });
        Self { services, runtime }
    }
}

async fn on_servers<F>(work: impl FnOnce(&'static PrivateServices) -> F + Send + 'static)
where
    F: Future<Output = Result<(), private_services::Error>> + Send + 'static,
{
    // The first caller waits for the servers to start.
    let servers = tokio::task::spawn_blocking(|| &*SERVERS).await.unwrap();
    let handle: &Handle = servers.runtime.handle();
    handle
        .spawn(work(&servers.services))
        .await
        .unwrap()
        .unwrap();
}

fn unique_name() -> String {
    format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A fresh database with `migrations` applied.
pub(crate) async fn database(migrations: &Migrations) -> DatabaseConfig {
    let name = unique_name();
    let created = name.clone();
    on_servers(|services| async move { services.postgres().create_database(&created).await }).await;
    let config = DatabaseConfig {
        url: Some(SecretUrl::new(SERVERS.services.postgres().url(&name))),
        max_connections: 4,
        ..DatabaseConfig::default()
    };
    db::migrate(&config, migrations).await.unwrap();
    config
}

/// Connections to a fresh database with `migrations` applied.
pub(crate) async fn pool(migrations: &Migrations) -> PgPool {
    let config = database(migrations).await;
    PgPool::connect(config.url.unwrap().expose()).await.unwrap()
}

/// Has the server refuse the database to everybody, and end all sessions on it; or stop doing so.
pub(crate) async fn set_away(config: &DatabaseConfig, away: bool) {
    let name = config.url.as_ref().unwrap().expose().rsplit('/').next();
    let name = name.unwrap();
    let url = SERVERS.services.postgres().url(private_services::NAME);
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let allow = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {}", !away);
    sqlx::query(AssertSqlSafe(allow))
        .execute(&mut connection)
        .await
        .unwrap();
    if away {
        sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1")
            .bind(name)
            .execute(&mut connection)
            .await
            .unwrap();
    }
}

/// A fresh virtual host.
pub(crate) async fn broker() -> AmqpConfig {
    let name = unique_name();
    let created = name.clone();
    on_servers(|services| async move { services.rabbitmq().create_vhost(&created).await }).await;
    AmqpConfig {
        url: Some(SecretUrl::new(SERVERS.services.rabbitmq().amqp_url(&name))),
        ..AmqpConfig::default()
    }
}

/// Waits for `condition` to hold for what `look` sees, and returns that.
pub(crate) async fn eventually<T, F>(look: impl Fn() -> F, condition: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
    F: Future<Output = T>,
{
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let seen = look().await;
        if condition(&seen) {
            return seen;
        }
        assert!(Instant::now() < deadline, "still not so: {seen:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
