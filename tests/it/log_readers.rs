//! The log API for those who follow it: waiting for events, one workspace's alone; and a vehicle's own events.

use std::time::{Duration, Instant};

use headrace::services::Service;
use serde_json::{Value, json};
use shared_model::CloudEvent;
use shared_model::log::{LOG_END, LOG_GENERATION};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

const SOON: Duration = Duration::from_mins(1);

struct Answer {
    status: u16,
    end: Option<u64>,
    generation: Option<u64>,
    offsets: Vec<u64>,
}

/// What the log API answers for shard 1.
async fn ask(world: &World, query: &str) -> Result<Answer, reqwest::Error> {
    let url = format!("{}/internal/v1/log/1?{query}", world.core_url());
    let answer = world.http.get(url).send().await?;
    let number = |name| answer.headers().get(name)?.to_str().ok()?.parse().ok();
    let (end, generation) = (number(LOG_END), number(LOG_GENERATION));
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let lines = text.lines().filter(|_| status == 200);
    let offset = |line| {
        let event: CloudEvent = serde_json::from_str(line).unwrap();
        event.sequence.parse().unwrap()
    };
    Ok(Answer {
        status,
        end,
        generation,
        offsets: lines.map(offset).collect(),
    })
}

/// Appends events to shard 1, of which every tenth is `w`'s and about `bus-1`.
async fn append(world: &World, events: i64) {
    sqlx::query(
        "WITH head AS (
             UPDATE core.shard_head SET last_offset = last_offset + $1 WHERE shard = 1
             RETURNING last_offset - $1 AS before
         ), added AS (
             INSERT INTO core.event_log (shard, log_offset, workspace, event_type, subject, data)
             SELECT 1, before + n, CASE WHEN (before + n) % 10 = 0 THEN 'w' ELSE 'other' END,
                    CASE WHEN (before + n) % 20 = 0 THEN 'vehicle.health.changed'
                         ELSE 'vehicle.snapshot.changed' END,
                    'bus-1', '{}'
             FROM head, generate_series(1, $1) AS n
         )
         SELECT pg_notify('headrace_event_log', '')",
    )
    .bind(events)
    .execute(&world.pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_next_event() {
    let world = World::with(Options::core_only()).await;
    world.ready(Service::IngressConsumer).await;
    let begun = Instant::now();
    let nothing = ask(&world, "after=0&wait=300ms").await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((nothing.end, nothing.generation), (Some(0), Some(1)));
    assert_eq!(nothing.offsets, Vec::<u64>::new());
    let begun = Instant::now();
    let appending = async {
        tokio::task::yield_now().await;
        append(&world, 3).await;
    };
    let (waited, ()) = tokio::join!(ask(&world, "after=0&wait=30s"), appending);
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(waited.unwrap().offsets, [1, 2, 3]);
    // Whoever is not at the end does not wait.
    let begun = Instant::now();
    let rest = ask(&world, "after=2&wait=30s").await.unwrap();
    assert_eq!((rest.offsets, rest.end), (vec![3], Some(3)));
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(ask(&world, "after=0&wait=31s").await.unwrap().status, 400);
    // A core that stops does not keep those who wait, and is not kept by them.
    let begun = Instant::now();
    let url = format!("{}/internal/v1/log/1?after=3&wait=30s", world.core_url());
    let waiting = tokio::spawn(world.http.get(url).send());
    world.stop().await;
    // It may have come too late to be heard.
    if let Ok(answer) = waiting.await.unwrap() {
        assert_eq!(answer.status(), 503);
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_workspaces_events_are_read_without_the_others() {
    let world = World::with(Options::core_only()).await;
    world.ready(Service::IngressConsumer).await;
    append(&world, 9_000).await;
    let tens = |from: u64, to: u64| (from..=to).filter(|n| n % 10 == 0).collect::<Vec<_>>();
    for (query, end) in [
        ("after=0&workspace=w", 9_000),
        ("after=95&limit=20&workspace=w", 115),
        ("after=8990&workspace=w&limit=5", 8_995),
    ] {
        let answer = ask(&world, query).await.unwrap();
        assert_eq!(answer.end, Some(end), "{query}");
        let after = query
            .trim_start_matches("after=")
            .split('&')
            .next()
            .unwrap();
        let after: u64 = after.parse().unwrap();
        assert_eq!(answer.offsets, tens(after + 1, end), "{query}");
    }
    let nobody = ask(&world, "after=0&workspace=nobody").await.unwrap();
    assert_eq!((nobody.offsets, nobody.end), (vec![], Some(9_000)));
    assert_eq!(ask(&world, "workspace=No").await.unwrap().status, 400);
    // A hole is noticed, whosesoever the event was.
    let delete = "DELETE FROM core.event_log WHERE log_offset = 4507";
    sqlx::query(delete).execute(&world.pool).await.unwrap();
    assert!(
        ask(&world, "after=0&workspace=w").await.is_err(),
        "it is cut off"
    );
    world.stop().await;
}

async fn page(world: &World, query: &str) -> (u16, Vec<Value>, Option<String>) {
    let path = format!("/v1/workspaces/w/vehicles/bus-1/events?{query}");
    let (status, page) = world.get(&path).await;
    let items = page["items"].as_array().cloned().unwrap_or_default();
    (status, items, page["next"].as_str().map(str::to_owned))
}

fn offset(event: &Value) -> u64 {
    event["sequence"].as_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicles_events_are_listed_newest_first() {
    let world = World::with(Options::core_only()).await;
    let connection = world
        .connect_nowhere("w", &["bus-1".to_owned(), "bus-2".to_owned()])
        .await;
    for soc in [20.0, 40.0, 60.0] {
        let now = runtime::clock::now().timestamp_millis();
        let bodies = ["bus-1", "bus-2"].map(|bus| frame(bus, "soc", json!(soc), now));
        world.send(&envelopes("w", connection, &bodies)).await;
        let shown = || async {
            let (_, items, _) = page(&world, "limit=1").await;
            items
                .first()
                .map(|event| event["data"]["signals"]["state_of_charge"]["value"].clone())
        };
        eventually(SOON, "logged", shown, |found| *found == Some(json!(soc))).await;
    }
    let (status, items, next) = page(&world, "").await;
    assert_eq!((status, next), (200, None));
    let kinds: Vec<_> = items
        .iter()
        .map(|event| event["type"].as_str().unwrap())
        .collect();
    let changed = "vehicle.snapshot.changed";
    assert_eq!(kinds, [changed, changed, changed, "vehicle.registered"]);
    assert!(
        items
            .iter()
            .all(|event| event["subject"] == "bus-1" && event["workspace"] == "w")
    );
    // Page by page it is the same.
    let (mut paged, mut query) = (Vec::new(), "limit=1".to_owned());
    loop {
        let (_, items, next) = page(&world, &query).await;
        paged.extend(items);
        let Some(next) = next else { break };
        query = format!("limit=1&after={next}");
    }
    assert_eq!(paged, items);
    let (_, registered, _) = page(&world, "types=vehicle.registered").await;
    assert_eq!(registered, items[3..]);
    for (query, problem) in [
        ("types=vehicles.seen", 400),
        ("after=x", 400),
        ("limit=0", 400),
        ("page=1", 400),
    ] {
        assert_eq!(page(&world, query).await.0, problem, "{query}");
    }
    let (status, _) = world.get("/v1/workspaces/w/vehicles/nobody/events").await;
    assert_eq!(status, 404);
    let (status, _) = world
        .get("/v1/workspaces/other/vehicles/bus-1/events")
        .await;
    assert_eq!(status, 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicles_events_are_found_far_back_and_one_request_does_not_look_for_ever() {
    let world = World::with(Options::core_only()).await;
    world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    for statement in [
        "UPDATE core.vehicle SET shard = 1",
        "DELETE FROM core.event_log",
        "UPDATE core.shard_head SET last_offset = 0",
    ] {
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    }
    append(&world, 40).await;
    sqlx::query(
        "WITH head AS (UPDATE core.shard_head SET last_offset = 130040 WHERE shard = 1)
         INSERT INTO core.event_log (shard, log_offset, workspace, event_type, data)
         SELECT 1, 40 + n, 'w', 'vehicles.seen', '{}' FROM generate_series(1, 130000) AS n",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let (status, none, next) = page(&world, "").await;
    assert_eq!((status, none.len()), (200, 0));
    let (_, found, next) = page(&world, &format!("after={}", next.unwrap())).await;
    assert_eq!(
        found.iter().map(offset).collect::<Vec<_>>(),
        [40, 30, 20, 10]
    );
    assert_eq!(next, None);
    let health = "types=vehicle.health.changed&limit=1";
    let (_, none, next) = page(&world, health).await;
    assert_eq!(none.len(), 0);
    let (_, found, next) = page(&world, &format!("{health}&after={}", next.unwrap())).await;
    assert_eq!(found.iter().map(offset).collect::<Vec<_>>(), [40]);
    let (_, found, _) = page(&world, &format!("{health}&after={}", next.unwrap())).await;
    assert_eq!(found.iter().map(offset).collect::<Vec<_>>(), [20]);
    // What the log no longer has is not looked for.
    sqlx::query("UPDATE core.shard_head SET first_offset = 35 WHERE shard = 1")
        .execute(&world.pool)
        .await
        .unwrap();
    let (_, _, next) = page(&world, "").await;
    let (_, found, next) = page(&world, &format!("after={}", next.unwrap())).await;
    assert_eq!(found.iter().map(offset).collect::<Vec<_>>(), [40]);
    assert_eq!(next, None);
    world.stop().await;
}
