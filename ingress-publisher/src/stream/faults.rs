//! What a provider may do wrong: each ends in the documented state, none spins, and none harms
//! another stream.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use shared_model::control::StreamAssignment;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, accept_async, accept_async_with_config};
use tokio_util::task::AbortOnDropHandle;

use super::tests::Running;
use crate::config::PublisherConfig;
use crate::outbound::Outbound;
use crate::testing::{self, Served, Server, within};
use shared_model::control::{StreamReport, StreamState};

/// A provider that treats every connection in the same way.
struct Faulty {
    endpoint: String,
    connects: watch::Receiver<u32>,
    _serving: AbortOnDropHandle<()>,
}

impl Faulty {
    fn start<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let socket = TcpSocket::new_v4().unwrap();
        // What a peer that does not read takes is little.
        socket.set_recv_buffer_size(4096).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener: TcpListener = socket.listen(16).unwrap();
        let endpoint = format!("ws://{}/api/v2/live", listener.local_addr().unwrap());
        let (count, connects) = watch::channel(0);
        let serving = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                count.send_modify(|count| *count += 1);
                tokio::spawn(serve(tcp));
            }
        });
        Self {
            endpoint,
            connects,
            _serving: AbortOnDropHandle::new(serving),
        }
    }

    /// A provider that answers `head` instead of opening a websocket.
    fn answering(head: &'static str) -> Self {
        Self::start(move |mut tcp| async move {
            read_request(&mut tcp).await;
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n");
            tcp.write_all(answer.as_bytes()).await.unwrap_or_default();
        })
    }

    fn assignment(&self) -> StreamAssignment {
        testing::assignment(&self.endpoint, None)
    }

    fn connects(&self) -> u32 {
        *self.connects.borrow()
    }

    /// Fails unless the next eight connects take as long as jittered waits between them do. Their
    /// bounds are those of [`unhurried`], so they add up to more than a second on average.
    async fn does_not_make_spin(&mut self) {
        let begin = tokio::time::Instant::now();
        let first = self.connects();
        let counting = self.connects.wait_for(|count| *count >= first + 8);
        within(counting).await.unwrap();
        assert!(begin.elapsed() > Duration::from_millis(150), "it spins");
    }
}

async fn read_request(tcp: &mut (impl AsyncRead + Unpin)) {
    let mut read = Vec::new();
    while !read.ends_with(b"\r\n\r\n") {
        read.push(within(tcp.read_u8()).await.unwrap());
    }
}

/// A socket with a subscription on it.
async fn subscribed(tcp: TcpStream) -> WebSocketStream<TcpStream> {
    let mut socket = accept_async(tcp).await.unwrap();
    socket.next().await.unwrap().unwrap();
    socket
}

fn unhurried() -> PublisherConfig {
    let mut config = testing::config();
    config.stream.backoff_min = Duration::from_millis(50);
    config.stream.backoff_max = Duration::from_millis(400);
    config.stream.refused_wait = Duration::from_hours(1);
    config
}

/// A stream whose provider does all as it should.
struct Healthy {
    running: Running,
    socket: Served,
    sent: u64,
}

impl Healthy {
    async fn start() -> Self {
        let server = Server::start().await;
        let running = Running::start(testing::assignment(&server.endpoint(), None), 1);
        let (mut socket, _) = server.accept().await;
        testing::heard(&mut socket).await;
        Self {
            running,
            socket,
            sent: 0,
        }
    }

    /// Fails unless frames come through in the first session.
    async fn delivers(&mut self) {
        for _ in 0..100 {
            self.sent += 1;
            let text = Message::text(self.sent.to_string());
            self.socket.send(text).await.unwrap();
            let pending = self.running.next(0).await;
            assert_eq!(pending.frame.number, self.sent);
        }
        assert_eq!(self.running.status.report().state, StreamState::Subscribed);
    }
}

/// Runs a stream against `faulty` beside a healthy one. Returns what it reports.
async fn trouble(faulty: &Faulty, config: PublisherConfig) -> (Running, Healthy, StreamReport) {
    let mut healthy = Healthy::start().await;
    healthy.delivers().await;
    let running = Running::start_with(faulty.assignment(), 1, config);
    let report = running.report_with_error().await;
    healthy.delivers().await;
    (running, healthy, report)
}

/// The provider is left in peace after the one answer `head`.
async fn is_asked_once(head: &'static str, state: StreamState, message: &str) {
    let faulty = Faulty::answering(head);
    let (running, mut healthy, report) = trouble(&faulty, unhurried()).await;
    assert_eq!(report.state, state);
    let error = report.last_error.unwrap();
    assert!(error.contains(message), "{error}");
    healthy.delivers().await;
    assert_eq!(faulty.connects(), 1, "{head}");
    running.end().await;
}

/// The provider's fault comes again and again, with `message`, and the stream does not spin.
async fn is_asked_again(mut faulty: Faulty, config: PublisherConfig, message: &str) {
    let (running, mut healthy, report) = trouble(&faulty, config).await;
    assert_eq!(report.state, StreamState::BackingOff);
    let error = report.last_error.unwrap();
    assert!(error.contains(message), "{error}");
    faulty.does_not_make_spin().await;
    healthy.delivers().await;
    running.end().await;
}

#[tokio::test]
async fn refused_credentials_are_not_tried_again_and_again() {
    for head in ["401 Unauthorized", "403 Forbidden"] {
        is_asked_once(head, StreamState::Refused, head).await;
    }
}

#[tokio::test]
async fn a_provider_that_names_a_time_is_left_in_peace_until_then() {
    for (head, status) in [
        ("429 Too Many Requests\r\nretry-after: 600", "429"),
        ("503 Service Unavailable\r\nretry-after: 600", "503"),
    ] {
        is_asked_once(head, StreamState::BackingOff, status).await;
    }
}

#[tokio::test]
async fn a_fraction_of_a_second_is_waited_for() {
    let mut faulty = Faulty::answering("429 Too Many Requests\r\nretry-after: 0.25");
    let running = Running::start_with(faulty.assignment(), 1, testing::config());
    within(faulty.connects.wait_for(|count| *count == 1))
        .await
        .unwrap();
    let begin = tokio::time::Instant::now();
    within(faulty.connects.wait_for(|count| *count == 3))
        .await
        .unwrap();
    assert!(begin.elapsed() >= Duration::from_millis(500));
    running.end().await;
}

#[tokio::test]
async fn answers_other_than_a_websocket_are_met_with_growing_waits() {
    let faulty = Faulty::answering("500 Internal Server Error");
    is_asked_again(faulty, unhurried(), "500").await;
}

#[tokio::test]
async fn a_provider_that_closes_at_once_does_not_make_the_stream_spin() {
    let faulty = Faulty::start(async |tcp| {
        let mut socket = subscribed(tcp).await;
        // A greeting is no proof of health.
        socket
            .send(Message::text("{\"ready\":true}"))
            .await
            .unwrap_or_default();
        socket.close(None).await.unwrap_or_default();
    });
    is_asked_again(faulty, unhurried(), "closed the socket").await;
}

#[tokio::test]
async fn a_provider_that_resets_before_the_handshake_does_not_make_the_stream_spin() {
    let faulty = Faulty::start(async |tcp| drop(tcp));
    is_asked_again(faulty, unhurried(), "cannot be reached").await;
}

#[tokio::test]
async fn a_provider_that_never_answers_the_handshake_is_given_up() {
    let faulty = Faulty::start(async |_tcp| std::future::pending().await);
    let mut config = unhurried();
    config.stream.connect_timeout = Duration::from_millis(50);
    is_asked_again(faulty, config, "did not answer within").await;
}

#[tokio::test]
async fn a_half_open_socket_is_given_up() {
    // It neither says anything nor answers pings.
    let faulty = Faulty::start(async |tcp| {
        let _socket = subscribed(tcp).await;
        std::future::pending::<()>().await;
    });
    let mut config = unhurried();
    config.stream.ping_interval = Duration::from_millis(20);
    is_asked_again(faulty, config, "did not even answer a ping").await;
}

#[tokio::test]
async fn a_provider_that_takes_no_more_bytes_is_given_up() {
    // It pings without end, so that it is heard, and reads none of the answers.
    let faulty = Faulty::start(async |tcp| {
        let mut socket = subscribed(tcp).await;
        let ping = Message::Ping(vec![b'x'; 125].into());
        while socket.send(ping.clone()).await.is_ok() {}
        std::future::pending::<()>().await;
    });
    let mut config = unhurried();
    config.stream.ping_interval = Duration::from_millis(200);
    let (running, _healthy, report) = trouble(&faulty, config).await;
    let error = report.last_error.unwrap();
    assert!(error.contains("within 200ms"), "{error}");
    running.end().await;
}

#[tokio::test]
async fn silence_alone_is_no_fault() {
    // It answers pings, and has nothing to say.
    let (pinged, mut pings) = watch::channel(0);
    let faulty = Faulty::start(move |tcp| {
        let pinged = pinged.clone();
        async move {
            let mut socket = subscribed(tcp).await;
            while let Some(Ok(_)) = socket.next().await {
                pinged.send_modify(|pings| *pings += 1);
            }
        }
    });
    let mut config = testing::config();
    config.stream.ping_interval = Duration::from_millis(20);
    let running = Running::start_with(faulty.assignment(), 1, config);
    let mut healthy = Healthy::start().await;
    within(pings.wait_for(|pings| *pings >= 10)).await.unwrap();
    healthy.delivers().await;
    let report = running.status.report();
    assert_eq!(
        (report.state, report.last_error),
        (StreamState::Subscribed, None)
    );
    assert_eq!(faulty.connects(), 1);
    running.end().await;
}

#[tokio::test]
async fn garbage_is_passed_on_as_it_is() {
    let faulty = Faulty::start(async |tcp| {
        let mut socket = subscribed(tcp).await;
        for garbage in [Message::text("\u{0}{{"), Message::binary(vec![0xff; 300])] {
            socket.send(garbage).await.unwrap();
        }
        while let Some(Ok(_)) = socket.next().await {}
    });
    let mut running = Running::start(faulty.assignment(), 1);
    let mut healthy = Healthy::start().await;
    assert_eq!(running.next(0).await.frame.body, "\u{0}{{");
    assert_eq!(running.next(0).await.frame.body[..], [0xff; 300]);
    healthy.delivers().await;
    assert_eq!(running.status.report().state, StreamState::Subscribed);
    assert_eq!(faulty.connects(), 1);
    running.end().await;
}

#[tokio::test]
async fn bytes_that_are_no_websocket_break_the_socket() {
    let faulty = Faulty::start(async |tcp| {
        let socket = subscribed(tcp).await;
        let mut tcp = socket.into_inner();
        tcp.write_all(&[0xff; 64]).await.unwrap_or_default();
        std::future::pending::<()>().await;
    });
    is_asked_again(faulty, unhurried(), "the socket broke").await;
}

#[tokio::test]
async fn a_message_that_is_too_large_takes_none_before_it_with_it() {
    let faulty = Faulty::start(async |tcp| {
        let all = WebSocketConfig::default().max_frame_size(None);
        let mut socket = accept_async_with_config(tcp, Some(all)).await.unwrap();
        socket.next().await.unwrap().unwrap();
        socket
            .feed(Message::text("before"))
            .await
            .unwrap_or_default();
        let large = "x".repeat(10 * 1024 * 1024);
        socket.send(Message::text(large)).await.unwrap_or_default();
    });
    let mut running = Running::start_with(faulty.assignment(), 1, unhurried());
    assert_eq!(running.next(0).await.frame.body, "before");
    let report = running.report_with_error().await;
    assert!(report.last_error.unwrap().contains("too large"));
    running.end().await;
    is_asked_again(faulty, unhurried(), "too large").await;
}

#[tokio::test]
async fn a_renewed_credential_ends_the_wait() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    std::fs::write(&path, "old").unwrap();
    let reference = format!("file:{}", path.display());
    let assignment = testing::assignment(&server.endpoint(), Some(reference));
    let running = Running::start_with(assignment, 1, unhurried());
    server.refuse("401 Unauthorized").await;
    let report = running.report_with_error().await;
    assert_eq!(report.state, StreamState::Refused);
    std::fs::write(&path, "new").unwrap();
    let (_socket, key) = server.accept().await;
    assert_eq!(key.as_deref(), Some("new"));
    running.end().await;
}

#[tokio::test]
async fn a_healthy_socket_starts_the_waits_over() {
    let mut faulty = Faulty::start(async |tcp| {
        let mut socket = subscribed(tcp).await;
        socket.send(Message::text("{}")).await.unwrap_or_default();
        socket.close(None).await.unwrap_or_default();
    });
    let mut config = unhurried();
    config.stream.backoff_min = Duration::from_millis(1);
    config.stream.backoff_max = Duration::from_hours(1);
    // Whoever brings a frame at all is healthy here; else a hundred connects would take days.
    config.stream.healthy_after = Duration::ZERO;
    let running = Running::start_with(faulty.assignment(), 1, config);
    within(faulty.connects.wait_for(|count| *count > 100))
        .await
        .unwrap();
    drop(running);
}

/// A certificate for 127.0.0.1 and the authority that signed it, both PEM.
fn certificate() -> (rustls::ServerConfig, String) {
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let root = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    (config, root)
}

#[tokio::test]
async fn a_further_authority_is_trusted_and_none_that_is_not_named() {
    let (config, root) = certificate();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let faulty = Faulty::start(move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let mut socket = accept_async(tls).await.unwrap();
            socket.next().await.unwrap().unwrap();
            socket.send(Message::text("{}")).await.unwrap();
            while let Some(Ok(_)) = socket.next().await {}
        }
    });
    let endpoint = faulty.endpoint.replace("ws://", "wss://");
    let stranger = Running::start_with(testing::assignment(&endpoint, None), 1, unhurried());
    let error = stranger.report_with_error().await.last_error.unwrap();
    assert!(error.contains("UnknownIssuer"), "{error}");
    stranger.end().await;

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), root).unwrap();
    let mut config = testing::config();
    config.stream.extra_ca_file = Some(file.path().to_owned());
    let mut running = Running::start_with(testing::assignment(&endpoint, None), 1, config);
    assert_eq!(running.next(0).await.frame.body, "{}");
    running.end().await;
}

#[tokio::test]
async fn requests_trust_the_same_authorities_as_sockets() {
    let (config, root) = certificate();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let faulty = Faulty::start(move |tcp| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut tls) = acceptor.accept(tcp).await else {
                return;
            };
            read_request(&mut tls).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
            tls.write_all(answer).await.unwrap();
            tls.shutdown().await.unwrap();
        }
    });
    testing::telemetry();
    let url = faulty.endpoint.replace("ws://", "https://");
    let stranger = Outbound::new(None).unwrap();
    assert!(within(stranger.http.get(&url).send()).await.is_err());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), root).unwrap();
    let outbound = Outbound::new(Some(&file.path().to_owned())).unwrap();
    let answer = within(outbound.http.get(&url).send()).await.unwrap();
    assert_eq!(within(answer.text()).await.unwrap(), "{}");
}
