//! What a provider saw while no socket was open is asked for, and has its effect.

use std::time::Duration;

use chrono::{DateTime, Utc};
use provider_sim::{Closing, Sample, ScriptedProvider};
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, eventually, provider};
use tests::model::{Fold, shown};

const SOON: Duration = Duration::from_mins(1);

async fn world() -> World {
    World::with(Options {
        settings: vec![
            ("backfill.settle", "100ms"),
            ("backfill.requests_per_second", "1000"),
        ],
        ..Options::default()
    })
    .await
}

/// What a provider keeps of one label, as samples and as the frames that they would have been.
fn kept(vehicle: &str, label: &str, first: i64, values: &[Value]) -> (Vec<Sample>, Vec<String>) {
    let samples = (first..).zip(values).map(|(time, value)| Sample {
        time,
        value: value.clone(),
    });
    let frames = (first..)
        .zip(values)
        .map(|(time, value)| frame(vehicle, label, value.clone(), time));
    (samples.collect(), frames.collect())
}

/// How many frames the core has seen.
async fn seen(world: &World) -> i64 {
    let query =
        "SELECT coalesce(sum(upper(r) - lower(r)), 0)::bigint FROM core.session, unnest(seen) AS r";
    sqlx::query_scalar(query)
        .fetch_one(&world.pool)
        .await
        .unwrap()
}

/// Breaks the socket, and waits for the next one.
async fn interrupt(provider: &ScriptedProvider) {
    let subscriptions = provider.subscriptions().len();
    provider.close_all(&Closing::Abrupt);
    provider.subscriptions_received(subscriptions + 1).await;
    provider.subscribed(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_ends_in_the_right_state_and_is_counted() {
    let world = world().await;
    let provider = provider();
    let settings = json!({"vehicles": {
        "bus-1": ["soc", "odo"], "bus-2": ["soc", "odo"], "bus-3": ["odo"],
    }});
    world.connect("w", &provider.live_url(), settings).await;
    provider.subscribed(1).await;
    let asked = || async { provider.rest_requests().len() };
    eventually(SOON, "the latest values are asked for", asked, |asked| {
        *asked == 1
    })
    .await;

    let now = runtime::clock::now().timestamp_millis();
    let live = vec![
        frame("bus-1", "soc", json!(80.0), now - 20_000),
        frame("bus-1", "odo", json!(100.0), now - 20_000),
        frame("bus-2", "soc", json!(60.0), now - 20_000),
    ];
    assert_eq!(provider.send_all(live.clone()).await, 1);
    let seen = || seen(&world);
    // The echo of the subscription is a frame too.
    eventually(SOON, "what was live", seen, |seen| *seen == 4).await;

    let falling: Vec<_> = (1..=1000)
        .map(|n| json!(80.0 - f64::from(n) * 0.01))
        .collect();
    let (soc, soc_frames) = kept("bus-1", "soc", now - 15_000, &falling);
    provider.add_history("bus-1", "soc", soc);
    let (odo, odo_frames) = kept("bus-1", "odo", now - 14_000, &[json!(101.5), json!(null)]);
    provider.add_history("bus-1", "odo", odo);
    // Older than what is known: it arrives, and changes nothing.
    let (old, old_frames) = kept("bus-2", "soc", now - 30_000, &[json!(99.0)]);
    provider.add_history("bus-2", "soc", old);
    // A vehicle that was not heard from for three days.
    let days_ago = now - 3 * 24 * 3_600_000;
    let stored = Sample {
        time: days_ago,
        value: json!(7.0),
    };
    provider.set_state("bus-3", "odo", stored);
    interrupt(&provider).await;

    // Two echoes, three live, one latest value, and all that has a value in the history.
    let expected = 2 + 3 + 1 + 1000 + 1 + 1;
    eventually(SOON, "every value", seen, |seen| *seen == expected).await;
    world.drained().await;

    let stored = frame("bus-3", "odo", json!(7.0), days_ago);
    let all: Vec<_> = [live, soc_frames, odo_frames, old_frames, vec![stored]].concat();
    let fold = Fold::of(&all);
    for vehicle in ["bus-1", "bus-2", "bus-3"] {
        let path = format!("/v1/workspaces/w/vehicles/{vehicle}/snapshot");
        let ask = || async { shown(&world.get(&path).await.1) };
        let expected = fold.signals(vehicle);
        eventually(SOON, vehicle, ask, |found| *found == expected).await;
    }
    // What is stored for days is no sign of life.
    for (vehicle, freshness) in [("bus-1", "fresh"), ("bus-3", "offline")] {
        let path = format!("/v1/workspaces/w/vehicles/{vehicle}/health");
        let ask = || async { world.get(&path).await.1 };
        eventually(SOON, freshness, ask, |found| {
            found["freshness"] == freshness
        })
        .await;
    }
    let heard: DateTime<Utc> =
        sqlx::query_scalar("SELECT last_received_at FROM core.vehicle WHERE vehicle = 'bus-3'")
            .fetch_one(&world.pool)
            .await
            .unwrap();
    assert_eq!(heard.timestamp_millis(), days_ago);
    assert_eq!(seen().await, expected, "nothing is read twice");
    world.stop().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_backfill_asks_nothing() {
    let world = world().await;
    let provider = provider();
    let settings = json!({"vehicles": {"bus-1": ["soc"]}, "backfill": false});
    world.connect("w", &provider.live_url(), settings).await;
    provider.subscribed(1).await;
    interrupt(&provider).await;
    let now = runtime::clock::now().timestamp_millis();
    provider
        .send_text(frame("bus-1", "soc", json!(55), now))
        .await;
    let path = "/v1/workspaces/w/vehicles/bus-1/snapshot";
    let ask = || async { world.get(path).await.1 };
    eventually(SOON, "the live value", ask, |found| {
        found["signals"]["state_of_charge"]["value"] == 55.0
    })
    .await;
    assert_eq!(provider.rest_requests(), []);
    world.stop().await;
    provider.stop().await;
}
