//! The `headrace` command as a user runs it: one process to start, one signal to stop.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_mins(3);
const SOON: Duration = Duration::from_mins(1);

fn headrace(arguments: &[&str], data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headrace"));
    command
        .args(arguments)
        .arg("--data")
        .arg(data)
        .env_remove("API_URL")
        .env_remove("API_KEY");
    command
}

/// A directory that the database's user can reach.
fn directory() -> TempDir {
    let permissions = Permissions::from_mode(0o755);
    tempfile::Builder::new()
        .permissions(permissions)
        .tempdir()
        .unwrap()
}

/// A running `headrace`, killed if the test fails.
struct Running {
    child: std::process::Child,
    data: std::path::PathBuf,
}

impl Running {
    fn start(arguments: &[&str], data: &Path) -> Self {
        let log = std::fs::File::create(data.join("screen")).unwrap();
        let child = headrace(arguments, data)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut running = Self {
            child,
            data: data.to_owned(),
        };
        running.wait_for_env();
        running
    }

    fn wait_for_env(&mut self) {
        let deadline = Instant::now() + START_LIMIT;
        while !self.data.join("env").exists() {
            let screen = || std::fs::read_to_string(self.data.join("screen")).unwrap();
            assert_eq!(self.child.try_wait().unwrap(), None, "{}", screen());
            assert!(Instant::now() < deadline, "{}", screen());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn env(&self) -> BTreeMap<String, String> {
        let text = std::fs::read_to_string(self.data.join("env")).unwrap();
        text.lines()
            .map(|line| line.split_once('=').unwrap())
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    }

    fn stop(mut self, signal: Signal) -> ExitStatus {
        kill_process(pid(self.child.id()), signal).unwrap();
        let status = self.child.wait().unwrap();
        assert!(
            !self.data.join("env").exists(),
            "the env file is left behind"
        );
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After a failed assertion the servers' watchdog ends what is left.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(number.cast_signed()).unwrap()
}

fn pids(env: &BTreeMap<String, String>) -> BTreeMap<String, Pid> {
    env.iter()
        .filter_map(|(key, value)| {
            Some((
                key.strip_prefix("PID_")?.to_owned(),
                pid(value.parse().unwrap()),
            ))
        })
        .collect()
}

fn is_alive(pid: Pid) -> bool {
    test_kill_process(pid).is_ok()
}

#[track_caller]
fn eventually<T: std::fmt::Debug>(
    what: &str,
    ask: impl Fn() -> T,
    wanted: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        let state = ask();
        if wanted(&state) {
            return state;
        }
        assert!(
            Instant::now() < deadline,
            "still not so: {what}; last seen: {state:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn get(key: &str, url: &str) -> Value {
    runtime::telemetry::install_tls();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        match reqwest::Client::new()
            .get(url)
            .bearer_auth(key)
            .send()
            .await
        {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    })
}

/// The status of the answer to whoever comes with `key`, or with nothing.
fn status(key: Option<&str>, url: &str) -> u16 {
    runtime::telemetry::install_tls();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut request = reqwest::Client::new().get(url);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        request.send().await.unwrap().status().as_u16()
    })
}

/// The odometers of the vehicles of the workspace at `url` that stream.
fn odometers(key: &str, url: &str) -> Vec<f64> {
    let page = get(key, &format!("{url}/vehicles"));
    let items = page["items"].as_array().cloned().unwrap_or_default();
    items
        .iter()
        .filter(|item| item["signals"]["odometer"]["provider"] == "viriciti")
        .filter_map(|item| item["signals"]["odometer"]["value"].as_f64())
        .collect()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn up_shows_moving_vehicles_and_resumes_on_the_same_data() {
    let data = directory();
    let arguments = [
        "up",
        "--vehicles",
        "5",
        "--rate",
        "2",
        "--listen",
        "127.0.0.1:0",
    ];
    let first = Running::start(&arguments, data.path());
    let env = first.env();
    for key in [
        "DATABASE_URL",
        "AMQP_URL",
        "MANAGEMENT_URL",
        "API_URL",
        "CORE_URL",
        "SIMULATOR_URL",
        "WORKSPACE",
    ] {
        assert!(env.contains_key(key), "{key} is missing in {env:?}");
    }
    assert!(pids(&env).values().all(|pid| is_alive(*pid)), "{env:?}");
    let core = get(&env["API_KEY"], &format!("{}/readyz", env["CORE_URL"]));
    assert_eq!(core["status"], "ready", "{core}");
    let workspace = format!("{}/v1/workspaces/{}", env["API_URL"], env["WORKSPACE"]);
    let odometers = || odometers(&env["API_KEY"], &workspace);
    let before = eventually("five vehicles have an odometer", odometers, |found| {
        found.len() == 5
    });
    eventually("some vehicle has moved", odometers, |found| {
        *found != before
    });
    let fresh = || get(&env["API_KEY"], &format!("{workspace}/health"))["fresh"].as_u64();
    // Five that stream and five of each polled provider, of which one is the first that streams.
    eventually("all are fresh", fresh, |fresh| *fresh == Some(19));
    let screen = std::fs::read_to_string(data.path().join("screen")).unwrap();
    for part in [
        &env["API_URL"],
        &env["MANAGEMENT_URL"],
        "frames in",
        "Ctrl-C",
    ] {
        assert!(screen.contains(part), "{part:?} is not in {screen}");
    }

    let key = env["API_KEY"].clone();
    let me = get(&key, &format!("{}/v1/me", env["API_URL"]));
    assert_eq!(me["workspaces"], serde_json::json!(["demo"]), "{me}");
    let keys = format!("{workspace}/api-keys");
    assert_eq!(status(Some(&key), &keys), 200);
    assert_eq!(status(None, &keys), 401);
    let others = format!("{}/v1/workspaces/depot/api-keys", env["API_URL"]);
    assert_eq!(status(Some(&key), &others), 403);
    assert!(screen.contains(&key), "{screen}");
    let file = data.path().join("api-key");
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others can read the key");

    let reconciled = headrace(&["reconcile", "--wait", "1m"], data.path())
        .output()
        .unwrap();
    let said = text(&reconciled);
    assert!(reconciled.status.success(), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with("reconcile: ok: "), "{said}");

    let second = headrace(&["services"], data.path()).output().unwrap();
    assert!(!second.status.success());
    assert!(
        text(&second).contains("in use by process"),
        "{}",
        text(&second)
    );

    let version = |workspace: &str| {
        get(
            &env["API_KEY"],
            &format!("{workspace}/vehicles/bus-1/snapshot"),
        )["version"]
            .as_u64()
            .unwrap_or_default()
    };
    let reached = version(&workspace);
    let processes = pids(&env);
    assert!(first.stop(Signal::INT).success());
    assert!(
        !processes.values().any(|pid| is_alive(*pid)),
        "{processes:?}"
    );

    let second = Running::start(&arguments, data.path());
    let env = second.env();
    let workspace = format!("{}/v1/workspaces/{}", env["API_URL"], env["WORKSPACE"]);
    assert_eq!(env["API_KEY"], key, "the key survives a restart");
    assert!(version(&workspace) >= reached);
    let connections = get(&env["API_KEY"], &format!("{workspace}/connections"));
    assert_eq!(
        connections["items"].as_array().map(Vec::len),
        Some(4),
        "{connections}"
    );
    assert!(second.stop(Signal::TERM).success());
}

#[test]
fn services_may_run_as_processes_which_come_back_when_they_die() {
    let data = directory();
    let arguments = [
        "up",
        "--processes",
        "--no-simulator",
        "--listen",
        "127.0.0.1:0",
    ];
    let running = Running::start(&arguments, data.path());
    let env = running.env();
    let before = pids(&env);
    let names: Vec<_> = before.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "HEADRACE",
            "HEALTH_PROJECTION",
            "INGRESS_CONSUMER",
            "INGRESS_PUBLISHER",
            "LIVE",
            "OUTBOX_RELAY",
            "POSTGRES",
            "RABBITMQ",
            "REACTIONS",
            "SNAPSHOT_PROJECTION",
        ]
    );
    assert!(before.values().all(|pid| is_alive(*pid)), "{before:?}");

    let connection = |arguments: &[&str]| {
        let arguments = [&["connection"], arguments, &["--workspace", "demo"]].concat();
        headrace(&arguments, data.path()).output().unwrap()
    };
    let added = connection(&[
        "add",
        "--endpoint",
        "ws://127.0.0.1:9/api/v2/live",
        "--credential",
        "env:NO_SUCH_KEY",
        "--vehicle",
        "bus-1=soc,odo",
    ]);
    assert!(added.status.success(), "{}", text(&added));
    let added: Value = serde_json::from_slice(&added.stdout).unwrap();
    let id = added["id"].as_str().unwrap();
    let listed = connection(&["list"]);
    assert!(text(&listed).contains(id), "{}", text(&listed));
    let refused = connection(&["add", "--endpoint", "http://x", "--vehicle", "bus-1=soc"]);
    assert!(
        !refused.status.success() && text(&refused).contains("ws://"),
        "{}",
        text(&refused)
    );
    a_key_is_made_and_revoked(data.path(), &env["API_URL"]);
    let removed = connection(&["remove", id]);
    assert!(removed.status.success(), "{}", text(&removed));

    for name in ["INGRESS_CONSUMER", "RABBITMQ"] {
        kill_process(before[name], Signal::KILL).unwrap();
    }
    // By itself, PostgreSQL would wait for its clients, which never leave.
    kill_process(before["POSTGRES"], Signal::TERM).unwrap();
    let after = eventually(
        "the killed are back",
        || pids(&running.env()),
        |after| {
            ["INGRESS_CONSUMER", "POSTGRES", "RABBITMQ"]
                .iter()
                .all(|name| is_another(after, &before, name))
        },
    );
    let known = || {
        get(
            &env["API_KEY"],
            &format!(
                "{}/v1/workspaces/demo/vehicles/bus-1/health",
                env["API_URL"]
            ),
        )["freshness"]
            .clone()
    };
    eventually("the vehicle is known", known, |freshness| {
        freshness == "never_seen"
    });
    assert!(running.stop(Signal::TERM).success());
    assert!(!after.values().any(|pid| is_alive(*pid)), "{after:?}");
}

/// On the command line, with the key that the running system on `data` tells of.
fn a_key_is_made_and_revoked(data: &Path, api: &str) {
    let keys = |arguments: &[&str]| {
        let arguments = [&["keys"], arguments, &["--workspace", "demo"]].concat();
        headrace(&arguments, data).output().unwrap()
    };
    let made = keys(&["create", "--name", "board", "--scope", "read"]);
    assert!(made.status.success(), "{}", text(&made));
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let (board, key) = (made["id"].as_str().unwrap(), made["key"].as_str().unwrap());
    let me = format!("{api}/v1/me");
    assert_eq!(status(Some(key), &me), 200);
    assert!(keys(&["revoke", board]).status.success());
    eventually(
        "the key is revoked",
        || status(Some(key), &me),
        |status| *status == 401,
    );
    let listed = text(&keys(&["list"]));
    assert!(
        listed.contains(r#""state":"revoked""#) && !listed.contains(key),
        "{listed}"
    );
}

/// Whether `name` has come back: as another process, which lives.
fn is_another(after: &BTreeMap<String, Pid>, before: &BTreeMap<String, Pid>, name: &str) -> bool {
    after
        .get(name)
        .is_some_and(|pid| *pid != before[name] && is_alive(*pid))
}

#[test]
fn each_process_that_is_killed_comes_back_and_the_data_flow_on() {
    let data = directory();
    let arguments = [
        "up",
        "--processes",
        "--vehicles",
        "3",
        "--rate",
        "2",
        "--listen",
        "127.0.0.1:0",
    ];
    let running = Running::start(&arguments, data.path());
    let env = running.env();
    let workspace = format!("{}/v1/workspaces/{}", env["API_URL"], env["WORKSPACE"]);
    let odometers = || odometers(&env["API_KEY"], &workspace);
    eventually("the vehicles have odometers", odometers, |found| {
        found.len() == 3
    });
    let known = || get(&env["API_KEY"], &format!("{workspace}/health"))["fresh"].as_u64();
    for name in [
        "INGRESS_CONSUMER",
        "OUTBOX_RELAY",
        "SNAPSHOT_PROJECTION",
        "HEALTH_PROJECTION",
        "INGRESS_PUBLISHER",
    ] {
        let before = pids(&running.env());
        kill_process(before[name], Signal::KILL).unwrap();
        // At no time does the file name a process that is long dead.
        let listed = || pids(&running.env()).get(name).copied();
        let is_true = |listed: &Option<Pid>| *listed != Some(before[name]);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !is_true(&listed()) {
            assert!(
                Instant::now() < deadline,
                "{name}: the dead one is listed still"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        let after = eventually(
            name,
            || pids(&running.env()),
            |after| is_another(after, &before, name),
        );
        let others = before.iter().filter(|(other, _)| *other != name);
        for (other, pid) in others {
            assert_eq!(
                after.get(other),
                Some(pid),
                "{other} has nothing to do with {name}"
            );
        }
        // Under the address that the others know it by.
        let core =
            || get(&env["API_KEY"], &format!("{}/readyz", env["CORE_URL"]))["status"].clone();
        eventually("the core is ready", core, |status| status == "ready");
        let reached = eventually("there are odometers", odometers, |found| found.len() == 3);
        eventually(name, odometers, |found| {
            found.len() == 3 && *found != reached
        });
        eventually("health answers", known, |fresh| {
            fresh.is_some_and(|fresh| fresh > 0)
        });
    }
    let processes = pids(&running.env());
    assert!(running.stop(Signal::TERM).success());
    assert!(
        !processes.values().any(|pid| is_alive(*pid)),
        "{processes:?}"
    );
}

#[test]
fn nothing_is_left_of_a_system_whose_launcher_is_killed_and_the_next_one_starts() {
    let data = directory();
    let arguments = [
        "up",
        "--processes",
        "--no-simulator",
        "--listen",
        "127.0.0.1:0",
    ];
    let running = Running::start(&arguments, data.path());
    let processes = pids(&running.env());
    kill_process(processes["HEADRACE"], Signal::KILL).unwrap();
    let alive = || {
        processes
            .iter()
            .filter(|(_, pid)| is_alive(**pid))
            .map(|(name, _)| name)
            .collect()
    };
    drop(running);
    eventually("all are gone", alive, |alive: &Vec<&String>| {
        alive.is_empty()
    });
    // The env file that it left behind must not pass for the next one's.
    std::fs::remove_file(data.path().join("env")).unwrap();
    let next = Running::start(&arguments, data.path());
    assert!(next.stop(Signal::TERM).success());
}

#[test]
fn a_start_that_is_interrupted_ends_in_order() {
    let data = directory();
    let log = std::fs::File::create(data.path().join("screen")).unwrap();
    let mut child = headrace(&["up"], data.path())
        .stdout(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let screen = || std::fs::read_to_string(data.path().join("screen")).unwrap();
    eventually("the servers are being started", screen, |screen| {
        screen.contains("Starting")
    });
    kill_process(pid(child.id()), Signal::INT).unwrap();
    assert!(child.wait().unwrap().success(), "{}", screen());
    assert!(!data.path().join("env").exists());
}

#[test]
fn a_variable_that_no_service_knows_is_refused_by_name() {
    let data = directory();
    let output = headrace(&["up", "--no-simulator"], data.path())
        .env("HEADRACE_AMQP__COLOUR", "blue")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("HEADRACE_AMQP__COLOUR"),
        "{}",
        text(&output)
    );
}

#[test]
fn services_alone_are_a_broker_and_a_database() {
    let data = directory();
    let running = Running::start(&["services"], data.path());
    let env = running.env();
    assert!(
        env["DATABASE_URL"].starts_with("postgres://") && env["AMQP_URL"].starts_with("amqp://")
    );
    assert!(!env.contains_key("API_URL"));
    assert!(running.stop(Signal::INT).success());
}
