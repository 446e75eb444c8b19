//! The whole publisher against a core and a provider that the test plays; the broker is away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use axum::{Json, Router};
use futures_util::SinkExt;
use runtime::config::{Problems, SecretUrl};
use shared_model::control::{
    Assignment, Heartbeat, Release, StreamAssignment, StreamReport, StreamState,
};
use shared_model::{ConnectionId, Provider};
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::testing::{self, Server, eventually, heard, within};

/// The core: what it answers, and what it was told.
#[derive(Debug, Default)]
struct Script {
    answer: Option<Assignment>,
    told: BTreeMap<ConnectionId, StreamReport>,
    released: Vec<Release>,
    draining: bool,
    left: bool,
    /// Heartbeats that were refused.
    refused: u32,
    /// Whether another process is known by the publisher's name.
    superseded: bool,
}

type Core = Arc<Mutex<Script>>;

async fn beat(
    State(core): State<Core>,
    Path(instance): Path<String>,
    Json(heartbeat): Json<Heartbeat>,
) -> Result<Json<Assignment>, StatusCode> {
    assert_eq!(instance, "publisher 0");
    let mut core = core.lock().unwrap();
    if core.answer.is_some() {
        let reports = heartbeat.reports.into_iter();
        core.told
            .extend(reports.map(|report| (report.connection, report)));
        core.released.extend(heartbeat.released);
        core.draining |= heartbeat.draining;
    }
    if core.superseded {
        return Err(StatusCode::CONFLICT);
    }
    core.refused += u32::from(core.answer.is_none());
    let answer = core.answer.clone();
    answer.map(Json).ok_or(StatusCode::SERVICE_UNAVAILABLE)
}

async fn leave(State(core): State<Core>) -> StatusCode {
    core.lock().unwrap().left = true;
    StatusCode::NO_CONTENT
}

struct Setup {
    core: Core,
    ctx: Context,
    http: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Setup {
    async fn start() -> Self {
        testing::telemetry();
        let core = Core::default();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new()
            .route(
                "/internal/v1/publishers/{instance}",
                put(beat).delete(leave),
            )
            .with_state(Arc::clone(&core));
        tokio::spawn(async { axum::serve(listener, routes).await });

        let mut config = testing::config();
        config.core.url = format!("http://{address}");
        // A port on which nobody listens.
        config.amqp.url = Some(SecretUrl::new("amqp://127.0.0.1:1/%2f"));
        let (folder, spool) = testing::spool();
        config.spool = spool;
        let ctx = Context::new("ingress-publisher", "publisher 0");
        let started = start(ctx.clone(), config).await.unwrap();
        Self {
            core,
            ctx,
            http: started.http,
            _folder: folder,
        }
    }

    fn assign(&self, partitions: u32, streams: &[&StreamAssignment]) {
        self.answer(partitions, streams, 0);
    }

    fn answer(&self, partitions: u32, streams: &[&StreamAssignment], takers: u32) {
        self.core.lock().unwrap().answer = Some(Assignment {
            partitions,
            partition_max_bytes: 1024 * 1024,
            publisher_epoch: 7,
            lease_ms: 60_000,
            ask_again_ms: 50,
            takers,
            say_again: Vec::new(),
            version: String::new(),
            streams: Some(streams.iter().copied().cloned().collect()),
        });
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", self.http);
        client
            .get(url)
            .bearer_auth(testing::INTERNAL_TOKEN)
            .send()
            .await
            .unwrap()
    }

    async fn streams(&self) -> Vec<StreamReport> {
        let page: StreamsPage = self.get("/internal/v1/streams").await.json().await.unwrap();
        page.streams
    }
}

#[tokio::test]
async fn streams_follow_what_the_core_assigns() {
    let setup = Setup::start().await;
    let ready = setup.get("/readyz").await;
    assert_eq!(ready.status(), 503, "the core has not answered yet");

    let server = Server::start().await;
    let read = testing::assignment(&server.endpoint(), None);
    let mut unknown = testing::assignment(&server.endpoint(), None);
    unknown.provider = Provider::new("acme").unwrap();
    setup.assign(2, &[&read, &unknown]);
    let (mut socket, _) = server.accept().await;
    heard(&mut socket).await;
    socket.send(Message::text("{}")).await.unwrap();
    let report = eventually(async || {
        let reports = setup.streams().await;
        assert!(reports.len() <= 2);
        reports.into_iter().find(|report| report.frames == 1)
    })
    .await;
    assert_eq!(report.connection, read.connection);
    assert_eq!(report.state, StreamState::Subscribed);
    let reports = setup.streams().await;
    let skipped = reports
        .iter()
        .find(|report| report.provider.as_str() == "acme");
    assert_eq!(skipped.unwrap().state, StreamState::Unsupported);
    eventually(async || {
        let core = setup.core.lock().unwrap();
        let told = core.told.get(&read.connection)?;
        (told.state == StreamState::Subscribed && told.frames == 1).then_some(())
    })
    .await;

    // The core goes away: the stream is read on.
    setup.core.lock().unwrap().answer = None;
    eventually(async || {
        let ready = setup.get("/readyz").await.text().await.unwrap();
        ready.contains("the core answered 503").then_some(())
    })
    .await;
    socket.send(Message::text("{}")).await.unwrap();
    eventually(async || {
        let reports = setup.streams().await;
        reports
            .iter()
            .any(|report| report.frames == 2)
            .then_some(())
    })
    .await;

    // A new epoch is a new socket; then the stream is taken away.
    let mut renewed = read.clone();
    renewed.epoch = 2;
    setup.assign(2, &[&renewed]);
    assert!(matches!(heard(&mut socket).await, Message::Close(_)));
    let (mut socket, _) = server.accept().await;
    heard(&mut socket).await;
    let reports = setup.streams().await;
    assert_eq!(
        reports
            .iter()
            .map(|report| report.epoch)
            .collect::<Vec<_>>(),
        [2]
    );
    setup.assign(2, &[]);
    assert!(matches!(heard(&mut socket).await, Message::Close(_)));
    assert_eq!(setup.streams().await, []);
    drop(socket);
    let released = Release {
        connection: read.connection,
        epoch: 2,
    };
    eventually(async || {
        let core = setup.core.lock().unwrap();
        core.released.contains(&released).then_some(())
    })
    .await;

    let metrics = setup.get("/metrics").await.text().await.unwrap();
    for line in [
        "headrace_publisher_frames_total{",
        "headrace_publisher_frame_bytes_total{",
        "headrace_publisher_streams{",
        "headrace_publisher_window_bytes{",
        r#"reason="broker_away""#,
        "headrace_spool_bytes{",
        "headrace_spool_messages{",
        "headrace_spool_oldest_age_seconds{",
        "headrace_spool_damaged_segments_total{",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }

    // The two frames of the first session cannot be confirmed, nor what was said of the connection:
    // connected, subscribed and stopped, and under the second epoch connected and stopped.
    eventually(async || {
        let ready = setup.get("/readyz").await.text().await.unwrap();
        ready.contains("7 messages").then_some(())
    })
    .await;
    assert_eq!(within(setup.ctx.stop()).await, Ok(()));
}

#[tokio::test]
async fn a_spool_that_cannot_be_used_is_a_wrong_configuration() {
    testing::telemetry();
    let (folder, mut config) = (tempfile::tempdir().unwrap(), testing::config());
    let file = folder.path().join("file");
    std::fs::write(&file, "no directory").unwrap();
    config.spool.directory = file.display().to_string();
    let ctx = Context::new("ingress-publisher", "publisher 0");
    let error = start(ctx.clone(), config).await.unwrap_err();
    let problems = error.downcast_ref::<Problems>().unwrap().as_slice();
    assert_eq!(problems[0].key, "spool.directory");
    assert!(
        problems[0].message.contains(&*file.to_string_lossy()),
        "{problems:?}"
    );
    ctx.stop().await.unwrap();
}

#[tokio::test]
async fn a_publisher_that_is_asked_to_stop_reads_on_until_others_have_taken_over() {
    let setup = Setup::start().await;
    let server = Server::start().await;
    let read = testing::assignment(&server.endpoint(), None);
    setup.answer(1, &[&read], 1);
    let (mut socket, _) = server.accept().await;
    heard(&mut socket).await;
    let (ctx, core) = (setup.ctx.clone(), Arc::clone(&setup.core));
    let stop = tokio::spawn(async move { ctx.stop().await });
    eventually(async || core.lock().unwrap().draining.then_some(())).await;
    // Still read, and said to be.
    socket.send(Message::text("{}")).await.unwrap();
    eventually(async || {
        let frames = core.lock().unwrap().told.get(&read.connection)?.frames;
        (frames == 1).then_some(())
    })
    .await;
    // A core that fails for a moment is no reason to close what nobody has taken over.
    core.lock().unwrap().answer = None;
    eventually(async || (core.lock().unwrap().refused > 2).then_some(())).await;
    socket.send(Message::text("{}")).await.unwrap();
    setup.answer(1, &[&read], 1);
    eventually(async || {
        let frames = core.lock().unwrap().told.get(&read.connection)?.frames;
        (frames == 2).then_some(())
    })
    .await;
    assert!(!stop.is_finished());
    setup.answer(1, &[], 1);
    assert!(matches!(heard(&mut socket).await, Message::Close(_)));
    drop(socket);
    eventually(async || core.lock().unwrap().left.then_some(())).await;
    // The frame cannot be confirmed, so it goes to the spool.
    assert_eq!(within(stop).await.unwrap(), Ok(()));
}

#[tokio::test]
async fn a_publisher_whose_name_was_taken_over_ends_and_says_so() {
    let setup = Setup::start().await;
    let server = Server::start().await;
    let read = testing::assignment(&server.endpoint(), None);
    setup.answer(1, &[&read], 0);
    let (mut socket, _) = server.accept().await;
    heard(&mut socket).await;
    setup.core.lock().unwrap().superseded = true;
    assert!(matches!(heard(&mut socket).await, Message::Close(_)));
    drop(socket);
    within(setup.ctx.stop_requested()).await;
    let failure = within(setup.ctx.stop()).await.unwrap_err().to_string();
    assert!(failure.contains("409"), "{failure}");
}

#[tokio::test]
async fn another_number_of_partitions_ends_the_service() {
    let setup = Setup::start().await;
    setup.assign(2, &[]);
    eventually(async || {
        let ready = setup.get("/readyz").await.text().await.unwrap();
        ready.contains("rabbitmq").then_some(())
    })
    .await;
    setup.assign(3, &[]);
    within(setup.ctx.stop_requested()).await;
    let failure = within(setup.ctx.stop()).await.unwrap_err().to_string();
    assert!(
        failure.contains("3 ingress partitions instead of 2"),
        "{failure}"
    );
}
