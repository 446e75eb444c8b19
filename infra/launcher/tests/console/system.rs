//! The console before the whole system, as `headrace up` starts it.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::driven::Driven;

const START_LIMIT: Duration = Duration::from_mins(3);
const HOSTILE: &str = "\"><img src=x onerror=alert(1)><script>alert(1)</script>";

struct System {
    child: Child,
    data: TempDir,
}

impl System {
    async fn start(arguments: &[&str]) -> Self {
        // The database's user has to get in.
        let data = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .unwrap();
        let screen = std::fs::File::create(data.path().join("screen")).unwrap();
        let child = headrace()
            .args(arguments)
            .arg("--data")
            .arg(data.path())
            .stdout(screen.try_clone().unwrap())
            .stderr(screen)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut system = Self { child, data };
        let deadline = Instant::now() + START_LIMIT;
        while !system.data.path().join("env").exists() {
            let screen = std::fs::read_to_string(system.data.path().join("screen")).unwrap();
            assert_eq!(system.child.try_wait().unwrap(), None, "{screen}");
            assert!(Instant::now() < deadline, "{screen}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        system
    }

    fn env(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.data.path().join("env")).unwrap();
        let lines = text.lines().map(|line| line.split_once('=').unwrap());
        lines
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn stop(mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // After a failed assertion the servers' watchdog ends what is left.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn headrace() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headrace"));
    // What `up` does not know it refuses.
    for name in ["API_URL", "API_KEY", "HEADRACE_TEST_AXE"] {
        command.env_remove(name);
    }
    command
}

/// The rows of vehicles that stream, by name, with what changes while they drive.
const ROWS: &str = "Object.fromEntries([...document.querySelectorAll('.vehicles tbody tr')].map((row) => [row.cells[0].textContent, row.cells[5]?.textContent]))";
/// How those are that only stream.
const STATUSES: &str = "[...document.querySelectorAll('.vehicles tbody tr')].filter((row) => /^bus-[2-5]$/.test(row.cells[0].textContent)).map((row) => row.cells[1].textContent)";

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicle_moves_falls_silent_and_turns_stale_before_ones_eyes() {
    runtime::telemetry::install_tls();
    let data = [
        "up",
        "--vehicles",
        "5",
        "--rate",
        "2",
        "--stale-after",
        "10s",
        "--offline-after",
        "10m",
        "--listen",
        "127.0.0.1:0",
    ];
    let system = System::start(&data).await;
    let env = system.env();
    let driven = Driven::signed_in(&env["API_URL"], &env["API_KEY"]).await;
    driven.evaluate("window.same = true").await;
    // Five that stream and five of each polled provider, of which one is the first that streams.
    driven.shows("19 vehicles").await;
    let before = driven.evaluate(ROWS).await;
    driven
        .until(&format!(
            "(() => {{ const now = {ROWS}, before = {before}; \
             return Object.keys(before).some((name) => now[name] && now[name] !== before[name]); }})()"
        ))
        .await;

    let added = headrace()
        .args(["connection", "add", "--workspace", "demo"])
        .args([
            "--endpoint",
            "ws://127.0.0.1:9/api/v2/live",
            "--credential",
            "env:NO_SUCH_KEY",
        ])
        .args(["--vehicle", "hostile=soc", "--settings"])
        .arg(json!({"vehicle_ids": {"hostile": HOSTILE}}).to_string())
        .arg("--data")
        .arg(system.data.path())
        .output()
        .unwrap();
    assert!(added.status.success(), "{added:?}");
    driven.shows(HOSTILE).await;

    driven.click("[data-key=freshness] button").await;
    // A simulated vehicle may fall silent by itself, but not all at once.
    driven
        .until(&format!(
            "{STATUSES}.length === 4 && {STATUSES}.includes('Fresh')"
        ))
        .await;
    let pause = format!("{}/control/pause", env["SIMULATOR_URL"]);
    let paused = reqwest::Client::new().post(pause).send().await.unwrap();
    assert!(paused.status().is_success(), "{paused:?}");
    driven
        .until(&format!("{STATUSES}.every((status) => status === 'Stale')"))
        .await;
    assert_eq!(
        driven.evaluate("window.same").await,
        true,
        "the page was loaded again"
    );
    driven.picture("system-fleet").await;

    driven.evaluate("location.hash = '#/vehicles/bus-2'").await;
    driven.shows("Heard through").await;
    driven.shows("The vehicle is silent").await;
    driven
        .until("document.querySelectorAll('.signals tbody tr').length > 2")
        .await;
    driven
        .until("!document.body.innerText.includes('Loading')")
        .await;
    driven.picture("system-vehicle").await;
    driven.evaluate("location.hash = '#/pipeline'").await;
    driven.shows("ingress.3").await;
    driven.shows("RabbitMQ’s management pages").await;
    driven
        .until("[...document.querySelectorAll('th[scope=row]')].some((cell) => cell.textContent === 'snapshot')")
        .await;
    driven.picture("system-pipeline").await;
    driven.close(&[]).await;
    system.stop();
}
