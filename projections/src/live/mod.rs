//! Live updates: a workspace's events as they are committed, as server-sent events.
//!
//! The service reads the core's event log, one tail a shard however many readers there are, and hands what
//! comes to those who want it. Each event carries the position behind it; a reader that comes back with
//! it gets everything that followed, each event once and each vehicle's in order, from whichever process
//! answers. The service keeps nothing but the newest events, in memory.
//!
//! While the core is away, readers stay and are told nothing new. A reader that is too slow is cut off, and
//! slows neither the tails nor anybody else.

mod api;
mod audience;
mod catch_up;
#[cfg(test)]
mod catch_up_tests;
mod config;
mod end;
mod event;
mod filter;
mod hub;
mod mailbox;
mod position;
mod reader;
#[cfg(test)]
mod reader_tests;
mod ring;
mod several;
mod tail;

use std::sync::Arc;
use std::time::Duration;

use runtime::access::{Access, InternalToken};
use runtime::{Context, http};
use utoipa::openapi::OpenApi;

pub use config::{LiveConfig, LiveSettings};

use crate::Started;
use crate::core_log::CoreLog;
use hub::Hub;
use reader::Shared;
use tail::Tails;

/// How long readers may take to notice that their streams end.
const FAREWELL: Duration = Duration::from_secs(5);

/// The API's description.
#[must_use]
pub fn description() -> OpenApi {
    api::router().into_openapi()
}

/// Starts the API and the log's tails on `context`. The core may be away.
pub async fn start(context: Context, config: LiveConfig) -> anyhow::Result<Started> {
    // Each reader is an open socket.
    let check = context.readiness().add("core");
    let core = CoreLog::new(&config.core.url, &InternalToken::of(&config.access))?;
    let access = Access::with_core(&config.access, &config.core.url)?;
    let hub = Arc::new(Hub::new(config.live.clone()));
    let slow_after = config.live.slow_after;
    let shared = Shared {
        hub: Arc::clone(&hub),
        core: core.clone(),
        access: access.clone(),
        settings: config.live,
        stopping: context.stopping().clone(),
        reading: Shared::readings(),
    };
    let routes = api::router().with_state(Arc::new(shared));
    let http = http::serve_patiently(&context, &config.http, &access, routes, slow_after).await?;
    let tails = Tails {
        context: context.clone(),
        core,
        hub: Arc::clone(&hub),
        check,
    };
    context.spawn("tails", tails.run());
    let stopping = context.stopping().clone();
    context.spawn("readers", async move {
        stopping.cancelled().await;
        hub.stop();
        if tokio::time::timeout(FAREWELL, hub.emptied()).await.is_err() {
            tracing::info!("some readers do not notice that their streams end");
        }
        Ok(())
    });
    Ok(Started { http })
}
