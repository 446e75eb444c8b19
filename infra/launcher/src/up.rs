//! `headrace up` and `headrace services`.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use private_services::{Binaries, DataDir, Durability, Event, PrivateServices};
use reqwest::Client;
use runtime::access::{AccessConfig, InternalToken};
use runtime::backoff::Backoff;
use runtime::config::{self, HttpConfig};
use runtime::{Context, access, telemetry};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::cli::{DataArguments, UpArguments};
use crate::counts::Sources;
use crate::demo::{self, Providers};
use crate::demo_key;
use crate::env_file::EnvFile;
use crate::gateway::{self, CorsConfig, GatewayConfig, Upstreams};
use crate::hosting::{Host, Hosted};
use crate::screen::Screen;
use crate::services::{self, Service, Setting};

const COUNT_EVERY: Duration = Duration::from_secs(5);
const READY_LIMIT: Duration = Duration::from_mins(1);
/// On one machine there is nothing to spare, so noise is published soon.
const SWEEP_AFTER: Duration = Duration::from_secs(2);
/// Nor is there a reason to wait long for a new connection to be read.
const HEARTBEAT: &str = "1s";
const GATEWAY: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
const DATABASE: &str = "headrace";

/// Runs `headrace up`.
#[must_use]
pub fn main(arguments: UpArguments) -> ExitCode {
    run(async move |stop| {
        let servers = Servers::start(&arguments.data).await?;
        let result = up(&arguments, &servers, &stop).await;
        let stopped = servers.stop().await;
        result.and(stopped)
    })
}

/// Runs `headrace services`.
#[must_use]
pub fn services_main(arguments: DataArguments) -> ExitCode {
    run(async move |stop| {
        let servers = Servers::start(&arguments).await?;
        servers.env_file.publish()?;
        println!("\nThe broker and the database are up.\n");
        println!("  for scripts     {}", servers.env_file.path().display());
        println!("\nCtrl-C stops them; the data stay.");
        stop.cancelled().await;
        servers.stop().await
    })
}

fn run(work: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("headrace: the async runtime does not start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let signalled = stop.clone();
        tokio::spawn(async move {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            println!("Stopping …");
            signalled.cancel();
            // A second one ends a start or stop that hangs; the servers' watchdog cleans up.
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            std::process::exit(1);
        });
        work(stop).await
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("headrace: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The private servers, kept running, and the env file that tells of them.
struct Servers {
    private: Arc<PrivateServices>,
    env_file: Arc<EnvFile>,
    /// By which the services know one another, for as long as they run.
    internal_token: String,
    telemetry: telemetry::Telemetry,
    keeping: CancellationToken,
    keeper: tokio::task::JoinHandle<()>,
}

impl Servers {
    async fn start(arguments: &DataArguments) -> anyhow::Result<Self> {
        let data = DataDir::prepare(arguments.data.clone()).await?;
        std::fs::create_dir_all(data.logs())?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(data.logs().join("headrace.log"))?;
        let telemetry = telemetry::init("headrace", telemetry::Output::File(log));
        let binaries = Binaries::locate_or_install(|line| println!("{line}")).await?;
        println!(
            "Starting PostgreSQL and RabbitMQ in {} …",
            data.path().display()
        );
        let env_file = Arc::new(EnvFile::new(data.path())?);
        // Not cut short by Ctrl-C: servers that are up can be stopped in order.
        let private = Arc::new(PrivateServices::start(&binaries, data, Durability::Full).await?);
        let rabbitmq = private.rabbitmq();
        env_file.set("DATABASE_URL", private.postgres().url(DATABASE));
        env_file.set("AMQP_URL", rabbitmq.amqp_url("/"));
        env_file.set("MANAGEMENT_URL", rabbitmq.management_url());
        env_file.set("MANAGEMENT_USER", rabbitmq.user());
        env_file.set("MANAGEMENT_PASSWORD", rabbitmq.password());
        env_file.set_pid("headrace", std::process::id());
        for (name, pid) in [
            ("postgres", private.postgres().pid()),
            ("rabbitmq", rabbitmq.pid()),
        ] {
            if let Some(pid) = pid {
                env_file.set_pid(name, pid);
            }
        }
        let keeping = CancellationToken::new();
        let keeper = tokio::spawn({
            let (private, env_file) = (Arc::clone(&private), Arc::clone(&env_file));
            let keeping = keeping.clone();
            async move {
                private
                    .keep_running(keeping, |event| note(&env_file, event))
                    .await;
            }
        });
        Ok(Self {
            private,
            env_file,
            internal_token: access::new_secret()?.expose().to_owned(),
            telemetry,
            keeping,
            keeper,
        })
    }

    fn access(&self) -> AccessConfig {
        AccessConfig::internal(&self.internal_token)
    }

    async fn stop(self) -> anyhow::Result<()> {
        println!("Stopping PostgreSQL and RabbitMQ …");
        self.env_file.remove();
        self.keeping.cancel();
        self.keeper.await?;
        let stopped = self.private.stop().await;
        self.telemetry.flush();
        Ok(stopped?)
    }
}

fn note(env_file: &EnvFile, event: Event) {
    let name = |service| match service {
        private_services::Service::PostgreSql => "postgres",
        private_services::Service::RabbitMq => "rabbitmq",
    };
    match event {
        Event::Crashed { service, status } => {
            env_file.remove_pid(name(service));
            println!("{service} ended by itself ({status:?})");
        }
        Event::Restarted { service, pid } => {
            env_file.set_pid(name(service), pid);
            println!("{service} is back as process {pid}");
        }
    }
}

/// Everything that runs on the private servers.
struct System {
    hosted: Vec<Hosted>,
    gateway: (Context, String),
    providers: Option<Providers>,
    api_key: String,
}

async fn up(
    arguments: &UpArguments,
    servers: &Servers,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let mut hosted = Vec::new();
    let started = match stop
        .run_until_cancelled(start(arguments, servers, &mut hosted))
        .await
    {
        Some(Ok(started)) => started,
        ended => {
            let stopped = stop_services(hosted).await;
            // Nothing at all means that somebody asked to stop.
            return ended.map_or(Ok(()), |ended| ended.map(drop)).and(stopped);
        }
    };
    let (gateway, providers, api_key) = started;
    let system = System {
        hosted,
        gateway,
        providers,
        api_key,
    };
    let shown = show(servers, &system, stop).await;
    println!("Stopping the services …");
    servers.env_file.remove();
    let stopped = stop_services(system.hosted).await;
    system.gateway.0.stop().await?;
    if let Some(providers) = system.providers {
        providers.stop().await;
    }
    shown.and(stopped)
}

/// Starts the services into `hosted`, then the gateway and the simulated providers; and makes the key to
/// the APIs.
async fn start(
    arguments: &UpArguments,
    servers: &Servers,
    hosted: &mut Vec<Hosted>,
) -> anyhow::Result<((Context, String), Option<Providers>, String)> {
    let database = servers.private.postgres().url(DATABASE);
    services::migrate(&database).await?;
    let host = Host {
        processes: arguments.processes,
        logs: servers.private.data().logs(),
        env_file: Arc::clone(&servers.env_file),
    };
    let settings = Settings::new(arguments, servers, &database)?;
    for service in Service::ALL {
        let core = hosted.first().map(|core: &Hosted| core.http);
        hosted.push(host.start(service, settings.of(service, core)).await?);
        if service == Service::IngressConsumer {
            if let Some(core) = hosted.last() {
                let url = format!("http://{}", core.http);
                servers.env_file.set("CORE_URL", url);
            }
            // The others ask it, or wait for what its first start makes.
            wait_until_ready(hosted, &local_client(&servers.access())?).await?;
        }
    }
    let gateway = start_gateway(arguments, &servers.access(), hosted).await?;
    wait_until_ready(hosted, &local_client(&servers.access())?).await?;
    let data = servers.private.data().path();
    let core = url_of(hosted, Service::IngressConsumer);
    let api_key = demo_key::key(&local_client(&servers.access())?, &core, data).await?;
    let providers = if arguments.no_simulator {
        None
    } else {
        let providers = Providers::start(data, arguments.vehicles, arguments.rate)?;
        providers
            .connect(&local_client(&servers.access())?, &gateway.1, data)
            .await?;
        Some(providers)
    };
    Ok((gateway, providers, api_key))
}

/// What each service is told.
struct Settings {
    common: Vec<Setting>,
    /// Settings from the environment, which win over ours.
    environment: Vec<Setting>,
}

impl Settings {
    fn new(arguments: &UpArguments, servers: &Servers, database: &str) -> anyhow::Result<Self> {
        // A vehicle whose noise waits for longer than it may be silent would look stale in between.
        let sweep_after = arguments
            .stale_after
            .map_or(SWEEP_AFTER, |stale| (stale / 4).min(SWEEP_AFTER));
        let mut common = vec![
            (
                "access.internal_token".to_owned(),
                servers.internal_token.clone(),
            ),
            (
                "amqp.url".to_owned(),
                servers.private.rabbitmq().amqp_url("/"),
            ),
            ("database.url".to_owned(), database.to_owned()),
            ("acceptance.sweep_after".to_owned(), written(sweep_after)),
            ("core.heartbeat".to_owned(), HEARTBEAT.to_owned()),
            (
                "pipeline.management_url".to_owned(),
                servers.private.rabbitmq().management_url(),
            ),
            (
                "spool.directory".to_owned(),
                display(&servers.private.data().path().join("spool")),
            ),
        ];
        let known: Vec<_> = Service::ALL.into_iter().flat_map(Service::keys).collect();
        for (name, value) in [
            ("stale_after", arguments.stale_after),
            ("offline_after", arguments.offline_after),
        ] {
            let Some(value) = value else { continue };
            // Who asks for a limit means all vehicles: providers with limits of their own too.
            let keys = known.iter().filter(|key| is_limit(key, name));
            common.extend(keys.map(|key| (key.clone(), written(value))));
        }
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os() {
            let Some(name) = name.to_str().filter(|name| name.starts_with("HEADRACE_")) else {
                continue;
            };
            let Some(value) = value.to_str() else {
                bail!("{name} is not UTF-8")
            };
            match known.iter().find(|key| config::variable(key) == name) {
                Some(key) if key == "http.listen" => {
                    bail!("{name} is set, but the services cannot share an address; use --listen")
                }
                Some(key) => environment.push((key.clone(), value.to_owned())),
                None => bail!(
                    "{name} is set, but it is no setting of a service that runs on private servers; unset it"
                ),
            }
        }
        Ok(Self {
            common,
            environment,
        })
    }

    /// The settings of `service`, which may need to know where the core listens.
    fn of(&self, service: Service, core: Option<SocketAddr>) -> Vec<Setting> {
        let keys = service.keys();
        let core = core.map(|core| ("core.url".to_owned(), format!("http://{core}")));
        core.iter()
            .chain(&self.common)
            .chain(&self.environment)
            .filter(|(key, _)| keys.contains(key))
            .cloned()
            .collect()
    }
}

/// Whether `key` sets the limit `name` of freshness, for all providers or for one.
fn is_limit(key: &str, name: &str) -> bool {
    key.strip_prefix("freshness.")
        .and_then(|key| key.strip_suffix(name))
        .is_some_and(|between| between.is_empty() || between.starts_with("providers."))
}

fn written(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

/// A client for what runs on this machine, which no proxy can reach.
fn local_client(access: &AccessConfig) -> anyhow::Result<Client> {
    Ok(Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(5))
        .default_headers(InternalToken::of(access).headers()?)
        .build()?)
}

/// Where `service` listens.
fn url_of(hosted: &[Hosted], service: Service) -> String {
    let found = hosted.iter().find(|hosted| hosted.service == service);
    found
        .map(|hosted| format!("http://{}", hosted.http))
        .unwrap_or_default()
}

async fn start_gateway(
    arguments: &UpArguments,
    access: &AccessConfig,
    hosted: &[Hosted],
) -> anyhow::Result<(Context, String)> {
    let url = |service| url_of(hosted, service);
    let config = |listen| GatewayConfig {
        http: HttpConfig::at(listen),
        upstream: Upstreams {
            core: url(Service::IngressConsumer),
            snapshot: url(Service::SnapshotProjection),
            health: url(Service::HealthProjection),
            reactions: url(Service::Reactions),
            live: url(Service::Live),
        },
        access: access.clone(),
        cors: CorsConfig::default(),
    };
    let context = Context::new("gateway", runtime::service::instance_name());
    // Only where nobody asked for an address may another one do.
    let wanted = arguments.listen.unwrap_or(GATEWAY);
    let address = match gateway::start(context.clone(), config(wanted)).await {
        Err(_) if arguments.listen.is_none() => {
            gateway::start(context.clone(), config(SocketAddr::new(GATEWAY.ip(), 0))).await?
        }
        started => started?,
    };
    Ok((context, format!("http://{address}")))
}

async fn wait_until_ready(hosted: &[Hosted], client: &Client) -> anyhow::Result<()> {
    let deadline = Instant::now() + READY_LIMIT;
    for Hosted { service, http, .. } in hosted {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        loop {
            let answer = client.get(format!("http://{http}/readyz")).send().await;
            let state = match answer {
                Ok(answer) if answer.status().is_success() => break,
                Ok(answer) => answer.text().await.unwrap_or_default(),
                Err(error) => format!("{:#}", anyhow::Error::from(error)),
            };
            if Instant::now() > deadline {
                bail!(
                    "{} is not ready after {READY_LIMIT:?}: {state}",
                    service.name()
                );
            }
            tokio::time::sleep(backoff.next_wait()).await;
        }
    }
    Ok(())
}

/// Shows the screen, then counts until asked to stop or until a service fails.
async fn show(servers: &Servers, system: &System, stop: &CancellationToken) -> anyhow::Result<()> {
    let env_file = &servers.env_file;
    let rabbitmq = servers.private.rabbitmq();
    env_file.set("API_URL", &system.gateway.1);
    env_file.set("INTERNAL_TOKEN", &servers.internal_token);
    env_file.set("API_KEY", &system.api_key);
    env_file.set("WORKSPACE", demo::WORKSPACE);
    let simulators = system.providers.as_ref().map(Providers::control_urls);
    let simulators = simulators.unwrap_or_default();
    if let Some(providers) = &system.providers {
        env_file.set("SIMULATOR_URL", providers.stream_url());
    }
    for (provider, url) in &simulators {
        let key = format!("SIMULATOR_URL_{}", provider.to_uppercase());
        env_file.set(&key, url);
    }
    env_file
        .publish()
        .context("the env file cannot be written")?;
    let management = (
        rabbitmq.management_url(),
        rabbitmq.user().to_owned(),
        rabbitmq.password().to_owned(),
    );
    let metrics = metrics_pages(&system.hosted);
    println!(
        "{}",
        Screen {
            api: system.gateway.1.clone(),
            api_key: system.api_key.clone(),
            demo: system.providers.as_ref().map(|_| demo::WORKSPACE),
            management: management.clone(),
            metrics: metrics.clone(),
            streams: streams_url(&system.hosted),
            simulators,
            env_file: display(env_file.path()),
            logs: display(&servers.private.data().logs()),
        }
    );
    let sources = Sources {
        metrics: metrics.into_iter().map(|(_, url)| url).collect(),
        management,
        health: format!(
            "{}/v1/workspaces/{}/health",
            system.gateway.1,
            demo::WORKSPACE
        ),
    };
    let client = local_client(&servers.access())?;
    let failed = futures_util::future::select_all(
        system.hosted.iter().map(|hosted| Box::pin(hosted.failed())),
    );
    tokio::select! {
        () = stop.cancelled() => Ok(()),
        ((), index, _) = failed => bail!("{} failed", system.hosted[index].service.name()),
        never = count(&sources, &client) => never,
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}

/// Where the publisher tells how each stream is doing.
fn streams_url(hosted: &[Hosted]) -> String {
    let publisher = hosted
        .iter()
        .find(|hosted| hosted.service == Service::IngressPublisher);
    publisher
        .map(|found| format!("http://{}/internal/v1/streams", found.http))
        .unwrap_or_default()
}

/// Services in one process share one page.
fn metrics_pages(hosted: &[Hosted]) -> Vec<(&'static str, String)> {
    let page = |hosted: &Hosted| format!("http://{}/metrics", hosted.http);
    match hosted {
        [first, ..] if first.shares_process() => vec![("all services", page(first))],
        _ => hosted
            .iter()
            .map(|hosted| (hosted.service.name(), page(hosted)))
            .collect(),
    }
}

async fn count(sources: &Sources, client: &Client) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(COUNT_EVERY);
    loop {
        ticks.tick().await;
        match sources.count(client).await {
            Ok(counts) => println!("{counts}"),
            Err(error) => println!("no counts for the moment: {:#}", anyhow::Error::from(error)),
        }
    }
}

async fn stop_services(hosted: Vec<Hosted>) -> anyhow::Result<()> {
    let mut hosted = hosted;
    let mut result = Ok(());
    for service in Service::STOP {
        if let Some(index) = hosted.iter().position(|hosted| hosted.service == service) {
            let stopped = hosted.swap_remove(index).stop().await;
            result = result.and(stopped);
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_that_of_every_provider() {
        let keys = Service::HealthProjection.keys();
        for name in ["stale_after", "offline_after"] {
            let limits: Vec<_> = keys.iter().filter(|key| is_limit(key, name)).collect();
            let all: Vec<_> = keys.iter().filter(|key| key.ends_with(name)).collect();
            assert!(limits.len() > 1, "{limits:?}");
            assert_eq!(limits, all);
        }
        assert!(!is_limit("incidents.stale_after", "stale_after"));
        assert!(!is_limit("freshness.pipeline_late_after", "late_after"));
    }
}
