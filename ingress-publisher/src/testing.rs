//! What the tests of several modules need.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use runtime::access::AccessConfig;
use runtime::clock;
use runtime::telemetry::Output;
use serde_json::json;
use shared_model::control::StreamAssignment;
use shared_model::envelope::Attributes;
use shared_model::{ConnectionId, Frame, FrameKind, FrameOrigin, Provider, SessionId, WorkspaceId};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, interval, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use crate::config::{PublisherConfig, SpoolConfig};
use crate::lease::Lease;
use crate::parcel::Parcel;

/// By which the tests pass for another service.
pub(crate) const INTERNAL_TOKEN: &str = "the-internal-token-of-the-tests";

/// A configuration with short waits.
pub(crate) fn config() -> PublisherConfig {
    // Before any metric is counted: what is counted earlier shows in none.
    telemetry();
    let mut config = PublisherConfig::default();
    config.http.listen.set_port(0);
    config.access = AccessConfig::internal(INTERNAL_TOKEN);
    config.core.heartbeat = Duration::from_millis(50);
    config.stream.backoff_min = Duration::from_millis(10);
    config.stream.backoff_max = Duration::from_millis(50);
    config.stream.start_spread = Duration::ZERO;
    config.backfill.settle = Duration::from_millis(50);
    config
}

/// Metrics, and the TLS provider that an HTTP client needs even where it speaks plain HTTP.
pub(crate) fn telemetry() {
    runtime::telemetry::init("test", Output::Stderr).flush();
}

/// Attributes of a session of its own.
pub(crate) fn attributes() -> Attributes {
    Attributes {
        provider: Provider::new("viriciti").unwrap(),
        workspace: WorkspaceId::new("demo").unwrap(),
        connection: ConnectionId(clock::new_id()),
        session: SessionId(clock::new_id()),
        epoch: 1,
        owner: "publisher-0".to_owned(),
    }
}

/// A text frame.
pub(crate) fn frame(number: u64, body: &[u8]) -> Frame {
    Frame {
        number,
        received_at: clock::now(),
        kind: FrameKind::Text,
        origin: FrameOrigin::Live,
        body: Bytes::copy_from_slice(body),
    }
}

/// A message.
pub(crate) fn parcel(id: &str, body: &[u8]) -> Parcel {
    Parcel {
        message_id: id.to_owned(),
        content_type: "text/plain".into(),
        headers: [("name".to_owned(), "value".to_owned())].into(),
        body: Bytes::copy_from_slice(body),
    }
}

/// A spool's directory, and the configuration that names it.
pub(crate) fn spool() -> (TempDir, SpoolConfig) {
    let folder = tempfile::tempdir().unwrap();
    let config = SpoolConfig {
        directory: folder.path().join("spool").display().to_string(),
        max_bytes: 64 * 1024 * 1024,
    };
    (folder, config)
}

/// A stream of a connection of its own.
pub(crate) fn assignment(endpoint: &str, credential: Option<String>) -> StreamAssignment {
    StreamAssignment {
        connection: ConnectionId(clock::new_id()),
        workspace: WorkspaceId::new("demo").unwrap(),
        provider: Provider::new("viriciti").unwrap(),
        endpoint: endpoint.to_owned(),
        credential,
        // The provider that a test plays has no REST API.
        settings: json!({"vehicles": {"bus-1": ["soc"]}, "backfill": false}),
        epoch: 1,
        heard_until: None,
    }
}

/// A lease that does not end in a test.
pub(crate) fn lease() -> Lease {
    let lease = Lease::default();
    lease.renew(Instant::now(), Duration::from_hours(1));
    lease
}

/// A provider whose end of each socket the test holds.
pub(crate) struct Server {
    listener: TcpListener,
}

/// The provider's end of a socket.
pub(crate) type Served = WebSocketStream<TcpStream>;

impl Server {
    /// Listens on a free port.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Self { listener }
    }

    /// Where to connect.
    pub(crate) fn endpoint(&self) -> String {
        let address = self.listener.local_addr().unwrap();
        format!("ws://{address}/api/v2/live")
    }

    /// The next socket, and the key that it came with.
    pub(crate) async fn accept(&self) -> (Served, Option<String>) {
        let (tcp, _) = within(self.listener.accept()).await.unwrap();
        let mut key = None;
        #[expect(clippy::result_large_err, reason = "the library's own type")]
        let socket = accept_hdr_async(tcp, |request: &Request, response: Response| {
            let header = request.headers().get("x-api-key");
            key = header.map(|value| value.to_str().unwrap().to_owned());
            Ok(response)
        });
        (within(socket).await.unwrap(), key)
    }

    /// Answers the next request with `head` instead of a websocket.
    pub(crate) async fn refuse(&self, head: &str) {
        let (tcp, _) = within(self.listener.accept()).await.unwrap();
        let mut tcp = BufReader::new(tcp);
        let mut line = String::new();
        while within(tcp.read_line(&mut line)).await.unwrap() > 2 {
            line.clear();
        }
        let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n");
        tcp.write_all(answer.as_bytes()).await.unwrap();
        tcp.shutdown().await.unwrap();
    }
}

/// The next message that a client sent.
pub(crate) async fn heard(socket: &mut Served) -> Message {
    within(socket.next()).await.unwrap().unwrap()
}

/// Fails a test that waits too long.
pub(crate) async fn within<F: Future>(task: F) -> F::Output {
    let limit = Duration::from_secs(20);
    timeout(limit, task).await.expect("it takes too long")
}

/// Waits until `check` finds what it looks for.
pub(crate) async fn eventually<T>(mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let mut polls = interval(Duration::from_millis(5));
    let found = async {
        loop {
            polls.tick().await;
            if let Some(found) = check().await {
                return found;
            }
        }
    };
    within(found).await
}
