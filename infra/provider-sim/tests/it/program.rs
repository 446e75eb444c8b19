//! The binary.

use crate::client::{Client, http, soon};
use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::Command,
};

#[tokio::test]
async fn it_serves_until_it_is_terminated() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_provider-sim"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--disconnect-every",
            "0s",
            "--vehicles",
            "3",
        ])
        .args([
            "--authorisation-delay",
            "10ms",
            "--parked-every",
            "1s",
            "--rate",
            "20",
        ])
        .env(
            "PROVIDER_SIM_API_KEY",
            format!("another,{}", crate::client::KEY),
        )
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(program.stderr.take().unwrap()).lines();
    let first = soon("the first line", log.next_line())
        .await
        .unwrap()
        .unwrap();
    let live = first
        .split('"')
        .find(|part| part.starts_with("ws://"))
        .unwrap();
    let base = first
        .split('"')
        .find(|part| part.starts_with("http://"))
        .unwrap();

    assert_eq!(http(base, "GET /control/healthz", "").await.0, 200);
    let subscription = r#"{"vehicles":{"bus-1":["odo"],"bus-2":["odo"],"bus-3":["odo"]}}"#;
    Client::subscribed(live, subscription).await.datum().await;

    let id = program.id().unwrap().to_string();
    let told = Command::new("kill")
        .args(["-TERM", &id])
        .status()
        .await
        .unwrap();
    assert!(told.success());
    let status = soon("the exit", program.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn it_speaks_the_polled_protocols_too() {
    for provider in ["rfms", "samsara", "geotab"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_provider-sim"))
            .args(["--provider", provider, "--listen", "127.0.0.1:0"])
            .args(["--vehicles", "2", "--clock-skew-ms", "-500"])
            .env_remove("RUST_LOG")
            .env_remove("PROVIDER_SIM_API_KEY")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(program.stderr.take().unwrap()).lines();
        let first = soon("the first line", log.next_line())
            .await
            .unwrap()
            .unwrap();
        let control = first.split("control=").nth(1).unwrap();
        let base = control.split('"').nth(1).unwrap();
        let (code, counts) = http(base, "GET /control/stats", "").await;
        assert_eq!((code, &counts["vehicles"]), (200, &serde_json::json!(2)));
        let id = program.id().unwrap().to_string();
        let told = Command::new("kill")
            .args(["-TERM", &id])
            .status()
            .await
            .unwrap();
        assert!(told.success());
        let status = soon("the exit", program.wait()).await.unwrap();
        assert_eq!(status.code(), Some(0), "{provider}");
    }
}
