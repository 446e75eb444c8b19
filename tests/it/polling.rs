//! Polled connections: what is read has its effect together with the cursor, whatever dies; nobody is
//! asked too much or for two at once; operators see and decide.

use std::time::{Duration, Instant};

use headrace::services::Service;
use ingress_consumer::control::{FeedDetails, PollDetails, PollPage};
use rand::RngExt;
use rustix::process::Signal;
use serde_json::{Value, json};
use shared_model::ConnectionId;
use tests::harness::{CoreProcess, Options, World, eventually};
use tests::polled::{PolledProvider, Scripted, number, start};
use tests::sessions::SessionProvider;

use crate::program::program;

const SOON: Duration = Duration::from_mins(1);
const KEY: &str = "a-key-that-nobody-may-see";

/// A world whose core looks for due connections often.
async fn world() -> World {
    World::with(Options {
        settings: vec![
            ("polling.look_every", "50ms"),
            ("polling.backoff_min", "50ms"),
            ("polling.backoff_max", "200ms"),
        ],
        without: vec![Service::IngressPublisher, Service::OutboxRelay],
        ..Options::default()
    })
    .await
}

fn core(world: &World) -> CoreProcess {
    let settings = [
        ("HEADRACE_POLLING__LEASE", "1s"),
        ("HEADRACE_POLLING__LOOK_EVERY", "50ms"),
    ];
    CoreProcess::start(world, program(), Service::IngressConsumer, &settings)
}

/// Waits until `core` can be asked.
async fn ready(world: &World, core: &CoreProcess) {
    let ask = || async {
        let url = format!("{}/readyz", core.url());
        let answer = world.http.get(url).send().await.ok();
        answer.map(|answer| answer.status().as_u16())
    };
    eventually(SOON, "the core is ready", ask, |status| {
        *status == Some(200)
    })
    .await;
}

/// A file with the provider's key.
fn key_file(world: &World, key: &str) -> String {
    let path = world.servers.private.data().path();
    let path = path.join(format!("{}.key", world.vhost));
    if !path.exists() {
        std::fs::write(&path, key).unwrap();
    }
    format!("file:{}", path.display())
}

/// Adds a connection to `provider` at the API `base`, for the vehicles under `prefix`.
async fn connect(
    world: &World,
    base: &str,
    provider: &PolledProvider,
    prefix: &str,
    settings: Value,
) -> ConnectionId {
    let mut all = json!({"feeds": ["positions"], "interval": "1s", "path_prefix": prefix,
        "requests_per_minute": {"positions": 60_000}});
    all.as_object_mut()
        .unwrap()
        .extend(settings.as_object().unwrap().clone());
    let body = json!({"provider": "rfms", "kind": "poll", "endpoint": provider.url(),
        "credential": key_file(world, KEY), "settings": all});
    let url = format!("{base}/v1/workspaces/w/connections");
    let answer = world.http.post(url).json(&body).send().await.unwrap();
    let status = answer.status().as_u16();
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(status, 201, "{answer}");
    answer["id"].as_str().unwrap().parse().unwrap()
}

/// The only feed of a connection.
async fn feed(world: &World, connection: ConnectionId) -> FeedDetails {
    let path = format!("/v1/workspaces/w/connections/{connection}/polls");
    let (status, details) = world.get(&path).await;
    assert_eq!(status, 200, "{details}");
    let details: PollDetails = serde_json::from_value(details).unwrap();
    details.feeds.into_iter().next().unwrap()
}

async fn act(world: &World, connection: ConnectionId, action: &str) -> (u16, Value) {
    let url = world.url(&format!(
        "/v1/workspaces/w/connections/{connection}/{action}"
    ));
    let answer = world.http.post(url).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or_default())
}

async fn vehicles(world: &World) -> u64 {
    let count = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM core.vehicle")
        .fetch_one(&world.pool)
        .await;
    count.unwrap().cast_unsigned()
}

async fn all_arrive(world: &World, provider: &PolledProvider) {
    let ask = || async { vehicles(world).await };
    let wanted = provider.records();
    eventually(SOON, "every record has its effect", ask, |found| {
        *found == wanted
    })
    .await;
}

/// Waits until there is a cursor, which from here on is a number of records.
async fn asked_while_empty(world: &World) {
    let ask = || async {
        let query = "SELECT count(cursor) FROM core.poll_feed";
        let found = sqlx::query_scalar::<_, i64>(query).fetch_one(&world.pool);
        found.await.unwrap()
    };
    eventually(SOON, "there is a cursor", ask, |found| *found == 1).await;
}

/// What the cursor says was read, what had its effect, and which numbers were seen: of one moment.
async fn standing(world: &World) -> (u64, u64, String) {
    let query = "SELECT f.cursor, (SELECT count(*) FROM core.vehicle),
                        COALESCE((SELECT seen::text FROM core.session
                                  WHERE session = f.session AND partition = 0), '{}')
                 FROM core.poll_feed AS f";
    let (cursor, effect, seen) = sqlx::query_as::<_, (Option<Value>, i64, String)>(query)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    let read = cursor.map_or(0, |cursor| {
        let link = cursor["link"].as_str().and_then(start);
        let since = cursor["run"]["since"].as_str().and_then(number);
        link.or(since).expect("the cursor says how far it is")
    });
    (read, effect.cast_unsigned(), seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn cursor_and_effect_never_disagree_however_often_the_core_is_killed() {
    const PAGE: u64 = 20;
    let kills = std::env::var("HEADRACE_TEST_KILLS");
    let kills = kills.map_or(5, |text| text.parse().expect("a number"));
    let world = World::with(Options {
        without: Service::ALL.to_vec(),
        ..Options::default()
    })
    .await;
    let provider = PolledProvider::start(KEY, PAGE).await;
    let mut running = core(&world);
    ready(&world, &running).await;
    connect(&world, &running.url(), &provider, "", json!({})).await;
    asked_while_empty(&world).await;
    let mut asked = 0;
    for _ in 0..kills {
        provider.receive(PAGE * 40);
        asked = provider.hits().len().max(asked) + rand::rng().random_range(2..20);
        let ask = || async { provider.hits().len() };
        eventually(SOON, "it is being read", ask, |hits| *hits >= asked).await;
        // Any point between a question and the next.
        let point = rand::rng().random_range(0..20_000);
        tokio::time::sleep(Duration::from_micros(point)).await;
        running.kill().await;
        // What was being committed when it died is over once its connections are closed.
        let query = "SELECT count(*) FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name LIKE 'ingress-consumer%'";
        let ask = || async {
            let open = sqlx::query_scalar::<_, i64>(query).fetch_one(&world.pool);
            open.await.unwrap()
        };
        eventually(SOON, "its connections are closed", ask, |open| *open == 0).await;
        let (read, effect, seen) = standing(&world).await;
        assert_eq!(read, effect, "the cursor is not where the effect is");
        let dense = if effect == 0 {
            "{}".to_owned()
        } else {
            format!("{{[1,{})}}", effect + 1)
        };
        assert_eq!(seen, dense, "not every record has one number");
        running = core(&world);
    }
    all_arrive(&world, &provider).await;
    let (read, effect, _) = standing(&world).await;
    assert_eq!((read, effect), (provider.records(), provider.records()));
    // The state is what the provider served.
    let wrong = "SELECT count(*) FROM core.vehicle
                 WHERE (signals -> 'speed' ->> 'value')::float8
                       IS DISTINCT FROM (split_part(vehicle, '-', 2)::int % 90)";
    let wrong: i64 = sqlx::query_scalar(wrong)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(wrong, 0, "vehicles with another state than was served");
    running.kill().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_no_effect_before_its_cursor_moves_nor_once_its_claim_is_lost() {
    let world = world().await;
    world.ready(Service::IngressConsumer).await;
    let provider = PolledProvider::start(KEY, 5).await;
    let base = world.core_url();
    let connection = connect(&world, &base, &provider, "", json!({})).await;
    asked_while_empty(&world).await;
    provider.slow(Duration::from_millis(300));
    provider.receive(20);
    let asked = provider.hits().len() + 2;
    let ask = || async { provider.hits().len() };
    eventually(SOON, "it is being read", ask, |hits| *hits >= asked).await;
    // The question is under way. Its page can be written, but not the cursor.
    let mut tx = world.pool.begin().await.unwrap();
    sqlx::query("SELECT 1 FROM core.poll FOR UPDATE")
        .execute(&mut *tx)
        .await
        .unwrap();
    let transactions = |waiting: bool| {
        let pool = &world.pool;
        async move {
            let query = "SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database()
                           AND application_name LIKE 'ingress-consumer%' AND xact_start IS NOT NULL
                           AND (NOT $1 OR query LIKE '%core.poll%FOR SHARE%')";
            let count = sqlx::query_scalar::<_, i64>(query).bind(waiting);
            count.fetch_one(pool).await.unwrap()
        }
    };
    let ask = || transactions(true);
    eventually(SOON, "the cursor waits", ask, |waiting| *waiting == 1).await;
    let (read, effect, _) = standing(&world).await;
    assert_eq!(
        read, effect,
        "the page has its effect before its cursor moves"
    );
    // Somebody else claims the connection, as after the end of a lease, and does nothing with it.
    sqlx::query("UPDATE core.poll SET epoch = epoch + 1, paused = true, lease_until = now()")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let ask = || transactions(false);
    eventually(SOON, "the run has ended", ask, |open| *open == 0).await;
    let (after, effect_after, _) = standing(&world).await;
    assert_eq!(
        (after, effect_after),
        (read, effect),
        "a lost claim had an effect"
    );
    assert_eq!(act(&world, connection, "resume").await.0, 204);
    all_arrive(&world, &provider).await;
    let (read, _, seen) = standing(&world).await;
    assert_eq!((read, seen.as_str()), (20, "{[1,21)}"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_frozen_beyond_its_lease_has_no_effect_any_more() {
    let world = World::with(Options {
        without: Service::ALL.to_vec(),
        ..Options::default()
    })
    .await;
    let provider = PolledProvider::start(KEY, 5).await;
    let frozen = core(&world);
    ready(&world, &frozen).await;
    connect(&world, &frozen.url(), &provider, "", json!({})).await;
    asked_while_empty(&world).await;
    // Slow enough that the question is still under way when it is frozen.
    provider.slow(Duration::from_secs(1));
    provider.receive(100);
    let asked = provider.hits().len() + 2;
    let ask = || async { provider.hits().len() };
    eventually(SOON, "it is being read", ask, |hits| *hits >= asked).await;
    frozen.signal(Signal::STOP);
    provider.slow(Duration::from_millis(50));
    let other = core(&world);
    let asked = provider.hits().len() + 3;
    eventually(SOON, "the other reads on", ask, |hits| *hits >= asked).await;
    // An old cursor that came through now would have records read again, under new numbers.
    frozen.signal(Signal::CONT);
    all_arrive(&world, &provider).await;
    provider.receive(20);
    all_arrive(&world, &provider).await;
    let (read, effect, seen) = standing(&world).await;
    assert_eq!((read, effect), (120, 120));
    assert_eq!(seen, "{[1,121)}");
    frozen.kill().await;
    other.kill().await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_ask_for_many_connections_in_turns_and_within_the_budget() {
    const CONNECTIONS: usize = 200;
    const PER_SECOND: usize = 50;
    let world = World::with(Options {
        without: Service::ALL.to_vec(),
        ..Options::default()
    })
    .await;
    let provider = PolledProvider::start(KEY, 10).await;
    provider.slow(Duration::from_millis(20));
    let replicas = [core(&world), core(&world)];
    for replica in &replicas {
        ready(&world, replica).await;
    }
    // Every 2 s each is twice what the budget allows.
    let settings = json!({"interval": "2s",
        "requests_per_minute": {"positions": 60 * PER_SECOND}});
    for n in 0..CONNECTIONS {
        let base = replicas[n % 2].url();
        connect(
            &world,
            &base,
            &provider,
            &format!("/c{n}"),
            settings.clone(),
        )
        .await;
    }
    let begun = Instant::now();
    let least = || async {
        let hits = provider.hits();
        let since = hits.iter().filter(|hit| hit.at > begun);
        let mut counts = std::collections::BTreeMap::<_, usize>::new();
        for hit in since {
            *counts.entry(hit.prefix.clone()).or_default() += 1;
        }
        (counts.len(), counts.into_values().min().unwrap_or(0))
    };
    eventually(SOON, "each was asked for four times", least, |least| {
        least.0 == CONNECTIONS && least.1 >= 4
    })
    .await;
    let lasted = begun.elapsed();
    assert_eq!(
        provider.overlaps(),
        0,
        "a connection was asked for twice at once"
    );
    let mut hits = provider.hits();
    hits.sort_by_key(|hit| hit.at);
    // No five seconds have more than they may; two that were delayed differently may fall into them. Of less
    // than that, a machine that stands still for a moment makes much.
    for (index, first) in hits.iter().enumerate() {
        let within = hits[index..]
            .iter()
            .take_while(|hit| hit.at - first.at < Duration::from_secs(5))
            .count();
        assert!(
            within <= 5 * PER_SECOND + 2,
            "{within} requests in 5 s, {PER_SECOND} a second are allowed"
        );
    }
    let most = hits.iter().filter(|hit| hit.at > begun).count() / CONNECTIONS;
    // Nobody got much less than the others: the least had 4.
    assert!(
        most <= 8,
        "some were asked for {most} times on average in {lasted:?}"
    );
    let query = "SELECT count(DISTINCT owner) FROM core.poll WHERE owner IS NOT NULL";
    let ask = || async {
        let owners = sqlx::query_scalar::<_, i64>(query).fetch_one(&world.pool);
        owners.await.unwrap()
    };
    eventually(SOON, "both replicas ask", ask, |owners| *owners == 2).await;
    for replica in replicas {
        replica.kill().await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_provider_is_left_alone_for_as_long_as_it_says_and_that_is_no_failure() {
    for (wait, millis) in [("1", 1000), ("0.40235", 402)] {
        let world = world().await;
        world.ready(Service::IngressConsumer).await;
        let provider = PolledProvider::start(KEY, 10).await;
        provider.receive(25);
        provider.script([Scripted::Limited(wait)]);
        let base = world.core_url();
        let connection = connect(&world, &base, &provider, "", json!({})).await;
        all_arrive(&world, &provider).await;
        let hits = provider.hits();
        let waited = hits[1].at - hits[0].at;
        assert!(
            waited >= Duration::from_millis(millis),
            "{waited:?} for {wait}"
        );
        let feed = feed(&world, connection).await;
        assert_eq!(feed.consecutive_failures, 0);
        assert_eq!(feed.last_error, None);
        assert_eq!(
            (feed.state.as_str(), feed.rows > 0),
            ("ok", true),
            "{feed:?}"
        );
        world.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_in_trouble_is_tried_again_and_the_failures_are_counted() {
    let world = world().await;
    world.ready(Service::IngressConsumer).await;
    let provider = PolledProvider::start(KEY, 10).await;
    provider.receive(5);
    provider.script([
        Scripted::Status(502),
        Scripted::Status(200),
        Scripted::Status(500),
    ]);
    let base = world.core_url();
    let connection = connect(&world, &base, &provider, "", json!({})).await;
    all_arrive(&world, &provider).await;
    let feed = feed(&world, connection).await;
    assert_eq!((feed.state.as_str(), feed.consecutive_failures), ("ok", 0));
    assert!(feed.last_error.unwrap().contains("HTTP 500"));
    assert!(provider.hits().len() >= 4);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_opens_the_circuit_until_somebody_asks() {
    let world = world().await;
    world.ready(Service::IngressConsumer).await;
    let provider = PolledProvider::start("another", 10).await;
    provider.receive(5);
    let base = world.core_url();
    let connection = connect(&world, &base, &provider, "", json!({})).await;
    let ask = || async { feed(&world, connection).await };
    let refused = eventually(SOON, "it is refused", ask, |feed| feed.state == "refused").await;
    let error = refused.last_error.unwrap();
    assert!(
        error.contains("HTTP 401") && !error.contains(KEY),
        "{error}"
    );
    let wait = refused.next_due_at.unwrap() - runtime::clock::now();
    assert!(wait > chrono::TimeDelta::minutes(4), "{wait}");
    let path = format!("/v1/workspaces/w/health/connections/{connection}");
    assert_eq!(provider.hits().len(), 1, "it was asked again, see {path}");
    let told = "SELECT status || ' ' || reason FROM core.connection_status";
    let told: String = sqlx::query_scalar(told)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(told, "disconnected refused");

    provider.take(KEY);
    assert_eq!(act(&world, connection, "poll").await.0, 202);
    all_arrive(&world, &provider).await;
    let ask = || async { feed(&world, connection).await };
    eventually(SOON, "it is well", ask, |feed| feed.state == "ok").await;
    let told = || async {
        let told = sqlx::query_scalar::<_, String>("SELECT status FROM core.connection_status");
        told.fetch_one(&world.pool).await.unwrap()
    };
    eventually(SOON, "others know", told, |told| told == "subscribed").await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_polled_by_request_paused_and_resumed() {
    let world = world().await;
    world.ready(Service::IngressConsumer).await;
    let provider = PolledProvider::start(KEY, 10).await;
    provider.receive(5);
    let base = world.core_url();
    let hourly = json!({"interval": "1h"});
    let connection = connect(&world, &base, &provider, "", hourly).await;
    all_arrive(&world, &provider).await;
    let read = feed(&world, connection).await;
    assert!(read.next_due_at.unwrap() - runtime::clock::now() > chrono::TimeDelta::minutes(50));
    assert_eq!(
        (read.pages, read.rows, read.consecutive_failures),
        (1, 5, 0)
    );
    assert!(read.lag_seconds.is_some() && read.last_success_at.is_some());

    provider.receive(25);
    assert_eq!(act(&world, connection, "poll").await.0, 202);
    all_arrive(&world, &provider).await;
    let ask = || async { feed(&world, connection).await };
    let read = eventually(SOON, "it is up to date", ask, |feed| feed.state == "ok").await;
    assert_eq!((read.pages, read.rows), (3, 25));

    assert_eq!(act(&world, connection, "pause").await.0, 204);
    let (status, problem) = act(&world, connection, "poll").await;
    assert_eq!(
        (status, &problem["type"]),
        (409, &json!("urn:headrace:problem:connection-paused"))
    );
    let paused = feed(&world, connection).await;
    assert_eq!(
        (paused.state.as_str(), paused.next_due_at),
        ("paused", None)
    );
    assert_eq!(act(&world, connection, "resume").await.0, 204);
    provider.receive(1);
    assert_eq!(act(&world, connection, "poll").await.0, 202);
    all_arrive(&world, &provider).await;

    let (_, page) = world.get("/v1/workspaces/w/polls?limit=1").await;
    let page: PollPage = serde_json::from_value(page).unwrap();
    assert_eq!((page.items[0].connection, page.next), (connection, None));
    let (_, other) = world.get("/v1/workspaces/other/polls").await;
    assert_eq!(other["items"], json!([]), "a workspace sees another's");
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8001".parse().unwrap();
    assert_eq!(act(&world, nobody, "poll").await.0, 404);
    let stream = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    for action in ["poll", "pause", "resume"] {
        let (status, problem) = act(&world, stream, action).await;
        assert_eq!(status, 400, "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains("kind stream"));
    }

    let url = world.url(&format!("/v1/workspaces/w/connections/{connection}"));
    assert_eq!(world.http.delete(url).send().await.unwrap().status(), 204);
    assert_eq!(act(&world, connection, "poll").await.0, 404);
    let (_, page) = world.get("/v1/workspaces/w/polls").await;
    assert_eq!(page["items"], json!([]));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_ends_the_run_that_is_under_way() {
    const PAGES: usize = 100;
    let world = world().await;
    world.ready(Service::IngressConsumer).await;
    let provider = PolledProvider::start(KEY, 10).await;
    let base = world.core_url();
    let settings = json!({"interval": "1h", "requests_per_minute": {"positions": 1200}});
    let connection = connect(&world, &base, &provider, "", settings).await;
    all_arrive(&world, &provider).await;
    let hits = || async { provider.hits().len() };
    let before = eventually(SOON, "it was asked for", hits, |hits| *hits > 0).await;
    provider.receive(10 * PAGES as u64);
    assert_eq!(act(&world, connection, "poll").await.0, 202);
    eventually(SOON, "pages are read", hits, |hits| *hits >= before + 3).await;
    assert_eq!(act(&world, connection, "pause").await.0, 204);
    let query = "SELECT count(*) FROM core.poll WHERE owner IS NOT NULL";
    let running = || async {
        let owners = sqlx::query_scalar::<_, i64>(query).fetch_one(&world.pool);
        owners.await.unwrap()
    };
    eventually(SOON, "the run is over", running, |running| *running == 0).await;
    let read = hits().await - before;
    assert!(
        read < PAGES,
        "all {read} pages were read in spite of the pause"
    );

    assert_eq!(act(&world, connection, "resume").await.0, 204);
    all_arrive(&world, &provider).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_is_far_behind_leaves_others_their_turn() {
    let world = World::with(Options {
        settings: vec![
            ("polling.concurrency", "1"),
            ("polling.pages_per_run", "2"),
            ("polling.look_every", "50ms"),
        ],
        without: vec![Service::IngressPublisher, Service::OutboxRelay],
        ..Options::default()
    })
    .await;
    world.ready(Service::IngressConsumer).await;
    let (behind, other) = (
        PolledProvider::start(KEY, 1).await,
        PolledProvider::start(KEY, 1).await,
    );
    behind.receive(100_000);
    let base = world.core_url();
    let long = connect(&world, &base, &behind, "/a", json!({})).await;
    let ask = || async { behind.hits().len() };
    eventually(SOON, "it is being read", ask, |hits| *hits > 10).await;
    connect(&world, &base, &other, "/b", json!({})).await;
    let ask = || async { other.hits().len() };
    eventually(SOON, "the other has its turn", ask, |hits| *hits >= 3).await;
    let long = feed(&world, long).await;
    assert_eq!(long.state, "behind", "{long:?}");
    assert!(long.pages <= 2, "{long:?}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_over_is_opened_again_once_and_a_wrong_password_is_not_tried_again() {
    let world = world().await;
    world.ready(Service::IngressConsumer).await;
    let provider = SessionProvider::start("pass").await;
    provider.receive();
    let add = async |name: &str, credential: &str| -> ConnectionId {
        let path = world.servers.private.data().path();
        let path = path.join(format!("{}-{name}.key", world.vhost));
        std::fs::write(&path, credential).unwrap();
        let body = json!({"provider": "geotab", "kind": "poll", "endpoint": provider.url(),
            "credential": format!("file:{}", path.display()),
            "settings": {"feeds": ["LogRecord"], "interval": "1s", "requests_per_minute": 6000}});
        let url = world.url("/v1/workspaces/w/connections");
        let answer = world.http.post(url).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["id"].as_str().unwrap().parse().unwrap()
    };
    let good = add("good", "db/user:pass").await;
    let ask = || async { vehicles(&world).await };
    eventually(SOON, "the record has its effect", ask, |found| *found == 1).await;
    assert_eq!(provider.authentications(), 1);
    provider.end_session();
    provider.receive();
    eventually(SOON, "so has the next one", ask, |found| *found == 2).await;
    assert_eq!(provider.authentications(), 2);
    let well = feed(&world, good).await;
    assert_eq!((well.consecutive_failures, well.last_error), (0, None));

    let bad = add("bad", "db/user:wrong").await;
    let ask = || async { feed(&world, bad).await };
    let refused = eventually(SOON, "it is refused", ask, |feed| feed.state == "refused").await;
    let error = refused.last_error.unwrap();
    assert!(error.contains("InvalidUserException"), "{error}");
    assert_eq!(provider.authentications(), 3);
    world.stop().await;
}
