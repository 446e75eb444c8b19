//! Reads the websockets of telematics providers and hands every message, verbatim, to the ingress
//! queue.
//!
//! The core says which streams to read; each is a task of its own. What a stream reads is numbered
//! from 1 in its session, waits in a window that is bounded in bytes, and leaves in envelopes that
//! the broker confirms.
//!
//! What is guaranteed: a frame that was read is published again and again, always with the same
//! message id, until the broker has confirmed it; only a hard stop can end that, and it says how
//! much it let go of. Memory is bounded. A stream in trouble harms no other.
//!
//! What happens when the other side is down:
//! - *the core*: at the start nothing is read, as nobody says what; later everything that is owned
//!   is read on. The service asks again with backoff, and never exits for it;
//! - *the broker*: frames fill the window, then no socket is read any more, and the provider feels
//!   that. All goes on once the broker is back;
//! - *a provider*: its stream connects again with jittered backoff and subscribes anew. What the
//!   provider saw meanwhile is asked for where it keeps a history.

mod api;
mod backfill;
mod config;
mod control;
mod credential;
mod dialect;
mod failure;
mod limits;
mod metrics;
mod outbound;
mod ownership;
mod retry_after;
mod sender;
mod socket;
mod start;
mod status;
mod stream;
#[cfg(test)]
mod testing;
mod turns;
mod window;

use std::net::SocketAddr;

use runtime::Context;

pub use api::StreamsPage;
pub use config::{BackfillConfig, CoreConfig, PublisherConfig, StreamConfig, WindowConfig};
pub use status::{StreamReport, StreamState};

use control::Core;
use outbound::Outbound;
use ownership::Ownership;
use status::Streams;

/// A publisher that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where its HTTP server listens.
    pub http: SocketAddr,
}

/// Starts the publisher on `ctx` and returns; core, broker and providers may be away.
///
/// Fails if the HTTP server cannot listen, the core's URL is none, or the further certificates of
/// `stream.extra_ca_file` cannot be read.
pub async fn start(ctx: Context, config: PublisherConfig) -> anyhow::Result<Started> {
    metrics::begin();
    limits::raise_open_files();
    let streams = Streams::default();
    let core = Core::new(&config.core.url, ctx.instance())?;
    let outbound = Outbound::new(config.stream.extra_ca_file.as_ref())?;
    let routes = api::routes(ctx.instance().to_owned(), streams.clone());
    let http = runtime::http::serve(&ctx, &config.http, routes).await?;
    let ownership = Ownership::new(ctx.clone(), config, core, outbound, streams);
    ctx.spawn("ownership", ownership.run());
    Ok(Started { http })
}

#[cfg(test)]
mod tests;
