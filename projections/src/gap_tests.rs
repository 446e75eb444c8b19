//! Checkpoints and gaps, from the broker and the core's log to the tables.

use runtime::Context;
use runtime::access::AccessConfig;
use runtime::config::HttpConfig;
use serde_json::Value;
use shared_model::event::EventType;

use crate::fixture::{self, eventually};
use crate::health;
use crate::running::{KIND, Running, applied, bus, pool};
use crate::service_tests::{Relay, changed, get};
use crate::snapshot;

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_arrive_is_fetched_and_nothing_else_is() {
    let running = Running::start(21).await;
    for number in 1..=8 {
        let event = running.append(KIND, bus(number));
        // The third and fourth are lost on their way, and so are the last two.
        if [1, 2, 5, 6].contains(&number) {
            running.relay.send_again(&event).await;
        }
    }
    let whole = |applied: &String| applied == "{[1,9)}";
    eventually(|| running.applied(), whole).await;
    let list = "/v1/workspaces/demo/vehicles";
    let (_, page) = get(running.http, list).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 8);
    let mut asked = running.relay.core.log().asked.clone();
    asked.sort_unstable();
    assert_eq!(asked, [(21, 3, 4), (21, 7, 8)]);

    // Told once more, everything is as it was.
    let events = running.relay.core.log().shards[&21].clone();
    for event in &events {
        running.relay.send_again(event).await;
    }
    running.send(KIND, bus(9)).await;
    eventually(|| running.applied(), |applied| applied == "{[1,10)}").await;
    let progress = || async { running.relay.core.log().progress["snapshot"].clone() };
    eventually(progress, |of| of.applied[&21] == 9).await;
    let lag = || running.metric("headrace_projection_lag_events");
    eventually(lag, |lag| *lag == Some(0.0)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_no_longer_holds_is_read_from_the_state() {
    let running = Running::start(22).await;
    running.relay.core.log().first.insert(22, 4);
    for number in 1..=6 {
        let event = running.append(KIND, bus(number));
        if number == 6 {
            running.relay.send_again(&event).await;
        }
    }
    eventually(|| running.applied(), |applied| applied == "{[1,7)}").await;
    // Of the first three nothing is left but what the core knows of their vehicles.
    let (_, page) = get(running.http, "/v1/workspaces/demo/vehicles").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 6);
    for name in [
        "headrace_projection_lost_events",
        "headrace_projection_lag_events",
    ] {
        eventually(|| running.metric(name), |value| *value == Some(0.0)).await;
    }
    let (status, ready) = get(running.http, "/readyz").await;
    assert_eq!(status, 200, "{ready}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_applied_is_no_gap() {
    let running = Running::start(23).await;
    let refused = changed("bus-1", 1, "\u{0}");
    for data in [bus(2), refused, Value::Null, bus(3)] {
        running.send(KIND, data).await;
    }
    running
        .send(EventType::VehicleHealthChanged, Value::Null)
        .await;
    running.send(KIND, bus(4)).await;
    eventually(|| running.applied(), |applied| applied == "{[1,7)}").await;
    assert_eq!(running.relay.core.log().asked, []);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_tables_are_gone_waits_and_goes_on_by_itself() {
    let running = Running::start(24).await;
    running.send(KIND, bus(1)).await;
    eventually(|| running.applied(), |applied| applied == "{[1,2)}").await;
    let ddl = async |sql: &'static str| sqlx::raw_sql(sql).execute(&running.pool).await.unwrap();
    ddl("ALTER TABLE snapshot.vehicle RENAME TO elsewhere").await;
    running.send(KIND, bus(2)).await;
    let tables = |of: &(u16, Value)| of.1["checks"]["tables"]["status"] == "down";
    let (status, _) = eventually(|| get(running.http, "/readyz"), tables).await;
    assert_eq!(status, 503);
    ddl("ALTER TABLE snapshot.elsewhere RENAME TO vehicle").await;
    eventually(|| running.applied(), |applied| applied == "{[1,3)}").await;
    eventually(|| get(running.http, "/readyz"), |of| of.0 == 200).await;
    assert!(!running.context.stopping().is_cancelled());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_a_checkpoint() {
    let running = Running::start(25).await;
    let context = Context::new("snapshot-projection", "1");
    snapshot::start(context.clone(), running.config.clone())
        .await
        .unwrap();
    eventually(|| get(running.http, "/readyz"), |of| of.0 == 200).await;
    for number in 1..=200 {
        running.send(KIND, bus(number % 7)).await;
    }
    eventually(|| running.applied(), |applied| applied == "{[1,201)}").await;
    context.stop().await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_has_a_checkpoint_too() {
    let amqp = fixture::broker().await;
    let relay = Relay::new(&amqp).await;
    let config = health::HealthConfig {
        amqp,
        database: fixture::database(&health::MIGRATIONS).await,
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: relay.core.config(),
        ..health::HealthConfig::default()
    };
    let pool = pool(&config.database).await;
    let context = Context::new("health-projection", "0");
    let http = health::start(context.clone(), config).await.unwrap().http;
    for number in 1..=3 {
        let event = relay.core.append(0, KIND, bus(number));
        if number != 2 {
            relay.send_again(&event).await;
        }
    }
    eventually(
        || applied(&pool, "health", 0),
        |applied| applied == "{[1,4)}",
    )
    .await;
    let (_, summary) = get(http, "/v1/workspaces/demo/health").await;
    assert_eq!(summary["vehicles"], 3);
    context.stop().await.unwrap();
    relay.stop().await;
}
