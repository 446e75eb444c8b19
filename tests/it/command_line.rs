//! The commands that look at a running system: status, vehicles and tail.

use headrace::services::Service;
use serde_json::json;
use tests::frames::frame;
use tests::harness::{World, envelopes};

use crate::program::headrace;

fn now() -> i64 {
    runtime::clock::now().timestamp_millis()
}

#[tokio::test(flavor = "multi_thread")]
async fn status_vehicles_and_tail_show_what_is_going_on() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    for service in Service::ALL {
        world.ready(service).await;
    }
    let run = |arguments: &'static [&'static str]| headrace(&world, arguments);
    run(&["status"]).await.says("ingress");
    let status = run(&["status", "--json", "--workspace=w"]).await;
    status.succeeds();
    assert_eq!(status.json()["workspaces"][0]["workspace"], "w");
    run(&["vehicles", "--workspace=w"]).await.says("bus-1");
    let some = [
        "vehicles",
        "--workspace=w",
        "--freshness=never_seen,fresh",
        "--json",
    ];
    let vehicles = headrace(&world, &some).await;
    assert_eq!(vehicles.lines()[0]["vehicle"], "bus-1");
    run(&["vehicles", "--workspace=w", "--freshness=rotten"])
        .await
        .fails_for("rotten");
    run(&["vehicles"]).await.fails_for("name one with -w");

    let tail = &[
        "tail",
        "--workspace=w",
        "--vehicle=bus-1",
        "--count=2",
        "--json",
    ];
    let follow = run(tail);
    let drive = async {
        // Until the tail has its two: it begins when it begins.
        for number in 0.. {
            let body = frame("bus-1", "odo", json!(number * 1000), now());
            world.send(&envelopes("w", connection, &[body])).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    let limit = tokio::time::sleep(std::time::Duration::from_mins(1));
    tokio::select! {
        () = limit => panic!("the tail has not seen two events"),
        ran = follow => {
            let events = ran.lines();
            assert_eq!(events.len(), 2);
            assert!(events.iter().all(|event| event["event"]["subject"] == "bus-1"), "{events:?}");
            assert_ne!(events[0]["position"], events[1]["position"]);
        }
        () = drive => {}
    }
    run(&["tail", "--workspace=w", "--after=nonsense"])
        .await
        .fails_for("no id of an event");
    world.stop().await;
}
