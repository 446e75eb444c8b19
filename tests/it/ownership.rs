//! Every stream has one owner, whatever becomes of publishers.
//!
//! Each frame of these tests is the first of a vehicle of its own. So a frame that is lost is a vehicle
//! that is missing, and one that two publishers read is the same vehicle twice.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use headrace::services::Service;
use ingress_consumer::control::{StreamDetails, StreamPage};
use provider_sim::ScriptedProvider;
use rustix::process::Signal;
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, PublisherProcess, World, eventually, provider};

use crate::program::program;

const SOON: Duration = Duration::from_mins(1);
/// How many connections are added at once.
const AT_ONCE: usize = 8;
const LEASE: Duration = Duration::from_secs(3);

fn publisher(world: &World) -> PublisherProcess {
    PublisherProcess::start(world, program(), &[])
}

/// A world without a publisher in it, and `streams` connections to one provider.
async fn world_with(streams: usize) -> (World, ScriptedProvider) {
    let world = World::with(Options {
        without: vec![Service::IngressPublisher],
        ..Options::default()
    })
    .await;
    let provider = provider();
    world.ready(Service::IngressConsumer).await;
    let url = provider.live_url();
    let connect = async |n| {
        let settings = json!({"vehicles": {format!("bus-{n}"): ["soc"]}, "backfill": false});
        world.post_connection("w", &url, settings).await;
    };
    stream::iter(0..streams)
        .for_each_concurrent(AT_ONCE, connect)
        .await;
    (world, provider)
}

async fn streams(world: &World) -> Vec<StreamDetails> {
    let (status, page) = world.get("/v1/workspaces/w/streams?limit=1000").await;
    assert_eq!(status, 200, "{page}");
    serde_json::from_value::<StreamPage>(page).unwrap().items
}

/// Waits until every stream is subscribed, each by one of `owners` and nobody else.
async fn settled(
    world: &World,
    count: usize,
    owners: &[&PublisherProcess],
    limit: Duration,
) -> Vec<StreamDetails> {
    let suffixes: Vec<_> = owners.iter().map(|owner| owner.suffix()).collect();
    let ask = || async {
        let all = streams(world).await;
        let unsettled = all.iter().filter(|stream| {
            let owner = stream.owner.as_deref().unwrap_or_default();
            stream.state != "subscribed"
                || stream.outgoing.is_some()
                || !suffixes.iter().any(|suffix| owner.ends_with(suffix))
        });
        let unsettled = unsettled.count();
        (all, unsettled)
    };
    let what = "every stream is subscribed by one of the owners";
    let (all, _) = eventually(limit, what, ask, |(all, unsettled)| {
        all.len() == count && *unsettled == 0
    })
    .await;
    all
}

fn share(streams: &[StreamDetails], owner: &PublisherProcess) -> usize {
    let suffix = owner.suffix();
    let of = |stream: &&StreamDetails| {
        let owner = stream.owner.as_deref().unwrap_or_default();
        owner.ends_with(&suffix)
    };
    streams.iter().filter(of).count()
}

/// Sends a new vehicle's frame over every socket that is open; returns how many vehicles there are.
async fn send(provider: &ScriptedProvider, sent: &mut usize) {
    let now = runtime::clock::now().timestamp_millis();
    if provider
        .send_text(frame(&format!("new-{sent}"), "soc", json!(50), now))
        .await
        > 0
    {
        *sent += 1;
    }
}

async fn all_arrive(world: &World, sent: usize) {
    let ask = || async {
        let query = "SELECT count(*) FROM core.vehicle WHERE vehicle LIKE 'new-%'";
        let found = sqlx::query_scalar::<_, i64>(query)
            .fetch_one(&world.pool)
            .await;
        usize::try_from(found.unwrap()).unwrap()
    };
    eventually(SOON, "every frame's vehicle is there", ask, |found| {
        *found == sent
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_is_killed_loses_its_streams_to_the_others_within_a_lease() {
    const STREAMS: usize = 300;
    let (world, provider) = world_with(STREAMS).await;
    let (first, second) = (publisher(&world), publisher(&world));
    settled(&world, STREAMS, &[&first, &second], SOON).await;
    let third = publisher(&world);
    // It gets its share, a few at a time.
    let ask = || async { share(&streams(&world).await, &third) };
    eventually(SOON, "the third has its share", ask, |owned| {
        *owned >= STREAMS / 5
    })
    .await;
    let all = settled(&world, STREAMS, &[&first, &second, &third], SOON).await;
    for owner in [&first, &second, &third] {
        let owned = share(&all, owner);
        assert!(owned <= STREAMS * 5 / 12, "one has {owned} of {STREAMS}");
    }
    let ask = || async { provider.connections() };
    eventually(SOON, "each is read once", ask, |open| *open == STREAMS).await;
    let before: BTreeMap<_, _> = all.into_iter().map(|s| (s.connection, s)).collect();

    let suffix = first.suffix();
    first.signal(Signal::KILL);
    let limit = LEASE + Duration::from_secs(5);
    let after = settled(&world, STREAMS, &[&second, &third], limit).await;
    let mut lost = 0;
    for stream in after {
        let before = &before[&stream.connection];
        if before.owner.as_deref().unwrap().ends_with(&suffix) {
            assert!(stream.epoch > before.epoch, "{stream:?}");
            lost += 1;
        }
    }
    assert!(lost > 0, "the first one had no streams");
    let ask = || async { provider.connections() };
    eventually(SOON, "each is read once", ask, |open| *open == STREAMS).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_all_publishers_one_by_one_loses_no_frame() {
    const STREAMS: usize = 20;
    let (world, provider) = world_with(STREAMS).await;
    let mut running = vec![publisher(&world), publisher(&world)];
    settled(&world, STREAMS, &[&running[0], &running[1]], SOON).await;
    let mut sent = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    for _ in 0..2 {
        running.push(publisher(&world));
        let mut old = running.remove(0);
        // The new one is there before the old one goes, as in any rolling restart.
        let known = || async {
            let query = "SELECT count(*) FROM core.publisher WHERE instance LIKE '%' || $1";
            let found = sqlx::query_scalar::<_, i64>(query).bind(running[1].suffix());
            found.fetch_one(&world.pool).await.unwrap()
        };
        eventually(SOON, "the new publisher is known", known, |found| {
            *found == 1
        })
        .await;
        old.signal(Signal::TERM);
        let ended = old.ended();
        tokio::pin!(ended);
        let status = loop {
            tokio::select! {
                status = &mut ended => break status,
                _ = pace.tick() => send(&provider, &mut sent).await,
            }
        };
        assert!(status.success(), "{status}");
        send(&provider, &mut sent).await;
        settled(&world, STREAMS, &[&running[0], &running[1]], SOON).await;
    }
    assert!(sent > 100, "only {sent} frames were sent");
    all_arrive(&world, sent).await;
    let ask = || async { provider.connections() };
    eventually(SOON, "each is read once", ask, |open| *open == STREAMS).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_frozen_beyond_its_lease_closes_its_sockets_and_loses_nothing() {
    const STREAMS: usize = 10;
    let number = |name: &str, usual| {
        std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
    };
    let freezes = number("HEADRACE_TEST_FREEZES", 3);
    let seconds = number("HEADRACE_TEST_FREEZE_SECONDS", 0);
    let (world, provider) = world_with(STREAMS).await;
    let mut publishers = [publisher(&world), publisher(&world)];
    let mut sent = 0;
    for _ in 0..freezes {
        publishers.reverse();
        let [frozen, other] = &publishers;
        settled(&world, STREAMS, &[frozen, other], SOON).await;
        let ask = || async { share(&streams(&world).await, frozen) };
        eventually(SOON, "it owns streams", ask, |owned| *owned > 0).await;
        frozen.signal(Signal::STOP);
        let thaw = tokio::time::Instant::now() + Duration::from_secs(seconds);
        // Its sockets are open and it is the owner, for all that anybody knows.
        for _ in 0..20 {
            send(&provider, &mut sent).await;
        }
        settled(&world, STREAMS, &[other], SOON).await;
        for _ in 0..20 {
            send(&provider, &mut sent).await;
        }
        tokio::time::sleep_until(thaw).await;
        frozen.signal(Signal::CONT);
        let ask = || async { provider.connections() };
        eventually(SOON, "the old sockets are closed", ask, |open| {
            *open == STREAMS
        })
        .await;
    }
    all_arrive(&world, sent).await;
    // No status of an epoch was taken after one of a later epoch.
    let back = "SELECT count(*)
                FROM (SELECT (data ->> 'epoch')::bigint
                             - lag((data ->> 'epoch')::bigint) OVER (
                                 PARTITION BY data ->> 'connection'
                                 ORDER BY (data ->> 'revision')::bigint) AS step
                      FROM core.event_log
                      WHERE event_type = 'connection.status.changed') AS steps
                WHERE step < 0";
    let back: i64 = sqlx::query_scalar(back)
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(back, 0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_owned_is_read_on_while_the_core_is_away() {
    let (mut world, provider) = world_with(4).await;
    let publisher = publisher(&world);
    settled(&world, 4, &[&publisher], SOON).await;
    world.stop_service(Service::IngressConsumer).await;
    let mut sent = 0;
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let started = pace.tick().await;
    while pace.tick().await.duration_since(started) < 2 * LEASE {
        send(&provider, &mut sent).await;
    }
    assert_eq!(provider.connections(), 4);
    assert_eq!(provider.handshakes().len(), 4, "no socket was opened anew");
    world.start_service(Service::IngressConsumer).await;
    settled(&world, 4, &[&publisher], SOON).await;
    all_arrive(&world, sent).await;
    assert_eq!(provider.handshakes().len(), 4, "nor was one afterwards");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_which_the_provider_allows_one_socket_is_closed_before_it_is_opened_elsewhere()
{
    let (world, provider) = world_with(0).await;
    let settings =
        json!({"vehicles": {"bus-1": ["soc"]}, "handover": "exclusive", "backfill": false});
    world.connect("w", &provider.live_url(), settings).await;
    let mut first = publisher(&world);
    settled(&world, 1, &[&first], SOON).await;
    let second = publisher(&world);
    let known = || async {
        let count = "SELECT count(*) FROM core.publisher";
        sqlx::query_scalar::<_, i64>(count)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    eventually(SOON, "both are known", known, |found| *found == 2).await;
    first.signal(Signal::TERM);
    let mut most = 0;
    let watching = async {
        loop {
            most = most.max(provider.connections());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let owners = [&second];
    tokio::select! {
        () = watching => {}
        _ = settled(&world, 1, &owners, SOON) => {}
    }
    assert_eq!(most, 1, "both had a socket at once");
    assert!(first.ended().await.success());
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_publisher_that_was_frozen_goes_on_under_its_epoch_and_says_so() {
    let (world, provider) = world_with(1).await;
    let publisher = publisher(&world);
    let before = settled(&world, 1, &[&publisher], SOON).await;
    let connection = before[0].connection;
    let path = format!("/v1/workspaces/w/health/connections/{connection}");
    let ask = || async { world.get(&path).await.1["status"].clone() };
    eventually(SOON, "it is well", ask, |status| status == "subscribed").await;
    publisher.signal(Signal::STOP);
    let ask = || async { world.get(&path).await.1["reason"].clone() };
    eventually(SOON, "nobody reads it", ask, |reason| reason == "unowned").await;
    publisher.signal(Signal::CONT);
    let ask = || async { world.get(&path).await.1["status"].clone() };
    eventually(SOON, "it is well again", ask, |status| {
        status == "connected" || status == "subscribed"
    })
    .await;
    let after = settled(&world, 1, &[&publisher], SOON).await;
    assert_eq!(after[0].epoch, before[0].epoch);
    let ask = || async { provider.connections() };
    eventually(SOON, "it is read once", ask, |open| *open == 1).await;
    let mut sent = 0;
    send(&provider, &mut sent).await;
    all_arrive(&world, sent).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_publishers_with_one_name_the_later_one_stays() {
    let (world, _provider) = world_with(1).await;
    let beat = async |incarnation: &str| {
        let body = json!({"incarnation": incarnation, "capacity": 10, "draining": false,
            "known": null, "reports": [], "released": []});
        let url = format!("{}/internal/v1/publishers/twin", world.core_url());
        let answer = world.http.put(url).json(&body).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.json::<Value>().await.unwrap())
    };
    let (first, second) = (
        "01890a5d-ac96-774b-bcce-b302099a8001",
        "01890a5d-ac96-774b-bcce-b302099a8002",
    );
    let (status, answer) = beat(first).await;
    assert_eq!((status, &answer["streams"][0]["epoch"]), (200, &json!(1)));
    let (status, answer) = beat(second).await;
    assert_eq!((status, &answer["streams"][0]["epoch"]), (200, &json!(2)));
    let (status, answer) = beat(first).await;
    assert_eq!(status, 409, "{answer}");
    assert_eq!(answer["type"], "urn:headrace:problem:publisher-superseded");
    let (status, answer) = beat(second).await;
    assert_eq!((status, &answer["streams"][0]["epoch"]), (200, &json!(2)));
    world.stop().await;
}
