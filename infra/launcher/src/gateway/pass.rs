//! A request handed to the service that answers it.
//!
//! The path goes on exactly as it came: whatever a URL library would write differently (`..`, a
//! backslash) could reach another route than the one that was looked up, and is refused.

use std::sync::Arc;
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody as _};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use futures_util::{Stream, StreamExt, stream};
use reqwest::{Client, RequestBuilder, Url};
use runtime::access::Access;
use runtime::http::Problem;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a service may take for its answer, and anybody between two pieces of what they send.
const PATIENCE: Duration = Duration::from_secs(30);

/// The largest body that services take, unless they say otherwise.
const LARGEST_BODY: usize = 2 * 1024 * 1024;
/// The bodies of all requests together, in bytes.
const ALL_BODIES: usize = 256 * 1024 * 1024;

/// Where the bodies of all requests are until they are handed on.
#[derive(Debug)]
pub(super) struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ALL_BODIES)))
    }
}

/// A service behind the gateway.
#[derive(Clone)]
pub(super) struct Upstream {
    name: &'static str,
    base: String,
    client: Client,
    access: Access,
    /// The bytes of bodies that all requests together may still have here.
    room: Arc<Semaphore>,
    /// The largest body that it is sent.
    largest: usize,
}

impl Upstream {
    pub(super) fn new(
        name: &'static str,
        base: &str,
        client: &Client,
        access: &Access,
        room: &Room,
    ) -> Self {
        Self {
            name,
            base: base.to_owned(),
            client: client.clone(),
            access: access.clone(),
            room: Arc::clone(&room.0),
            largest: LARGEST_BODY,
        }
    }

    /// The same for bodies of up to `largest` bytes.
    pub(super) fn taking(self, largest: usize) -> Self {
        Self { largest, ..self }
    }

    /// What the service answers to `request`; its body is yet to come.
    async fn answer(&self, request: RequestBuilder) -> Result<reqwest::Response, Problem> {
        let Ok(answer) = tokio::time::timeout(PATIENCE, request.send()).await else {
            tracing::warn!(service = self.name, "a service behind the gateway is slow");
            let detail = format!(
                "the {} service did not answer in time; try again",
                self.name
            );
            return Err(Problem::new(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream-slow",
                detail,
            ));
        };
        answer.map_err(|error| self.problem(&error))
    }

    /// What went wrong, as the client is told.
    fn problem(&self, error: &reqwest::Error) -> Problem {
        let name = self.name;
        let error_chain = runtime::telemetry::chain(error);
        tracing::warn!(service = name, error = %error_chain, "a service behind the gateway does not answer");
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
    require_some_credential(&headers)?;
    if !request.body().is_end_stream() {
        // Only the body of somebody who is known is kept here, and may take its time.
        upstream.access.knows(&headers).await?;
    }
    let (body, held) = upstream.body(request).await?;
    let request = upstream.client.request(method, url);
    let request = request.headers(end_to_end(headers)).body(body);
    let answer = upstream.answer(request).await;
    drop(held);
    let answer = answer?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = end_to_end(answer.headers().clone());
        // Whatever a tenant is answered is nobody else's, and may change.
        headers
            .entry(header::CACHE_CONTROL)
            .or_insert(HeaderValue::from_static("private, no-cache"));
    }
    response
        .body(Body::from_stream(pieces(answer)))
        .map_err(|error| Problem::internal(&error))
}

/// The pieces of an answer, until the service takes too long for one. How long the client takes for them
/// does not count here.
fn pieces(answer: reqwest::Response) -> impl Stream<Item = Result<Bytes, BoxError>> {
    stream::try_unfold(answer, |mut answer| async {
        let piece = tokio::time::timeout(PATIENCE, answer.chunk()).await??;
        Ok(piece.map(|piece| (piece, answer)))
    })
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

/// The services judge credentials; who comes without any is sent away before anything of theirs is read.
fn require_some_credential(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(header::AUTHORIZATION) || headers.contains_key("x-api-key") {
        return Ok(());
    }
    let detail = "send an API key or a token as `Authorization: Bearer …`";
    Err(Problem::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        detail,
    ))
}

impl Upstream {
    /// The body of `request`, and the room that it takes.
    async fn body(
        &self,
        request: Request,
    ) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        let read = tokio::time::timeout(PATIENCE, self.read(request.into_body()));
        read.await.map_err(|_| {
            let detail = format!("the body did not come within {} s", PATIENCE.as_secs());
            Problem::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", detail)
        })?
    }

    async fn read(&self, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
        let mut chunks = body.into_data_stream();
        let mut read = Vec::new();
        let mut held: Option<OwnedSemaphorePermit> = None;
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| {
                let detail = format!("the body ends before its time: {error}");
                Problem::bad_request("invalid-body", detail)
            })?;
            if read.len() + chunk.len() > self.largest {
                let detail = "the body is larger than this path takes; send less at once";
                let status = StatusCode::PAYLOAD_TOO_LARGE;
                return Err(Problem::new(status, "request-too-large", detail));
            }
            let more = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.room).try_acquire_many_owned(more);
            let more = more.map_err(|_| {
                let detail = "too many requests are on their way at once; try again";
                Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail)
            })?;
            match &mut held {
                Some(held) => held.merge(more),
                None => held = Some(more),
            }
            read.extend_from_slice(&chunk);
        }
        Ok((read.into(), held))
    }
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
    use runtime::access::{AccessConfig, NoKeys};

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

    fn upstream(room: &Room) -> Upstream {
        runtime::telemetry::install_tls();
        let config = AccessConfig::internal("the-internal-token-of-these-tests");
        let access = Access::new(&config, Arc::new(NoKeys));
        Upstream::new("core", "http://core", &Client::new(), &access, room).taking(8)
    }

    fn kind(read: Result<(Bytes, Option<OwnedSemaphorePermit>), Problem>) -> String {
        let problem = read.expect_err("it is refused");
        problem.kind.replace("urn:headrace:problem:", "")
    }

    #[tokio::test]
    async fn bodies_share_what_room_there_is() {
        let room = Room(Arc::new(Semaphore::new(10)));
        let upstream = upstream(&room);
        let (body, held) = upstream.read(Body::from("12345678")).await.unwrap();
        assert_eq!(body, "12345678");
        assert_eq!(kind(upstream.read(Body::from("123")).await), "busy");
        drop(held);
        assert!(upstream.read(Body::from("123")).await.is_ok());
        assert_eq!(
            kind(upstream.read(Body::from("123456789")).await),
            "request-too-large"
        );
        assert_eq!(
            room.0.available_permits(),
            10,
            "what is refused holds nothing"
        );
    }

    /// A service that sends one piece, and another when it is told to.
    async fn in_two_pieces(second: Arc<tokio::sync::Notify>) -> reqwest::Response {
        let route = axum::routing::get(|| async move {
            let first = stream::iter([Ok::<_, BoxError>("one")]);
            let second = stream::once(async move {
                second.notified().await;
                Ok("two")
            });
            Body::from_stream(first.chain(second))
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = axum::Router::new().route("/", route);
        tokio::spawn(async { axum::serve(listener, app).await.unwrap() });
        runtime::telemetry::install_tls();
        Client::new().get(url).send().await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_may_be_taken_slowly_but_not_be_given_slowly() {
        let second = Arc::new(tokio::sync::Notify::new());
        let mut answer = Box::pin(pieces(in_two_pieces(Arc::clone(&second)).await));
        assert_eq!(answer.next().await.unwrap().unwrap(), "one");
        second.notify_one();
        tokio::time::sleep(10 * PATIENCE).await;
        assert_eq!(answer.next().await.unwrap().unwrap(), "two");
        assert!(answer.next().await.is_none());

        let mut answer = Box::pin(pieces(in_two_pieces(Arc::default()).await));
        assert_eq!(answer.next().await.unwrap().unwrap(), "one");
        let begun = tokio::time::Instant::now();
        assert!(answer.next().await.unwrap().is_err());
        assert_eq!(begun.elapsed().as_secs(), PATIENCE.as_secs());
    }

    #[test]
    fn who_comes_without_a_credential_is_sent_away_at_once() {
        let mut headers = HeaderMap::new();
        assert_eq!(require_some_credential(&headers).unwrap_err().status, 401);
        headers.insert("x-api-key", HeaderValue::from_static("any"));
        assert!(require_some_credential(&headers).is_ok());
    }
}
