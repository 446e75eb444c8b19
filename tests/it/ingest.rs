//! HTTP provider-ingest: the same acceptance, and an answer for each frame.

use std::io::Write as _;
use std::time::Duration;

use headrace::services::Service;
use reqwest::Response;
use serde_json::{Value, json};
use shared_model::ConnectionId;
use sqlx::{Postgres, Transaction};
use tests::frames::frame;
use tests::harness::{Options, World, eventually};
use tokio::task::JoinSet;

use crate::program::headrace;

const SOON: Duration = Duration::from_secs(30);
const PATH: &str = "/v1/provider-ingest";

/// A connection of kind push in `workspace`.
pub async fn push_connection(world: &World, workspace: &str, settings: Value) -> ConnectionId {
    world.ready(Service::IngressConsumer).await;
    let body = json!({"provider": "viriciti", "kind": "push", "settings": settings});
    let url = world.url(&format!("/v1/workspaces/{workspace}/connections"));
    let answer = world.http.post(url).json(&body).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let connection: Value = answer.json().await.unwrap();
    connection["id"].as_str().unwrap().parse().unwrap()
}

fn settings() -> Value {
    json!({"vehicles": {"bus-1": ["soc"]}})
}

fn now() -> i64 {
    runtime::clock::now().timestamp_millis()
}

pub fn envelope(workspace: &str, connection: ConnectionId, bodies: &[String]) -> Value {
    let frames: Vec<_> = bodies.iter().map(|body| json!({"body": body})).collect();
    json!({"workspace": workspace, "connection": connection, "frames": frames})
}

pub async fn post(world: &World, body: &Value) -> Response {
    let request = world.http.post(world.url(PATH)).json(body);
    request.send().await.unwrap()
}

async fn post_with_key(world: &World, key: &str, body: &Value) -> Response {
    let request = world.http.post(world.url(PATH)).json(body);
    request.header("idempotency-key", key).send().await.unwrap()
}

async fn post_raw(world: &World, headers: &[(&str, &str)], body: Vec<u8>) -> Response {
    let mut request = world.http.post(world.url(PATH)).body(body);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

async fn verdicts(answer: Response) -> Vec<String> {
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let frames = answer["frames"].as_array().unwrap().iter();
    frames
        .map(|frame| frame["verdict"].as_str().unwrap().to_owned())
        .collect()
}

async fn problem(answer: Response) -> (u16, String, String) {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let status = answer.status().as_u16();
    let problem: Value = answer.json().await.unwrap();
    let part = |name: &str| problem[name].as_str().unwrap().to_owned();
    (
        status,
        part("type").replace("urn:headrace:problem:", ""),
        part("detail"),
    )
}

async fn seen(world: &World) -> i64 {
    let query = "SELECT coalesce(sum(upper(range) - lower(range)), 0)::bigint
                 FROM core.session, unnest(seen) AS range";
    sqlx::query_scalar(query)
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

/// Holds up every commit until it is dropped.
async fn hold(world: &World) -> Transaction<'static, Postgres> {
    let mut tx = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE core.session IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx
}

async fn blocked(world: &World) {
    let ask = || async {
        let query = "SELECT count(*) FROM pg_locks WHERE NOT granted
                     AND relation = 'core.session'::regclass";
        sqlx::query_scalar::<_, i64>(query)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    eventually(SOON, "a commit waits", ask, |waiting| *waiting > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_frame_is_answered_in_order_however_it_is_sent() {
    let world = World::start().await;
    let connection = push_connection(&world, "w", settings()).await;
    let at = now();
    let soc = |value: u32, at| frame("bus-1", "soc", json!(value), at);
    let first = envelope(
        "w",
        connection,
        &[
            soc(50, at),
            soc(50, at),
            soc(40, at),
            soc(60, at - 5000),
            "not JSON".to_owned(),
            frame("bus-1", "soc", Value::Null, at),
        ],
    );
    let answer = post(&world, &first).await;
    assert_eq!(answer.status(), 200);
    let answer: Value = answer.json().await.unwrap();
    let expected = [
        "accepted",
        "duplicate",
        "conflict",
        "stale",
        "parked",
        "no_value",
    ];
    let frames = answer["frames"].as_array().unwrap();
    for (frame, expected) in frames.iter().zip(expected) {
        assert_eq!(frame["verdict"], expected, "{answer}");
    }
    assert_eq!(frames.len(), expected.len());
    let reason = frames[4]["reason"].as_str().unwrap();
    assert!(reason.starts_with("invalid_syntax: "), "{reason}");

    let two = |step: i64| {
        let of = |n: i64| envelope("w", connection, &[soc(70, at + 10 * step + n)]);
        (of(1), of(2))
    };
    let (one, other) = two(1);
    assert_eq!(
        verdicts(post(&world, &json!([one, other])).await).await,
        ["accepted"; 2]
    );
    let json = ("content-type", "application/json");
    let ndjson = ("content-type", "application/x-ndjson");
    let (one, other) = two(2);
    let lines = format!("{one}\n{other}\n").into_bytes();
    assert_eq!(
        verdicts(post_raw(&world, &[ndjson], lines).await).await,
        ["accepted"; 2]
    );
    let (one, _) = two(3);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(one.to_string().as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    let answer = post_raw(&world, &[json, ("content-encoding", "gzip")], body).await;
    assert_eq!(verdicts(answer).await, ["accepted"]);
    let (one, _) = two(4);
    let body = zstd::encode_all(one.to_string().as_bytes(), 1).unwrap();
    let answer = post_raw(&world, &[json, ("content-encoding", "zstd")], body).await;
    assert_eq!(verdicts(answer).await, ["accepted"]);

    // All are numbered, and no number is missing.
    assert_eq!(seen(&world).await, 12);
    let ranges: Vec<String> = sqlx::query_scalar("SELECT seen::text FROM core.session")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert_eq!(ranges, ["{[1,13)}"]);
    world.drained().await;
    let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-1/snapshot").await;
    assert_eq!(snapshot["signals"]["state_of_charge"]["value"], 70.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_of_receipt_is_taken_unless_it_is_ahead() {
    let world = World::start().await;
    let connection = push_connection(&world, "w", settings()).await;
    let at = runtime::clock::now();
    let mut body = envelope("w", connection, &[frame("bus-1", "soc", json!(1), now())]);
    body["frames"][0]["received_at"] = json!(at + chrono::Duration::hours(1));
    let answer: Value = post(&world, &body).await.json().await.unwrap();
    let reason = answer["frames"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("received_in_future"), "{reason}");
    body["frames"][0]["received_at"] = json!(at - chrono::Duration::hours(1));
    assert_eq!(verdicts(post(&world, &body).await).await, ["accepted"]);
    let received: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT last_received_at FROM core.vehicle")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(received, at - chrono::Duration::hours(1));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_not_be_is_refused_whole() {
    let world = World::with(Options {
        settings: vec![("ingest.max_bytes", "100000"), ("ingest.max_frames", "3")],
        ..Options::default()
    })
    .await;
    let connection = push_connection(&world, "w", settings()).await;
    let stream = world.connect_nowhere("w", &["bus-2".to_owned()]).await;
    let soc = || vec![frame("bus-1", "soc", json!(1), now())];
    let good = envelope("w", connection, &soc());
    let unknown = ConnectionId(runtime::clock::new_id());
    let json = ("content-type", "application/json");
    let zeros = {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        gzip.write_all(&vec![b' '; 50_000_000]).unwrap();
        gzip.finish().unwrap()
    };
    let bytes = || good.to_string().into_bytes();
    for (answer, status, kind, part) in [
        (
            post(&world, &json!([good, envelope("w", unknown, &soc())])).await,
            404,
            "connection-not-found",
            "no connection",
        ),
        (
            // A workspace does not reach another's connection.
            post(&world, &envelope("other", connection, &soc())).await,
            404,
            "connection-not-found",
            "other",
        ),
        (
            post(&world, &json!([good, envelope("w", stream, &soc())])).await,
            409,
            "connection-not-push",
            "kind stream",
        ),
        (
            post(&world, &json!([good, {"frames": 7}])).await,
            400,
            "invalid-body",
            "envelope 2",
        ),
        (
            post(&world, &json!([good, good, good, good])).await,
            413,
            "too-many-frames",
            "envelope 4",
        ),
        (
            post(&world, &envelope("w", connection, &["x".repeat(100_000)])).await,
            413,
            "request-too-large",
            "ingest.max_bytes",
        ),
        (
            post_raw(&world, &[json, ("content-encoding", "gzip")], zeros).await,
            413,
            "request-too-large",
            "decompressed",
        ),
        (
            post_raw(&world, &[json, ("content-encoding", "gzip")], bytes()).await,
            400,
            "invalid-body",
            "Content-Encoding",
        ),
        (
            post_raw(&world, &[json, ("content-encoding", "br")], bytes()).await,
            415,
            "unsupported-media-type",
            "zstd",
        ),
        (
            post_raw(&world, &[("content-type", "text/csv")], bytes()).await,
            415,
            "unsupported-media-type",
            "x-ndjson",
        ),
        (
            post_with_key(&world, "two words", &good).await,
            400,
            "invalid-idempotency-key",
            "255",
        ),
    ] {
        let found = problem(answer).await;
        assert_eq!((found.0, found.1.as_str()), (status, kind), "{}", found.2);
        assert!(found.2.contains(part), "{}", found.2);
    }
    assert_eq!(seen(&world).await, 0, "nothing of any of them was accepted");
    assert_eq!(verdicts(post(&world, &good).await).await, ["accepted"]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_repeated_under_its_key_has_one_effect_and_one_answer() {
    let world = World::start().await;
    let connection = push_connection(&world, "w", settings()).await;
    let other = push_connection(&world, "other", settings()).await;
    let body = envelope("w", connection, &[frame("bus-1", "soc", json!(1), now())]);
    let first: Value = post_with_key(&world, "k", &body)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(first["frames"][0]["verdict"], "accepted");
    let again: Value = post_with_key(&world, "\"k\"", &body)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(again, first);
    assert_eq!(seen(&world).await, 1);
    let changed = envelope("w", connection, &[frame("bus-1", "soc", json!(2), now())]);
    let reused = problem(post_with_key(&world, "k", &changed).await).await;
    assert_eq!(
        (reused.0, reused.1.as_str()),
        (422, "idempotency-key-reused")
    );
    assert_eq!(seen(&world).await, 1);
    // Keys of workspaces are apart; one request cannot be of two.
    let others = envelope("other", other, &[frame("bus-1", "soc", json!(3), now())]);
    assert_eq!(
        verdicts(post_with_key(&world, "k", &others).await).await,
        ["accepted"]
    );
    let both = post_with_key(&world, "both", &json!([body, others])).await;
    assert_eq!(problem(both).await.0, 400);

    // While it is being done, it is not done again.
    let held = hold(&world).await;
    let slow = envelope("w", connection, &[frame("bus-1", "soc", json!(4), now())]);
    let (client, url) = (world.http.clone(), world.url(PATH));
    let request = client
        .post(url)
        .header("idempotency-key", "slow")
        .json(&slow);
    let sending = tokio::spawn(async move { request.send().await.unwrap() });
    blocked(&world).await;
    let found = problem(post_with_key(&world, "slow", &slow).await).await;
    assert_eq!((found.0, found.1.as_str()), (409, "request-in-flight"));
    held.rollback().await.unwrap();
    let done: Value = sending.await.unwrap().json().await.unwrap();
    let again: Value = post_with_key(&world, "slow", &slow)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(again, done);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_do_a_keyed_request_once() {
    let world = World::start().await;
    let connection = push_connection(&world, "w", settings()).await;
    let (context, second) = world.another_core().await;
    let held = hold(&world).await;
    let body = envelope("w", connection, &[frame("bus-1", "soc", json!(4), now())]);
    let urls = [world.core_url(), format!("http://{second}")].map(|base| format!("{base}{PATH}"));
    let mut sending = JoinSet::new();
    for url in urls {
        let request = world
            .http
            .post(url)
            .header("idempotency-key", "k")
            .json(&body);
        sending.spawn(async move { request.send().await.unwrap() });
    }
    blocked(&world).await;
    held.rollback().await.unwrap();
    for answer in sending.join_all().await {
        assert_eq!(verdicts(answer).await, ["accepted"]);
    }
    assert_eq!(seen(&world).await, 1);
    context.stop().await.unwrap();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_senders_share_commits_and_a_poison_frame_harms_no_neighbour() {
    let world = World::with(Options {
        alone: true,
        ..Options::default()
    })
    .await;
    let vehicles = json!({"vehicles": {"bus-1": ["soc"], "bus-7": ["soc"]}});
    let connection = push_connection(&world, "w", vehicles).await;
    for statement in [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '22023'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON core.vehicle FOR EACH ROW
         WHEN (NEW.vehicle = 'bus-7') EXECUTE FUNCTION refuse()",
    ] {
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    }
    let commits = || {
        world.metric(
            "headrace_db_transactions_total",
            "transaction=\"accept_batch\"",
        )
    };
    let before = commits();
    let held = hold(&world).await;
    let mut senders = JoinSet::new();
    let at = now();
    for n in 0..100 {
        let body = envelope("w", connection, &[frame("bus-1", "soc", json!(50), at + n)]);
        let request = world.http.post(world.url(PATH)).json(&body);
        senders.spawn(async move { request.send().await.unwrap() });
    }
    let waiting = || async { world.metric("headrace_ingest_queue_requests", "") };
    eventually(SOON, "they wait", waiting, |waiting| *waiting >= 80).await;
    held.rollback().await.unwrap();
    for answer in senders.join_all().await {
        verdicts(answer).await;
    }
    let taken = commits() - before;
    assert!(taken <= 20, "{taken} commits for 100 requests");
    assert_eq!(seen(&world).await, 100);

    let held = hold(&world).await;
    let mut senders = JoinSet::new();
    for (n, vehicle) in [(0, "bus-1"), (1, "bus-7"), (2, "bus-1"), (3, "bus-1")] {
        let soc = frame(vehicle, "soc", json!(60), at + 200 + n);
        let body = envelope("w", connection, &[soc]);
        let request = world.http.post(world.url(PATH)).json(&body);
        let request = request.header("idempotency-key", format!("k-{n}"));
        senders.spawn(async move { (n, body, request.send().await.unwrap()) });
    }
    blocked(&world).await;
    held.rollback().await.unwrap();
    for (n, body, answer) in senders.join_all().await {
        let answer: Value = answer.json().await.unwrap();
        let is_parked = answer["frames"][0]["verdict"] == "parked";
        assert_eq!(is_parked, n == 1, "{n}: {answer}");
        let again = post_with_key(&world, &format!("k-{n}"), &body).await;
        let again: Value = again.json().await.unwrap();
        assert_eq!(again, answer, "an effect in parts has its answer too");
    }
    assert_eq!(seen(&world).await, 104);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_with_the_time_to_come_again() {
    let world = World::with(Options {
        settings: vec![("ingest.queue_requests", "1"), ("ingest.group_frames", "1")],
        ..Options::default()
    })
    .await;
    let connection = push_connection(&world, "w", settings()).await;
    let held = hold(&world).await;
    let mut senders = JoinSet::new();
    let mut send = |n: i64| {
        let body = [frame("bus-1", "soc", json!(n), now() + n)];
        let body = envelope("w", connection, &body);
        let request = world.http.post(world.url(PATH)).json(&body);
        senders.spawn(async move { request.send().await.unwrap() });
    };
    send(0);
    blocked(&world).await;
    for n in 1..4 {
        send(n);
    }
    // One is in the commit and one waits for it; there is no room for the others.
    let mut refused = 0;
    while refused < 2 {
        let answer = senders.join_next().await.unwrap().unwrap();
        assert_eq!(answer.headers()["retry-after"], "1");
        assert_eq!(problem(answer).await.1, "ingest-busy");
        refused += 1;
    }
    held.rollback().await.unwrap();
    for answer in senders.join_all().await {
        verdicts(answer).await;
    }
    assert_eq!(seen(&world).await, 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_no_half_of_a_request() {
    let world = World::with(Options {
        breaks_servers: true,
        ..Options::default()
    })
    .await;
    let connection = push_connection(&world, "w", settings()).await;
    let body = envelope("w", connection, &[frame("bus-1", "soc", json!(1), now())]);
    assert_eq!(verdicts(post(&world, &body).await).await, ["accepted"]);
    let postgres = world.servers.private.postgres();
    postgres.kill().await.unwrap();
    let later = envelope(
        "w",
        connection,
        &[frame("bus-1", "soc", json!(2), now() + 1)],
    );
    let answer = post_with_key(&world, "k", &later).await;
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(problem(answer).await.1, "database-away");
    postgres.restart().await.unwrap();
    let ask = || async { post_with_key(&world, "k", &later).await.status().as_u16() };
    eventually(SOON, "it is taken", ask, |status| *status == 200).await;
    let again: Value = post_with_key(&world, "k", &later)
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(again["frames"][0]["verdict"], "accepted");
    // The failure ended a session; in none is a number missing.
    let ranges: Vec<String> = sqlx::query_scalar("SELECT seen::text FROM core.session")
        .fetch_all(&world.pool)
        .await
        .unwrap();
    assert!(
        ranges.iter().all(|range| range.starts_with("{[1,")),
        "{ranges:?}"
    );
    assert_eq!(seen(&world).await, 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_core_that_is_stopped_answers_what_it_has_taken_and_takes_no_more() {
    let world = World::start().await;
    let connection = push_connection(&world, "w", settings()).await;
    let (context, address) = world.another_core().await;
    let url = format!("http://{address}{PATH}");
    let held = hold(&world).await;
    let body = |n| {
        envelope(
            "w",
            connection,
            &[frame("bus-1", "soc", json!(n), now() + n)],
        )
    };
    let request = world.http.post(&url).json(&body(1));
    let taken = tokio::spawn(async move { request.send().await.unwrap() });
    blocked(&world).await;
    let stopped = context.clone();
    let stopping = tokio::spawn(async move { stopped.stop().await });
    context.stop_requested().await;
    let refused = world.http.post(&url).json(&body(2)).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    assert_eq!(problem(refused).await.1, "ingest-away");
    held.rollback().await.unwrap();
    assert_eq!(verdicts(taken.await.unwrap()).await, ["accepted"]);
    stopping.await.unwrap().unwrap();
    assert_eq!(seen(&world).await, 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_delivered_from_the_command_line() {
    let world = World::start().await;
    let connection = push_connection(&world, "w", settings()).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("frames");
    let at = now();
    let lines = (0..1200).map(|n| frame("bus-1", "soc", json!(n % 100), at + n) + "\n");
    std::fs::write(&file, lines.collect::<String>() + "\nnot JSON\n").unwrap();
    let connection = format!("--connection={connection}");
    let file = file.display().to_string();
    let arguments = ["ingest", "--workspace=w", &connection, &file];
    let ran = headrace(&world, &arguments).await;
    ran.succeeds();
    assert_eq!(ran.json(), json!({"accepted": 1200, "parked": 1}));
    assert!(ran.err.contains("frame 1201 is parked"), "{}", ran.err);
    assert_eq!(seen(&world).await, 1201);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_remembered_costs_its_own_request_only() {
    let world = World::start().await;
    let connection = push_connection(&world, "w", settings()).await;
    for statement in [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '22023'; END $$",
        "CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON core.ingest_key FOR EACH ROW
         WHEN (NEW.key = 'k-1') EXECUTE FUNCTION refuse()",
    ] {
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    }
    let at = now();
    let send = |n: i64| {
        let soc = frame("bus-1", "soc", json!(50 + n), at + n);
        let request = world.http.post(world.url(PATH));
        request
            .header("idempotency-key", format!("k-{n}"))
            .json(&envelope("w", connection, &[soc]))
    };
    // What comes while a commit is held up shares the next one.
    let held = hold(&world).await;
    let mut senders = JoinSet::new();
    for n in 0..4 {
        let request = send(n);
        senders.spawn(async move { (n, request.send().await.unwrap()) });
    }
    blocked(&world).await;
    held.rollback().await.unwrap();
    for (n, answer) in senders.join_all().await {
        if n == 1 {
            let found = problem(answer).await;
            assert_eq!((found.0, found.1.as_str()), (500, "answer-not-stored"));
        } else {
            let found = verdicts(answer).await;
            assert!(
                ["accepted", "stale"].contains(&found[0].as_str()),
                "{n}: {found:?}"
            );
        }
    }
    assert_eq!(seen(&world).await, 3, "each of the others counts once");
    sqlx::query("DROP TRIGGER refuse ON core.ingest_key")
        .execute(&world.pool)
        .await
        .unwrap();
    verdicts(send(1).send().await.unwrap()).await;
    assert_eq!(seen(&world).await, 4);
    world.stop().await;
}
