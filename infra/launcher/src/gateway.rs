//! The gateway: one address for the read APIs, the control API and provider-ingest.
//!
//! It looks at the path, hands the request to the service that owns it, and hands the answer back as
//! it comes. A service that is away is a 502 that names it; the others stay reachable. The internal
//! API is not reachable through it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{MethodRouter, any};
use reqwest::{Client, Url};
use runtime::config::{Config, HttpConfig, Problems};
use runtime::http::{self, Problem};
use runtime::{Context, service};
use serde::{Deserialize, Serialize};

const LARGEST_BODY: usize = 2 * 1024 * 1024;
/// Of provider-ingest, as it is sent; the core bounds what is in it.
const LARGEST_INGEST: usize = 16 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(30);

/// The gateway's configuration.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// Where it listens.
    pub http: HttpConfig,
    /// The services behind it.
    pub upstream: Upstreams,
}

/// Base URLs of the services behind the gateway.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstreams {
    /// The core's control API.
    pub core: String,
    /// The snapshot projection's read API.
    pub snapshot: String,
    /// The health projection's read API.
    pub health: String,
    /// The webhooks' API.
    pub reactions: String,
    /// The live updates.
    pub live: String,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::local(8000),
            upstream: Upstreams {
                core: "http://127.0.0.1:8081".to_owned(),
                snapshot: "http://127.0.0.1:8083".to_owned(),
                health: "http://127.0.0.1:8084".to_owned(),
                reactions: "http://127.0.0.1:8085".to_owned(),
                live: "http://127.0.0.1:8086".to_owned(),
            },
        }
    }
}

impl Config for GatewayConfig {
    fn validate(&self, problems: &mut Problems) {
        let Upstreams {
            core,
            snapshot,
            health,
            reactions,
            live,
        } = &self.upstream;
        for (key, url) in [
            ("upstream.core", core),
            ("upstream.snapshot", snapshot),
            ("upstream.health", health),
            ("upstream.reactions", reactions),
            ("upstream.live", live),
        ] {
            if Url::parse(url).is_err() || !url.starts_with("http://") {
                problems.add(key, url, "write a URL such as http://host:8081");
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Upstream {
    name: &'static str,
    base: String,
    client: Client,
}

/// Starts the gateway; returns where it listens.
pub async fn start(context: Context, config: GatewayConfig) -> anyhow::Result<SocketAddr> {
    // A stream is two sockets for as long as it goes on.
    runtime::limits::raise_open_files();
    let client = Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(Duration::from_secs(2))
        // Between two pieces of an answer: some answers go on for hours.
        .read_timeout(PATIENCE)
        .build()?;
    let upstream = |name, base: &str| {
        let base = base.trim_end_matches('/').to_owned();
        any(pass).with_state(Upstream {
            name,
            base,
            client: client.clone(),
        })
    };
    let Upstreams {
        core,
        snapshot,
        health,
        reactions,
        live,
    } = &config.upstream;
    let routes = Router::new()
        .route(
            "/v1/workspaces/{workspace}/connections",
            upstream("core", core),
        )
        .route(
            "/v1/workspaces/{workspace}/connections/{connection}",
            upstream("core", core),
        )
        .route(
            "/v1/workspaces/{workspace}/connections/{connection}/{action}",
            upstream("core", core),
        )
        .route("/v1/workspaces/{workspace}/polls", upstream("core", core))
        .route("/v1/workspaces/{workspace}/streams", upstream("core", core))
        .route(
            "/v1/provider-ingest",
            upstream("core", core).layer(DefaultBodyLimit::max(LARGEST_INGEST)),
        )
        .route(
            "/v1/workspaces/{workspace}/dead-events",
            upstream("core", core),
        )
        .route(
            "/v1/workspaces/{workspace}/dead-events/{id}",
            upstream("core", core),
        )
        .route("/v1/workspaces/{workspace}/parked", upstream("core", core))
        .route("/v1/dead-letters", upstream("core", core))
        .route("/v1/reconcile", upstream("core", core))
        .route(
            // An id, or `discard` or `replay`.
            "/v1/dead-letters/{id}",
            upstream("core", core),
        )
        .route(
            // An id, or `discard` or `replay`.
            "/v1/workspaces/{workspace}/parked/{id}",
            upstream("core", core),
        )
        .route("/v1/subscribers", upstream("core", core))
        .route("/v1/subscribers/{name}", upstream("core", core))
        .route("/v1/subscribers/{name}/reset", upstream("core", core))
        .route(
            "/v1/workspaces/{workspace}/vehicles",
            upstream("snapshot", snapshot),
        )
        .route(
            "/v1/workspaces/{workspace}/vehicles/{vehicle}/snapshot",
            upstream("snapshot", snapshot),
        )
        .route(
            "/v1/workspaces/{workspace}/vehicles/{vehicle}/health",
            upstream("health", health),
        )
        .route(
            "/v1/workspaces/{workspace}/vehicles/{vehicle}/health/history",
            upstream("health", health),
        )
        .route(
            "/v1/workspaces/{workspace}/health",
            upstream("health", health),
        )
        .route(
            // `connections`, `history`, `incidents` or `vehicles`.
            "/v1/workspaces/{workspace}/health/{list}",
            upstream("health", health),
        )
        .route(
            // Of connections and incidents.
            "/v1/workspaces/{workspace}/health/{list}/{id}",
            upstream("health", health),
        )
        .merge(of_vehicle(|| upstream("core", core)))
        .merge(streams(|| upstream("live", live)))
        .merge(webhooks(|| upstream("reactions", reactions)))
        .layer(DefaultBodyLimit::max(LARGEST_BODY));
    http::serve_open(&context, &config.http, routes).await
}

/// The core's paths about one vehicle, each handed to what `upstream` makes.
fn of_vehicle(upstream: impl Fn() -> MethodRouter) -> Router {
    let vehicle = "/v1/workspaces/{workspace}/vehicles/{vehicle}";
    Router::new()
        .route(&format!("{vehicle}/verdicts"), upstream())
        .route(&format!("{vehicle}/events"), upstream())
}

/// The paths of live updates, each handed to what `upstream` makes.
fn streams(upstream: impl Fn() -> MethodRouter) -> Router {
    let workspace = "/v1/workspaces/{workspace}";
    Router::new()
        .route(&format!("{workspace}/live"), upstream())
        .route(
            &format!("{workspace}/vehicles/{{vehicle}}/live"),
            upstream(),
        )
}

/// The paths of webhooks, each handed to what `upstream` makes.
fn webhooks(upstream: impl Fn() -> MethodRouter) -> Router {
    const ALL: &str = "/v1/workspaces/{workspace}/webhooks";
    [
        "",
        "/{webhook}",
        "/{webhook}/secret",
        "/{webhook}/secret/rotate",
        "/{webhook}/deliveries",
        "/{webhook}/deliveries/{delivery}",
        "/{webhook}/deliveries/{delivery}/redeliver",
        "/{webhook}/recover",
        "/{webhook}/test",
    ]
    .into_iter()
    .fold(Router::new(), |routes, path| {
        routes.route(&format!("{ALL}{path}"), upstream())
    })
}

async fn pass(
    State(upstream): State<Upstream>,
    uri: Uri,
    method: Method,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, Problem> {
    let body = body.map_err(|rejection| {
        Problem::new(rejection.status(), "invalid-body", rejection.body_text())
    })?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request = upstream
        .client
        .request(method, format!("{}{path}", upstream.base))
        .headers(end_to_end(headers))
        .body(body);
    let answer = request.send().await.map_err(|error| {
        tracing::warn!(
            service = upstream.name,
            error = %runtime::telemetry::chain(&error),
            "a service behind the gateway is away"
        );
        let detail = format!(
            "the {} service is away for the moment; try again",
            upstream.name
        );
        Problem::new(StatusCode::BAD_GATEWAY, "upstream-away", detail)
    })?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = end_to_end(answer.headers().clone());
    }
    response
        .body(Body::from_stream(answer.bytes_stream()))
        .map_err(|error| Problem::internal(&error))
}

/// The headers that concern more than one hop (RFC 9110, section 7.6.1).
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    const HOP: [&str; 10] = [
        "connection",
        "content-length",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let named = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let named: Vec<_> = named
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .collect();
    for name in named.iter().map(String::as_str).chain(HOP) {
        headers.remove(name);
    }
    headers
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
