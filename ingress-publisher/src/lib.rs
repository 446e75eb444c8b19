//! Reads the websockets of telematics providers and hands every message, verbatim, to the ingress
//! queue.
//!
//! The core says which streams to read; each is a task of its own. What a stream reads is numbered
//! from 1 in its session, waits in a window that is bounded in bytes, and leaves in envelopes that
//! the broker confirms.
//!
//! What is guaranteed: a frame that was read is published again and again, always with the same
//! message id, until the broker has confirmed it. What the broker does not take goes to a spool on
//! disk, which a stop and a crash leave as it is. Only a hard stop while the disk takes nothing lets
//! frames go, and says how many. Memory is bounded. A stream in trouble harms no other.
//!
//! What happens when the other side is down:
//! - *the core*: at the start nothing is read, as nobody says what; later everything that is owned
//!   is read on. The service asks again with backoff, and never exits for it;
//! - *the broker*: frames go to the spool; once that is full they fill the window, then no socket is
//!   read any more, and the provider feels that. All goes on once the broker is back;
//! - *the disk*: as if the spool were full. A spool that cannot be used at the start ends the service;
//! - *a provider*: its stream connects again with jittered backoff and subscribes anew. What the
//!   provider saw meanwhile is asked for where it keeps a history.

mod announce;
mod api;
mod backfill;
mod canary;
mod config;
mod conflate;
mod control;
mod dialect;
mod failure;
mod flow;
mod lease;
mod metrics;
mod news;
mod outbound;
mod ownership;
mod pack;
mod parcel;
mod pause;
mod sender;
mod sent;
mod socket;
mod spool;
mod spool_watch;
mod start;
mod status;
mod stream;
#[cfg(test)]
mod testing;
mod turns;
mod window;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use runtime::Context;
use runtime::access::{Access, InternalToken, NoKeys};

pub use api::StreamsPage;
pub use config::{
    BackfillConfig, CanaryConfig, CoreConfig, PublisherConfig, SpoolConfig, StreamConfig,
    WindowConfig,
};
pub use pause::PauseReason;

use control::Core;
use outbound::Outbound;
use ownership::Ownership;
use spool::SpoolDirectory;
use status::Streams;

/// A publisher that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where its HTTP server listens.
    pub http: SocketAddr,
}

/// Starts the publisher on `ctx` and returns; core, broker and providers may be away.
///
/// Fails if the HTTP server cannot listen, the core's URL is none, the spool cannot be used, or the
/// further certificates of `stream.extra_ca_file` cannot be read.
pub async fn start(ctx: Context, config: PublisherConfig) -> anyhow::Result<Started> {
    metrics::begin();
    let streams = Streams::default();
    let core = Core::new(
        &config.core.url,
        ctx.instance(),
        &InternalToken::of(&config.access),
    )?;
    let outbound = Outbound::new(config.stream.extra_ca_file.as_ref())?;
    let routes = api::routes(ctx.instance().to_owned(), streams.clone());
    let access = Access::new(&config.access, Arc::new(NoKeys));
    let http = runtime::http::serve(&ctx, &config.http, &access, routes.into()).await?;
    let spool = Arc::new(claim(&config).await?);
    let watch = spool_watch::run(
        ctx.stopping().clone(),
        ctx.readiness().add("spool"),
        spool.depth().clone(),
    );
    ctx.spawn("spool", watch);
    let ownership = Ownership::new(ctx.clone(), config, core, outbound, streams, spool);
    ctx.spawn("ownership", ownership.run());
    Ok(Started { http })
}

async fn claim(config: &PublisherConfig) -> anyhow::Result<SpoolDirectory> {
    let config = config.spool.clone();
    let claiming = tokio::task::spawn_blocking(move || {
        SpoolDirectory::claim(&config).map_err(|error| config.unusable(&error))
    });
    Ok(claiming.await.context("claiming the spool")??)
}

#[cfg(test)]
mod tests;
