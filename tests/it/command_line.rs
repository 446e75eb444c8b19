//! The commands that look at a running system: status, vehicles and tail.

use std::process::{Output, Stdio};
use std::time::Duration;

use headrace::services::Service;
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::program::{self, headrace};

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
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let limit = tokio::time::sleep(Duration::from_mins(1));
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

#[tokio::test(flavor = "multi_thread")]
async fn status_is_looked_at_again_and_goes_on_while_the_core_is_away() {
    let mut world = World::with(Options::core_only()).await;
    world.ready(Service::IngressConsumer).await;
    let watch = ["status", "--watch=100ms", "--json"];
    let mut watch = program::command(&world, &watch)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut shown = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut told = BufReader::new(watch.stderr.take().unwrap()).lines();
    let limit = Duration::from_mins(1);
    let looked = async {
        let mut times = Vec::new();
        while times.len() < 3 {
            let line = shown.next_line().await.unwrap().unwrap();
            let status: Value = serde_json::from_str(&line).unwrap();
            assert!(status["pipeline"]["ingress"].is_object(), "{status}");
            times.push(status["at"].as_str().unwrap().to_owned());
        }
        assert!(times.is_sorted() && times[0] != times[2], "{times:?}");
    };
    tokio::time::timeout(limit, looked).await.unwrap();
    world.stop_service(Service::IngressConsumer).await;
    let line = tokio::time::timeout(limit, told.next_line()).await;
    let line = line.unwrap().unwrap().unwrap();
    assert!(line.starts_with("headrace: "), "{line}");
    assert_eq!(watch.try_wait().unwrap(), None, "it has ended");
    watch.kill().await.unwrap();
    world.stop().await;
}

/// What comes of `script` in a shell, where `$0` is the program.
async fn shell(script: &str) -> Output {
    let shell = Command::new("bash")
        .args(["--norc", "-c", script])
        .arg(program::program())
        .output();
    shell.await.unwrap()
}

#[tokio::test]
async fn a_shell_takes_the_completions() {
    let shell = shell(r#"eval "$("$0" completions bash)" && complete -p headrace"#).await;
    let known = String::from_utf8_lossy(&shell.stdout);
    assert!(known.contains("headrace"), "{shell:?}");
}

#[tokio::test]
async fn what_nobody_reads_to_its_end_is_no_failure() {
    let shell = shell(r#"set -o pipefail; "$0" completions zsh | true"#).await;
    assert!(
        shell.status.success() && shell.stderr.is_empty(),
        "{shell:?}"
    );
}
