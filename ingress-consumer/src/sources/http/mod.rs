//! HTTP provider-ingest: frames from senders that cannot reach the broker.
//!
//! A request is answered once its frames are committed, with what became of each. Requests that come
//! at the same time share commits ([`group`]). A request that repeats an `Idempotency-Key` has no
//! second effect and gets the first one's answer ([`idempotency`]). While the queue is full or the
//! database away, requests are refused whole, with the time after which to come again.

mod described;
mod group;
mod idempotency;
mod reading;
mod request;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Extension;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use runtime::access::Principal;
use runtime::http::Problem;
use runtime::{Context, clock};
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tower_http::decompression::RequestDecompressionLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::IngestConfig;
use crate::metrics;

use described::{IngestAnswer, IngestRequest};
pub use group::Committer;
use group::Submission;
use idempotency::InFlight;

/// Takes requests, and hands them to the [`Committer`].
#[derive(Debug, Clone)]
pub struct Intake {
    config: IngestConfig,
    context: Context,
    queue: mpsc::Sender<Submission>,
    /// Bytes of requests that may still come in.
    budget: Arc<Semaphore>,
    in_flight: InFlight,
    /// Whether the committer runs.
    open: Arc<AtomicBool>,
}

/// The requests that wait for the [`Committer`].
#[derive(Debug)]
pub struct Waiting {
    queue: mpsc::Receiver<Submission>,
    open: Arc<AtomicBool>,
}

impl Intake {
    /// An intake, and where its requests wait.
    #[must_use]
    pub fn new(context: Context, config: IngestConfig) -> (Self, Waiting) {
        let (queue, waiting) = mpsc::channel(config.queue_requests);
        let open = Arc::new(AtomicBool::new(false));
        let intake = Self {
            context,
            queue,
            budget: Arc::new(Semaphore::new(config.queue_bytes)),
            in_flight: InFlight::default(),
            open: Arc::clone(&open),
            config,
        };
        let waiting = Waiting {
            queue: waiting,
            open,
        };
        (intake, waiting)
    }

    /// The routes of provider-ingest.
    #[must_use]
    pub fn routes(self) -> OpenApiRouter {
        router().with_state(self)
    }

    async fn take(
        &self,
        principal: &Principal,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Value, Problem> {
        if self.context.stopping().is_cancelled() || !self.open.load(Ordering::Relaxed) {
            return Err(away("this core takes no frames at the moment; try again"));
        }
        let received_at = clock::now();
        let format = request::format(headers)?;
        let key = idempotency::key(headers)?;
        let (body, held) = reading::read(body, &self.budget, self.config.max_bytes).await?;
        let envelopes = request::parse(format, &body, self.config.max_frames)?;
        request::allow(principal, &envelopes)?;
        let key = key
            .map(|key| self.in_flight.begin(key, &envelopes, &body))
            .transpose()?;
        let bytes = body.len();
        // The frames hold all that is needed of it; it may take a while.
        drop(body);
        let (answer, answered) = oneshot::channel();
        let submission = Submission {
            bytes,
            envelopes,
            received_at,
            key,
            held,
            answer,
        };
        self.queue
            .try_send(submission)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => busy(),
                mpsc::error::TrySendError::Closed(_) => {
                    away("this core is being stopped; try again")
                }
            })?;
        metrics::ingest_waiting(self.config.queue_requests - self.queue.capacity());
        // Whoever was to answer is gone: whether the frames are committed is not known.
        let unknown = || away("this core was stopped before the commit was certain; try again");
        answered.await.map_err(|_| unknown())?
    }
}

/// The routes of provider-ingest without what their handler shares.
pub(crate) fn router() -> OpenApiRouter<Intake> {
    OpenApiRouter::new()
        .routes(routes!(ingest))
        // An encoding that is not known is refused by the handler, as a problem.
        .layer(RequestDecompressionLayer::new().pass_through_unaccepted(true))
        // The handler counts what it reads, after decompression.
        .layer(DefaultBodyLimit::disable())
}

/// Deliver frames to connections of kind `push`
///
/// Answers once everything is committed, with what became of each frame. A body may be compressed (gzip
/// or zstd). Where whether it was committed is not known, send it again: nothing counts twice.
#[utoipa::path(
    post,
    path = "/v1/provider-ingest",
    operation_id = "ingestFrames",
    tag = "ingest",
    params((
        "Idempotency-Key" = Option<String>,
        Header,
        description = "Stands for this request: 1 to 255 letters, digits and signs, with or without quotes. \
                       A repetition with the same key and body has no second effect and gets the first \
                       answer.",
        nullable = false,
        pattern = r#"^("[!#-~]{1,255}"|[!#-~]{1,255})$"#,
        max_length = 257
    )),
    request_body(
        description = "An envelope, an array of envelopes, or (`application/x-ndjson`) an envelope a line.",
        content((IngestRequest = "application/json"), (String = "application/x-ndjson"))
    ),
    responses(
        (status = 200, description = "A verdict a frame, in order over all envelopes.", body = IngestAnswer),
        (
            status = 408,
            description = "The body took too long to come.",
            body = Problem,
            content_type = "application/problem+json"
        )
    ),
    security(("credential" = ["ingest"]))
)]
async fn ingest(
    State(intake): State<Intake>,
    Extension(principal): Extension<Principal>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let response = match intake.take(&principal, &headers, body).await {
        Ok(answer) => axum::Json(answer).into_response(),
        Err(problem) => problem.into_response(),
    };
    metrics::ingest_request(response.status().as_u16());
    response
}

fn away(detail: &str) -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "ingest-away", detail)
}

/// More comes in than can be committed.
fn busy() -> Problem {
    let detail = "more requests wait than this core can hold; nothing of this one was taken";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "ingest-busy", detail)
}
