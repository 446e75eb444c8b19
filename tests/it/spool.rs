//! Store and forward: a broker that is away, a publisher that stops meanwhile, and connections that
//! want the newest value only.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use headrace::services::Service;
use provider_sim::ScriptedProvider;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::frames::{frame, vehicles};
use tests::harness::{Options, PublisherProcess, World, eventually, provider};

use crate::program::program;

const SOON: Duration = Duration::from_mins(1);
/// What an outage may cost the publisher in resident memory.
const MOST_GROWTH: u64 = 64 * 1024 * 1024;

/// How long the broker stays away.
fn outage() -> Duration {
    let seconds = std::env::var("HEADRACE_TEST_OUTAGE_SECONDS");
    Duration::from_secs(seconds.map_or(12, |seconds| seconds.parse().unwrap()))
}

async fn with_servers_of_its_own() -> World {
    let options = Options {
        breaks_servers: true,
        ..Options::default()
    };
    World::with(options).await
}

async fn kill_the_broker(world: &World) {
    let rabbitmq = world.servers.private.rabbitmq();
    rabbitmq.kill().await.unwrap();
    rabbitmq.wait_exit().await;
}

/// How many frames the ledger has in a column of ranges, and in how many gaps they are.
async fn counted(world: &World, ranges: &'static str) -> i64 {
    let query = format!(
        "SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM core.session, unnest({ranges}) AS r"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(query))
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

/// Whether every session's numbers are there from 1 on, seen or replaced.
async fn is_dense(world: &World) -> bool {
    let query = "SELECT coalesce(bool_and(seen + conflated = int8multirange(int8range(1, upper(seen + conflated)))), true)
                 FROM core.session";
    sqlx::query_scalar(query)
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

/// What `/readyz` of the publisher at `address` says; nothing before it listens.
async fn readyz(world: &World, address: SocketAddr) -> Value {
    match world
        .http
        .get(format!("http://{address}/readyz"))
        .send()
        .await
    {
        Ok(answer) => answer.json().await.unwrap(),
        Err(_) => Value::Null,
    }
}

/// What it says of its spool.
async fn spool(world: &World, address: SocketAddr) -> String {
    let report = readyz(world, address).await;
    let detail = report["checks"]["spool"]["detail"].as_str();
    detail.unwrap_or_default().to_owned()
}

async fn spool_holds_something(world: &World) {
    let address = world.address(Service::IngressPublisher);
    let ask = || spool(world, address);
    eventually(SOON, "the spool is used", ask, |report| {
        report.contains("messages")
    })
    .await;
}

/// Sends frames with ever new values, about a thousand a second, for as long as `going` says.
async fn drive(provider: &ScriptedProvider, going: impl Fn() -> bool) -> i64 {
    let vehicles = vehicles(50);
    let started = Instant::now();
    let mut sent = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    while going() {
        ticks.tick().await;
        let now = runtime::clock::now().timestamp_millis();
        let value = json!(started.elapsed().as_secs_f64());
        let frames: Vec<_> = vehicles
            .iter()
            .map(|vehicle| frame(vehicle, "odo", value.clone(), now))
            .collect();
        assert_eq!(provider.send_all(frames).await, 1);
        sent += 50;
    }
    sent
}

fn settings() -> Value {
    let labels = vehicles(50).into_iter().map(|name| (name, json!(["odo"])));
    json!({"vehicles": labels.collect::<serde_json::Map<_, _>>()})
}

/// A world whose publisher is a process of its own.
async fn with_a_process() -> (World, PublisherProcess) {
    let options = Options {
        breaks_servers: true,
        without: vec![Service::IngressPublisher],
        ..Options::default()
    };
    let world = World::with(options).await;
    world.ready(Service::IngressConsumer).await;
    let publisher = publisher(&world);
    (world, publisher)
}

fn publisher(world: &World) -> PublisherProcess {
    PublisherProcess::start(world, program(), &[])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_broker_loses_no_frame_and_is_soon_made_up_for() {
    let (world, publisher) = with_a_process().await;
    let provider = provider();
    world.connect("w", &provider.live_url(), settings()).await;
    provider.subscribed(1).await;
    let rabbitmq = world.servers.private.rabbitmq();
    let until = Instant::now() + Duration::from_secs(3);
    let mut sent = drive(&provider, || Instant::now() < until).await;
    let before = publisher.resident_bytes();

    kill_the_broker(&world).await;
    let until = Instant::now() + outage();
    sent += drive(&provider, || Instant::now() < until).await;
    let grown = publisher.resident_bytes().saturating_sub(before);
    assert!(
        spool(&world, publisher.address())
            .await
            .contains("messages")
    );
    assert_eq!(provider.subscriptions().len(), 1, "the socket was read on");
    let live = AtomicBool::new(false);
    let returning = async {
        rabbitmq.restart().await.unwrap();
        let back = Instant::now();
        // Live again: what is read now is published right away.
        let ask = || spool(&world, publisher.address());
        eventually(SOON, "the spool is empty", ask, |report| report == "empty").await;
        live.store(true, Ordering::Relaxed);
        back.elapsed()
    };
    let going = drive(&provider, || !live.load(Ordering::Relaxed));
    let (took, going) = tokio::join!(returning, going);
    sent += going;
    let peak = publisher.resident_bytes().saturating_sub(before).max(grown);
    eprintln!(
        "{sent} frames; the spool was empty {took:.1?} after the broker's return; memory grew by {} KiB",
        peak / 1024
    );
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(peak < MOST_GROWTH, "memory grew by {peak} bytes");

    let seen = || counted(&world, "seen");
    // The echo of the subscription is a frame too.
    eventually(SOON, "every frame is seen", seen, |seen| *seen == sent + 1).await;
    assert!(is_dense(&world).await);
    assert_eq!(counted(&world, "conflated").await, 0);
    world.drained().await;
    world.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_killed_while_the_broker_is_away_leaves_its_spool_to_the_next() {
    let (world, mut first) = with_a_process().await;
    let provider = provider();
    world.connect("w", &provider.live_url(), settings()).await;
    provider.subscribed(1).await;
    kill_the_broker(&world).await;
    let until = Instant::now() + Duration::from_secs(3);
    let sent = drive(&provider, || Instant::now() < until).await;
    // All that was read is on disk.
    let window = || async {
        let url = format!("http://{}/metrics", first.address());
        let page = world
            .http
            .get(url)
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let line = page
            .lines()
            .find(|line| line.starts_with("headrace_publisher_window_bytes"));
        line.and_then(|line| line.rsplit(' ').next())
            .map(ToOwned::to_owned)
    };
    eventually(SOON, "the window is empty", window, |bytes| {
        bytes.as_deref() == Some("0")
    })
    .await;
    first.signal(Signal::KILL);
    first.ended().await;

    let second = publisher(&world);
    world.servers.private.rabbitmq().restart().await.unwrap();
    let seen = || counted(&world, "seen");
    // Each subscription's echo is a frame too, and the second may not be there yet.
    eventually(SOON, "every frame is seen", seen, |seen| *seen > sent).await;
    assert!(is_dense(&world).await);
    let ask = || spool(&world, second.address());
    eventually(SOON, "the spool is empty", ask, |report| report == "empty").await;
    world.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_stops_while_the_broker_is_away_leaves_everything_to_the_next() {
    let mut world = with_servers_of_its_own().await;
    let provider = provider();
    world.connect("w", &provider.live_url(), settings()).await;
    provider.subscribed(1).await;
    let seen = async |world: &World| counted(world, "seen").await;
    let echo = || seen(&world);
    eventually(SOON, "the echo is seen", echo, |seen| *seen == 1).await;
    kill_the_broker(&world).await;
    let until = Instant::now() + Duration::from_secs(2);
    let sent = drive(&provider, || Instant::now() < until).await;
    let started = Instant::now();
    world.stop_service(Service::IngressPublisher).await;
    let took = started.elapsed();
    eprintln!("the stop took {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    world.servers.private.rabbitmq().restart().await.unwrap();
    world.start_service(Service::IngressPublisher).await;
    // A new session begins with an echo as well.
    provider.subscriptions_received(2).await;
    let all = || seen(&world);
    eventually(SOON, "all is delivered", all, |seen| *seen == sent + 2).await;
    assert!(is_dense(&world).await);
    world.drained().await;
    world.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_conflates_sends_the_newest_values_and_accounts_for_the_rest() {
    let world = with_servers_of_its_own().await;
    let provider = provider();
    let mut settings = settings();
    settings["overflow"] = json!("conflate");
    world.connect("w", &provider.live_url(), settings).await;
    provider.subscribed(1).await;
    kill_the_broker(&world).await;
    let until = Instant::now() + Duration::from_secs(3);
    let mut sent = drive(&provider, || Instant::now() < until).await;
    spool_holds_something(&world).await;
    let replaced =
        || async { world.metric("headrace_publisher_conflated_frames_total", "viriciti") };
    eventually(SOON, "frames are replaced", replaced, |count| *count > 500).await;
    let now = runtime::clock::now().timestamp_millis();
    let last = frame("bus-7", "odo", json!(4711), now);
    assert_eq!(provider.send_text(last).await, 1);
    sent += 1;
    world.servers.private.rabbitmq().restart().await.unwrap();

    let total = || async { counted(&world, "seen").await + counted(&world, "conflated").await };
    eventually(SOON, "every frame is accounted for", total, |total| {
        *total == sent + 1
    })
    .await;
    assert!(is_dense(&world).await);
    let (seen, conflated) = (
        counted(&world, "seen").await,
        counted(&world, "conflated").await,
    );
    eprintln!("{sent} frames: {seen} seen, {conflated} conflated");
    assert!(conflated > 500 && seen < sent, "{seen} {conflated}");
    let ask = || async {
        let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-7/snapshot").await;
        snapshot["signals"]["odometer"]["value"].as_f64()
    };
    eventually(SOON, "the newest value arrives", ask, |value| {
        *value == Some(4_711_000.0)
    })
    .await;
    world.stop().await;
    provider.stop().await;
}
