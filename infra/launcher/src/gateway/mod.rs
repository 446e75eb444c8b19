//! The gateway: one address for all APIs.
//!
//! It looks at the path, hands the request to the service that owns it, and hands the answer back as
//! it comes. Which service that is, it reads from the services' own descriptions, so that nothing is
//! reachable that is not described and nothing that is described can be forgotten; the internal API is
//! not reachable. A service that is away is a 502 that names it; the others stay reachable.
//!
//! The services check credentials themselves; the gateway does so too before it takes a request's body. It
//! shows the descriptions as one document, with a page to read it by, and puts around every answer what
//! browsers need.

mod config;
mod document;
mod headers;
mod pages;
mod pass;
mod routing;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use axum::Router;
use runtime::access::Access;
use runtime::{Context, http, service};

use crate::console;

pub use config::{CorsConfig, GatewayConfig, Upstreams};
pub use document::description;

/// Starts the gateway; returns where it listens.
pub async fn start(context: Context, config: GatewayConfig) -> anyhow::Result<SocketAddr> {
    let access = Access::with_core(&config.access, &config.upstream.core)?;
    // What is served from here itself; everything else belongs to a service.
    let own = Router::new()
        .merge(document::routes(&description()?)?)
        .merge(pages::routes())
        .merge(console::routes());
    let routes = own.merge(routing::routes(&config.upstream, &access)?);
    let cors = headers::cors(&config.cors)?;
    let wrap = |app| headers::around(app, cors);
    http::serve_public(&context, &config.http, &access, routes, wrap).await
}

/// Runs the gateway as this process.
#[must_use]
pub fn main(arguments: Vec<OsString>) -> ExitCode {
    service::run_with(
        arguments.into_iter(),
        "gateway",
        None,
        |context, config| async { start(context, config).await.map(drop) },
    )
}
