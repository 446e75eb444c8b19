//! A receiver of webhooks that does as its paths say.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use tokio::sync::Notify;

use crate::fixture::eventually;

/// A call as it came.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) path: String,
    pub(super) at: Instant,
    pub(super) headers: HeaderMap,
    pub(super) body: String,
}

impl Call {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }
}

#[derive(Clone, Default)]
pub(super) struct Receiver {
    address: Option<SocketAddr>,
    calls: Arc<Mutex<Vec<Call>>>,
    /// Lets the next answer of `/held` go.
    pub(super) release: Arc<Notify>,
}

impl Receiver {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver = Self {
            address: Some(listener.local_addr().unwrap()),
            ..Self::default()
        };
        let app = Router::new().fallback(answer).with_state(receiver.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        receiver
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address.unwrap())
    }

    pub(super) fn port(&self) -> u16 {
        self.address.unwrap().port()
    }

    /// The calls of `path` so far.
    pub(super) fn calls(&self, path: &str) -> Vec<Call> {
        let calls = self.calls.lock().unwrap();
        calls
            .iter()
            .filter(|call| call.path == path)
            .cloned()
            .collect()
    }

    /// The calls of `path` once there are `count` or more.
    pub(super) async fn called(&self, path: &str, count: usize) -> Vec<Call> {
        eventually(|| async { self.calls(path) }, |calls| calls.len() >= count).await
    }
}

async fn answer(
    State(receiver): State<Receiver>,
    uri: Uri,
    headers: HeaderMap,
    body: String,
) -> Response {
    let path = uri.path().to_owned();
    let call = Call {
        path: path.clone(),
        at: Instant::now(),
        headers,
        body,
    };
    receiver.calls.lock().unwrap().push(call);
    let before = receiver.calls(&path).len() - 1;
    match path.as_str() {
        "/hangs" => std::future::pending().await,
        // The status is there, the body never ends.
        "/talks" => (StatusCode::OK, "word\0 ".repeat(100_000)).into_response(),
        "/held" => {
            receiver.release.notified().await;
            StatusCode::NO_CONTENT.into_response()
        }
        "/fails" => (StatusCode::INTERNAL_SERVER_ERROR, "out of order").into_response(),
        "/fails-twice" if before < 2 => StatusCode::BAD_GATEWAY.into_response(),
        "/redirects" => {
            let elsewhere = receiver.url("/elsewhere");
            (StatusCode::TEMPORARY_REDIRECT, [("location", elsewhere)]).into_response()
        }
        "/gone-once" if before == 0 => StatusCode::GONE.into_response(),
        "/limits" if before == 0 => {
            (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "2")]).into_response()
        }
        _ => StatusCode::OK.into_response(),
    }
}
