//! A world: every service, in this process, on a database and a virtual host of its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use headrace::gateway::{self, CorsConfig, GatewayConfig, Upstreams};
use headrace::services::{Service, Setting};
use provider_sim::{DEFAULT_API_KEY, ScriptedConfig, ScriptedProvider};
use rangemap::RangeInclusiveSet;
use reqwest::Client;
use reqwest::header::HeaderMap;
use runtime::Context;
use runtime::access::{AccessConfig, InternalToken, Scope};
use runtime::amqp::{Link, Message, Publisher};
use runtime::config::{self, AmqpConfig, HttpConfig, SecretUrl};
use serde_json::{Value, json};
use shared_model::envelope::{Attributes, CONTENT_TYPE};
use shared_model::log::LogState;
use shared_model::{
    ConnectionId, Envelope, Frame, FrameKind, FrameOrigin, SessionId, partition, topology,
};
use sqlx::PgPool;
use tokio::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio_util::sync::CancellationToken;

use super::{Servers, eventually, servers, settled};

/// How long anything may take that should happen soon, on a machine that is busy.
const SOON: Duration = Duration::from_mins(1);
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(5);
/// The partitions of a new installation.
const PARTITIONS: u32 = 4;
static WORLDS: AtomicU32 = AtomicU32::new(0);
/// Held for writing by a test that must not have others beside it; for reading by all others.
static ALONE: RwLock<()> = RwLock::const_new(());
/// Held by a test that stops servers.
static BREAKING: Mutex<()> = Mutex::const_new(());

/// By which the services of all worlds know one another.
pub const INTERNAL_TOKEN: &str = "the-internal-token-of-the-tests";

/// The headers by which a test passes for one of the services, which may do everything.
///
/// # Panics
/// Never: the token is a header's text.
#[must_use]
pub fn internal_headers() -> HeaderMap {
    let access = AccessConfig::internal(INTERNAL_TOKEN);
    InternalToken::of(&access).headers().expect("a header")
}

/// How a world differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Settings for all services that know their keys.
    pub settings: Vec<(&'static str, &'static str)>,
    /// Services that are not started.
    pub without: Vec<Service>,
    /// No other world exists meanwhile: for a test that counts in the process's metrics.
    pub alone: bool,
    /// The world is the only one on its servers: for a test that stops them.
    pub breaks_servers: bool,
}

impl Options {
    /// Only the core is started: what is in its log stays as it is.
    #[must_use]
    pub fn core_only() -> Self {
        let others = Service::ALL.into_iter();
        Self {
            without: others
                .filter(|service| *service != Service::IngressConsumer)
                .collect(),
            ..Self::default()
        }
    }
}

/// Every service, and the means to look at them.
pub struct World {
    /// The servers beneath.
    pub servers: &'static Servers,
    /// The world's database.
    pub pool: PgPool,
    /// The world's virtual host.
    pub vhost: String,
    /// The virtual host's URL.
    pub amqp: String,
    /// A client for the APIs.
    pub http: Client,
    /// Which pages of others may use the APIs, from the gateway's next start on.
    pub cors: CorsConfig,
    settings: Vec<Setting>,
    running: BTreeMap<Service, (Context, SocketAddr)>,
    core: Option<SocketAddr>,
    gateway: (Context, SocketAddr),
    sender: (Context, Publisher),
    started: Instant,
    _beside: Beside,
}

/// What keeps other worlds away.
enum Beside {
    Others {
        _breaking: Option<MutexGuard<'static, ()>>,
        _guard: RwLockReadGuard<'static, ()>,
    },
    Nobody {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

impl Beside {
    async fn of(options: &Options) -> Self {
        if options.alone {
            return Self::Nobody {
                _guard: ALONE.write().await,
            };
        }
        // Who waits for another to be done with the servers keeps nobody from being alone.
        let breaking = if options.breaks_servers {
            Some(BREAKING.lock().await)
        } else {
            None
        };
        Self::Others {
            _breaking: breaking,
            _guard: ALONE.read().await,
        }
    }
}

impl World {
    /// The usual world.
    pub async fn start() -> Self {
        Self::with(Options::default()).await
    }

    /// A world with `options`.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn with(options: Options) -> Self {
        let beside = Beside::of(&options).await;
        let servers = if options.breaks_servers {
            servers::breakable().await
        } else {
            servers::shared().await
        };
        let name = format!("world_{}", WORLDS.fetch_add(1, Ordering::Relaxed));
        let database = servers.database(&name).await;
        let amqp = servers.vhost(&name).await;
        let spool = spool(servers, &name);
        let mut settings = vec![
            (
                "access.internal_token".to_owned(),
                INTERNAL_TOKEN.to_owned(),
            ),
            ("database.url".to_owned(), database.clone()),
            ("database.max_connections".to_owned(), "6".to_owned()),
            ("amqp.url".to_owned(), amqp.clone()),
            // A queue that is deleted may leave a publisher without its confirm.
            (
                "amqp.confirm_timeout".to_owned(),
                format!("{}s", CONFIRM_TIMEOUT.as_secs()),
            ),
            ("http.listen".to_owned(), "127.0.0.1:0".to_owned()),
            ("acceptance.sweep_after".to_owned(), "500ms".to_owned()),
            ("core.heartbeat".to_owned(), "250ms".to_owned()),
            ("ownership.lease".to_owned(), "3s".to_owned()),
            ("ownership.overlap".to_owned(), "1s".to_owned()),
            ("stream.backoff_min".to_owned(), "100ms".to_owned()),
            ("stream.backoff_max".to_owned(), "1s".to_owned()),
            ("spool.directory".to_owned(), spool.display().to_string()),
        ];
        let own = options.settings.iter();
        settings.extend(own.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let mut world = Self {
            servers,
            pool: PgPool::connect_lazy(&database).expect("the URL is valid"),
            vhost: name,
            amqp: amqp.clone(),
            http: Client::builder()
                .timeout(Duration::from_secs(20))
                .default_headers(internal_headers())
                .build()
                .expect("a client"),
            cors: CorsConfig::default(),
            settings,
            running: BTreeMap::new(),
            core: None,
            gateway: (
                Context::new("none", "none"),
                SocketAddr::from(([127, 0, 0, 1], 9)),
            ),
            sender: sender(&amqp),
            started: Instant::now(),
            _beside: beside,
        };
        for service in Service::ALL {
            if !options.without.contains(&service) {
                world.start_service(service).await;
            }
        }
        world.start_gateway().await;
        world
    }

    /// Starts `service`.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_service(&mut self, service: Service) {
        let mut settings = self.settings_of(service);
        if service == Service::IngressConsumer {
            // The others know the core by its address.
            let core = self.core.map_or_else(private_services::free_address, Ok);
            let core = core.expect("there is a free port");
            settings.push(("http.listen".to_owned(), core.to_string()));
        }
        let context = Context::new(service.name(), format!("{}-0", self.vhost));
        let address = service
            .start(context.clone(), settings)
            .await
            .expect("the service starts");
        if service == Service::IngressConsumer {
            self.core = Some(address);
        }
        self.running.insert(service, (context, address));
    }

    /// Sets `key` to `value` for services that are started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    /// The settings of `service` in this world.
    #[must_use]
    pub fn settings_of(&self, service: Service) -> Vec<Setting> {
        let keys = service.keys();
        let core = self
            .core
            .map(|core| ("core.url".to_owned(), format!("http://{core}")));
        let all = self.settings.iter().cloned().chain(core);
        all.filter(|(key, _)| keys.contains(key)).collect()
    }

    /// A second core on the same servers, and where it listens.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn another_core(&self) -> (Context, SocketAddr) {
        let service = Service::IngressConsumer;
        let settings = self.settings_of(service);
        let context = Context::new(service.name(), format!("{}-1", self.vhost));
        let address = service
            .start(context.clone(), settings)
            .await
            .expect("the service starts");
        self.ready_at(address).await;
        (context, address)
    }

    /// Starts a gateway that knows where the services listen now.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start_gateway(&mut self) {
        let url = |service| {
            let address = self
                .running
                .get(&service)
                .map_or(self.gateway.1, |(_, address)| *address);
            format!("http://{address}")
        };
        let settings = self.settings.iter().cloned();
        let of_access = settings.filter(|(key, _)| key.starts_with("access."));
        let config: GatewayConfig = config::load_from(of_access).expect("valid settings");
        let config = GatewayConfig {
            http: HttpConfig::local(0),
            upstream: Upstreams {
                core: url(Service::IngressConsumer),
                snapshot: url(Service::SnapshotProjection),
                health: url(Service::HealthProjection),
                reactions: url(Service::Reactions),
                live: url(Service::Live),
            },
            cors: self.cors.clone(),
            ..config
        };
        let context = Context::new("gateway", self.vhost.clone());
        let address = gateway::start(context.clone(), config)
            .await
            .expect("the gateway starts");
        self.gateway = (context, address);
    }

    /// Stops `service` as SIGTERM does, and says how that went.
    ///
    /// # Panics
    /// If the service does not run or does not stop well.
    pub async fn stop_service(&mut self, service: Service) {
        let (context, _) = self.running.remove(&service).expect("the service runs");
        context.stop().await.expect("the service stops well");
    }

    /// Where `service` listens.
    ///
    /// # Panics
    /// If it does not run.
    #[must_use]
    pub fn address(&self, service: Service) -> SocketAddr {
        self.running[&service].1
    }

    /// The directory that the world's publishers share for their spools.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        spool(self.servers, &self.vhost)
    }

    /// The core's base URL.
    ///
    /// # Panics
    /// If there is no core yet.
    #[must_use]
    pub fn core_url(&self) -> String {
        format!("http://{}", self.core.expect("the core was started"))
    }

    /// Whether `service` is still running well.
    #[must_use]
    pub fn is_well(&self, service: Service) -> bool {
        self.running
            .get(&service)
            .is_some_and(|(context, _)| !context.stopping().is_cancelled())
    }

    /// Stops everything.
    ///
    /// # Panics
    /// If something does not stop well.
    pub async fn stop(mut self) {
        for service in Service::STOP {
            if self.running.contains_key(&service) {
                self.stop_service(service).await;
            }
        }
        self.gateway.0.stop().await.expect("the gateway stops well");
        self.sender.0.stop().await.expect("the sender stops well");
        self.pool.close().await;
        // RabbitMQ 3.10 starts what carries dead letters a tick after a queue is there; where the queue goes at
        // that moment, it gives up doing so for every queue of the broker.
        let is_settled = self.started.elapsed() > Duration::from_secs(10);
        if is_settled && self.servers.private.rabbitmq().is_running() {
            let deleted = self
                .servers
                .private
                .rabbitmq()
                .delete_vhost(&self.vhost)
                .await;
            deleted.expect("the virtual host can be removed");
        }
    }

    /// Waits until `service` says that it is ready.
    pub async fn ready(&self, service: Service) {
        self.ready_at(self.address(service)).await;
    }

    async fn ready_at(&self, address: SocketAddr) {
        let url = format!("http://{address}/readyz");
        let ask = || async {
            self.http
                .get(&url)
                .send()
                .await
                .ok()
                .map(|answer| answer.status().as_u16())
        };
        eventually(SOON, "ready", ask, |status| *status == Some(200)).await;
    }

    /// The answer to `GET path` at the gateway: status and JSON.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn get(&self, path: &str) -> (u16, Value) {
        let answer = self
            .http
            .get(self.url(path))
            .send()
            .await
            .expect("the gateway answers");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    /// A new API key for `workspaces` that has `scopes`.
    ///
    /// # Panics
    /// If the core does not make it.
    pub async fn key(&self, workspaces: &[&str], scopes: &[Scope]) -> String {
        let body = json!({"name": "of a test", "workspaces": workspaces, "scopes": scopes});
        let url = format!("{}/v1/api-keys", self.core_url());
        let answer = self.http.post(url).json(&body).send().await;
        let answer = answer.expect("the core answers");
        assert_eq!(answer.status().as_u16(), 201, "{:?}", answer.text().await);
        let made: Value = answer.json().await.expect("a key");
        made["key"].as_str().expect("the key").to_owned()
    }

    /// The answer to `GET path` at the gateway to somebody who has `key` alone: status and JSON.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn get_with(&self, key: &str, path: &str) -> (u16, Value) {
        let request = self.http.get(self.url(path)).bearer_auth(key);
        let answer = request.send().await.expect("the gateway answers");
        let status = answer.status().as_u16();
        (status, answer.json().await.unwrap_or_default())
    }

    /// Where the shards of the event log stand.
    ///
    /// # Panics
    /// If the core does not say.
    pub async fn log_state(&self) -> LogState {
        let url = format!("{}/internal/v1/log", self.core_url());
        let answer = self.http.get(url).send().await.expect("the core answers");
        answer.json().await.expect("the log's state")
    }

    /// How many transactions have failed in the world's database.
    ///
    /// # Panics
    /// If the database does not answer.
    pub async fn rollbacks(&self) -> i64 {
        let query = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()";
        let count = sqlx::query_scalar(query).fetch_one(&self.pool).await;
        count.expect("the database answers")
    }

    /// The gateway's URL for `path`.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.gateway.1)
    }

    /// Adds a connection with `settings` to `endpoint` in `workspace`; returns its id.
    ///
    /// # Panics
    /// If the API does not take it.
    pub async fn connect(&self, workspace: &str, endpoint: &str, settings: Value) -> ConnectionId {
        self.ready(Service::IngressConsumer).await;
        self.post_connection(workspace, endpoint, settings).await
    }

    /// The same, whether or not the core has all that it needs.
    ///
    /// # Panics
    /// If the API does not take it.
    pub async fn post_connection(
        &self,
        workspace: &str,
        endpoint: &str,
        settings: Value,
    ) -> ConnectionId {
        let key = self.servers.private.data().path().join("provider.key");
        // While it is written anew, it is empty to those who read it.
        if std::fs::read_to_string(&key).ok().as_deref() != Some(DEFAULT_API_KEY) {
            std::fs::write(&key, DEFAULT_API_KEY).expect("the key can be written");
        }
        let body = json!({
            "provider": "viriciti", "kind": "stream", "endpoint": endpoint,
            "credential": format!("file:{}", key.display()), "settings": settings,
        });
        let url = self.url(&format!("/v1/workspaces/{workspace}/connections"));
        let answer = self
            .http
            .post(url)
            .json(&body)
            .send()
            .await
            .expect("the API answers");
        assert_eq!(answer.status().as_u16(), 201, "{:?}", answer.text().await);
        let answer: Value = answer.json().await.expect("a connection");
        answer["id"]
            .as_str()
            .and_then(|id| id.parse().ok())
            .expect("the connection's id")
    }

    /// A connection without a provider behind it, for tests that publish envelopes themselves.
    pub async fn connect_nowhere(&self, workspace: &str, vehicles: &[String]) -> ConnectionId {
        let labels = json!(["soc", "odo", "speed", "gps", "power"]);
        let vehicles: serde_json::Map<_, _> = vehicles
            .iter()
            .map(|vehicle| (vehicle.clone(), labels.clone()))
            .collect();
        self.connect(
            workspace,
            "ws://127.0.0.1:9/nowhere",
            json!({ "vehicles": vehicles }),
        )
        .await
    }

    /// Sends `envelopes` to the ingress queue, once the core is there.
    pub async fn send(&self, envelopes: &[Envelope]) {
        self.ready(Service::IngressConsumer).await;
        self.publish(envelopes).await;
    }

    /// Sends `envelopes` to the ingress queue, which must have been declared.
    ///
    /// # Panics
    /// If the broker does not take them.
    pub async fn publish(&self, envelopes: &[Envelope]) {
        for envelope in envelopes {
            let (headers, body) = (envelope.encode_headers(), envelope.encode_body().to_vec());
            self.send_raw(envelope.partition, headers, body).await;
        }
    }

    /// A publisher of the test's own, and the token that ends what waits for it.
    #[must_use]
    pub fn publisher(&self) -> (Publisher, CancellationToken) {
        (self.sender.1.clone(), self.sender.0.stopping().clone())
    }

    /// Sends any message to an ingress partition.
    ///
    /// # Panics
    /// If the broker does not take it.
    pub async fn send_raw(&self, partition: u32, headers: BTreeMap<String, String>, body: Vec<u8>) {
        let message = Message {
            exchange: topology::INGRESS_EXCHANGE,
            routing_key: topology::ingress_routing_key(partition),
            message_id: "test".to_owned(),
            content_type: CONTENT_TYPE.into(),
            headers,
            body: body.into(),
        };
        let stop = self.sender.0.stopping();
        self.sender
            .1
            .publish_until_confirmed(&message, stop)
            .await
            .expect("the broker takes it");
    }

    /// Asks RabbitMQ's management API.
    pub async fn management(&self, path: &str) -> Value {
        let rabbitmq = self.servers.private.rabbitmq();
        let url = format!("{}/api/{path}", rabbitmq.management_url());
        let request = self
            .http
            .get(url)
            .basic_auth(rabbitmq.user(), Some(rabbitmq.password()));
        match request.send().await {
            Ok(answer) => answer.json().await.unwrap_or_default(),
            Err(_) => Value::Null,
        }
    }

    /// Tells RabbitMQ's management API to delete something; returns the status of its answer.
    pub async fn management_delete(&self, path: &str) -> Option<u16> {
        let rabbitmq = self.servers.private.rabbitmq();
        let url = format!("{}/api/{path}", rabbitmq.management_url());
        let request = self
            .http
            .delete(url)
            .basic_auth(rabbitmq.user(), Some(rabbitmq.password()));
        match request.send().await {
            Ok(answer) => Some(answer.status().as_u16()),
            Err(error) => {
                tracing::warn!(%error, path, "nothing was deleted");
                None
            }
        }
    }

    /// The sum over a metric's series whose labels contain `label`. The process's metrics are every
    /// world's, so only a world that is alone learns something from them.
    ///
    /// # Panics
    /// If the metrics cannot be written.
    #[must_use]
    pub fn metric(&self, name: &str, label: &str) -> u64 {
        let page = runtime::telemetry::metrics_page().expect("the metrics can be written");
        let series = page
            .lines()
            .filter(|line| line.starts_with(&format!("{name}{{")));
        series
            .filter(|line| line.contains(label))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum()
    }

    /// Waits until nothing is left anywhere: the ingress queues, the event log behind its relay, and
    /// the subscribers' queues, with no noise unpublished.
    pub async fn drained(&self) {
        let ask = || async {
            let queued: Option<u64> = async {
                let queues = self
                    .management(&format!(
                        "queues/{}?disable_stats=true&enable_queue_totals=true",
                        self.vhost
                    ))
                    .await;
                let queues = queues
                    .as_array()?
                    .iter()
                    .filter(|queue| queue["name"] != topology::DEAD_LETTER_QUEUE);
                queues.map(|queue| queue["messages"].as_u64()).sum()
            }
            .await;
            let behind: i64 = sqlx::query_scalar(
                "SELECT coalesce(sum(last_offset - log_offset), 0)::bigint
                 FROM core.shard_head JOIN core.relay_checkpoint USING (shard)",
            )
            .fetch_one(&self.pool)
            .await
            .unwrap_or(-1);
            let unsent: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM core.vehicle WHERE unsent_since IS NOT NULL",
            )
            .fetch_one(&self.pool)
            .await
            .unwrap_or(-1);
            (queued, behind, unsent)
        };
        let is_drained = |state: &(Option<u64>, i64, i64)| *state == (Some(0), 0, 0);
        let deadline = Instant::now() + SOON * 2;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            eventually(
                rest,
                "drained (queued, unrelayed, unsent)",
                &ask,
                is_drained,
            )
            .await;
            // A quorum queue says how long it is every 5 s, so what it says may be of before.
            let calm = Duration::from_millis(5500);
            if is_drained(&settled(calm, SOON * 2, &ask).await) {
                return;
            }
        }
    }
}

fn spool(servers: &Servers, world: &str) -> PathBuf {
    servers.private.data().path().join("spool").join(world)
}

/// A provider that says what a test tells it to.
///
/// # Panics
/// If it does not start.
#[must_use]
pub fn provider() -> ScriptedProvider {
    ScriptedProvider::start(ScriptedConfig::default()).expect("the provider starts")
}

/// Envelopes of one session with a frame each, numbered as a publisher does and received now.
///
/// # Panics
/// If `workspace` is no workspace.
#[must_use]
pub fn envelopes(workspace: &str, connection: ConnectionId, bodies: &[String]) -> Vec<Envelope> {
    let attributes = Attributes {
        provider: "viriciti".parse().expect("a provider"),
        workspace: workspace.parse().expect("a workspace"),
        connection,
        session: SessionId(runtime::clock::new_id()),
        epoch: 1,
        owner: "tests".to_owned(),
    };
    let received_at = runtime::clock::now();
    let mut numbers = [0; PARTITIONS as usize];
    let envelope = |body: &String| {
        let (workspace, device) = (&attributes.workspace, device(body));
        let partition = partition::partition(workspace, connection, &device, PARTITIONS);
        let number = &mut numbers[partition as usize];
        *number += 1;
        Envelope {
            attributes: attributes.clone(),
            partition,
            frames: vec![Frame {
                number: *number,
                received_at,
                kind: FrameKind::Text,
                origin: FrameOrigin::Live,
                body: bytes::Bytes::from(body.clone()),
            }],
            conflated: RangeInclusiveSet::new(),
        }
    };
    bodies.iter().map(envelope).collect()
}

fn device(body: &str) -> String {
    let datum: Value = serde_json::from_str(body).unwrap_or_default();
    datum["payload"]["vid"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn sender(amqp: &str) -> (Context, Publisher) {
    let context = Context::new("tests", "0");
    let config = AmqpConfig {
        url: Some(SecretUrl::new(amqp)),
        confirm_timeout: CONFIRM_TIMEOUT,
        ..AmqpConfig::default()
    };
    let link = Link::open(&context, &config, topology::Topology::default());
    (context, Publisher::new(link))
}
