//! The simulated fleet behind a real websocket.
//!
//! One task produces the data of all vehicles, slot by slot, and offers them to every socket subscribed at that moment. What
//! nobody is there for is not sent later; the REST API has it. A socket whose outbox is full misses frames (they are counted); the
//! others do not notice.

use crate::{
    DEFAULT_API_KEY,
    clock::Clock,
    control,
    feed::{Feed, Pace},
    flaw::Flaws,
    fleet::{Fleet, Stats, UnknownVehicles},
    hub::Socket,
    memory::Memory,
    protocol::{Label, acl_frame, datum_frame},
    rest::Rest,
    server::{Server, Shared, StartError, Terms},
};
use axum::extract::ws::Utf8Bytes;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Settings of a [`Simulator`].
#[derive(Debug, Clone, PartialEq)]
pub struct SimulatorConfig {
    /// Where to listen; port 0 takes any free port. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The accepted API keys. Default [`DEFAULT_API_KEY`].
    pub api_keys: Vec<String>,
    /// Size of the fleet, `bus-1` to `bus-<vehicles>`. Default 20.
    pub vehicles: usize,
    /// How often a driving vehicle reports each label, in hertz, 0.001 to 1000. Default 1.
    pub rate: f64,
    /// What everything random is drawn from. Default 1.
    pub seed: u64,
    /// The least time from a subscription to its first data; up to half as much is added at random. Default 500 ms.
    pub authorisation_delay: Duration,
    /// How often a parked vehicle reports. Default 60 s.
    pub parked_every: Duration,
    /// The mean lifetime of a socket, each drawn between half and one and a half of it; half of them end without a close frame.
    /// None: sockets stay open. Default 5 min.
    pub disconnect_every: Option<Duration>,
    /// How many frames may wait for one socket before it misses some. Default 1024.
    pub outbox_frames: usize,
    /// How often data are flawed.
    pub flaws: Flaws,
}

impl Default for SimulatorConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_keys: vec![DEFAULT_API_KEY.to_owned()],
            vehicles: 20,
            rate: 1.0,
            seed: 1,
            authorisation_delay: Duration::from_millis(500),
            parked_every: Duration::from_mins(1),
            disconnect_every: Some(Duration::from_mins(5)),
            outbox_frames: 1024,
            flaws: Flaws::default(),
        }
    }
}

impl SimulatorConfig {
    fn check(&self) -> Result<(), StartError> {
        let refuse = |key, value, rule| Err(StartError::Setting { key, value, rule });
        if !(0.001..=1000.0).contains(&self.rate) {
            return refuse(
                "rate",
                self.rate.to_string(),
                "must be from 0.001 to 1000 hertz",
            );
        }
        if !self.flaws.are_probabilities() {
            return refuse(
                "flaws",
                format!("{:?}", self.flaws),
                "must be probabilities whose sum is at most 1",
            );
        }
        Ok(())
    }
}

/// A running simulated provider. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct Simulator {
    server: Server,
    fleet: Arc<Fleet>,
}

impl Simulator {
    /// Listens and begins to drive. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on, or a setting is out of its range.
    pub fn start(config: SimulatorConfig) -> Result<Self, StartError> {
        config.check()?;
        let pace = Pace::new(config.rate);
        let clock = Clock::start();
        let feed = Arc::new(Feed::new(
            config.seed,
            config.vehicles,
            pace,
            config.flaws,
            config.parked_every,
        ));
        let shared = Shared::new(
            Terms {
                api_keys: config.api_keys,
                outbox_frames: config.outbox_frames,
                authorisation_delay: config.authorisation_delay,
                disconnect_every: config.disconnect_every,
                acl: acl_frame(config.vehicles),
                seed: config.seed,
            },
            None,
        )?;
        let fleet = Arc::new(Fleet::new(Arc::clone(&shared), config.vehicles, clock));
        let memory = Memory {
            feed: Arc::clone(&feed),
            fleet: Arc::clone(&fleet),
            clock,
        };
        let rest = Rest::new(Arc::clone(&shared), Arc::new(memory));
        let routes = control::routes(Arc::clone(&fleet)).merge(rest.routes());
        let server = Server::start(config.listen, Arc::clone(&shared), routes)?;
        let producer = Producer {
            feed,
            pace,
            clock,
            fleet: Arc::clone(&fleet),
            shared: Arc::clone(&shared),
        };
        shared.spawn_vital(producer.run());
        Ok(Self { server, fleet })
    }

    /// Base address of the HTTP endpoints, e.g. `http://127.0.0.1:8090`.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Address of the websocket, e.g. `ws://127.0.0.1:8090/api/v2/live`.
    #[must_use]
    pub fn live_url(&self) -> String {
        self.server.live_url()
    }

    /// The counts as of now.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.fleet.stats()
    }

    /// Stops the data of all vehicles; they drive on unseen.
    pub fn pause_all(&self) {
        self.fleet.pause_all();
    }

    /// Stops the data of these vehicles.
    ///
    /// # Errors
    /// If one of them does not exist; then nothing changes.
    pub fn pause(&self, vehicles: &[String]) -> Result<(), UnknownVehicles> {
        self.fleet.pause(vehicles)
    }

    /// Lets the data of all vehicles flow again.
    pub fn resume_all(&self) {
        self.fleet.resume_all();
    }

    /// Lets the data of these vehicles flow again.
    ///
    /// # Errors
    /// If one of them does not exist; then nothing changes.
    pub fn resume(&self, vehicles: &[String]) -> Result<(), UnknownVehicles> {
        self.fleet.resume(vehicles)
    }

    /// Closes every socket with a close frame.
    pub fn disconnect_all(&self) {
        self.fleet.disconnect();
    }

    /// Completes if the simulator ends by itself, which is always a fault.
    pub async fn ended(&self) {
        self.server.shared().shutdown.cancelled().await;
    }

    /// Closes the port and every socket, and waits until all tasks have ended.
    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// The task that turns time into frames.
struct Producer {
    feed: Arc<Feed>,
    pace: Pace,
    clock: Clock,
    fleet: Arc<Fleet>,
    shared: Arc<Shared>,
}

impl Producer {
    async fn run(self) {
        let clock = self.clock;
        let mut beat = interval(self.pace.slot());
        beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut next = self.pace.slot_of(clock.now_nanos());
        loop {
            tokio::select! {
                () = self.shared.shutdown.cancelled() => return,
                _ = beat.tick() => {}
            }
            let current = self.pace.slot_of(clock.now_nanos());
            // A process that was held up makes up for one period; what is older is lost.
            next = next.max(current - self.pace.slots_per_period() + 1);
            let sockets = self.shared.hub.subscribed();
            if !sockets.is_empty() {
                for slot in next..=current {
                    self.offer_slot(slot, &sockets);
                }
            }
            next = current + 1;
        }
    }

    fn offer_slot(&self, slot: i64, sockets: &[Arc<Socket>]) {
        let now = Instant::now();
        for index in self.pace.owners(slot, self.feed.fleet()) {
            if self.fleet.is_paused(index) {
                continue;
            }
            let vid = self.fleet.name(index);
            let frames: Vec<(Label, Utf8Bytes)> = self
                .feed
                .data(index, slot)
                .into_iter()
                .map(|datum| {
                    let frame = datum_frame(vid, datum.label, &datum.value, datum.time_ms);
                    (datum.label, frame.into())
                })
                .collect();
            let skipped = sockets
                .iter()
                .map(|socket| socket.offer(vid, &frames, now))
                .sum();
            self.shared.hub.count_skipped(skipped);
        }
    }
}
