//! How long a snapshot takes to read while frames come in.
//!
//! Requests go out at fixed moments, whether or not earlier ones are answered, and each is timed from its
//! moment: what waits is counted. In the same run the same rate is asked of a page that does nothing, and
//! the same row of PostgreSQL itself, which are the machine's limits.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use headrace::services::Service;
use provider_sim::{Simulator, SimulatorConfig};
use reqwest::Client;
use serde_json::json;
use sqlx::PgPool;
use tests::harness::{Options, World, eventually, internal_headers};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

const SOON: Duration = Duration::from_mins(2);
/// How many requests may be under way at once.
const CALLERS: u32 = 64;
/// How long after the last request all may be answered, on a machine that keeps up with its own limits.
const BACKLOG: Duration = Duration::from_secs(1);
const VEHICLES: usize = 250;
/// Frames a second of all vehicles at the provider's usual rate: each sends about four.
const FULL_RATE: f64 = 1000.0;
const LABELS: [&str; 5] = ["soc", "odo", "speed", "gps", "power"];

fn number(variable: &str, usual: u32) -> u32 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

/// What a run has shown.
struct Measured {
    /// How long each request took from its moment, in µs.
    times: Histogram<u64>,
    /// How many of them failed.
    failed: u64,
    took: Duration,
}

/// Does `work` `rate` times a second for `period`; `work` tells whether it succeeded.
async fn at_rate<F>(
    rate: u32,
    period: Duration,
    work: impl Fn(u64) -> F + Clone + Send + 'static,
) -> Measured
where
    F: Future<Output = bool> + Send,
{
    let start = Instant::now() + Duration::from_millis(50);
    let every = Duration::from_secs(1) * CALLERS / rate;
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let work = work.clone();
        callers.spawn(async move {
            let mut times = Histogram::<u64>::new(3).expect("three digits");
            let mut failed = 0;
            let first = start + every * caller / CALLERS;
            let mut ticks = tokio::time::interval_at(first, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for turn in 0.. {
                // A timer's grain is a millisecond, and it may go off a little early.
                let moment = ticks.tick().await.min(Instant::now());
                if moment >= start + period {
                    break;
                }
                let is_done = work(turn * u64::from(CALLERS) + u64::from(caller)).await;
                failed += u64::from(!is_done);
                let took = moment.elapsed().as_micros();
                let took = u64::try_from(took).unwrap_or(u64::MAX).max(1);
                times.record(took).expect("it grows");
            }
            (times, failed)
        });
    }
    let mut all = Measured {
        times: Histogram::new(3).expect("three digits"),
        failed: 0,
        took: Duration::ZERO,
    };
    while let Some(measured) = callers.join_next().await {
        let (times, failed) = measured.expect("it measures");
        all.times.add(times).expect("the same form");
        all.failed += failed;
    }
    all.took = start.elapsed();
    all
}

fn told(
    what: &str,
    Measured {
        times,
        failed,
        took,
    }: &Measured,
) {
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    eprintln!(
        "{what:<28} {:>6.0}/s  p50 {:>7.2} ms  p90 {:>7.2}  p99 {:>7.2}  p99.9 {:>7.2}  max {:>7.2}  {failed} failed",
        times.len() as f64 / took.as_secs_f64(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        times.max() as f64 / 1000.0,
    );
}

/// Reads a page again and again.
fn reader(client: &Client, url: impl Fn(u64) -> String + Clone + Send + Sync + 'static) -> Reader {
    let client = client.clone();
    Arc::new(move |turn| {
        let request = client.get(url(turn)).headers(internal_headers());
        Box::pin(async move {
            match request.send().await {
                Ok(answer) if answer.status().as_u16() == 200 => answer.bytes().await.is_ok(),
                _ => false,
            }
        })
    })
}

type Reader =
    Arc<dyn Fn(u64) -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

fn selecting(pool: &PgPool) -> Reader {
    let pool = pool.clone();
    Arc::new(move |turn| {
        let (pool, vehicle) = (pool.clone(), bus(turn));
        Box::pin(async move {
            let found = sqlx::query(
                "SELECT signals, times FROM snapshot.vehicle WHERE workspace = 'w' AND vehicle = $1",
            )
            .bind(vehicle)
            .fetch_optional(&pool)
            .await;
            matches!(found, Ok(Some(_)))
        })
    })
}

fn bus(turn: u64) -> String {
    format!("bus-{}", turn % VEHICLES as u64 + 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_read_beside_the_ingest() {
    // What a build without optimisation has left beside the ingest.
    let rate = number("HEADRACE_TEST_READ_RATE", 100);
    let frames = number("HEADRACE_TEST_READ_FRAMES", 200);
    let period = Duration::from_secs(number("HEADRACE_TEST_READ_SECONDS", 3).into());
    let world = World::with(Options {
        alone: true,
        settings: vec![("database.max_connections", "8")],
        ..Options::default()
    })
    .await;
    let provider = Simulator::start(SimulatorConfig {
        vehicles: VEHICLES,
        rate: f64::from(frames) / FULL_RATE,
        ..SimulatorConfig::default()
    })
    .expect("the provider starts");
    let vehicles = (1..=VEHICLES).map(|n| (format!("bus-{n}"), json!(LABELS)));
    let settings = json!({"vehicles": vehicles.collect::<serde_json::Map<_, _>>()});
    world.connect("w", &provider.live_url(), settings).await;
    let known = || async {
        let ask = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM snapshot.vehicle");
        ask.fetch_one(&world.pool).await.unwrap_or_default()
    };
    eventually(SOON, "all vehicles are known", known, |known| {
        *known == VEHICLES as i64
    })
    .await;

    let snapshot = world.address(Service::SnapshotProjection);
    let client = Client::new();
    let path = |turn| format!("/v1/workspaces/w/vehicles/{}/snapshot", bus(turn));
    let gateway = world.url("");
    let published = || world.metric("headrace_publisher_frames_total", "");
    let (mut medians, mut late) = (Vec::new(), Vec::new());
    for (what, work) in [
        (
            "a page that does nothing",
            reader(&client, move |_| format!("http://{snapshot}/livez")),
        ),
        ("the row from PostgreSQL", selecting(&world.pool)),
        (
            "a snapshot",
            reader(&client, move |turn| {
                format!("http://{snapshot}{}", path(turn))
            }),
        ),
        (
            "a snapshot by the gateway",
            reader(&client, move |turn| format!("{gateway}{}", path(turn))),
        ),
    ] {
        let before = published();
        let measured = at_rate(rate, period, move |turn| work(turn)).await;
        told(what, &measured);
        let ingested = (published() - before) as f64 / measured.took.as_secs_f64();
        eprintln!("{:<28} {ingested:>6.0}/s frames beside it", "");
        assert!(ingested > 0.0, "nothing came in meanwhile");
        assert_eq!(measured.failed, 0, "{what}");
        medians.push(measured.times.value_at_quantile(0.5) as f64);
        // Where more come than are answered, the last one waits for all that has piled up.
        late.push(measured.took.saturating_sub(period));
    }
    let ([nothing, row, read, _], [late_nothing, late_row, late_reads @ ..]) =
        (&medians[..], &late[..])
    else {
        unreachable!("four were measured")
    };
    eprintln!(
        "a snapshot's median is {:.1} times that of a page and a row together",
        read / (nothing + row)
    );
    assert!(*read < 20.0 * (nothing + row), "{medians:?}");
    let bar = BACKLOG + 4 * (*late_nothing + *late_row);
    assert!(late_reads.iter().all(|late| *late < bar), "{late:?}");
    provider.stop().await;
    world.stop().await;
}
