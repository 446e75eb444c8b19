//! Live updates: whoever follows a workspace is sent each of its events once, in order, whatever is
//! restarted meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headrace::services::Service;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use shared_model::ConnectionId;
use sqlx::Row;
use tests::frames::frame;
use tests::harness::{CoreProcess, Options, World, envelopes, eventually};
use tests::stream::{Follower, Sent};

use crate::program::program;

const SOON: Duration = Duration::from_mins(1);
const FOLLOW: &str = "/v1/workspaces/w/live";

/// A world with the core and the live updates, with further settings.
async fn world(settings: &[(&'static str, &'static str)]) -> World {
    let needed = [Service::IngressConsumer, Service::Live];
    let others = Service::ALL.into_iter();
    let world = World::with(Options {
        settings: settings.to_vec(),
        without: others.filter(|service| !needed.contains(service)).collect(),
        ..Options::default()
    })
    .await;
    world.ready(Service::IngressConsumer).await;
    world.ready(Service::Live).await;
    world
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("bus-{n}")).collect()
}

/// Sends a charge of each vehicle, which becomes an event of each.
async fn charge(world: &World, workspace: &str, connection: ConnectionId, count: usize, soc: f64) {
    let now = runtime::clock::now().timestamp_millis();
    let bodies: Vec<_> = names(count)
        .iter()
        .map(|name| frame(name, "soc", json!(soc), now))
        .collect();
    world
        .publish(&envelopes(workspace, connection, &bodies))
        .await;
}

/// The ids of a workspace's events in the log, by shard in order, and what each is about: what it names, and
/// the vehicles that it tells of.
async fn logged(world: &World, workspace: &str) -> Vec<(String, String, String)> {
    let rows = sqlx::query(
        "SELECT shard, log_offset, event_type,
                concat_ws(' ', subject, jsonb_path_query_array(data, '$.vehicles[*].vehicle')::text) AS about
         FROM core.event_log
         WHERE workspace = $1 ORDER BY shard, log_offset",
    )
    .bind(workspace)
    .fetch_all(&world.pool)
    .await
    .unwrap();
    let event = |row: &sqlx::postgres::PgRow| {
        let (shard, offset) = (row.get::<i32, _>("shard"), row.get::<i64, _>("log_offset"));
        let id = format!("{shard}:{offset}");
        (id, row.get("event_type"), row.get("about"))
    };
    rows.iter().map(event).collect()
}

/// How many events the log holds of a workspace.
async fn count(world: &World, workspace: &str) -> usize {
    let query = "SELECT count(*) FROM core.event_log WHERE workspace = $1";
    let count = sqlx::query_scalar::<_, i64>(query).bind(workspace);
    usize::try_from(count.fetch_one(&world.pool).await.unwrap()).unwrap()
}

/// Waits until the log has `expected` events of a workspace.
async fn has_logged(world: &World, workspace: &str, expected: usize) {
    let logged = || count(world, workspace);
    eventually(SOON, "logged", logged, |found| *found == expected).await;
}

/// Shard and offset of an event.
fn place(sent: &Sent) -> (u32, u64) {
    let event = sent.json();
    let (shard, offset) = event["id"].as_str().unwrap().split_once(':').unwrap();
    (shard.parse().unwrap(), offset.parse().unwrap())
}

/// Opens a stream and takes its first event.
async fn follow(address: SocketAddr, path: &str, last_id: &str) -> Follower {
    let mut follower = Follower::open(address, path, last_id).await;
    assert_eq!(follower.status, 200);
    let hello = follower.next().await.expect("a first event");
    assert_eq!(hello.name, "hello");
    assert_eq!(hello.json()["position"], hello.id);
    follower
}

async fn take(follower: &mut Follower, count: usize) -> Vec<Sent> {
    let mut taken = Vec::new();
    while taken.len() < count {
        taken.push(follower.next().await.expect("another event"));
    }
    taken
}

/// The types of what is sent, with how many there are of each.
fn types(sent: &[Sent]) -> BTreeMap<&str, usize> {
    let mut types = BTreeMap::new();
    for sent in sent {
        assert_eq!(sent.json()["type"], sent.name.as_str());
        *types.entry(sent.name.as_str()).or_default() += 1;
    }
    types
}

fn problem(sent: &Sent) -> String {
    assert_eq!(sent.name, "end");
    name(&sent.json())
}

fn name(problem: &Value) -> String {
    let kind = problem["type"].as_str().expect("a problem");
    kind.trim_start_matches("urn:headrace:problem:").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_is_sent_what_it_asks_for_and_nothing_of_others() {
    let world = world(&[("live.heartbeat", "200ms")]).await;
    let ours = world.connect_nowhere("w", &names(4)).await;
    let theirs = world.connect_nowhere("theirs", &names(4)).await;
    has_logged(&world, "w", 4).await;
    has_logged(&world, "theirs", 4).await;
    let live = world.address(Service::Live);
    let gateway: SocketAddr = world.url("")["http://".len()..].parse().unwrap();
    let mut all = follow(gateway, FOLLOW, "").await;
    let mut values = follow(
        live,
        &format!("{FOLLOW}?types=vehicle.snapshot.changed"),
        "",
    )
    .await;
    let mut seen = follow(
        live,
        &format!("{FOLLOW}?types=vehicles.seen&vehicle=bus-1,bus-2"),
        "",
    )
    .await;
    let mut one = follow(gateway, "/v1/workspaces/w/vehicles/bus-3/live", "").await;
    let mut other = follow(live, "/v1/workspaces/theirs/live", "").await;
    let mut nobody = follow(live, "/v1/workspaces/nobody/live", "").await;
    charge(&world, "theirs", theirs, 4, 20.0).await;
    charge(&world, "w", ours, 4, 50.0).await;
    has_logged(&world, "w", 8).await;
    // The same values again, which only says that the vehicles were heard from.
    charge(&world, "w", ours, 4, 50.0).await;

    let changed = take(&mut values, 4).await;
    assert_eq!(types(&changed), [("vehicle.snapshot.changed", 4)].into());
    let charges = changed
        .iter()
        .map(|sent| sent.json()["data"]["signals"]["state_of_charge"]["value"].clone());
    assert!(charges.into_iter().all(|value| value == json!(50.0)));

    let mut of_one = take(&mut one, 1).await;
    assert_eq!(of_one[0].json()["subject"], "bus-3");
    // Sweeps may tell of vehicles together or one by one; each is narrowed to who was asked for.
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let sent = seen.next().await.unwrap();
        assert_eq!(sent.name, "vehicles.seen");
        let vehicles = sent.json()["data"]["vehicles"].clone();
        heard.extend(
            vehicles
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["vehicle"].clone()),
        );
    }
    heard.sort_by_key(ToString::to_string);
    assert_eq!(heard, [json!("bus-1"), json!("bus-2")]);
    of_one.extend(take(&mut one, 1).await);
    assert_eq!(
        types(&of_one),
        [("vehicle.snapshot.changed", 1), ("vehicles.seen", 1)].into()
    );
    let vehicles = of_one[1].json()["data"]["vehicles"].clone();
    assert_eq!(vehicles.as_array().unwrap().len(), 1);
    assert_eq!(vehicles[0]["vehicle"], "bus-3");

    let everything = logged(&world, "w").await;
    let mut found: Vec<_> = take(&mut all, everything.len() - 4).await;
    assert!(found.iter().all(|sent| sent.json()["workspace"] == "w"));
    found.sort_by_key(place);
    let found: Vec<_> = found
        .iter()
        .map(|sent| sent.json()["id"].as_str().unwrap().to_owned())
        .collect();
    let expected = everything
        .into_iter()
        .filter(|(_, kind, _)| kind != "vehicle.registered");
    assert_eq!(found, expected.map(|(id, _, _)| id).collect::<Vec<_>>());

    let of_theirs = take(&mut other, 4).await;
    assert!(
        of_theirs
            .iter()
            .all(|sent| sent.json()["workspace"] == "theirs")
    );
    // A stream without events says that it lives, and where it is: further than where it began.
    let start = nobody.last_id.clone();
    let deadline = Instant::now() + SOON;
    while nobody.last_id == start {
        assert!(Instant::now() < deadline);
        let quiet = tokio::time::timeout(Duration::from_millis(300), nobody.next()).await;
        assert!(quiet.is_err(), "nothing is sent: {quiet:?}");
    }
    assert!(nobody.heartbeats > 0);

    world.stop().await;
    // What was under way was told that the service stops.
    let mut last = None;
    while let Some(sent) = all.next().await {
        last = Some(sent);
    }
    assert_eq!(problem(&last.unwrap()), "stopping");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_stream_is_refused_with_its_reason() {
    let world = world(&[]).await;
    let gateway: SocketAddr = world.url("")["http://".len()..].parse().unwrap();
    for (path, last_id, status, expected) in [
        (FOLLOW, "4711", 400, "invalid-position"),
        (FOLLOW, "AQEBAA", 400, "invalid-position"),
        (
            "/v1/workspaces/w/live?types=vehicle.sold",
            "",
            400,
            "invalid-types",
        ),
        ("/v1/workspaces/w/live?limit=3", "", 400, "invalid-query"),
        ("/v1/workspaces/W/live", "", 400, "invalid-workspace"),
    ] {
        let refused = Follower::open(gateway, path, last_id).await;
        assert_eq!(refused.status, status, "{path}");
        assert_eq!(name(&refused.rest().await), expected);
    }
    world.stop().await;
}

/// A reader that comes and goes, and what it has taken.
struct Fickle {
    path: &'static str,
    open: Option<Follower>,
    last_id: String,
    taken: Vec<Sent>,
}

impl Fickle {
    fn new(path: &'static str) -> Self {
        Self {
            path,
            open: None,
            last_id: String::new(),
            taken: Vec::new(),
        }
    }

    /// The ids of those in `log` that it is to be sent.
    fn wanted(&self, log: &[(String, String, String)]) -> Vec<String> {
        let wanted = log.iter().filter(|(_, kind, about)| {
            let of_type = !self.path.contains("types") || kind == "vehicle.snapshot.changed";
            of_type && (!self.path.contains("bus-7") || about.contains("bus-7"))
        });
        wanted.map(|(id, ..)| id.clone()).collect()
    }

    /// Takes up to `most` events, as far as they come soon; then may go.
    async fn take(&mut self, world: &World, most: usize, goes: bool) {
        let live = world.address(Service::Live);
        let mut follower = match self.open.take() {
            Some(follower) => follower,
            None => follow(live, self.path, &self.last_id).await,
        };
        for _ in 0..most {
            let soon = Duration::from_millis(300);
            match tokio::time::timeout(soon, follower.try_next()).await {
                Ok(Ok(Some(sent))) if sent.name != "end" => self.taken.push(sent),
                Err(_) => break,
                // The stream ended, or broke off.
                Ok(_) => {
                    self.last_id.clone_from(&follower.last_id);
                    return;
                }
            }
        }
        self.last_id.clone_from(&follower.last_id);
        self.open = (!goes).then_some(follower);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_comes_back_has_each_event_once_and_in_order_whatever_was_restarted() {
    const VEHICLES: usize = 12;
    // So few in memory that most who come back read the log.
    let mut world = world(&[("live.buffer_events", "30")]).await;
    let ours = world.connect_nowhere("w", &names(VEHICLES)).await;
    let theirs = world.connect_nowhere("theirs", &names(VEHICLES)).await;
    let mut random = StdRng::seed_from_u64(22);
    let mut readers: Vec<_> = (0..6).map(|_| Fickle::new(FOLLOW)).collect();
    readers.push(Fickle::new(
        "/v1/workspaces/w/live?types=vehicle.snapshot.changed",
    ));
    readers.push(Fickle::new("/v1/workspaces/w/vehicles/bus-7/live"));
    for reader in &mut readers {
        reader.take(&world, 0, true).await;
    }
    for round in 0..30 {
        let soc = 20.0 + f64::from(round) * 2.0;
        charge(&world, "theirs", theirs, VEHICLES, soc).await;
        charge(&world, "w", ours, VEHICLES, soc).await;
        let which = random.random_range(0..8);
        if which < 2 {
            world.stop_service(Service::Live).await;
        }
        if which == 1 || which == 2 {
            world.stop_service(Service::IngressConsumer).await;
            world.start_service(Service::IngressConsumer).await;
            world.ready(Service::IngressConsumer).await;
        }
        if which < 2 {
            world.start_service(Service::Live).await;
            world.ready(Service::Live).await;
        }
        for reader in &mut readers {
            if random.random_bool(0.7) {
                let most = random.random_range(0..60);
                reader.take(&world, most, random.random_bool(0.5)).await;
            }
        }
    }
    // Each became known, and changed with each round.
    let found = || count(&world, "w");
    let all = (1 + 30) * VEHICLES;
    eventually(SOON, "all logged", found, |found| *found >= all).await;
    let deadline = Instant::now() + SOON;
    let log = loop {
        let mut log = logged(&world, "w").await;
        // They came after the vehicles had become known.
        log.retain(|(_, kind, _)| kind != "vehicle.registered");
        let lacks = |reader: &Fickle| reader.taken.len() < reader.wanted(&log).len();
        if Instant::now() > deadline || !readers.iter().any(lacks) {
            break log;
        }
        for reader in readers.iter_mut().filter(|reader| lacks(reader)) {
            reader.take(&world, 1000, false).await;
        }
    };
    for reader in readers {
        let wanted = reader.wanted(&log);
        let mut found: Vec<_> = reader.taken.iter().map(place).collect();
        // Each shard's come in order, and with them each vehicle's.
        let mut last = BTreeMap::new();
        for (shard, offset) in &found {
            let before = last.insert(*shard, *offset);
            assert!(
                before < Some(*offset),
                "shard {shard}: {offset} after {before:?}"
            );
        }
        found.sort_unstable();
        let found = found
            .iter()
            .map(|(shard, offset)| format!("{shard}:{offset}"));
        assert_eq!(found.collect::<Vec<_>>(), wanted, "{}", reader.path);
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_is_replaced_by_any_other() {
    let world = world(&[]).await;
    let connection = world.connect_nowhere("w", &names(5)).await;
    has_logged(&world, "w", 5).await;
    let (mut last_id, mut taken) = (String::new(), Vec::new());
    for round in 0..3_usize {
        let live = CoreProcess::start_live(&world, program(), &[]);
        is_ready(live.address()).await;
        let mut follower = follow(live.address(), FOLLOW, &last_id).await;
        charge(&world, "w", connection, 5, 20.0 + 10.0 * round as f64).await;
        // What is on its way when the process is killed may still arrive.
        let left = 5 * (round + 1) - taken.len();
        taken.extend(take(&mut follower, left.min(3)).await);
        live.kill().await;
        while let Ok(Some(sent)) = follower.try_next().await {
            taken.push(sent);
        }
        last_id = follower.last_id;
    }
    // The world's own goes on from there.
    let mut follower = follow(world.address(Service::Live), FOLLOW, &last_id).await;
    has_logged(&world, "w", 20).await;
    let left = 15 - taken.len();
    taken.extend(take(&mut follower, left).await);
    let mut places: Vec<_> = taken.iter().map(place).collect();
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 15);
    world.stop().await;
}

async fn is_ready(address: SocketAddr) {
    let ask = || async {
        let answer = reqwest::get(format!("http://{address}/readyz")).await;
        answer.ok().map(|answer| answer.status().as_u16())
    };
    eventually(SOON, "ready", ask, |status| *status == Some(200)).await;
}

/// Appends `events` events of `bytes` each to the log, all of one shard and workspace.
async fn append(world: &World, workspace: &str, events: i64, bytes: i32) {
    sqlx::query(
        "WITH head AS (
             UPDATE core.shard_head SET last_offset = last_offset + $2 WHERE shard = 1
             RETURNING last_offset - $2 AS before
         ), added AS (
             INSERT INTO core.event_log (shard, log_offset, workspace, event_type, subject, data)
             SELECT 1, before + n, $1, 'vehicle.snapshot.changed', 'bus-0',
                    jsonb_build_object('vehicle', 'bus-0', 'fill', repeat('x', $3))
             FROM head, generate_series(1, $2) AS n
         )
         SELECT pg_notify('headrace_event_log', '')",
    )
    .bind(workspace)
    .bind(events)
    .bind(bytes)
    .execute(&world.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut_off_and_slows_nobody() {
    const EVENTS: usize = 200;
    let world = world(&[
        ("live.reader_bytes", "1048576"),
        ("live.heartbeat", "500ms"),
    ])
    .await;
    let live = world.address(Service::Live);
    let mut slow = Follower::try_open(live, FOLLOW, "", Some(8192))
        .await
        .unwrap();
    let mut quick = follow(live, FOLLOW, "").await;
    let deadline = Instant::now() + SOON;
    for _ in 0..EVENTS / 5 {
        append(&world, "w", 5, 100_000).await;
        take(&mut quick, 5).await;
    }
    assert!(Instant::now() < deadline, "it was slowed");
    // Now it reads: what was on its way, then why that is all.
    let mut taken = Vec::new();
    while let Some(sent) = slow.next().await {
        taken.push(sent);
    }
    let end = taken.pop().unwrap();
    assert_eq!(problem(&end), "slow-reader");
    assert_eq!(taken[0].name, "hello");
    taken.remove(0);
    let got = taken.len();
    assert!(got < EVENTS, "it was cut off");
    // It goes on from there.
    let mut again = follow(live, FOLLOW, &slow.last_id).await;
    taken.extend(take(&mut again, EVENTS - got).await);
    let places: Vec<_> = taken.iter().map(place).collect();
    assert!(
        places
            .iter()
            .copied()
            .eq((1..=EVENTS as u64).map(|offset| (1, offset)))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_never_reads_loses_its_connection_and_its_place() {
    // Its queue has room for everything: only its connection is slow.
    let settings = [
        ("live.reader_bytes", "67108864"),
        ("live.heartbeat", "100ms"),
        ("live.slow_after", "1s"),
        ("live.max_readers", "1"),
    ];
    let world = world(&settings).await;
    let live = world.address(Service::Live);
    let mut stuck = Follower::try_open(live, FOLLOW, "", Some(8192))
        .await
        .unwrap();
    let refused = Follower::open(live, FOLLOW, "").await;
    assert_eq!(refused.status, 503);
    assert_eq!(name(&refused.rest().await), "too-many-readers");
    append(&world, "w", 200, 100_000).await;
    let place = || async { Follower::open(live, FOLLOW, "").await.status };
    eventually(SOON, "its place is free", place, |status| *status == 200).await;
    let mut last = None;
    while let Ok(Some(sent)) = stuck.try_next().await {
        last = Some(sent.name);
    }
    assert_ne!(
        last.as_deref(),
        Some("end"),
        "the end is one that no reader takes for another"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_does_not_go_on_for_ever_and_one_credential_has_not_all_of_them() {
    let settings = [
        ("live.max_duration", "2s"),
        ("live.max_readers_per_principal", "2"),
    ];
    let world = world(&settings).await;
    let live = world.address(Service::Live);
    let mut one = follow(live, FOLLOW, "").await;
    let _two = follow(live, FOLLOW, "").await;
    let refused = Follower::open(live, FOLLOW, "").await;
    assert_eq!(refused.status, 429);
    assert_eq!(name(&refused.rest().await), "too-many-streams");
    let end = one.next().await.unwrap();
    assert_eq!(problem(&end), "reconnect");
    assert_eq!(one.next().await, None);
    follow(live, FOLLOW, &end.id).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_core_is_away_readers_stay_and_then_go_on() {
    let mut world = world(&[("live.heartbeat", "100ms")]).await;
    let connection = world.connect_nowhere("w", &names(3)).await;
    has_logged(&world, "w", 3).await;
    let live = world.address(Service::Live);
    let mut follower = follow(live, FOLLOW, "").await;
    let began = follower.last_id.clone();
    world.stop_service(Service::IngressConsumer).await;
    let http = world.http.clone();
    let status = || async {
        let answer = http.get(format!("http://{live}/readyz")).send().await;
        answer.unwrap().status().as_u16()
    };
    eventually(SOON, "it says that the core is away", status, |status| {
        *status == 503
    })
    .await;
    let before = follower.heartbeats;
    let quiet = tokio::time::timeout(Duration::from_secs(1), follower.next()).await;
    assert!(quiet.is_err() && follower.heartbeats > before, "it lives");
    // Whoever is where memory reaches back to may even come back.
    let mut other = follow(live, FOLLOW, &began).await;
    world.start_service(Service::IngressConsumer).await;
    world.ready(Service::IngressConsumer).await;
    charge(&world, "w", connection, 3, 50.0).await;
    for follower in [&mut follower, &mut other] {
        let sent = take(follower, 3).await;
        assert_eq!(types(&sent), [("vehicle.snapshot.changed", 3)].into());
    }
    eventually(SOON, "ready again", status, |status| *status == 200).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_log_has_no_more_of_it_a_reader_is_told_to_begin_anew() {
    let mut world = world(&[("live.buffer_events", "1")]).await;
    let live = world.address(Service::Live);
    let began = follow(live, FOLLOW, "").await.last_id;
    append(&world, "w", 10, 10).await;
    let now = {
        let mut follower = follow(live, FOLLOW, &began).await;
        take(&mut follower, 10).await.pop().unwrap().id
    };
    sqlx::query("UPDATE core.shard_head SET first_offset = 6 WHERE shard = 1")
        .execute(&world.pool)
        .await
        .unwrap();
    let gone = Follower::open(live, FOLLOW, &began).await;
    assert_eq!(gone.status, 410);
    assert_eq!(name(&gone.rest().await), "log-truncated");
    follow(live, FOLLOW, &now).await;
    // A restore after which the log has what was before the fifth event.
    let mut follower = follow(live, FOLLOW, &now).await;
    let statements = [
        "UPDATE core.shard_head SET restored_offset = 4, first_offset = 1 WHERE shard = 1",
        "INSERT INTO core.setting (key, value) VALUES ('log.generation', 2)
         ON CONFLICT (key) DO UPDATE SET value = 2",
    ];
    for statement in statements {
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    }
    append(&world, "w", 1, 10).await;
    let end = follower.next().await.unwrap();
    assert_eq!(problem(&end), "log-restored");
    let settled = || async { Follower::open(live, FOLLOW, &now).await };
    let refused = eventually(SOON, "refused", settled, |answer| answer.status != 503).await;
    assert_eq!(refused.status, 409);
    assert_eq!(name(&refused.rest().await), "log-restored");
    // What both histories share is read on from, by another process too.
    world.stop_service(Service::Live).await;
    world.start_service(Service::Live).await;
    world.ready(Service::Live).await;
    let mut follower = follow(world.address(Service::Live), FOLLOW, &began).await;
    let sent = take(&mut follower, 11).await;
    assert!(
        sent.iter()
            .map(place)
            .eq((1..=11).map(|offset| (1, offset)))
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_readers_each_get_every_event_once_and_in_order() {
    const VEHICLES: usize = 20;
    let readers = std::env::var("HEADRACE_TEST_LIVE_READERS");
    let readers: usize = readers.map_or(1000, |text| text.parse().expect("a number"));
    let world = world(&[]).await;
    let connection = world.connect_nowhere("w", &names(VEHICLES)).await;
    has_logged(&world, "w", VEHICLES).await;
    let most = readers.to_string();
    let settings = [
        ("HEADRACE_LIVE__MAX_READERS", most.as_str()),
        ("HEADRACE_LIVE__MAX_READERS_PER_PRINCIPAL", &most),
    ];
    let live = CoreProcess::start_live(&world, program(), &settings);
    is_ready(live.address()).await;
    let before = live.resident_bytes();
    let begun = Instant::now();
    let mut followers = Vec::new();
    for n in 0..readers {
        // Most follow everything, some one vehicle, some nothing that comes.
        let path = match n % 10 {
            8 => "/v1/workspaces/w/vehicles/bus-7/live",
            9 => "/v1/workspaces/other/live",
            _ => FOLLOW,
        };
        followers.push((path, follow(live.address(), path, "").await));
    }
    let connected = begun.elapsed();
    let idle = live.resident_bytes().saturating_sub(before) / readers as u64;
    for round in 0..5 {
        charge(
            &world,
            "w",
            connection,
            VEHICLES,
            20.0 + 10.0 * f64::from(round),
        )
        .await;
    }
    let begun = Instant::now();
    let mut delivered = 0;
    for (path, follower) in &mut followers {
        let expected = match *path {
            FOLLOW => 5 * VEHICLES,
            path if path.contains("bus-7") => 5,
            _ => 0,
        };
        let mut values = BTreeMap::<String, Vec<f64>>::new();
        let mut places = Vec::new();
        while values.values().map(Vec::len).sum::<usize>() < expected {
            let sent = follower.next().await.expect("another event");
            places.push(place(&sent));
            let data = sent.json()["data"].clone();
            if sent.name == "vehicle.snapshot.changed" {
                let vehicle = data["vehicle"].as_str().unwrap().to_owned();
                let soc = data["signals"]["state_of_charge"]["value"]
                    .as_f64()
                    .unwrap();
                values.entry(vehicle).or_default().push(soc);
            }
        }
        for (vehicle, values) in &values {
            assert_eq!(values, &[20.0, 30.0, 40.0, 50.0, 60.0], "{vehicle}");
        }
        delivered += places.len();
        let count = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), count, "none twice");
    }
    let took = begun.elapsed();
    let loaded = live.resident_bytes().saturating_sub(before) / readers as u64;
    println!(
        "{readers} readers: connected in {connected:.1?}, {delivered} events taken in {took:.1?}; memory for each \
         {idle} bytes idle, {loaded} bytes after"
    );
    assert!(loaded < 128 * 1024, "{loaded} bytes for each reader");
    drop(followers);
    live.kill().await;
    world.stop().await;
}
