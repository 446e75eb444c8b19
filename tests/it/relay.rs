//! Relays that share the shards of the event log, die, freeze, and lose their broker.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use headrace::services::Service;
use ingress_consumer::store::event_log::{self, NewEvent};
use ingress_consumer::store::relay;
use ingress_consumer::store::{StoreError, blocked_event};
use rand::RngExt;
use runtime::clock;
use rustix::process::Signal;
use serde_json::Value;
use shared_model::event::{Fact, VehicleRegistered};
use shared_model::{ConnectionId, VehicleId, WorkspaceId};
use sqlx::{PgPool, Row};
use tests::bus::Subscriber;
use tests::harness::{CoreProcess, Options, World, eventually};

use crate::program::program;

const SOON: Duration = Duration::from_mins(1);
const WRITERS: u32 = 4;
const VEHICLES: u32 = 200;

fn setting(name: &str, usual: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(usual, |value| value.parse().expect("a number"))
}

/// A world of the core alone, with the shards made.
async fn core_alone(options: Options) -> World {
    let world = World::with(Options {
        without: vec![
            Service::OutboxRelay,
            Service::SnapshotProjection,
            Service::HealthProjection,
            Service::IngressPublisher,
        ],
        ..options
    })
    .await;
    world.ready(Service::IngressConsumer).await;
    world
}

fn start_relay(world: &World, lease: &str) -> CoreProcess {
    let settings = [("HEADRACE_RELAY__LEASE", lease)];
    CoreProcess::start(world, program(), Service::OutboxRelay, &settings)
}

fn registered(vehicle: u32) -> NewEvent {
    NewEvent {
        shard: vehicle % WRITERS,
        workspace: WorkspaceId::new("w").unwrap(),
        fact: Fact::VehicleRegistered(VehicleRegistered {
            vehicle: VehicleId::new(format!("bus-{vehicle}")).unwrap(),
            connection: ConnectionId(clock::new_id()),
            provider: "viriciti".parse().unwrap(),
            registered_at: clock::now(),
        }),
    }
}

/// Appends `count` events of random vehicles in transactions of random sizes that end at random times:
/// so their commits are in no order.
async fn write(pool: PgPool, count: u64, most_wait: Duration) {
    let wait = || tokio::time::sleep(most_wait.mul_f64(rand::rng().random::<f64>()));
    let mut left = count;
    while left > 0 {
        let size = rand::rng().random_range(1..=50).min(left);
        // Vehicles of some shards only, so that transactions do not all wait for one another.
        let shards = rand::rng().random_range(1..=WRITERS);
        let vehicle = || {
            let vehicle = rand::rng().random_range(0..VEHICLES);
            vehicle - vehicle % WRITERS + vehicle % shards
        };
        let events: Vec<_> = (0..size).map(|_| registered(vehicle())).collect();
        wait().await;
        let mut tx = pool.begin().await.unwrap();
        event_log::append(&mut tx, &events, None).await.unwrap();
        wait().await;
        tx.commit().await.unwrap();
        left -= size;
    }
}

/// Starts the writers, who append `count` events together.
fn start_writers(world: &World, count: u64, most_wait: Duration) -> tokio::task::JoinSet<()> {
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..WRITERS {
        writers.spawn(write(
            world.pool.clone(),
            count / u64::from(WRITERS),
            most_wait,
        ));
    }
    writers
}

async fn positions(pool: &PgPool) -> Result<BTreeMap<u32, (u64, u64)>, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT shard, log_offset, last_offset
         FROM core.relay_checkpoint JOIN core.shard_head USING (shard)",
    )
    .fetch_all(pool)
    .await?;
    let position = |row: &sqlx::postgres::PgRow| {
        let number = |name| row.get::<i64, _>(name).cast_unsigned();
        let shard = row.get::<i32, _>("shard").cast_unsigned();
        (shard, (number("log_offset"), number("last_offset")))
    };
    Ok(rows.iter().map(position).collect())
}

/// The shards' heads, once everything is relayed up to them.
async fn heads_relayed(pool: &PgPool, within: Duration) -> BTreeMap<u32, u64> {
    let ask = || async { positions(pool).await.unwrap() };
    let is_relayed = |all: &BTreeMap<u32, (u64, u64)>| all.values().all(|(at, head)| at == head);
    let all = eventually(within, "all is relayed", ask, is_relayed).await;
    all.into_iter()
        .map(|(shard, (_, head))| (shard, head))
        .collect()
}

/// Waits until the subscriber has seen as many events as there are; returns how many. Whether they are
/// the right ones is not asked.
async fn sees_all(subscriber: &Subscriber, heads: &BTreeMap<u32, u64>) -> u64 {
    let total: u64 = heads.values().sum();
    let ask = || async { subscriber.seen().count() };
    eventually(SOON, "all is seen", ask, |seen| *seen == total).await;
    total
}

async fn relays(world: &World) -> Value {
    let url = format!("{}/internal/v1/relays", world.core_url());
    let answer = world.http.get(url).send().await.unwrap();
    answer.json().await.unwrap()
}

/// How many shards each relay has that runs, the fewest first.
async fn shares(world: &World) -> Vec<usize> {
    let relays = relays(world).await;
    let relays = relays["relays"].as_array().unwrap();
    let mut shares: Vec<_> = relays
        .iter()
        .map(|r| r["shards"].as_array().unwrap().len())
        .collect();
    shares.sort_unstable();
    shares
}

async fn settle_at(world: &World, wanted: &[usize]) {
    let is_wanted = |shares: &Vec<usize>| shares == wanted;
    eventually(SOON, "the shards are spread", || shares(world), is_wanted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relays_that_are_killed_at_random_lose_nothing_and_keep_every_vehicles_order() {
    let count = setting("HEADRACE_TEST_EVENTS", 20_000);
    let world = core_alone(Options::default()).await;
    let subscriber = Subscriber::start(&world.amqp).await;
    let mut pair = [start_relay(&world, "1s"), start_relay(&world, "1s")];
    settle_at(&world, &[2, 2]).await;
    let begun = Instant::now();
    let mut writers = start_writers(&world, count, Duration::from_millis(16));
    let mut kills = 0;
    while !writers.is_empty() || kills < 3 {
        let pause = Duration::from_millis(rand::rng().random_range(300..2000));
        let written = async {
            while let Some(written) = writers.join_next().await {
                written.unwrap();
            }
        };
        if tokio::time::timeout(pause, written).await.is_err() || kills < 3 {
            let victim = rand::rng().random_range(0..pair.len());
            let dead = std::mem::replace(&mut pair[victim], start_relay(&world, "1s"));
            dead.kill().await;
            kills += 1;
        }
    }
    let written = begun.elapsed();
    let heads = heads_relayed(&world.pool, SOON).await;
    let relayed = begun.elapsed();
    assert_eq!(
        heads.values().sum::<u64>(),
        count / u64::from(WRITERS) * u64::from(WRITERS)
    );
    let total = sees_all(&subscriber, &heads).await;
    {
        let seen = subscriber.seen();
        seen.assert_sound(&heads);
        let epochs = seen.senders.len();
        eprintln!(
            "{total} events by {WRITERS} writers in {written:.1?}, relayed after {relayed:.1?}; \
             {kills} kills, {epochs} epochs, {} repeats",
            seen.repeats
        );
    }
    subscriber.stop().await;
    drop(pair);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_relay_neither_moves_a_checkpoint_back_nor_publishes_under_an_old_epoch() {
    let frozen = Duration::from_secs(setting("HEADRACE_TEST_FREEZE_SECONDS", 2));
    let world = core_alone(Options::default()).await;
    let subscriber = Subscriber::start(&world.amqp).await;
    let (one, other) = (start_relay(&world, "1s"), start_relay(&world, "1s"));
    settle_at(&world, &[2, 2]).await;
    let writing = tokio_util::sync::CancellationToken::new();
    let pool = world.pool.clone();
    let writer = tokio::spawn(writing.clone().run_until_cancelled_owned(async move {
        loop {
            write(pool.clone(), 100, Duration::from_millis(20)).await;
        }
    }));
    // Whatever happens, checkpoints and epochs only rise.
    let (pool, watching) = (world.pool.clone(), writing.clone());
    let watcher = tokio::spawn(async move {
        let mut before = positions(&pool).await.unwrap();
        while !watching.is_cancelled() {
            let now = positions(&pool).await.unwrap();
            for (shard, (at, _)) in &now {
                assert!(
                    *at >= before[shard].0,
                    "shard {shard}: {before:?}, then {now:?}"
                );
            }
            before = now;
            tokio::task::yield_now().await;
        }
    });
    one.signal(Signal::STOP);
    let stopped = Instant::now();
    settle_at(&world, &[4]).await;
    let rest = frozen.saturating_sub(stopped.elapsed());
    let thawed = || async { stopped.elapsed() };
    eventually(rest + SOON, "frozen for long enough", thawed, |so_far| {
        *so_far >= frozen
    })
    .await;
    one.signal(Signal::CONT);
    settle_at(&world, &[2, 2]).await;
    writing.cancel();
    writer.await.unwrap();
    watcher.await.unwrap();
    let heads = heads_relayed(&world.pool, SOON).await;
    sees_all(&subscriber, &heads).await;
    subscriber.seen().assert_sound(&heads);
    subscriber.stop().await;
    drop((one, other));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_joins_gets_its_share_and_one_that_stops_leaves_it_at_once() {
    // Nothing here waits for a lease to end.
    let mut world = core_alone(Options {
        settings: vec![("relay.lease", "10m")],
        ..Options::default()
    })
    .await;
    world.start_service(Service::OutboxRelay).await;
    settle_at(&world, &[4]).await;
    let second = start_relay(&world, "10m");
    settle_at(&world, &[2, 2]).await;
    world.stop_service(Service::OutboxRelay).await;
    settle_at(&world, &[4]).await;
    write(world.pool.clone(), 100, Duration::ZERO).await;
    heads_relayed(&world.pool, SOON).await;
    second.signal(Signal::TERM);
    let ask = || relays(&world);
    let all = eventually(SOON, "nobody is left", ask, |all| {
        all["relays"] == serde_json::json!([])
    })
    .await;
    for shard in all["shards"].as_array().unwrap() {
        assert_eq!(
            (&shard["relay"], &shard["lag_events"]),
            (&Value::Null, &0.into()),
            "{shard}"
        );
        assert!(shard["epoch"].as_u64().unwrap() > 0, "{shard}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_whose_shard_was_taken_moves_and_blocks_nothing() {
    let world = core_alone(Options::default()).await;
    write(world.pool.clone(), 50, Duration::ZERO).await;
    let (old, new) = (clock::new_id(), clock::new_id());
    let lease = Duration::from_mins(1);
    let mut tx = world.pool.begin().await.unwrap();
    assert!(relay::announce(&mut tx, old, "old", lease).await.unwrap());
    assert!(!relay::announce(&mut tx, old, "old", lease).await.unwrap());
    let before = relay::take(&mut tx, old, &[0], lease).await.unwrap()[0];
    tx.commit().await.unwrap();
    let mut pg = world.pool.acquire().await.unwrap();
    relay::advance(&mut pg, 0, before.epoch, 2).await.unwrap();
    // Its lease ends without its knowing.
    sqlx::query(
        "UPDATE core.relay_checkpoint SET lease_until = now() - interval '1 s' WHERE shard = 0",
    )
    .execute(&mut *pg)
    .await
    .unwrap();
    assert_eq!(relay::lock(&mut pg).await.unwrap()[0].owner, None);
    let after = relay::take(&mut pg, new, &[0], lease).await.unwrap()[0];
    assert_eq!((after.epoch, after.relayed), (before.epoch + 1, 2));
    let late = relay::advance(&mut pg, 0, before.epoch, 3).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
    let late = relay::hold(&mut pg, 0, before.epoch).await;
    assert!(matches!(late, Err(StoreError::LeaseLost)), "{late:?}");
    relay::release(&mut pg, 0, before.epoch).await.unwrap();
    relay::advance(&mut pg, 0, after.epoch, 3).await.unwrap();
    let back = relay::advance(&mut pg, 0, after.epoch, 2).await;
    assert!(matches!(back, Err(StoreError::LeaseLost)), "{back:?}");
    assert_eq!(positions(&world.pool).await.unwrap()[&0].0, 3);
    assert_eq!(blocked_event::keys(&mut pg, 0).await.unwrap().len(), 0);
    drop(pg);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_broker_costs_no_event_and_no_attempt() {
    let count = setting("HEADRACE_TEST_OUTAGE_EVENTS", 10_000);
    let world = core_alone(Options {
        breaks_servers: true,
        ..Options::default()
    })
    .await;
    let subscriber = Subscriber::start(&world.amqp).await;
    let relay = start_relay(&world, "3s");
    write(world.pool.clone(), 1000, Duration::ZERO).await;
    heads_relayed(&world.pool, SOON).await;
    let before = relay.resident_bytes();
    let rabbitmq = world.servers.private.rabbitmq();
    rabbitmq.kill().await.unwrap();
    rabbitmq.wait_exit().await;
    let mut writers = start_writers(&world, count, Duration::ZERO);
    while let Some(written) = writers.join_next().await {
        written.unwrap();
    }
    let waiting = relay.resident_bytes();
    rabbitmq.restart().await.unwrap();
    let returned = Instant::now();
    let heads = heads_relayed(&world.pool, Duration::from_secs(30)).await;
    let drained = returned.elapsed();
    sees_all(&subscriber, &heads).await;
    subscriber.seen().assert_sound(&heads);
    for shard in relays(&world).await["shards"].as_array().unwrap() {
        assert_eq!(
            (&shard["blocked_events"], &shard["dead_events"]),
            (&0.into(), &0.into())
        );
    }
    let grown = relay.resident_bytes().max(waiting).saturating_sub(before) / 1024;
    eprintln!(
        "{count} events while the broker was away, relayed {drained:.1?} after its return; {grown} KiB more memory"
    );
    assert!(grown < 96 * 1024, "the relay grew by {grown} KiB");
    subscriber.stop().await;
    drop(relay);
    world.stop().await;
}
