//! The run's PostgreSQL and RabbitMQ, twice: those that all tests share, and those that a test may stop.
//! Started by the first test that needs them, ended by their watchdog once the test process is gone, however
//! it goes.

use private_services::{Binaries, PrivateServices};
use runtime::telemetry;
use sqlx::{Connection, PgConnection};
use tokio::sync::{Mutex, OnceCell};

use super::log;

const TEMPLATE: &str = "template_headrace";

/// A PostgreSQL and a RabbitMQ.
pub struct Servers {
    /// The servers.
    pub private: PrivateServices,
    cloning: Mutex<()>,
}

static SHARED: OnceCell<Servers> = OnceCell::const_new();
static BREAKABLE: OnceCell<Servers> = OnceCell::const_new();

/// The servers that all tests share.
pub(super) async fn shared() -> &'static Servers {
    SHARED.get_or_init(Servers::start).await
}

/// The servers for a test that stops them, which is the only one on them meanwhile.
pub(super) async fn breakable() -> &'static Servers {
    BREAKABLE.get_or_init(Servers::start).await
}

impl Servers {
    async fn start() -> Self {
        telemetry::install_tls();
        telemetry::metrics_registry();
        log::init();
        let binaries = Binaries::locate_or_install(|line| eprintln!("{line}")).await;
        let binaries = binaries.expect("PostgreSQL and RabbitMQ can be found or installed");
        let private = PrivateServices::ephemeral(&binaries).await;
        let private = private.expect("the private servers start");
        private
            .postgres()
            .create_database(TEMPLATE)
            .await
            .expect("a database can be made");
        let template = private.postgres().url(TEMPLATE);
        headrace::services::migrate(&template)
            .await
            .expect("the migrations apply");
        Self {
            private,
            cloning: Mutex::default(),
        }
    }

    /// A migrated database of its own called `name`; returns its URL.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn database(&self, name: &str) -> String {
        // The template must have no other user while it is copied.
        let _one_at_a_time = self.cloning.lock().await;
        let mut admin = PgConnection::connect(&self.private.postgres().url("postgres"))
            .await
            .expect("the database server answers");
        let create = format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}");
        sqlx::query(sqlx::AssertSqlSafe(create))
            .execute(&mut admin)
            .await
            .expect("a database can be made");
        self.private.postgres().url(name)
    }

    /// Puts what a dump of any database holds in the place of the database called `name`.
    ///
    /// # Panics
    /// If it cannot be restored.
    pub async fn restore(&self, name: &str, dump: &str) {
        let mut admin = PgConnection::connect(&self.private.postgres().url("postgres"))
            .await
            .expect("the database server answers");
        let drop = format!("DROP DATABASE {name} WITH (FORCE)");
        sqlx::query(sqlx::AssertSqlSafe(drop))
            .execute(&mut admin)
            .await
            .expect("the database can be dropped");
        let postgres = self.private.postgres();
        let created = postgres.create_database(name).await;
        created.expect("a database can be made");
        let restored = postgres.restore(name, dump).await;
        restored.expect("the dump can be restored");
    }

    /// A virtual host of its own called `name`; returns its URL.
    ///
    /// # Panics
    /// If it cannot be made.
    pub async fn vhost(&self, name: &str) -> String {
        let rabbitmq = self.private.rabbitmq();
        rabbitmq
            .create_vhost(name)
            .await
            .expect("a virtual host can be made");
        rabbitmq.amqp_url(name)
    }
}
