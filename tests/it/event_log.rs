//! The log API: the event log and the state as other services read them, and what they append to it.

use std::time::Duration;

use headrace::services::Service;
use reqwest::Method;
use serde_json::{Value, json};
use shared_model::event::Fact;
use shared_model::log::{LogState, SourceState, StatePage};
use shared_model::{CloudEvent, ConnectionId};
use tests::EventLog;
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually, internal_headers};

use crate::program::headrace;

const SOON: Duration = Duration::from_mins(1);

/// A world with the core, and nobody behind it.
async fn core_only() -> World {
    World::with(Options::core_only()).await
}

/// The core's answer: status and JSON.
async fn ask(base: &str, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
    let mut request = reqwest::Client::new()
        .request(method, format!("{base}{path}"))
        .headers(internal_headers());
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.expect("the core answers");
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

/// The events of a shard behind an offset.
async fn events(world: &World, shard: u32, query: &str) -> Vec<CloudEvent> {
    let url = format!("{}/internal/v1/log/{shard}{query}", world.core_url());
    let answer = world.http.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    let text = answer.text().await.unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

async fn whole_log(world: &World) -> Vec<CloudEvent> {
    let mut all = Vec::new();
    for shard in world.log_state().await.shards {
        all.extend(events(world, shard.shard, "").await);
    }
    all
}

/// Vehicles `bus-0` … with a charge each, whose events are in the log.
async fn fleet(world: &World, vehicles: usize) -> ConnectionId {
    let names: Vec<_> = (0..vehicles).map(|n| format!("bus-{n}")).collect();
    let connection = world.connect_nowhere("w", &names).await;
    let now = runtime::clock::now().timestamp_millis();
    let bodies: Vec<_> = names
        .iter()
        .map(|name| frame(name, "soc", json!(50), now))
        .collect();
    world.send(&envelopes("w", connection, &bodies)).await;
    let logged = || async {
        let log = EventLog::read(&world.pool).await;
        log.types.get("vehicle.snapshot.changed").copied()
    };
    eventually(SOON, "all logged", logged, |found| *found == Some(vehicles)).await;
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_read_in_order_from_any_offset() {
    let world = core_only().await;
    fleet(&world, 30).await;
    let log = world.log_state().await;
    let heads: u64 = log.shards.iter().map(|shard| shard.head).sum();
    assert_eq!(heads, 60, "each vehicle became known and changed");
    for shard in &log.shards {
        assert_eq!((shard.first, shard.relayed), (1, 0));
        let all = events(&world, shard.shard, "").await;
        assert_eq!(all.len() as u64, shard.head);
        let offsets = all
            .iter()
            .map(|event| event.sequence.parse::<u64>().unwrap());
        assert!(offsets.eq(1..=shard.head));
        let (after, limit) = (shard.head / 3, 3);
        let query = format!("?after={after}&limit={limit}");
        let some = events(&world, shard.shard, &query).await;
        let end = (after + limit).min(shard.head);
        let part = all.into_iter().skip(usize::try_from(after).unwrap());
        let part: Vec<_> = part.take(usize::try_from(end - after).unwrap()).collect();
        assert_eq!(some, part);
        for beyond in [shard.head, shard.head + 5, u64::MAX] {
            let query = format!("?after={beyond}");
            assert_eq!(events(&world, shard.shard, &query).await, []);
        }
    }
    let core = world.core_url();
    let (status, problem) = ask(&core, Method::GET, "/internal/v1/log/99", None).await;
    assert_eq!(
        (status, &problem["type"]),
        (404, &json!("urn:headrace:problem:shard-not-found"))
    );
    let (status, _) = ask(&core, Method::GET, "/internal/v1/log/0?since=1", None).await;
    assert_eq!(status, 400);
    assert_eq!(
        world.get("/internal/v1/log").await.0,
        404,
        "not through the gateway"
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_log_is_read_in_pages_that_follow_each_other() {
    let world = World::with(Options::core_only()).await;
    world.ready(Service::IngressConsumer).await;
    // Some are larger than a page by themselves, so that pages end by count, by size and at once.
    sqlx::query(
        "WITH head AS (UPDATE core.shard_head SET last_offset = 9000 WHERE shard = 1)
         INSERT INTO core.event_log (shard, log_offset, workspace, event_type, data)
         SELECT 1, n, 'w', 'vehicles.seen',
                jsonb_build_object('vehicles', '[]'::jsonb,
                    'fill', repeat('x', CASE WHEN n % 4000 = 0 THEN 3000000 ELSE n % 700 END))
         FROM generate_series(1, 9000) AS n",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    for (query, expected) in [
        ("", 1..=9000_u64),
        ("?after=3999", 4000..=9000),
        ("?after=100&limit=8000", 101..=8100),
    ] {
        let read = events(&world, 1, query).await;
        let offsets = read
            .iter()
            .map(|event| event.sequence.parse::<u64>().unwrap());
        assert!(offsets.eq(expected), "{query}");
    }
    // What goes while it is read cuts the answer off; it does not look like an end.
    let url = format!("{}/internal/v1/log/1", world.core_url());
    sqlx::query("DELETE FROM core.event_log WHERE log_offset = 8500")
        .execute(&world.pool)
        .await
        .unwrap();
    let answer = world.http.get(url).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.text().await.is_err(), "it is cut off");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_says_what_the_log_would() {
    let world = core_only().await;
    fleet(&world, 25).await;
    let silent = world
        .connect_nowhere("w", &["silent/1 é?".to_owned()])
        .await;
    sqlx::query(
        "INSERT INTO core.connection_status (connection, workspace, provider, epoch, number, revision,
             status, since, owner, frames_per_minute, reconnects)
         SELECT connection, workspace, provider, 1, 1, 7, 'silent', now(), 'nobody', 0, 0
         FROM core.connection",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    // A value within its deadband is in the state, and nobody has been told of it.
    sqlx::query(
        "UPDATE core.vehicle SET unsent_since = NULL,
             signals = jsonb_set(signals, '{state_of_charge,value}', '50.01')
         WHERE vehicle = 'bus-3'",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let mut items = Vec::new();
    let mut after = None::<String>;
    loop {
        let url = format!("{}/internal/v1/state?limit=7", world.core_url());
        let cursor = after.map(|after| ("after", after));
        let request = world.http.get(url).query(cursor.as_slice());
        let page: StatePage = request.send().await.unwrap().json().await.unwrap();
        assert!(page.items.len() <= 14, "two for each vehicle at most");
        items.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let count = |kind| items.iter().filter(|item| item.kind == kind).count();
    assert_eq!(count("vehicle.registered"), 26);
    assert_eq!(count("vehicle.snapshot.changed"), 25);
    assert_eq!(count("connection.status.changed"), 2);
    // The log says the same of all that it tells.
    for event in whole_log(&world).await {
        let mut data = event.data.clone();
        if event.kind == "vehicle.snapshot.changed" {
            data["changed"] = json!([]);
        }
        assert!(
            items
                .iter()
                .any(|item| item.kind == event.kind && item.data == data),
            "{event:?}"
        );
    }
    let of_silent = items
        .iter()
        .find(|item| item.data["vehicle"] == "silent/1 é?");
    assert_eq!(of_silent.unwrap().data["connection"], json!(silent));
    let first_change = |vehicle: &str| {
        let of = items.iter().filter(|item| item.data["vehicle"] == vehicle);
        of.map(|item| item.kind.as_str()).collect::<Vec<_>>()
    };
    assert_eq!(
        first_change("bus-3"),
        ["vehicle.registered", "vehicle.snapshot.changed"]
    );
    let core = world.core_url();
    let (status, _) = ask(&core, Method::GET, "/internal/v1/state?after=nowhere", None).await;
    assert_eq!(status, 400);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_say_how_far_they_are_and_are_listed_and_forgotten() {
    let world = core_only().await;
    fleet(&world, 20).await;
    let core = world.core_url();
    let log = world.log_state().await;
    let shard = log.shards.iter().max_by_key(|shard| shard.head).unwrap();
    let put = async |query: &str, applied: Value| {
        let path = format!("/internal/v1/subscribers/snapshot{query}");
        ask(&core, Method::PUT, &path, Some(json!({"applied": applied}))).await
    };
    let number = shard.shard.to_string();
    let waiting = |answer: Value| {
        let state: LogState = serde_json::from_value(answer).unwrap();
        state.shards[shard.shard as usize].waiting_since
    };
    let first = events(&world, shard.shard, "?limit=1").await[0].time;
    let (status, answer) = put("", json!({})).await;
    assert_eq!((status, waiting(answer)), (200, Some(first)));

    let (_, answer) = put("", json!({number.clone(): shard.head})).await;
    assert_eq!(waiting(answer), None, "nothing is missing");
    let (_, answer) = put("", json!({number.clone(): 1})).await;
    assert_eq!(waiting(answer), None, "never back");
    let second = events(&world, shard.shard, "?after=1&limit=1").await[0].time;
    let (_, answer) = put("?reset=true", json!({number.clone(): 1})).await;
    assert_eq!(waiting(answer), Some(second), "but by a reset");

    let (status, list) = world.get("/v1/subscribers").await;
    assert_eq!(status, 200);
    assert_eq!(list["items"][0]["name"], "snapshot");
    assert_eq!(list["items"][0]["lag_events"], json!(40 - 1));
    assert!(
        list["items"][0]["lag_seconds"].as_f64().unwrap() > 0.0,
        "{list}"
    );
    assert_eq!(
        ask(&core, Method::GET, "/internal/v1/subscribers", None)
            .await
            .1["items"][0]["shards"],
        list["items"][0]["shards"]
    );

    let (status, problem) = put("", json!({number: shard.head + 1})).await;
    assert_eq!(
        (status, &problem["type"]),
        (409, &json!("urn:headrace:problem:log-restored"))
    );
    let (status, problem) = put("", json!({"99": 0})).await;
    assert_eq!(
        (status, &problem["type"]),
        (400, &json!("urn:headrace:problem:unknown-shard"))
    );
    let (status, _) = ask(
        &core,
        Method::PUT,
        "/internal/v1/subscribers/No%20Name",
        Some(json!({"applied": {}})),
    )
    .await;
    assert_eq!(status, 400);

    let forget = async || {
        let url = world.url("/v1/subscribers/snapshot");
        world
            .http
            .delete(url)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!((forget().await, forget().await), (204, 404));
    assert_eq!(world.get("/v1/subscribers").await.1["items"], json!([]));
    world.stop().await;
}

fn turned_stale(number: u64, vehicle: &str) -> Value {
    json!({
        "number": number, "workspace": "w", "type": "vehicle.health.changed",
        "data": {
            "vehicle": vehicle, "number": number, "freshness": "stale", "previous": "fresh",
            "cause": "source_silent", "incident": null, "provider": "viriciti",
            "since": "2026-01-01T00:00:00Z", "last_received_at": null,
        },
    })
}

/// Posts what the source has found to a core; status and answer.
async fn found(core: String, events: Vec<Value>) -> (u16, Value) {
    let path = "/internal/v1/sources/health/events";
    ask(&core, Method::POST, path, Some(json!({"events": events}))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_source_finds_is_appended_once_whoever_takes_it() {
    let world = core_only().await;
    fleet(&world, 10).await;
    let (other, other_address) = world.another_core().await;
    let cores = [world.core_url(), format!("http://{other_address}")];
    let batch: Vec<_> = (1..=40)
        .map(|number| turned_stale(number, &format!("bus-{}", number % 12)))
        .collect();
    let posts: Vec<_> = (0..12)
        .map(|n| tokio::spawn(found(cores[n % 2].clone(), batch.clone())))
        .collect();
    for answer in posts {
        assert_eq!(answer.await.unwrap(), (200, json!({"appended": 40})));
    }
    // Part of it again, with more.
    let more = (31..=45).map(|number| turned_stale(number, "bus-1"));
    let (_, answer) = found(cores[0].clone(), more.collect()).await;
    assert_eq!(answer, json!({"appended": 45}));

    EventLog::read(&world.pool).await.assert_dense();
    let log = whole_log(&world).await;
    let is_health = |event: &&CloudEvent| event.kind == "vehicle.health.changed";
    let numbers = log
        .iter()
        .filter(is_health)
        .map(|event| event.data["number"].as_u64());
    let mut numbers: Vec<_> = numbers.flatten().collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=45), "each number once");
    for event in log.iter().filter(is_health) {
        let fact = event.fact().unwrap();
        assert!(
            matches!(fact, Some(Fact::VehicleHealthChanged(_))),
            "{fact:?}"
        );
        let vehicle = event.subject.as_deref();
        let mut of_vehicle = log
            .iter()
            .filter(|other| other.subject.as_deref() == vehicle);
        assert!(
            of_vehicle.all(|other| other.shard == event.shard),
            "{vehicle:?}"
        );
    }
    other.stop().await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_hears_what_is_wrong_and_nothing_of_it_is_appended() {
    let world = core_only().await;
    let connection = fleet(&world, 1).await;
    let core = world.core_url();
    let problem = async |events: Vec<Value>| {
        let (status, problem) = found(core.clone(), events).await;
        let kind = problem["type"].as_str().unwrap_or_default().to_owned();
        let name = kind.rsplit(':').next().unwrap_or_default().to_owned();
        (
            status,
            name,
            problem["detail"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let incident = json!({"number": 1, "workspace": "w", "type": "provider.incident.changed", "data": {
        "incident": "01890a5d-ac96-774b-bcce-b302099a8059", "number": 1, "connection": connection,
        "provider": "viriciti", "state": "open", "reason": "closed",
        "opened_at": "2026-01-01T00:00:00Z", "closed_at": null, "vehicles": 10,
    }});
    assert_eq!(found(core.clone(), vec![incident]).await.0, 200);
    let (status, name, detail) = problem(vec![turned_stale(3, "bus-0")]).await;
    assert_eq!((status, name.as_str()), (409, "hole-in-numbers"));
    assert!(detail.contains("number 2"), "{detail}");
    for (wrong, expected) in [
        (
            vec![turned_stale(2, "bus-0"), turned_stale(4, "bus-0")],
            "invalid-number",
        ),
        (vec![turned_stale(0, "bus-0")], "invalid-number"),
        (
            vec![json!({"number": 2, "workspace": "w", "type": "vehicles.seen", "data": {}})],
            "type-not-allowed",
        ),
        (
            vec![
                turned_stale(2, "bus-0"),
                json!({"number": 3, "workspace": "w",
                "type": "vehicle.health.changed", "data": {}}),
            ],
            "invalid-event",
        ),
    ] {
        let (status, name, _) = problem(wrong).await;
        assert_eq!((status, name.as_str()), (400, expected));
    }
    let (_, answer) = ask(&core, Method::GET, "/internal/v1/sources/health", None).await;
    assert_eq!(
        serde_json::from_value::<SourceState>(answer)
            .unwrap()
            .appended,
        1
    );
    let (status, _) = ask(&core, Method::GET, "/internal/v1/sources/other", None).await;
    assert_eq!(status, 404);
    assert_eq!(
        found(core.clone(), vec![]).await,
        (200, json!({"appended": 1}))
    );
    let log = EventLog::read(&world.pool).await;
    assert_eq!(log.types.get("provider.incident.changed"), Some(&1));
    assert_eq!(log.types.get("vehicle.health.changed"), None);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subscribers_are_forgotten_from_the_command_line() {
    let world = core_only().await;
    world.ready(Service::IngressConsumer).await;
    let path = "/internal/v1/subscribers/reports.v2";
    let body = json!({"applied": {}});
    let (status, _) = ask(&world.core_url(), Method::PUT, path, Some(body)).await;
    assert_eq!(status, 200);
    let run =
        async |arguments: &[&str]| headrace(&world, &[&["subscribers"], arguments].concat()).await;
    let list = run(&["list"]).await.lines();
    assert_eq!(list.len(), 1, "{list:?}");
    assert_eq!(list[0]["name"], "reports.v2");
    run(&["forget", "reports"]).await.fails_for("no subscriber");
    run(&["forget", "reports.v2"]).await.succeeds();
    run(&["reset", "Reports"]).await.fails_for("Reports");
    assert_eq!(world.get("/v1/subscribers").await.1["items"], json!([]));
    world.stop().await;
}
