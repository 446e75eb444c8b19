//! Any service may stop: nothing is lost, and everything resumes by itself.

use std::time::Duration;

use headrace::services::Service;
use serde_json::json;
use tests::EventLog;
use tests::frames::{drives, frame, subscription, vehicles};
use tests::harness::{World, eventually, provider};
use tests::model::{Fold, shown};

const SOON: Duration = Duration::from_mins(1);

/// Stops and starts each service in turn while a provider sends, then compares everything.
#[tokio::test(flavor = "multi_thread")]
async fn each_service_survives_its_stop_with_nothing_lost() {
    let mut world = World::start().await;
    let provider = provider();
    let vehicles = vehicles(10);
    let settings = subscription(&vehicles);
    world.connect("w", &provider.live_url(), settings).await;
    let now = runtime::clock::now().timestamp_millis();
    let frames = drives(5, &vehicles, 1500, now);
    let mut parts = frames.chunks(100);
    let mut send = async || {
        provider.subscribed(1).await;
        let part = parts.next().unwrap_or_default().to_vec();
        assert_eq!(provider.send_all(part).await, 1);
    };
    for service in Service::STOP {
        send().await;
        world.stop_service(service).await;
        if service != Service::IngressPublisher {
            // What comes meanwhile waits where it is.
            send().await;
        }
        world.start_service(service).await;
        world.ready(service).await;
        send().await;
    }
    for _ in 0..5 {
        send().await;
    }
    let all_sent: Vec<_> = frames[..frames.len() - parts.len() * 100].to_vec();

    world.drained().await;
    let seen = || async {
        let query = "SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM core.session, unnest(seen) AS r";
        sqlx::query_scalar::<_, i64>(query)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    // Every session began with the echo of its subscription, which is a frame too.
    let sessions = provider.subscriptions().len();
    let expected = (all_sent.len() + sessions) as i64;
    eventually(SOON, "every frame was seen", seen, |seen| *seen == expected).await;
    world.drained().await;

    world.start_gateway().await;
    let fold = Fold::of(&all_sent);
    for vehicle in &vehicles {
        let path = format!("/v1/workspaces/w/vehicles/{vehicle}/snapshot");
        let ask = || async { shown(&world.get(&path).await.1) };
        let expected = fold.signals(vehicle);
        eventually(SOON, vehicle, ask, |found| *found == expected).await;
    }
    EventLog::read(&world.pool).await.assert_dense();
    world.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_stops_hands_on_what_it_has_read() {
    let mut world = World::start().await;
    let provider = provider();
    world
        .connect(
            "w",
            &provider.live_url(),
            json!({"vehicles": {"bus-1": ["soc"]}}),
        )
        .await;
    provider.subscribed(1).await;
    // One that has not reached the broker yet would leave what it has read in its spool.
    world.ready(Service::IngressPublisher).await;
    let now = runtime::clock::now().timestamp_millis();
    let frames: Vec<_> = (0..500)
        .map(|n| {
            frame(
                "bus-1",
                "soc",
                json!(f64::from(n) * 0.1),
                now + i64::from(n),
            )
        })
        .collect();
    assert_eq!(provider.send_all(frames).await, 1);
    world.stop_service(Service::IngressPublisher).await;
    world.drained().await;
    let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-1/snapshot").await;
    assert_eq!(
        snapshot["signals"]["state_of_charge"]["value"].as_f64(),
        Some(499.0 * 0.1)
    );
    world.stop().await;
    provider.stop().await;
}
