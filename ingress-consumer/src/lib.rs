//! The core: the one writer of the truth.
//!
//! Frames come in from the ingress queue, are interpreted, decided and committed: state, parked
//! frames, seen numbers and events in one transaction ([`acceptance`]). A relay carries the event
//! log to the event bus ([`relay`]). Everything that reacts to the truth hangs off that bus.
//!
//! While PostgreSQL is away, the core takes nothing from the queue and answers 503; while RabbitMQ
//! is away, it waits. Both resume by themselves.

pub mod acceptance;
pub mod access;
mod command;
pub mod config;
pub mod control;
pub mod decide;
pub mod installation;
pub mod interpret;
mod metrics;
pub mod placement;
pub mod reconcile;
pub mod relay;
pub mod retention;
pub mod sources;
pub mod store;
pub mod sweep;
pub mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use runtime::access::{Access, Turns, audited, in_turn};
use runtime::amqp::{Link, Publisher};
use runtime::backoff::Backoff;
use runtime::{Context, db, http};
use shared_model::topology;
use sqlx::PgPool;

pub use control::description;

use acceptance::Acceptance;
pub use command::{lifetime, main};

use access::PgAccess;
use config::ConsumerConfig;
use control::{Control, LogWatch, WayBack};
use installation::{Installation, Moment};
use reconcile::watch::{self, Queues};
use retention::Kept;
use sources::dead_letters::Drain;
use sources::http::{Committer, Intake, Waiting};
use sources::queue::PartitionConsumer;

/// A service whose tasks run.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    /// Where its HTTP server listens.
    pub http: SocketAddr,
}

/// Starts the core; returns once its tasks run.
pub async fn start(context: Context, config: ConsumerConfig) -> anyhow::Result<Started> {
    let pool = db::open(&context, &config.database)?;
    let (intake, waiting) = Intake::new(context.clone(), config.ingest.clone());
    let parked = control::parked_routes(pool.clone(), config.acceptance.clone(), config.parked);
    let way_back = WayBack::default();
    let dead_letters =
        control::dead_letter_routes(pool.clone(), config.acceptance.clone(), way_back.clone());
    let queues = Queues::default();
    let patience = config.reconcile.late_after;
    let reconcile = control::reconcile_routes(pool.clone(), queues.clone(), patience);
    let log_watch = LogWatch::start(&context, &pool);
    let pipeline = control::pipeline_routes(pool.clone(), queues.clone(), config.pipeline.clone());
    let control = Control {
        pool: pool.clone(),
        ownership: config.ownership.clone(),
        allowed: Arc::new(config.connections.clone()),
        patience,
    };
    let routes = control::routes(control)
        .merge(parked)
        .merge(dead_letters)
        .merge(reconcile)
        .merge(control::log_routes(pool.clone(), log_watch))
        .merge(control::access_routes(pool.clone()))
        .merge(control::vehicle_events_routes().with_state(pool.clone()))
        .merge(pipeline)
        .merge(intake.routes());
    let stored = Arc::new(PgAccess::new(pool.clone()));
    let access = Access::new(&config.access, stored.clone());
    let turns = Turns::on(config.database.max_connections);
    let routes = in_turn(audited(routes, stored)?, turns)?;
    let address = http::serve(&context, &config.http.0, &access, routes).await?;
    let worker = context.clone();
    let prepared = context.readiness().add("schema");
    context.spawn("core", async move {
        db::require_schema(&pool, &store::MIGRATIONS, worker.stopping()).await?;
        let installation = prepare(&worker, &pool, &config).await?;
        prepared.up();
        let link = consume(&worker, &pool, &config, installation, waiting);
        way_back.get_or_init(|| Publisher::new(link.clone()));
        queues.get_or_init(|| link);
        let watch = watch::run(worker.clone(), pool.clone(), queues, config.reconcile);
        worker.spawn("reconcile", watch);
        upkeep::run(&worker, &pool, &config).await
    });
    Ok(Started { http: address })
}

async fn prepare(
    context: &Context,
    pool: &PgPool,
    config: &ConsumerConfig,
) -> anyhow::Result<Installation> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let days = config.log.partition_days_ahead;
        match Installation::prepare(pool, &config.ingress, days, Moment::Start).await {
            Ok(installation) => return Ok(installation),
            Err(error) if error.is_passing() => {
                tracing::warn!(
                    error = %runtime::telemetry::chain(&error),
                    "the database is away"
                );
            }
            Err(error) => return Err(error.into()),
        }
        backoff.wait(context.stopping()).await?;
    }
}

fn consume(
    context: &Context,
    pool: &PgPool,
    config: &ConsumerConfig,
    installation: Installation,
    waiting: Waiting,
) -> Link {
    let Installation {
        partitions,
        partition_max_bytes,
    } = installation;
    let topology = topology::ingress(partitions, partition_max_bytes);
    let link = Link::open(context, &config.amqp, topology);
    let acceptance =
        Acceptance::new(pool.clone(), &config.acceptance, partitions).keeping(&config.parked);
    for partition in 0..partitions {
        let consumer = PartitionConsumer {
            partition,
            limit: config.batch,
            link: link.clone(),
            acceptance: acceptance.clone(),
            context: context.clone(),
        };
        context.spawn("partition", consumer.run());
    }
    let committer = Committer::new(
        context.clone(),
        pool.clone(),
        acceptance.clone(),
        partitions,
        config.ingest.clone(),
        waiting,
    );
    context.spawn("ingest", committer.run());
    let sweep = sweep::run(context.clone(), pool.clone(), config.acceptance.sweep_after);
    context.spawn("sweep", sweep);
    let polling = sources::polling::run(
        context.clone(),
        pool.clone(),
        acceptance,
        config.polling.clone(),
    );
    context.spawn("polling", polling);
    let kept = Kept {
        parked: config.parked,
        dead_letters: config.dead_letters,
        keys: config.ingest.key_retention,
        audit: config.audit.retention,
    };
    let retention = retention::run(context.clone(), pool.clone(), kept);
    context.spawn("retention", retention);
    if config.dead_letters.drain {
        let drain = Drain {
            link: link.clone(),
            limit: config.batch,
            pool: pool.clone(),
            context: context.clone(),
        };
        context.spawn("dead letters", drain.run());
    }
    let lease = config.ownership.lease;
    let watch = acceptance::status::watch(context.clone(), pool.clone(), partitions, lease);
    context.spawn("lost owners", watch);
    link
}
