//! The services: their names, settings and how to start each in this process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use ingress_consumer::config::{ConsumerConfig, RelayConfig};
use ingress_publisher::PublisherConfig;
use projections::health::HealthConfig;
use projections::live::LiveConfig;
use projections::reactions::ReactionsConfig;
use projections::snapshot::SnapshotConfig;
use runtime::config::{self, Config, DatabaseConfig, SecretUrl};
use runtime::db::{self, Migrations};
use runtime::{Context, service, telemetry};

use crate::cli;

/// A setting: its key, such as `amqp.url`, and its value as written in the environment.
pub type Setting = (String, String);

/// A service of Headrace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// The core.
    IngressConsumer,
    /// The event log to the event bus.
    OutboxRelay,
    /// The latest snapshot of each vehicle.
    SnapshotProjection,
    /// The health of each vehicle.
    HealthProjection,
    /// Who is told of events: webhooks.
    Reactions,
    /// Who follows events: streams.
    Live,
    /// The providers' websockets.
    IngressPublisher,
}

impl Service {
    /// Every service, in the order in which they start; they stop in the order of [`Self::STOP`].
    pub const ALL: [Self; 7] = [
        Self::IngressConsumer,
        Self::OutboxRelay,
        Self::SnapshotProjection,
        Self::HealthProjection,
        Self::Reactions,
        Self::Live,
        Self::IngressPublisher,
    ];

    /// Every service in the order in which data flow through them, so that each can hand on what it
    /// holds before it stops.
    pub const STOP: [Self; 7] = [
        Self::IngressPublisher,
        Self::IngressConsumer,
        Self::OutboxRelay,
        Self::SnapshotProjection,
        Self::HealthProjection,
        Self::Reactions,
        Self::Live,
    ];

    /// The service's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::IngressConsumer => "ingress-consumer",
            Self::OutboxRelay => "outbox-relay",
            Self::SnapshotProjection => "snapshot-projection",
            Self::HealthProjection => "health-projection",
            Self::Reactions => "reactions",
            Self::Live => "live",
            Self::IngressPublisher => "ingress-publisher",
        }
    }

    /// The keys that the service can be configured with.
    #[must_use]
    pub fn keys(self) -> Vec<String> {
        match self {
            Self::IngressConsumer => config::keys::<ConsumerConfig>(),
            Self::OutboxRelay => config::keys::<RelayConfig>(),
            Self::SnapshotProjection => config::keys::<SnapshotConfig>(),
            Self::HealthProjection => config::keys::<HealthConfig>(),
            Self::Reactions => config::keys::<ReactionsConfig>(),
            Self::Live => config::keys::<LiveConfig>(),
            Self::IngressPublisher => config::keys::<PublisherConfig>(),
        }
    }

    /// Starts the service in this process; returns where its HTTP server listens.
    pub async fn start(
        self,
        context: Context,
        settings: Vec<Setting>,
    ) -> anyhow::Result<SocketAddr> {
        fn load<C: Config>(settings: Vec<Setting>) -> anyhow::Result<C> {
            Ok(config::load_from(settings)?)
        }
        Ok(match self {
            Self::IngressConsumer => {
                ingress_consumer::start(context, load(settings)?)
                    .await?
                    .http
            }
            Self::OutboxRelay => {
                ingress_consumer::relay::start(context, load(settings)?)
                    .await?
                    .http
            }
            Self::SnapshotProjection => {
                projections::snapshot::start(context, load(settings)?)
                    .await?
                    .http
            }
            Self::HealthProjection => {
                projections::health::start(context, load(settings)?)
                    .await?
                    .http
            }
            Self::Reactions => {
                projections::reactions::start(context, load(settings)?)
                    .await?
                    .http
            }
            Self::Live => {
                projections::live::start(context, load(settings)?)
                    .await?
                    .http
            }
            Self::IngressPublisher => {
                ingress_publisher::start(context, load(settings)?)
                    .await?
                    .http
            }
        })
    }

    fn run(self, arguments: Vec<OsString>) -> ExitCode {
        let (arguments, name) = (arguments.into_iter(), self.name());
        match self {
            Self::IngressConsumer => ingress_consumer::main(arguments),
            Self::OutboxRelay => {
                service::run_with(arguments, name, Some(CORE), |context, config| async {
                    ingress_consumer::relay::start(context, config)
                        .await
                        .map(drop)
                })
            }
            Self::SnapshotProjection => projections::snapshot::main(arguments),
            Self::HealthProjection => projections::health::main(arguments),
            Self::Reactions => {
                service::run_with(arguments, name, Some(REACTIONS), |context, config| async {
                    projections::reactions::start(context, config)
                        .await
                        .map(drop)
                })
            }
            Self::Live => service::run_with(arguments, name, None, |context, config| async {
                projections::live::start(context, config).await.map(drop)
            }),
            Self::IngressPublisher => {
                service::run_with(arguments, name, None, |context, config| async {
                    ingress_publisher::start(context, config).await.map(drop)
                })
            }
        }
    }
}

static CORE: &Migrations = &ingress_consumer::store::MIGRATIONS;
static SNAPSHOT: &Migrations = &projections::snapshot::MIGRATIONS;
static HEALTH: &Migrations = &projections::health::MIGRATIONS;
static REACTIONS: &Migrations = &projections::reactions::MIGRATIONS;

/// Brings every schema in the database at `url` up to date.
pub async fn migrate(url: &str) -> anyhow::Result<()> {
    let config = DatabaseConfig {
        url: Some(SecretUrl::new(url)),
        ..DatabaseConfig::default()
    };
    for migrations in [CORE, SNAPSHOT, HEALTH, REACTIONS] {
        db::migrate(&config, migrations).await?;
    }
    Ok(())
}

/// Runs `headrace migrate`.
#[must_use]
pub fn migrate_main(url: &str) -> ExitCode {
    let telemetry = telemetry::init("headrace", telemetry::Output::Stderr);
    let done = cli::run(migrate(url));
    telemetry.flush();
    done
}

/// Runs the service called `name` as this process.
#[must_use]
pub fn main(name: &str, arguments: Vec<OsString>, is_child: bool) -> ExitCode {
    let Some(service) = Service::ALL
        .into_iter()
        .find(|service| service.name() == name)
    else {
        let names = Service::ALL.map(Service::name).join(", ");
        eprintln!("headrace: there is no service {name:?}; there are {names}");
        return ExitCode::from(64);
    };
    if is_child {
        end_with_parent();
    }
    service.run(arguments)
}

/// The parent holds the other end of standard input for as long as it lives.
fn end_with_parent() {
    std::thread::spawn(|| {
        let end = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        tracing::info!(?end, "the launcher is gone");
        let myself = rustix::process::getpid();
        if let Err(error) = rustix::process::kill_process(myself, rustix::process::Signal::TERM) {
            tracing::error!(%error, "cannot stop");
        }
    });
}
