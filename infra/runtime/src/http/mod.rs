//! The HTTP server that every service has: its own routes, `/livez`, `/readyz` and `/metrics`.
//!
//! Every error is an RFC 9457 problem, those of the framework included.

pub mod description;
mod extract;
mod measure;
mod page;
mod problem;
mod readiness;
mod server;
mod stall;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, middleware};
use tokio::net::TcpListener;
use tower_http::map_request_body::MapRequestBodyLayer;
use tower_http::timeout::RequestBodyTimeoutLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use extract::{Json, Path, Query};
pub use page::PageSize;
pub use problem::Problem;
pub use readiness::{Check, Readiness};

use crate::access::{Access, Guarded, Rules, guard};
use crate::config::HttpConfig;
use crate::{Context, limits, telemetry};
use server::Limits;

/// How long a client may take nothing of what there is for it.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a client may take for the next piece of a request's body.
const BODY_WITHIN: Duration = Duration::from_secs(30);

/// Serves `routes` to whom `access` lets use them, and the service's own to everybody, until the service
/// closes. Returns where it listens.
pub async fn serve(
    context: &Context,
    config: &HttpConfig,
    access: &Access,
    routes: OpenApiRouter,
) -> anyhow::Result<SocketAddr> {
    serve_patiently(context, config, access, routes, PATIENCE).await
}

/// The same; a client that takes nothing of what there is for it is given up after `patience`.
pub async fn serve_patiently(
    context: &Context,
    config: &HttpConfig,
    access: &Access,
    routes: OpenApiRouter,
    patience: Duration,
) -> anyhow::Result<SocketAddr> {
    let routes = guarded(access, routes)?.route("/metrics", get(metrics));
    listen(context, config, routes, patience, |app| app).await
}

/// Serves `routes` and the service's own to everybody.
pub async fn serve_open(
    context: &Context,
    config: &HttpConfig,
    routes: Router,
) -> anyhow::Result<SocketAddr> {
    let routes = routes.route("/metrics", get(metrics));
    listen(context, config, routes, PATIENCE, |app| app).await
}

/// Serves `routes` and the service's probes to everybody, and its metrics to whom `access` lets operate
/// the installation: they name what is behind a service that the public reaches. `wrap` is put around all
/// of it.
pub async fn serve_public(
    context: &Context,
    config: &HttpConfig,
    access: &Access,
    routes: Router,
    wrap: impl FnOnce(Router) -> Router,
) -> anyhow::Result<SocketAddr> {
    let own = OpenApiRouter::new().routes(routes!(metrics));
    let routes = routes.merge(guarded(access, own)?);
    listen(context, config, routes, PATIENCE, wrap).await
}

/// The routes, each for whom its description names.
fn guarded(access: &Access, routes: OpenApiRouter) -> anyhow::Result<Router> {
    let (routes, description) = routes.split_for_parts();
    let guarded = Guarded {
        access: access.clone(),
        rules: Arc::new(Rules::of(&description)?),
    };
    Ok(routes.layer(middleware::from_fn_with_state(guarded, guard)))
}

async fn listen(
    context: &Context,
    config: &HttpConfig,
    routes: Router,
    patience: Duration,
    wrap: impl FnOnce(Router) -> Router,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: choose another address in http.listen",
            config.listen
        )
    })?;
    let address = listener.local_addr()?;
    let own = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(context.clone());
    let app = own
        .merge(routes)
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::from_fn(measure::measure))
        .layer((
            RequestBodyTimeoutLayer::new(BODY_WITHIN),
            MapRequestBodyLayer::new(Body::new),
        ));
    let app = wrap(app);
    limits::raise_open_files();
    let closing = context.closing().clone();
    let limits = Limits {
        connections: config.max_connections,
        patience,
    };
    context.spawn_infrastructure("http", async move {
        server::run(listener, app, limits, closing).await;
        Ok(())
    });
    tracing::info!(%address, "listening for HTTP");
    Ok(address)
}

async fn ready(State(context): State<Context>) -> Response {
    let report = context
        .readiness()
        .report(context.stopping().is_cancelled());
    let status = if report.is_ready() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(report)).into_response()
}

/// The service's metrics.
#[utoipa::path(
    get,
    path = "/metrics",
    operation_id = "getMetrics",
    tag = "pipeline",
    responses((status = 200, body = String, content_type = "text/plain", description = "The metrics")),
    security(("credential" = ["operate"])),
)]
async fn metrics() -> Result<Response, Problem> {
    let page = telemetry::metrics_page().map_err(|error| Problem::internal(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], page).into_response())
}

async fn not_found() -> Problem {
    Problem::new(
        StatusCode::NOT_FOUND,
        "route-not-found",
        "there is nothing at this path",
    )
}

async fn not_allowed() -> Problem {
    let detail = "this path does not take this method";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", detail)
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        telemetry::install_tls();
        let context = Context::new("test", "0");
        let routes = Router::new().route("/", post(|Json(_): Json<u8>| async {}));
        let address = serve_open(&context, &HttpConfig::local(0), routes).await;
        let mut client = TcpStream::connect(address.unwrap()).await.unwrap();
        let request = "POST / HTTP/1.1\r\nhost: h\r\ncontent-type: application/json\r\n\
                       content-length: 10\r\nconnection: close\r\n\r\n1";
        let begun = tokio::time::Instant::now();
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(
            answer.contains("urn:headrace:problem:invalid-body"),
            "{answer}"
        );
        assert_eq!(begun.elapsed().as_secs(), BODY_WITHIN.as_secs());
        context.stop().await.unwrap();
    }
}
