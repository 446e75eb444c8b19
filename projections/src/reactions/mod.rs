//! Reactions: what happens outside because of events.
//!
//! A [`Reaction`] is told of the bus's events and writes what they ask for; [`run`] is its loop. The one
//! reaction of this service is webhooks: each event that an endpoint of its workspace wants becomes a
//! delivery, a row that senders work off. So the queue moves at the database's pace, however slow
//! receivers are.
//!
//! Each change of a webhook leaves an entry in the core's audit log first, so while the core is away none
//! can be changed.
//!
//! A receiver gets each event at least once, in no particular order, signed after Standard Webhooks.
//! While the broker is away nothing new is delivered; while the database is away nothing is taken from
//! the queue, and calls under way wait to be recorded.

mod address;
mod call;
mod config;
mod delivery_api;
mod endpoint_api;
#[cfg(test)]
mod example;
mod filter;
mod list;
mod reaction;
mod schedule;
mod secret;
mod secret_api;
mod sender;
#[cfg(test)]
mod service_tests;
mod store;
mod upkeep;
mod webhooks;

use std::sync::Arc;

use runtime::access::{Access, CoreAudit, InternalToken, Turns, audited, in_turn};
use runtime::amqp::Link;
use runtime::db::{self, Migrations};
use runtime::{Context, http, outbound};
use shared_model::topology;
use tokio::sync::Notify;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;

pub use config::{DeliveriesConfig, ReactionsConfig, WebhooksConfig};
pub use delivery_api::{Recover, Recovered};
pub use endpoint_api::{NewWebhook, TypesPatch, WebhookPatch};
pub use filter::Filters;
pub use reaction::{Reaction, run};

use crate::Started;
use call::Caller;
use sender::Sender;
use webhooks::Webhooks;

/// The migrations of the schema `reactions`.
pub static MIGRATIONS: Migrations = Migrations {
    schema: "reactions",
    migrator: || sqlx::migrate!("migrations/reactions"),
};

/// The routes and what they are described as.
fn router() -> OpenApiRouter<endpoint_api::Source> {
    endpoint_api::router()
        .merge(secret_api::router())
        .merge(delivery_api::router())
}

/// What the service's routes are described as.
#[must_use]
pub fn description() -> OpenApi {
    router().into_openapi()
}

/// Starts the webhooks' API, the reaction and the sender on `context`. Broker and database may be away.
pub async fn start(context: Context, config: ReactionsConfig) -> anyhow::Result<Started> {
    let webhooks = Arc::new(config.webhooks.clone());
    let tls = outbound::tls(webhooks.extra_ca_file.as_deref(), "webhooks.extra_ca_file")?;
    let caller = Caller {
        client: outbound::guarded_client(tls, webhooks.address_rules())?,
        config: Arc::clone(&webhooks),
    };
    let pool = db::open(&context, &config.database)?;
    let schema = context.readiness().add("schema");
    let link = Link::open(&context, &config.amqp, topology::events());
    let wake = Arc::new(Notify::new());
    let source = endpoint_api::Source {
        pool: pool.clone(),
        config: Arc::clone(&webhooks),
        wake: Arc::clone(&wake),
    };
    let routes = router().with_state(source);
    let access = Access::with_core(&config.access, &config.core.url)?;
    let audit = CoreAudit::new(&config.core.url, &InternalToken::of(&config.access))?;
    let turns = Turns::on(config.database.max_connections);
    let routes = in_turn(audited(routes, Arc::new(audit))?, turns)?;
    let http = http::serve(&context, &config.http, &access, routes).await?;
    let worker = context.clone();
    context.spawn("reactions", async move {
        db::require_schema(&pool, &MIGRATIONS, worker.stopping()).await?;
        schema.up();
        let sender = Sender {
            context: worker.clone(),
            pool: pool.clone(),
            caller,
            config: Arc::clone(&webhooks),
            wake: Arc::clone(&wake),
        };
        let reaction = Webhooks {
            max_pending: webhooks.max_pending,
            wake,
        };
        tokio::try_join!(
            run(&worker, &link, &pool, config.batch, &reaction),
            sender.run(),
            upkeep::run(&worker, &pool, config.deliveries),
        )?;
        Ok(())
    });
    Ok(Started { http })
}
