//! The commands that look at a running system: status, vehicles and tail.

use std::process::ExitCode;

use headrace::services::Service;
use serde_json::json;
use tests::frames::frame;
use tests::harness::{World, envelopes};

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
    for arguments in [
        &["status"][..],
        &["status", "--json", "--workspace=w"],
        &["vehicles", "--workspace=w"],
        &[
            "vehicles",
            "--workspace=w",
            "--freshness=never_seen,fresh",
            "--json",
        ],
    ] {
        assert_eq!(
            world.headrace(arguments).await,
            ExitCode::SUCCESS,
            "{arguments:?}"
        );
    }
    let wrong = ["vehicles", "--workspace=w", "--freshness=rotten"];
    assert_eq!(world.headrace(&wrong).await, ExitCode::FAILURE);
    assert_eq!(
        world.headrace(&["vehicles"]).await,
        ExitCode::FAILURE,
        "which workspace?"
    );

    let tail = [
        "tail",
        "--workspace=w",
        "--vehicle=bus-1",
        "--count=2",
        "--json",
    ];
    let follow = world.headrace(&tail);
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
        code = follow => assert_eq!(code, ExitCode::SUCCESS),
        () = drive => {}
    }
    let lost = ["tail", "--workspace=w", "--after=nonsense"];
    assert_eq!(world.headrace(&lost).await, ExitCode::FAILURE);
    world.stop().await;
}
