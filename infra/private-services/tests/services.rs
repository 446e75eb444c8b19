//! The servers for real: start, crash, restart, and nothing left behind.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use private_services::{
    Binaries, DataDir, Durability, Error, Event, Exit, Postgres, PrivateServices, RabbitMq, Service,
};
use tokio_util::sync::CancellationToken;

/// Set in the child of the watchdog test: the directory to use, or `ephemeral`.
const OWNER: &str = "PRIVATE_SERVICES_TEST_OWNER";

#[tokio::test]
async fn servers_survive_kill_and_restart_with_data_and_ports() {
    let scratch = scratch();
    let path = scratch.path().join("a directory/data");
    let binaries = Binaries::locate();
    let start = async || {
        let data = DataDir::prepare(Some(path.clone())).await.unwrap();
        let durability = Durability::Relaxed;
        PrivateServices::start(&binaries, data, durability)
            .await
            .unwrap()
    };

    let services = start().await;
    let (postgres, rabbitmq) = (services.postgres(), services.rabbitmq());
    postgres.create_database("kept").await.unwrap();
    postgres.create_database("kept").await.unwrap();
    rabbitmq.create_vhost("kept/1").await.unwrap();
    rabbitmq.create_vhost("kept/1").await.unwrap();
    assert_eq!(name_of(postgres.pid().unwrap()), "postgres");
    assert_eq!(name_of(rabbitmq.pid().unwrap()), "beam.smp");
    assert!(speaks_amqp(rabbitmq.port()));
    assert!(http_get(&rabbitmq.prometheus_url()).contains("rabbitmq_identity_info"));
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode("postgres/password"), 0o600);
    assert_eq!(mode("rabbitmq/rabbitmq.conf"), 0o600);
    assert_eq!(mode("rabbitmq"), 0o700);

    // Killed under supervision: both come back, on the same ports, and we are told.
    let urls = (postgres.url("kept"), rabbitmq.amqp_url("kept/1"));
    let killed = (postgres.pid().unwrap(), rabbitmq.pid().unwrap());
    let events = Mutex::new(Vec::new());
    let cancel = CancellationToken::new();
    let count = |events: &[Event]| {
        let restarted = |event: &&Event| matches!(event, Event::Restarted { .. });
        events.iter().filter(restarted).count()
    };
    tokio::join!(
        services.keep_running(cancel.clone(), |event| {
            let mut events = events.lock().unwrap();
            events.push(event);
            if count(&events) == 2 {
                cancel.cancel();
            }
        }),
        async {
            postgres.kill().await.unwrap();
            rabbitmq.kill().await.unwrap();
            assert!(matches!(postgres.wait_exit().await, Exit::Unexpected(_)));
        }
    );
    let events = events.into_inner().unwrap();
    let now = (postgres.pid().unwrap(), rabbitmq.pid().unwrap());
    assert!(now.0 != killed.0 && now.1 != killed.1);
    assert!(events.contains(&Event::Restarted {
        service: Service::PostgreSql,
        pid: now.0
    }));
    assert!(events.contains(&Event::Restarted {
        service: Service::RabbitMq,
        pid: now.1
    }));
    assert_eq!(urls, (postgres.url("kept"), rabbitmq.amqp_url("kept/1")));
    assert!(speaks_amqp(rabbitmq.port()));

    // Restarted by hand, after a kill and without one.
    postgres.kill().await.unwrap();
    postgres.restart().await.unwrap();
    postgres.restart().await.unwrap();
    assert!(query(postgres, "kept"));

    // A second owner is refused by name.
    match DataDir::prepare(Some(path.clone())).await {
        Err(error @ Error::Locked { .. }) => {
            let text = error.to_string();
            assert!(
                text.ends_with(&format!("in use by process {}", std::process::id())),
                "{text}"
            );
        }
        other => panic!("{other:?}"),
    }

    // Stopped in order, the directory is free and has everything.
    services.stop().await.unwrap();
    assert_eq!(postgres.wait_exit().await, Exit::Asked);
    assert_eq!(rabbitmq.wait_exit().await, Exit::Asked);
    assert_eq!(processes_of(&path), Vec::<String>::new());
    let again = start().await;
    assert_eq!(
        urls,
        (
            again.postgres().url("kept"),
            again.rabbitmq().amqp_url("kept/1")
        )
    );
    assert!(query(again.postgres(), "kept"));
    let vhosts = management(&again, "/api/vhosts");
    assert!(vhosts.contains("\"kept/1\""), "{vhosts}");
    again.rabbitmq().delete_vhost("kept/1").await.unwrap();
    again.rabbitmq().delete_vhost("kept/1").await.unwrap();
    assert!(!management(&again, "/api/vhosts").contains("\"kept/1\""));

    // Dropped without a stop: the watchdog stops the servers, and the next owner waits for it.
    drop(again);
    let next = DataDir::prepare(Some(path.clone())).await.unwrap();
    next.close().await.unwrap();
    assert_eq!(processes_of(&path), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_owner_leaves_no_server_behind() {
    let scratch = scratch();
    let kept = scratch.path().join("kept");
    let (mut first, kept) = owner(&kept.to_string_lossy());
    let (mut second, ephemeral) = owner("ephemeral");
    for path in [&kept, &ephemeral] {
        let running = processes_of(path).join(" ");
        for name in ["postgres", "beam.smp", "sh"] {
            assert!(running.contains(name), "{name} in {running}");
        }
    }
    let epmds = [&kept, &ephemeral].map(|path| {
        let text = fs::read_to_string(path.join("rabbitmq/epmd.pid")).unwrap();
        text.split(' ').next().unwrap().parse::<u32>().unwrap()
    });
    assert_eq!(epmds.map(name_of), ["epmd", "epmd"]);
    first.kill();
    second.kill();

    // Taking the directory over waits for the watchdog.
    drop(DataDir::prepare(Some(kept.clone())).await.unwrap());
    eventually(Duration::from_secs(15), || {
        let mut left = processes_of(&kept);
        left.extend(processes_of(&ephemeral));
        left.extend(epmds.map(name_of).into_iter().filter(|name| name == "epmd"));
        left
    })
    .await;
    assert!(kept.join("postgres/data/PG_VERSION").exists());
    assert!(
        !kept.join("postgres/data/postmaster.pid").exists(),
        "stopped in order"
    );
    assert!(!ephemeral.exists());
}

#[tokio::test]
async fn a_removed_directory_does_not_hide_servers_from_the_watchdog() {
    let data = DataDir::ephemeral().await.unwrap();
    let binaries = Binaries::locate();
    let rabbitmq = RabbitMq::start(&binaries, &data).await.unwrap();
    let pid = rabbitmq.pid().unwrap();
    fs::remove_dir_all(data.path()).unwrap();
    data.close().await.unwrap();
    rabbitmq.wait_exit().await;
    assert_ne!(name_of(pid), "beam.smp");
}

/// The child of the test that kills owners; does nothing in an ordinary run.
#[tokio::test]
async fn owner_process() {
    let Ok(place) = std::env::var(OWNER) else {
        return;
    };
    let binaries = Binaries::locate();
    let services = if place == "ephemeral" {
        PrivateServices::ephemeral(&binaries).await.unwrap()
    } else {
        let data = DataDir::prepare(Some(place.into())).await.unwrap();
        PrivateServices::start(&binaries, data, Durability::Full)
            .await
            .unwrap()
    };
    println!("\nready {}", services.data().path().display());
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_failed_start_shows_the_log_and_gives_the_directory_free() {
    let scratch = scratch();
    let path = scratch.path().join("data");
    let binaries = Binaries {
        postgres: Some(private_services::PostgresSource::Installed(
            "/nowhere".into(),
        )),
        ..Binaries::locate()
    };
    let data = DataDir::prepare(Some(path.clone())).await.unwrap();
    let started = PrivateServices::start(&binaries, data, Durability::Relaxed).await;
    let error = started.err().unwrap().to_string();
    assert!(error.contains("/nowhere/initdb"), "{error}");
    assert_eq!(processes_of(&path), Vec::<String>::new());

    let data = DataDir::prepare(Some(path)).await.unwrap();
    let postgres = Postgres::start(&Binaries::locate(), &data, Durability::Relaxed)
        .await
        .unwrap();
    postgres.stop().await.unwrap();
    fs::write(
        data.path().join("postgres/data/postgresql.conf"),
        "nonsense = 1\n",
    )
    .unwrap();
    let error = postgres.restart().await.unwrap_err().to_string();
    assert!(error.contains("PostgreSQL ended while starting"), "{error}");
    assert!(error.contains("nonsense"), "{error}");
}

#[tokio::test]
async fn root_is_told_which_directory_keeps_the_server_out() {
    use std::os::unix::fs::PermissionsExt as _;
    if fs::metadata("/proc/self").is_ok_and(|me| std::os::unix::fs::MetadataExt::uid(&me) != 0) {
        return;
    }
    let scratch = scratch();
    let blocked = scratch.path().join("home");
    fs::create_dir(&blocked).unwrap();
    fs::set_permissions(&blocked, fs::Permissions::from_mode(0o700)).unwrap();
    let data = DataDir::prepare(Some(blocked.join("data"))).await.unwrap();
    let started = Postgres::start(&Binaries::locate(), &data, Durability::Relaxed).await;
    match started.err() {
        Some(Error::Unreachable {
            user, directory, ..
        }) => {
            assert_eq!((user.as_str(), directory), ("postgres", blocked));
        }
        other => panic!("{other:?}"),
    }
}

/// A directory that other users may enter.
fn scratch() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Runs this test binary as an owner of servers; returns when they are ready.
fn owner(place: &str) -> (Owner, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "owner_process", "--nocapture"])
        .env(OWNER, place)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let path = lines
        .find_map(|line| line.unwrap().strip_prefix("ready ").map(PathBuf::from))
        .expect("the owner starts");
    (Owner(child), path)
}

/// Killed with the test, if not before.
struct Owner(std::process::Child);

impl Owner {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn eventually(patience: Duration, left: impl Fn() -> Vec<String>) {
    let deadline = Instant::now() + patience;
    loop {
        let left = left();
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "still there: {left:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Names of the processes that work in `dir` or mention it.
fn processes_of(dir: &Path) -> Vec<String> {
    let dir = dir.to_string_lossy();
    let own = std::process::id().to_string();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|process| !process.ends_with(&own))
        .filter(|process| {
            let cwd = fs::read_link(process.join("cwd")).unwrap_or_default();
            let cmdline = fs::read(process.join("cmdline")).unwrap_or_default();
            cwd.starts_with(&*dir) || String::from_utf8_lossy(&cmdline).contains(&*dir)
        })
        .filter_map(|process| fs::read_to_string(process.join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

fn name_of(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim().to_owned()
}

fn query(postgres: &Postgres, database: &str) -> bool {
    Command::new("psql")
        .args(["-XqAt", "-c", "SELECT 1", &postgres.url(database)])
        .status()
        .unwrap()
        .success()
}

/// Whether a protocol header is answered by connection.start.
fn speaks_amqp(port: u16) -> bool {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream.write_all(b"AMQP\x00\x00\x09\x01").unwrap();
    let mut frame = [0; 11];
    stream.read_exact(&mut frame).is_ok() && frame[0] == 1 && frame[7..] == [0, 10, 0, 10]
}

fn http_get(url: &str) -> String {
    let output = Command::new("curl").args(["-sS", url]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn management(services: &PrivateServices, path: &str) -> String {
    let rabbitmq = services.rabbitmq();
    let url = rabbitmq.management_url().replace(
        "http://",
        &format!("http://{}:{}@", rabbitmq.user(), rabbitmq.password()),
    );
    http_get(&format!("{url}{path}"))
}
