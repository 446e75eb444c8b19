//! The server's connections: so many at once, and none that waits without end for its client.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use opentelemetry::global;
use opentelemetry::metrics::UpDownCounter;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::stall::PatientStream;

/// How long a client may take for the head of a request, from its connection or its last answer on. Clients
/// commonly keep a connection for 90 s without using it, and are not to find it closed.
const HEAD_WITHIN: Duration = Duration::from_secs(100);
/// The same where hardly any place is left.
const HEAD_WITHIN_IF_FULL: Duration = Duration::from_secs(2);

static CONNECTIONS: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
    global::meter("headrace")
        .i64_up_down_counter("headrace_http_connections")
        .with_description("Connections of HTTP clients that are open")
        .build()
});

/// What a client may cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// So many connections are open at once; further ones wait to be accepted.
    pub connections: usize,
    /// How long a client may take nothing of what there is for it.
    pub patience: Duration,
}

/// Serves `app` until `closing`, and then what has been asked for already.
pub(super) async fn run(
    mut listener: TcpListener,
    app: Router,
    limits: Limits,
    closing: CancellationToken,
) {
    let mut usual = http1::Builder::new();
    usual
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN);
    let mut hurried = usual.clone();
    hurried
        .header_read_timeout(HEAD_WITHIN_IF_FULL)
        .keep_alive(false);
    let places = Places::new(limits.connections);
    let connections = GracefulShutdown::new();
    while let Some((stream, place)) = closing
        .run_until_cancelled(accept(&mut listener, &places))
        .await
    {
        let http = if place.is_spare { &hurried } else { &usual };
        let stream = TokioIo::new(PatientStream::new(stream, limits.patience));
        let service = TowerToHyperService::new(app.clone());
        let served = connections.watch(http.serve_connection(stream, service));
        let counted = Counted::new();
        tokio::spawn(async move {
            let _held = (place, counted);
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection ended before its time");
            }
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// The next connection, once there is a place for it.
async fn accept(listener: &mut TcpListener, places: &Places) -> (TcpStream, Place) {
    let place = places.next().await;
    // Waits where the system has no more files, and goes on where a client is gone already.
    let (stream, _) = Listener::accept(listener).await;
    // Small pieces of an answer leave at once.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection gathers small pieces");
    }
    (stream, place)
}

/// Where connections may be. While the usual places are taken, perhaps by clients that say nothing, the
/// spare ones are for a request each, so that others are served all the same, and so is who asks whether
/// the service lives.
struct Places {
    usual: Arc<Semaphore>,
    spare: Arc<Semaphore>,
}

/// A connection's place; it is free again once this is dropped.
struct Place {
    is_spare: bool,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Places {
    fn new(connections: usize) -> Self {
        let spare = connections / 8;
        Self {
            usual: Arc::new(Semaphore::new(connections - spare)),
            spare: Arc::new(Semaphore::new(spare)),
        }
    }

    async fn next(&self) -> Place {
        let (usual, spare) = (Arc::clone(&self.usual), Arc::clone(&self.spare));
        // Without a permit only where a semaphore is closed, which nobody does.
        let (is_spare, permit) = tokio::select! {
            biased;
            usual = usual.acquire_owned() => (false, usual.ok()),
            spare = spare.acquire_owned() => (true, spare.ok()),
        };
        Place {
            is_spare,
            _permit: permit,
        }
    }
}

/// A connection that is counted, however it ends.
struct Counted;

impl Counted {
    fn new() -> Self {
        CONNECTIONS.add(1, &[]);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        CONNECTIONS.add(-1, &[]);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";

    struct Running {
        address: SocketAddr,
        closing: CancellationToken,
        ended: JoinHandle<()>,
        /// Lets one request be answered.
        answer: Arc<Notify>,
        /// A request has come.
        asked: Arc<Notify>,
    }

    async fn running(connections: usize) -> Running {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, asked) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (answered, came) = (Arc::clone(&answer), Arc::clone(&asked));
        let route = get(|| async move {
            came.notify_one();
            answered.notified().await;
            "answered"
        });
        let limits = Limits {
            connections,
            patience: Duration::from_mins(1),
        };
        let closing = CancellationToken::new();
        let app = Router::new().route("/", route);
        let ended = tokio::spawn(run(listener, app, limits, closing.clone()));
        Running {
            address,
            closing,
            ended,
            answer,
            asked,
        }
    }

    async fn connect(address: SocketAddr, sent: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream
    }

    /// What comes until the connection is closed.
    async fn rest(mut stream: TcpStream) -> String {
        let mut read = Vec::new();
        match stream.read_to_end(&mut read).await {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => String::from_utf8(read).unwrap(),
        }
    }

    /// What comes on a connection on which `sent` is all that is sent, and how long it stays open.
    async fn whole(address: SocketAddr, sent: &[u8]) -> (String, Duration) {
        let begun = Instant::now();
        let came = rest(connect(address, sent).await).await;
        (came, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_that_sends_nothing_or_half_of_a_head_or_nothing_more() {
        let server = running(10).await;
        for sent in [&b""[..], &GET[..20]] {
            let (came, open) = whole(server.address, sent).await;
            assert!(!came.contains("200"), "{came}");
            assert_eq!(open.as_secs(), HEAD_WITHIN.as_secs());
        }
        server.answer.notify_one();
        let (one, open) = whole(server.address, GET).await;
        assert!(one.ends_with("answered"), "{one}");
        assert_eq!(open.as_secs(), HEAD_WITHIN.as_secs());
    }

    #[tokio::test]
    async fn a_connection_too_many_waits_for_another_to_end() {
        let server = running(1).await;
        let first = connect(server.address, GET).await;
        server.asked.notified().await;
        let second = connect(server.address, GET).await;
        let early = tokio::time::timeout(Duration::from_millis(100), server.asked.notified());
        assert!(
            early.await.is_err(),
            "the second is served beside the first"
        );
        drop(first);
        server.asked.notified().await;
        server.answer.notify_one();
        server.closing.cancel();
        assert!(rest(second).await.ends_with("answered"));
    }

    #[tokio::test(start_paused = true)]
    async fn where_silent_clients_have_all_places_others_are_served_a_request_each() {
        let server = running(16).await;
        let mut silent = Vec::new();
        for _ in 0..14 {
            silent.push(connect(server.address, b"").await);
        }
        for _ in 0..3 {
            server.answer.notify_one();
            let (answer, open) = whole(server.address, GET).await;
            assert!(
                answer.contains("connection: close") && answer.ends_with("answered"),
                "{answer}"
            );
            assert!(open < HEAD_WITHIN_IF_FULL);
        }
        let (came, open) = whole(server.address, b"").await;
        assert!(!came.contains("200"), "{came}");
        assert_eq!(open.as_secs(), HEAD_WITHIN_IF_FULL.as_secs());
    }

    #[tokio::test]
    async fn who_has_asked_is_answered_before_the_server_ends_and_who_has_not_is_not_waited_for() {
        let server = running(10).await;
        let asking = connect(server.address, GET).await;
        server.asked.notified().await;
        let silent = connect(server.address, b"").await;
        server.closing.cancel();
        assert_eq!(rest(silent).await, "");
        assert!(!server.ended.is_finished());
        server.answer.notify_one();
        assert!(rest(asking).await.ends_with("answered"));
        server.ended.await.unwrap();
        assert!(TcpStream::connect(server.address).await.is_err());
    }
}
