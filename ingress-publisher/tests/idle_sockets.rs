//! What an idle stream costs: the whole publisher with many sockets on which nothing is said.
//!
//! The provider is a process of its own, so that its memory does not count; the core is played here.
//! `HEADRACE_IDLE_SOCKETS` says how many sockets there are, 1000 unless it is set.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::routing::put;
use axum::{Json, Router};
use ingress_publisher::PublisherConfig;
use provider_sim::{ScriptedConfig, ScriptedProvider};
use runtime::Context;
use runtime::config::SecretUrl;
use runtime::telemetry::{self, Output};
use serde_json::json;
use shared_model::ConnectionId;
use shared_model::control::{Assignment, StreamAssignment};
use tokio::net::TcpListener;

/// The most that a socket may cost, in bytes of resident memory.
const BAR: u64 = 30 * 1024;
/// What all of them may cost together besides, such as what 256 connects at once leave with the allocator:
/// with 10,000 sockets less than 2 KiB each.
const FIXED: u64 = 16 * 1024 * 1024;
/// The longest that it may take until all are subscribed.
const SUBSCRIBED_WITHIN: Duration = Duration::from_mins(1);
/// The name of the test that is the provider's process.
const PROVIDER: &str = "provider_process";

/// The core: what it answers, and how often it was asked.
#[derive(Debug)]
struct Script {
    answer: Assignment,
    beats: u64,
}

type Core = Arc<Mutex<Script>>;

/// The provider, stopped at the end.
struct Provider {
    process: Child,
    endpoint: String,
}

impl Provider {
    fn start() -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", PROVIDER, "--nocapture"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let endpoint = lines.map_while(Result::ok).find_map(|line| {
            line.split_once("ws://")
                .map(|(_, rest)| format!("ws://{rest}"))
        });
        Self {
            process,
            endpoint: endpoint.unwrap(),
        }
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        // It also ends by itself once its standard input does.
        self.process.kill().unwrap_or_default();
        self.process.wait().map(drop).unwrap_or_default();
    }
}

/// Not a test of its own.
#[test]
#[ignore = "the provider's process of the other test"]
fn provider_process() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let provider = ScriptedProvider::start(ScriptedConfig::default()).unwrap();
    println!("{}", provider.live_url());
    std::io::stdin().lines().for_each(drop);
}

/// Resident memory of this process, in bytes.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kibibytes: u64 = line
        .unwrap()
        .split_whitespace()
        .nth(1)
        .unwrap()
        .parse()
        .unwrap();
    kibibytes * 1024
}

/// The sum of a metric's series that have `label`.
fn metric(name: &str, label: &str) -> u64 {
    let page = telemetry::metrics_page().unwrap();
    let series = page
        .lines()
        .filter(|line| line.starts_with(name) && line.contains(label));
    series
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Waits until `look` finds at least `count`; fails with what it found last.
async fn eventually(what: &str, count: u64, mut look: impl FnMut() -> u64) {
    let mut looks = tokio::time::interval(Duration::from_millis(50));
    let mut last = 0;
    let found = async {
        while last < count {
            looks.tick().await;
            last = look();
        }
    };
    let in_time = tokio::time::timeout(SUBSCRIBED_WITHIN * 2, found).await;
    assert!(in_time.is_ok(), "{what}: {last} instead of {count}");
}

/// Waits until a metric has reached `count`.
async fn reached(name: &str, label: &str, count: u64) {
    eventually(name, count, || metric(name, label)).await;
}

async fn play_core(core: Core) -> String {
    async fn beat(State(core): State<Core>) -> Json<Assignment> {
        let mut core = core.lock().unwrap();
        core.beats += 1;
        Json(core.answer.clone())
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let routes = Router::new()
        .route("/internal/v1/publishers/{instance}", put(beat))
        .with_state(core);
    tokio::spawn(async { axum::serve(listener, routes).await });
    url
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_socket_costs_little() {
    let sockets: u64 = std::env::var("HEADRACE_IDLE_SOCKETS")
        .map_or(1000, |text| text.parse().expect("a number of sockets"));
    telemetry::init("test", Output::Stderr).flush();
    let provider = Provider::start();
    let core = Core::new(Mutex::new(Script {
        answer: Assignment {
            partitions: 4,
            partition_max_bytes: 1024 * 1024,
            publisher_epoch: 1,
            lease_ms: 60_000,
            ask_again_ms: 5_000,
            takers: 0,
            say_again: Vec::new(),
            version: String::new(),
            streams: Some(Vec::new()),
        },
        beats: 0,
    }));
    let mut config = PublisherConfig::default();
    config.http.listen.set_port(0);
    config.core.url = play_core(Arc::clone(&core)).await;
    config.core.heartbeat = Duration::from_secs(5);
    let spool = tempfile::tempdir().unwrap();
    config.spool.directory = spool.path().display().to_string();
    // A port on which nobody listens.
    config.amqp.url = Some(SecretUrl::new("amqp://127.0.0.1:1/%2f"));
    let context = Context::new("ingress-publisher", "publisher-0");
    ingress_publisher::start(context.clone(), config)
        .await
        .unwrap();
    // All else than the streams has started.
    eventually("beats", 2, || core.lock().unwrap().beats).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), provider_sim::DEFAULT_API_KEY).unwrap();
    let before = resident();
    let begin = Instant::now();
    let streams = (0..sockets)
        .map(|number| StreamAssignment {
            connection: ConnectionId(runtime::clock::new_id()),
            workspace: "demo".parse().unwrap(),
            provider: "viriciti".parse().unwrap(),
            endpoint: provider.endpoint.clone(),
            credential: Some(format!("file:{}", key.path().display())),
            settings: json!({"vehicles": {format!("bus-{number}"): ["soc", "odo", "speed", "gps"]}}),
            epoch: 1,
            heard_until: None,
        })
        .collect();
    core.lock().unwrap().answer.streams = Some(streams);
    reached(
        "headrace_publisher_streams",
        r#"state="subscribed""#,
        sockets,
    )
    .await;
    let took = begin.elapsed();
    // The question for the latest values is part of every connect.
    reached(
        "headrace_backfill_requests_total",
        r#"outcome="ok""#,
        sockets,
    )
    .await;
    let all = resident().saturating_sub(before);
    let each = all / sockets;
    println!("{sockets} sockets: {each} bytes each, all subscribed after {took:.1?}");
    assert_eq!(
        metric("headrace_publisher_streams", r#"state="subscribed""#),
        sockets
    );
    assert!(all <= BAR * sockets + FIXED, "{each} bytes each");
    assert!(took <= SUBSCRIBED_WITHIN, "{took:?}");
    drop(provider);
    context.letting_go().cancel();
    drop(context.stop().await);
}
