//! A stream against a provider whose end of each socket the test holds.

use tokio::sync::mpsc::Receiver;
use tokio::task::JoinHandle;

use super::*;
use shared_model::control::{StreamReport, StreamState};

use crate::config::PublisherConfig;
use crate::sent::Sent;
use crate::status::Streams;
use crate::testing::{self, Served, Server, eventually, heard, within};
use crate::window::{Pending, PendingFrame, Window};

const ECHO: &str = r#"{"vehicles":{"bus-1":["soc"]}}"#;

pub(crate) struct Running {
    assignment: StreamAssignment,
    pub(crate) status: StreamStatus,
    queues: Vec<Receiver<Pending>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(assignment: StreamAssignment, partitions: u32) -> Self {
        Self::start_with(assignment, partitions, testing::config())
    }

    pub(crate) fn start_with(
        assignment: StreamAssignment,
        partitions: u32,
        config: PublisherConfig,
    ) -> Self {
        Self::start_after(None, assignment, partitions, config)
    }

    pub(crate) fn start_after(
        gap_from: Option<DateTime<Utc>>,
        assignment: StreamAssignment,
        partitions: u32,
        config: PublisherConfig,
    ) -> Self {
        let outbound = Outbound::new(config.stream.extra_ca_file.as_ref()).unwrap();
        let (window, queues) = Window::open(partitions, &config.window);
        let stop = CancellationToken::new();
        let status = Streams::default().add(&assignment, StreamState::Connecting);
        let stream = Stream {
            assignment: assignment.clone(),
            dialect: Dialect::Viriciti,
            owner: "publisher-0".to_owned(),
            config: config.stream,
            overflow: Overflow::Block,
            source: window.source(),
            backfill: config.backfill,
            gap_from,
            first_wait: Duration::ZERO,
            outbound,
            status: status.clone(),
            sent: Sent::default(),
            stop: stop.clone(),
            lease: testing::lease(),
            let_go: CancellationToken::new(),
        };
        Self {
            assignment,
            status,
            queues,
            stop,
            task: tokio::spawn(stream.run()),
        }
    }

    /// The next frame; what is said of the connection is left out.
    pub(crate) async fn next(&mut self, partition: usize) -> PendingFrame {
        loop {
            match within(self.queues[partition].recv()).await.unwrap() {
                Pending::Frame(frame) => return frame,
                Pending::Message(_) => {}
            }
        }
    }

    pub(crate) async fn report_with_error(&self) -> StreamReport {
        eventually(async || {
            let report = self.status.report();
            let waits = [StreamState::BackingOff, StreamState::Refused];
            (report.last_error.is_some() && waits.contains(&report.state)).then_some(report)
        })
        .await
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        within(self.task).await.unwrap();
    }
}

async fn say(socket: &mut Served, text: &str) {
    socket.send(Message::text(text)).await.unwrap();
}

#[tokio::test]
async fn every_message_is_a_frame_verbatim_and_numbered_in_its_session() {
    let server = Server::start().await;
    let assignment = testing::assignment(&server.endpoint(), Some("env:CARGO_PKG_NAME".to_owned()));
    let mut running = Running::start(assignment, 1);
    let (mut socket, key) = server.accept().await;
    assert_eq!(key.as_deref(), Some("ingress-publisher"));
    assert_eq!(heard(&mut socket).await, Message::text(ECHO));

    say(&mut socket, ECHO).await;
    socket
        .send(Message::binary(vec![0xff, 0x00]))
        .await
        .unwrap();
    say(&mut socket, r#"{"type":"error","payload":"none"}"#).await;
    let mut frames = Vec::new();
    for _ in 0..3 {
        frames.push(running.next(0).await);
    }
    let numbers: Vec<_> = frames.iter().map(|pending| pending.frame.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(frames[0].frame.body, ECHO);
    assert_eq!(frames[1].frame.kind, FrameKind::Binary);
    assert_eq!(frames[1].frame.body[..], [0xff, 0x00]);
    let report = running.status.report();
    assert_eq!(report.state, StreamState::Subscribed);
    assert_eq!(report.frames, 3);
    assert_eq!(report.session, Some(frames[0].attributes.session));

    // A lost socket: a new session, subscribed and numbered anew.
    drop(socket);
    let (mut socket, _) = server.accept().await;
    assert_eq!(heard(&mut socket).await, Message::text(ECHO));
    say(&mut socket, ECHO).await;
    let again = running.next(0).await;
    assert_eq!(again.frame.number, 1);
    assert_ne!(again.attributes.session, frames[0].attributes.session);
    assert!(running.status.report().last_error.is_some());
    running.end().await;
}

#[tokio::test]
async fn a_device_keeps_its_partition() {
    let server = Server::start().await;
    let mut running = Running::start(testing::assignment(&server.endpoint(), None), 4);
    let (mut socket, key) = server.accept().await;
    assert_eq!(key, None);
    for device in ["bus-1", "bus-2", "bus-3", ""] {
        let frame = format!(r#"{{"type":"vehicles","payload":{{"vid":"{device}"}}}}"#);
        say(&mut socket, &frame).await;
        let expected = partition(
            &running.assignment.workspace,
            running.assignment.connection,
            device,
            4,
        );
        let pending = running.next(expected as usize).await;
        assert_eq!(pending.frame.body, frame);
    }
    running.end().await;
}

#[tokio::test]
async fn a_ping_is_answered_and_a_goodbye_is_no_frame() {
    let server = Server::start().await;
    let mut running = Running::start(testing::assignment(&server.endpoint(), None), 1);
    let (mut socket, _) = server.accept().await;
    assert_eq!(heard(&mut socket).await, Message::text(ECHO));
    let ping = Bytes::from_static(b"there?");
    socket.send(Message::Ping(ping.clone())).await.unwrap();
    assert_eq!(heard(&mut socket).await, Message::Pong(ping));
    let goodbye = CloseFrame {
        code: CloseCode::Again,
        reason: "busy".into(),
    };
    socket.close(Some(goodbye)).await.unwrap();
    let (mut socket, _) = server.accept().await;
    let error = running.status.report().last_error.unwrap();
    assert!(error.ends_with("closed the socket: 1013 busy"), "{error}");
    say(&mut socket, ECHO).await;
    assert_eq!(running.next(0).await.frame.number, 1);
    running.end().await;
}

#[tokio::test]
async fn a_stop_closes_the_socket_and_takes_what_was_on_its_way() {
    let server = Server::start().await;
    let mut running = Running::start(testing::assignment(&server.endpoint(), None), 1);
    let (mut socket, _) = server.accept().await;
    assert_eq!(heard(&mut socket).await, Message::text(ECHO));
    running.stop.cancel();
    // The provider has not read our goodbye yet and goes on.
    say(&mut socket, "late").await;
    let goodbye = heard(&mut socket).await;
    assert!(
        matches!(&goodbye, Message::Close(Some(frame)) if frame.code == CloseCode::Away),
        "{goodbye:?}"
    );
    assert!(within(socket.next()).await.is_none_or(|end| end.is_err()));
    assert_eq!(running.next(0).await.frame.body, "late");
    running.end().await;
}

#[tokio::test]
async fn a_stop_ends_a_wait() {
    let running = Running::start(testing::assignment("ws://127.0.0.1:1/", None), 1);
    let report = running.report_with_error().await;
    assert!(report.last_error.unwrap().contains("cannot be reached"));
    running.end().await;
}

#[tokio::test]
async fn refused_credentials_are_reported_without_showing_them() {
    let server = Server::start().await;
    let credential = Some("env:CARGO_PKG_NAME".to_owned());
    let running = Running::start(testing::assignment(&server.endpoint(), credential), 1);
    server.refuse("401 Unauthorized").await;
    let error = running.report_with_error().await.last_error.unwrap();
    assert!(
        error.contains("401") && !error.contains("ingress-publisher"),
        "{error}"
    );
    running.end().await;
}

#[tokio::test]
async fn a_missing_credential_is_looked_for_again() {
    let server = Server::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let reference = format!("file:{}", path.display());
    let assignment = testing::assignment(&server.endpoint(), Some(reference.clone()));
    let running = Running::start(assignment, 1);
    let error = running.report_with_error().await.last_error.unwrap();
    assert!(error.contains(&reference), "{error}");
    std::fs::write(&path, "found\n").unwrap();
    let (_socket, key) = server.accept().await;
    assert_eq!(key.as_deref(), Some("found"));
    running.end().await;
}

#[tokio::test]
async fn an_oversized_message_ends_the_session_with_the_reason() {
    let server = Server::start().await;
    let running = Running::start(testing::assignment(&server.endpoint(), None), 1);
    let (mut socket, _) = server.accept().await;
    let large = "x".repeat(1024 * 1024 + 1);
    // The stream hangs up in the middle of it.
    socket.send(Message::text(large)).await.unwrap_or_default();
    let (_socket, _) = server.accept().await;
    let error = running.status.report().last_error.unwrap();
    assert!(error.contains("too large"), "{error}");
    running.end().await;
}
