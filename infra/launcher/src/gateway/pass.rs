//! A request handed to the service that answers it.
//!
//! The path goes on exactly as it came: whatever a URL library would write differently (`..`, a
//! backslash) could reach another route than the one that was looked up, and is refused.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use reqwest::{Client, Url};
use runtime::http::Problem;

/// How long a client or a service may take between two pieces of what it sends.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A service behind the gateway.
#[derive(Debug, Clone)]
pub(super) struct Upstream {
    name: &'static str,
    base: String,
    client: Client,
}

impl Upstream {
    pub(super) fn new(name: &'static str, base: &str, client: &Client) -> Self {
        Self {
            name,
            base: base.to_owned(),
            client: client.clone(),
        }
    }

    /// What went wrong, as the client is told.
    fn problem(&self, error: &reqwest::Error) -> Problem {
        let name = self.name;
        let error_chain = runtime::telemetry::chain(error);
        tracing::warn!(service = name, error = %error_chain, "a service behind the gateway does not answer");
        if error.is_timeout() && !error.is_connect() {
            let detail = format!("the {name} service did not answer in time; try again");
            return Problem::new(StatusCode::GATEWAY_TIMEOUT, "upstream-slow", detail);
        }
        let detail = format!("the {name} service is away for the moment; try again");
        Problem::new(StatusCode::BAD_GATEWAY, "upstream-away", detail)
    }
}

/// Hands a request to `upstream`, and its answer back.
pub(super) async fn pass(
    State(upstream): State<Upstream>,
    request: Request,
) -> Result<Response, Problem> {
    let url = target(&upstream.base, request.uri())?;
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let body = body(request).await?;
    let request = upstream.client.request(method, url);
    let request = request.headers(end_to_end(headers)).body(body);
    let answer = request.send().await;
    let answer = answer.map_err(|error| upstream.problem(&error))?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = end_to_end(answer.headers().clone());
        // Whatever a tenant is answered is nobody else's, and may change.
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("private, no-cache"));
    }
    response
        .body(Body::from_stream(answer.bytes_stream()))
        .map_err(|error| Problem::internal(&error))
}

/// The URL behind `base` whose path is `uri`'s to the byte.
fn target(base: &str, uri: &Uri) -> Result<Url, Problem> {
    let wanted = uri.path_and_query().map_or("/", |wanted| wanted.as_str());
    let url = Url::parse(&format!("{base}{wanted}")).ok();
    let prefix = Url::parse(base).ok().map(|base| base.path().to_owned());
    let prefix = prefix.unwrap_or_default();
    let expected = format!("{}{}", prefix.trim_end_matches('/'), uri.path());
    url.filter(|url| url.path() == expected).ok_or_else(|| {
        let detail =
            "the path has a segment `.` or `..`, or a character that must be percent-encoded";
        Problem::bad_request("invalid-path", detail)
    })
}

async fn body(request: Request) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(PATIENCE, Bytes::from_request(request, &()));
    let read = read.await.map_err(|_| {
        let detail = format!("the body did not come within {} s", PATIENCE.as_secs());
        Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail)
    })?;
    read.map_err(|rejection| {
        let status = rejection.status();
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            let detail = "the body is larger than this path takes; send less at once";
            return Problem::new(status, "request-too-large", detail);
        }
        Problem::new(status, "invalid-body", rejection.body_text())
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_on_as_it_came_or_not_at_all() {
        for base in ["http://core:8081", "http://host/behind"] {
            for path in [
                "/v1/workspaces/w/polls",
                "/v1/workspaces/w/vehicles/a%2Fb/snapshot?fields=a%2Cb&x='y'",
                "/v1/workspaces/w/vehicles/a%252Fb/snapshot",
                "/v1/workspaces/w/vehicles/Bus%20%E2%84%967/snapshot",
                "/v1/workspaces/w/vehicles/a..b/snapshot",
            ] {
                let url = target(base, &path.parse().unwrap()).unwrap();
                let path = path.replace('\'', "%27");
                assert_eq!(url.as_str(), format!("{base}{path}"));
            }
            for path in [
                "/v1/workspaces/../internal/v1/log",
                "/v1/workspaces/w/vehicles/%2e%2e/snapshot",
                "/v1/workspaces/w/vehicles/.%2E/snapshot",
                "/v1/workspaces/w/vehicles/./snapshot",
                "/v1/workspaces/w\\..\\..\\internal/polls",
            ] {
                let problem = target(base, &path.parse().unwrap()).unwrap_err();
                assert_eq!(problem.status, 400, "{path}");
            }
        }
    }
}
