//! Dumps: an installation goes on from one, and where it is older than what others have read, nobody
//! reads on as if nothing had been.

use std::collections::BTreeMap;
use std::time::Duration;

use headrace::services::Service;
use serde_json::{Value, json};
use shared_model::ConnectionId;
use sqlx::Row;
use tests::EventLog;
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

const SOON: Duration = Duration::from_mins(1);
const VEHICLES: usize = 20;

fn names() -> Vec<String> {
    (0..VEHICLES).map(|n| format!("bus-{n}")).collect()
}

/// A charge of each vehicle, and waits until the core has it.
async fn charge(world: &World, connection: ConnectionId, charge: f64) {
    let now = runtime::clock::now().timestamp_millis();
    let bodies: Vec<_> = names()
        .iter()
        .map(|name| frame(name, "soc", json!(charge), now))
        .collect();
    world.send(&envelopes("w", connection, &bodies)).await;
    let stored = || async {
        sqlx::query_scalar::<_, i64>(
            "SELECT count(*) FROM core.vehicle
             WHERE (signals->'state_of_charge'->>'value')::float8 = $1",
        )
        .bind(charge)
        .fetch_one(&world.pool)
        .await
        .unwrap()
    };
    eventually(SOON, "stored", stored, |count| *count == VEHICLES as i64).await;
}

/// A dump of the world's database.
async fn dump(world: &World, name: &str) -> String {
    let file = std::env::temp_dir().join(format!(
        "{}-{}-{name}.dump",
        world.vhost,
        std::process::id()
    ));
    let file = file.display().to_string();
    let dumped = world
        .servers
        .private
        .postgres()
        .dump(&world.vhost, &file)
        .await;
    dumped.expect("the database can be dumped");
    file
}

/// Version and charge of each vehicle, as the core has them.
async fn truth(world: &World) -> BTreeMap<String, (i64, f64)> {
    let rows = sqlx::query(
        "SELECT vehicle, version, (signals->'state_of_charge'->>'value')::float8 AS charge
         FROM core.vehicle",
    )
    .fetch_all(&world.pool)
    .await
    .unwrap();
    rows.iter()
        .map(|row| (row.get("vehicle"), (row.get("version"), row.get("charge"))))
        .collect()
}

/// The same, as the read API has them.
async fn told(world: &World) -> BTreeMap<String, (i64, f64)> {
    let mut told = BTreeMap::new();
    for name in names() {
        let path = format!("/v1/workspaces/w/vehicles/{name}/snapshot");
        let (_, view) = world.get(&path).await;
        let charge = view["signals"]["state_of_charge"]["value"].as_f64();
        if let Some(entry) = view["version"].as_i64().zip(charge) {
            told.insert(name, entry);
        }
    }
    told
}

async fn heads(world: &World) -> BTreeMap<u32, u64> {
    let state = world.log_state().await;
    state
        .shards
        .iter()
        .map(|shard| (shard.shard, shard.head))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_goes_on_from_a_dump() {
    let services = [
        Service::IngressConsumer,
        Service::OutboxRelay,
        Service::SnapshotProjection,
        Service::HealthProjection,
        Service::Reactions,
    ];
    let mut world = World::with(Options {
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &names()).await;
    charge(&world, connection, 40.0).await;
    let expected = truth(&world).await;
    eventually(SOON, "told", || told(&world), |told| *told == expected).await;
    // What the relay has not published yet is in the dump all the same.
    world.stop_service(Service::OutboxRelay).await;
    charge(&world, connection, 55.0).await;
    for service in services {
        if service != Service::OutboxRelay {
            world.stop_service(service).await;
        }
    }
    let behind = EventLog::read(&world.pool).await;
    let file = dump(&world, "whole").await;
    world.servers.restore(&world.vhost, &file).await;
    for service in services {
        world.start_service(service).await;
    }
    world.start_gateway().await;
    assert_eq!(EventLog::read(&world.pool).await, behind);
    charge(&world, connection, 70.0).await;
    let expected = truth(&world).await;
    assert!(
        expected
            .values()
            .all(|(version, charge)| (*version, *charge) == (3, 70.0))
    );
    eventually(SOON, "told", || told(&world), |told| *told == expected).await;
    let log = EventLog::read(&world.pool).await;
    log.assert_dense();
    assert_eq!(log.types["vehicle.snapshot.changed"], 3 * VEHICLES);
    let unrelayed = || async {
        sqlx::query_scalar::<_, i64>(
            "SELECT sum(last_offset - log_offset)::bigint
             FROM core.shard_head JOIN core.relay_checkpoint USING (shard)",
        )
        .fetch_one(&world.pool)
        .await
        .unwrap()
    };
    eventually(SOON, "relayed", unrelayed, |count| *count == 0).await;
    std::fs::remove_file(file).ok();
    world.stop().await;
}

/// Says how far a subscriber is; the status and the name of the problem, if any.
async fn put(
    world: &World,
    name: &str,
    query: &str,
    applied: &BTreeMap<u32, u64>,
) -> (u16, String) {
    let url = format!("{}/internal/v1/subscribers/{name}{query}", world.core_url());
    let body = json!({ "applied": applied });
    let answer = world.http.put(url).json(&body).send().await.unwrap();
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    let kind = problem["type"].as_str().unwrap_or_default();
    (
        status,
        kind.rsplit(':').next().unwrap_or_default().to_owned(),
    )
}

/// How many events a subscriber has not applied.
async fn lag(world: &World, name: &str) -> u64 {
    let (_, list) = world.get("/v1/subscribers").await;
    let mut items = list["items"].as_array().expect("a list").iter();
    let of_name = items.find(|item| item["name"] == name);
    of_name
        .and_then(|item| item["lag_events"].as_u64())
        .expect("the subscriber is there")
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_older_dump_nobody_reads_on_as_if_nothing_had_been() {
    let taken = || (200, String::new());
    let restored = || (409, "log-restored".to_owned());
    let mut world = World::with(Options::core_only()).await;
    let connection = world.connect_nowhere("w", &names()).await;
    charge(&world, connection, 40.0).await;
    let dumped = heads(&world).await;
    for name in ["reader", "behind"] {
        assert_eq!(put(&world, name, "", &dumped).await, taken());
    }
    let file = dump(&world, "older").await;
    charge(&world, connection, 55.0).await;
    let read = heads(&world).await;
    assert_eq!(put(&world, "reader", "", &read).await, taken());

    // A restart alone is no restore.
    world.stop_service(Service::IngressConsumer).await;
    world.start_service(Service::IngressConsumer).await;
    world.ready(Service::IngressConsumer).await;
    assert_eq!(put(&world, "reader", "", &read).await, taken());

    world.stop_service(Service::IngressConsumer).await;
    world.servers.restore(&world.vhost, &file).await;
    world.start_service(Service::IngressConsumer).await;
    world.ready(Service::IngressConsumer).await;
    assert_eq!(heads(&world).await, dumped);
    assert_eq!(
        put(&world, "reader", "", &read).await,
        restored(),
        "beyond the head"
    );

    // The same offsets come to stand for other events.
    charge(&world, connection, 60.0).await;
    charge(&world, connection, 65.0).await;
    EventLog::read(&world.pool).await.assert_dense();
    let now = heads(&world).await;
    assert!(
        read.iter().all(|(shard, applied)| now[shard] >= *applied),
        "{now:?} {read:?}"
    );
    for name in ["reader", "of-another-database"] {
        assert_eq!(put(&world, name, "", &read).await, restored(), "{name}");
        assert_eq!(
            put(&world, name, "?reset=true", &BTreeMap::new()).await,
            taken()
        );
        assert_eq!(
            put(&world, name, "", &now).await,
            taken(),
            "{name} began anew"
        );
    }
    // An operator may say so for one that was built anew and does not know why it is refused.
    assert_eq!(put(&world, "rebuilt", "", &read).await, restored());
    let url = world.url("/v1/subscribers/rebuilt/reset");
    assert_eq!(world.http.post(url).send().await.unwrap().status(), 204);
    assert_eq!(put(&world, "rebuilt", "", &now).await, taken());
    // What it had read is in both histories.
    assert_eq!(put(&world, "behind", "", &dumped).await, taken());
    assert_eq!(put(&world, "behind", "", &now).await, taken());
    std::fs::remove_file(file).ok();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_over_may_lack_what_was_read() {
    let world = World::with(Options {
        settings: vec![("log.upkeep_every", "200ms")],
        ..Options::core_only()
    })
    .await;
    let connection = world.connect_nowhere("w", &names()).await;
    charge(&world, connection, 40.0).await;
    let read = heads(&world).await;
    assert_eq!(put(&world, "reader", "", &read).await.0, 200);
    // As a core finds it that was connected to the server before.
    sqlx::query("UPDATE core.setting SET value = value + 1 WHERE key = 'log.timeline'")
        .execute(&world.pool)
        .await
        .unwrap();
    let say = || put(&world, "reader", "", &read);
    let refused = (409, "log-restored".to_owned());
    eventually(SOON, "asked to begin anew", say, |answer| {
        *answer == refused
    })
    .await;
    assert_eq!(
        put(&world, "reader", "?reset=true", &BTreeMap::new())
            .await
            .0,
        200
    );
    assert_eq!(say().await.0, 200);
    assert_eq!(lag(&world, "reader").await, 0);
    world.stop().await;
}
