//! How fast the snapshot projection is, against what PostgreSQL does by itself.
//!
//! Events wait in the queue, in messages of a hundred as a busy relay sends them. Measured is the time
//! from the projection's start until its checkpoint has reached the last. Then the same rows are
//! written, an event a row, by the same statement without anything around it: no broker, nothing to read,
//! no checkpoint. `HEADRACE_TEST_PROJECTION_EVENTS` says how many events there are, 20,000 unless it is
//! set.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use runtime::access::AccessConfig;
use runtime::amqp::{Link, Message, Publisher};
use runtime::config::HttpConfig;
use runtime::{Context, clock};
use serde_json::{Value, json};
use shared_model::WorkspaceId;
use shared_model::event::{BATCH_CONTENT_TYPE, CloudEvent, EventType, LogPosition};
use shared_model::topology::{self, EVENTS_EXCHANGE};

use crate::batch::{self, fold};
use crate::core_stand_in::CoreStandIn;
use crate::fixture;
use crate::offsets::message_id;
use crate::projection::Projection as _;
use crate::rebuild::Rebuilt as _;
use crate::running::{applied, pool};
use crate::schema::Schema;
use crate::snapshot::{self, Snapshot, SnapshotConfig, SnapshotProjection};

const SHARD: u32 = 40;
const VEHICLES: usize = 2_000;
const MESSAGE: usize = 100;
/// How many rows the plain statement writes at once.
const PLAIN: usize = 1_000;
/// The least share of what PostgreSQL does by itself: with optimisation, and without, where reading JSON
/// is many times slower.
const BAR: f64 = if cfg!(debug_assertions) { 0.02 } else { 0.25 };

fn event(number: usize) -> CloudEvent {
    let now = clock::now();
    let reading = |value: Value, unit: &str| {
        json!({"value": value, "unit": unit, "observed_at": now, "received_at": now,
            "provider": "viriciti"})
    };
    let round = number / VEHICLES;
    let data = json!({"vehicle": format!("bus-{:05}", number % VEHICLES), "version": round + 1,
    "revision": round + 1, "changed": ["odometer"], "last_received_at": now,
    "signals": {
        "odometer": reading(json!(88_000_000 + round), "m"),
        "position": reading(json!({"latitude": 52.1, "longitude": 5.2}), "deg"),
        "power": reading(json!(-12.5), "kW"),
        "speed": reading(json!(13.25), "km/h"),
        "state_of_charge": reading(json!(81.5), "%"),
    }});
    let position = LogPosition {
        shard: SHARD,
        offset: number as u64 + 1,
        logged_at: now,
    };
    let workspace = WorkspaceId::new("demo").unwrap();
    let kind = EventType::VehicleSnapshotChanged;
    CloudEvent::new(&position, kind, workspace, None, None, data)
}

fn bodies(events: usize) -> Vec<Vec<u8>> {
    let events: Vec<_> = (0..events).map(event).collect();
    let bodies = events.chunks(MESSAGE).map(serde_json::to_vec);
    bodies.map(Result::unwrap).collect()
}

/// Has the messages wait in the queue.
async fn enqueue(amqp: &runtime::config::AmqpConfig, bodies: &[Vec<u8>]) {
    let context = Context::new("relay", "0");
    let publisher = Publisher::new(Link::open(&context, amqp, topology::events()));
    let mut first = 1;
    for body in bodies {
        let last = first + MESSAGE as u64 - 1;
        let message = Message {
            exchange: EVENTS_EXCHANGE,
            routing_key: EventType::VehicleSnapshotChanged.name().to_owned(),
            message_id: message_id(SHARD, first, last),
            content_type: BATCH_CONTENT_TYPE.into(),
            headers: BTreeMap::new(),
            body: body.clone().into(),
        };
        let stop = context.stopping();
        let sent = publisher.publish_until_confirmed(&message, stop).await;
        sent.unwrap();
        first = last + 1;
    }
    context.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_projection_keeps_up_with_what_postgresql_can_do() {
    let wanted = std::env::var("HEADRACE_TEST_PROJECTION_EVENTS").ok();
    let wanted = wanted.map_or(20_000, |text| text.parse().expect("a number"));
    let bodies = bodies(wanted);
    let events = bodies.len() * MESSAGE;
    let core = CoreStandIn::start().await;
    let config = SnapshotConfig {
        amqp: fixture::broker().await,
        database: fixture::database(&snapshot::MIGRATIONS).await,
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: core.config(),
        ..SnapshotConfig::default()
    };
    enqueue(&config.amqp, &bodies).await;

    let pool = pool(&config.database).await;
    let context = Context::new("snapshot-projection", "0");
    let started = Instant::now();
    snapshot::start(context.clone(), config).await.unwrap();
    let all = format!("{{[1,{})}}", events + 1);
    while applied(&pool, "snapshot", SHARD).await != all {
        assert!(
            started.elapsed() < Duration::from_mins(5),
            "it stands still"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let projected = events as f64 / started.elapsed().as_secs_f64();
    context.stop().await.unwrap();

    let rows: Vec<_> = bodies
        .iter()
        .map(|body| batch::Message {
            content_type: BATCH_CONTENT_TYPE.to_owned(),
            id: String::new(),
            body: body.clone().into(),
        })
        .collect();
    let rows: Vec<_> = rows.chunks(PLAIN / MESSAGE).map(fold::<Snapshot>).collect();
    let other = fixture::pool(&snapshot::MIGRATIONS).await;
    let plain = SnapshotProjection::on(other.clone(), Schema("snapshot"));
    let mut connection = other.acquire().await.unwrap();
    let started = Instant::now();
    for batch in &rows {
        let written = plain.write(&mut connection, &batch.changes).await.unwrap();
        assert_eq!(written.len(), PLAIN);
    }
    let by_itself = events as f64 / started.elapsed().as_secs_f64();

    let share = projected / by_itself;
    println!(
        "{events} events: {projected:.0} a second; PostgreSQL by itself {by_itself:.0} rows a second; \
         share {share:.2}"
    );
    assert!(share > BAR, "{share:.2} of what PostgreSQL does");
    core.stop().await;
}
