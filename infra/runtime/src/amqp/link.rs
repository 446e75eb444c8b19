//! One connection to the broker, rebuilt for as long as the service lives.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::AMQPErrorKind;
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind, Event};
use shared_model::topology::Topology;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{metrics, topology};
use crate::Context;
use crate::backoff::{Backoff, Stopped};
use crate::config::AmqpConfig;
use crate::http::Check;

/// How long the broker may take to do one thing.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
const GOODBYE: u16 = 200;
/// A session that lived this long was a good one.
const SETTLED: Duration = Duration::from_secs(10);

/// A handle on the supervised connection; clones share it.
#[derive(Debug, Clone)]
pub struct Link {
    service: &'static str,
    full_name: String,
    config: AmqpConfig,
    sessions: watch::Receiver<Option<Arc<Session>>>,
    state: watch::Receiver<LinkState>,
}

/// What the broker says of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Depth {
    /// Messages that wait for a consumer; not those that one has in hand.
    pub messages: u64,
    /// Who takes from it.
    pub consumers: u64,
}

/// Whether the broker takes messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// There is a session.
    Up,
    /// There is a session, and the broker takes no messages from anybody (memory or disk alarm).
    Blocked,
    /// There is no session.
    Away,
}

/// One life of the connection.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    lost: CancellationToken,
    blocked: watch::Receiver<bool>,
}

impl Session {
    /// Declares the session unusable: the supervisor builds everything anew.
    pub fn abandon(&self, reason: &dyn std::fmt::Display) {
        if !self.lost.is_cancelled() {
            tracing::warn!(%reason, "the broker session is given up and built anew");
            self.lost.cancel();
        }
    }

    /// Done once the session is lost.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// A new channel on this session's connection.
    pub async fn channel(&self) -> Result<Channel, lapin::Error> {
        self.connection.create_channel().await
    }

    /// Whether the broker currently takes no messages from anybody (memory or disk alarm).
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        *self.blocked.borrow()
    }
}

impl Link {
    /// Starts the supervisor on `context` and adds the broker to the readiness checks. Returns at
    /// once; the broker may be away.
    #[must_use]
    pub fn open(context: &Context, config: &AmqpConfig, topology: Topology) -> Self {
        Self::open_as(context, config, topology, context.full_name())
    }

    /// The same under another name than `service/instance`.
    #[must_use]
    pub fn open_as(
        context: &Context,
        config: &AmqpConfig,
        topology: Topology,
        name: String,
    ) -> Self {
        let check = context.readiness().add("rabbitmq");
        let (sender, sessions) = watch::channel(None);
        let (state_sender, state) = watch::channel(LinkState::Away);
        let link = Self {
            service: context.service(),
            full_name: name,
            config: config.clone(),
            sessions,
            state,
        };
        let supervisor = Supervisor {
            link: link.clone(),
            topology,
            check,
            sender,
            state: state_sender,
            closing: context.closing().clone(),
        };
        context.spawn_infrastructure("amqp", supervisor.run());
        link
    }

    /// The connection's name at the broker: `service/instance` unless another was given.
    #[must_use]
    pub fn full_name(&self) -> &str {
        &self.full_name
    }

    /// The configuration that the link was opened with.
    #[must_use]
    pub fn config(&self) -> &AmqpConfig {
        &self.config
    }

    /// Whether the broker takes messages, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.clone()
    }

    /// The current session, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Session>> {
        let session = self.sessions.borrow().clone();
        session.filter(|session| !session.lost.is_cancelled())
    }

    pub(super) fn service(&self) -> &'static str {
        self.service
    }

    /// How many messages wait in `queues` for a consumer; none if the broker does not say.
    pub async fn waiting(&self, queues: &[String]) -> Option<u64> {
        let depths = self.depths(queues).await?;
        Some(depths.iter().map(|depth| depth.messages).sum())
    }

    /// What waits in each of `queues`, and for how many consumers; none if the broker does not say.
    pub async fn depths(&self, queues: &[String]) -> Option<Vec<Depth>> {
        let session = self.current()?;
        let look = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let looking = async {
            let channel = session.channel().await?;
            let mut depths = Vec::with_capacity(queues.len());
            for queue in queues {
                let name = queue.as_str().into();
                let found = channel.queue_declare(name, look, FieldTable::default());
                let found = found.await?;
                depths.push(Depth {
                    messages: u64::from(found.message_count()),
                    consumers: u64::from(found.consumer_count()),
                });
            }
            channel.close(GOODBYE, "looked".into()).await?;
            Ok(depths)
        };
        match tokio::time::timeout(CLOSE_LIMIT, answer(looking)).await {
            Ok(Ok(depths)) => Some(depths),
            Ok(Err(error)) => {
                tracing::debug!(%error, "the broker does not say what waits");
                None
            }
            Err(_) => None,
        }
    }

    /// The current session, or the next one once the broker is there.
    pub async fn session(&self, stop: &CancellationToken) -> Result<Arc<Session>, Stopped> {
        let mut sessions = self.sessions.clone();
        let usable = |session: &Option<Arc<Session>>| {
            session
                .as_ref()
                .is_some_and(|session| !session.lost.is_cancelled())
        };
        let next = async {
            sessions
                .wait_for(usable)
                .await
                .ok()
                .and_then(|found| found.clone())
        };
        stop.run_until_cancelled(next)
            .await
            .flatten()
            .ok_or(Stopped)
    }
}

/// Whether the broker is there and says no to what was asked of it.
fn is_refusal(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error)
        if matches!(error.kind(), AMQPErrorKind::Soft(_)))
}

/// What the broker answers, which takes milliseconds or does not come: a queue without a leader, or
/// one that is being deleted, may never answer. However many queues there are, each has its time.
pub(super) async fn answer<T>(
    asked: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, lapin::Error> {
    tokio::time::timeout(ANSWER_LIMIT, asked)
        .await
        .unwrap_or_else(|_| {
            let detail = format!("no answer within {ANSWER_LIMIT:?}");
            Err(io::Error::new(io::ErrorKind::TimedOut, detail).into())
        })
}

struct Supervisor {
    link: Link,
    topology: Topology,
    check: Check,
    sender: watch::Sender<Option<Arc<Session>>>,
    state: watch::Sender<LinkState>,
    closing: CancellationToken,
}

impl Supervisor {
    async fn run(self) -> anyhow::Result<()> {
        metrics::connected(self.link.service, false);
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let problem = match self.closing.run_until_cancelled(self.connect()).await {
                None => return Ok(()),
                Some(Ok(session)) => {
                    let started = Instant::now();
                    if self.serve(session).await.is_err() {
                        return Ok(());
                    }
                    // A session that ends at once, again and again, is no reason to hurry.
                    if started.elapsed() > SETTLED {
                        backoff.reset();
                    }
                    metrics::lost(self.link.service);
                    "the connection was lost".to_owned()
                }
                Some(Err(error)) if is_refusal(&error) => {
                    tracing::error!(
                        error = %crate::telemetry::chain(&error),
                        "the broker refuses a declaration: a queue or exchange exists otherwise"
                    );
                    error.to_string()
                }
                Some(Err(error)) => {
                    tracing::warn!(
                        error = %crate::telemetry::chain(&error),
                        "the broker is away"
                    );
                    error.to_string()
                }
            };
            self.check.down(&problem);
            if backoff.wait(&self.closing).await.is_err() {
                return Ok(());
            }
        }
    }

    async fn connect(&self) -> Result<Session, lapin::Error> {
        let url = self.link.config.url.as_ref().map_or("", |url| url.expose());
        let properties = ConnectionProperties::default()
            .with_connection_name(self.link.full_name.as_str().into());
        let connection = answer(Connection::connect(url, properties)).await?;
        let (blocked_sender, blocked) = watch::channel(false);
        let lost = CancellationToken::new();
        let session = Session {
            connection,
            lost,
            blocked,
        };
        self.watch_events(&session, blocked_sender);
        topology::declare(&session.connection, &self.topology).await?;
        Ok(session)
    }

    /// Ends with the connection, whose event stream ends with it.
    fn watch_events(&self, session: &Session, blocked: watch::Sender<bool>) {
        let service = self.link.service;
        let lost = session.lost.clone();
        let state = self.state.clone();
        // Before the session is handed out and after it is lost, the link is away all the same.
        let tell = move |now| {
            state.send_if_modified(|state| {
                let tells = *state != LinkState::Away && *state != now;
                if tells {
                    *state = now;
                }
                tells
            });
        };
        let mut events = Box::pin(session.connection.events_listener());
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    biased;
                    () = lost.cancelled() => break,
                    event = events.next() => event,
                };
                match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(%reason, "the broker takes no messages for now");
                        metrics::blocked(service, true);
                        blocked.send_replace(true);
                        tell(LinkState::Blocked);
                    }
                    Some(Event::ConnectionUnblocked) => {
                        tracing::info!("the broker takes messages again");
                        metrics::blocked(service, false);
                        blocked.send_replace(false);
                        tell(LinkState::Up);
                    }
                    // The broker's no to one channel: whoever uses that channel is told as well.
                    Some(Event::Error(error)) if is_refusal(&error) => {
                        tracing::debug!(%error, "the broker closed a channel");
                    }
                    Some(Event::Error(error)) => {
                        tracing::warn!(
                            error = %crate::telemetry::chain(&error),
                            "the connection to the broker failed"
                        );
                        break;
                    }
                    Some(_) => {}
                    None => break,
                }
            }
            metrics::blocked(service, false);
            lost.cancel();
        });
    }

    /// Hands the session out until it is lost; [`Stopped`] if the service closes first.
    async fn serve(&self, session: Session) -> Result<(), Stopped> {
        let session = Arc::new(session);
        metrics::connected(self.link.service, true);
        self.check.up();
        tracing::info!(name = self.link.full_name, "connected to the broker");
        self.sender.send_replace(Some(Arc::clone(&session)));
        // Asked under the lock: an alarm is either seen here or told after this.
        self.state.send_modify(|state| {
            *state = if session.is_blocked() {
                LinkState::Blocked
            } else {
                LinkState::Up
            };
        });
        let ended = self
            .closing
            .run_until_cancelled(session.lost.cancelled())
            .await;
        self.sender.send_replace(None);
        self.state.send_replace(LinkState::Away);
        session.lost.cancel();
        metrics::connected(self.link.service, false);
        let closing = session.connection.close(GOODBYE, "closing".into());
        match tokio::time::timeout(CLOSE_LIMIT, closing).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "the connection was closed already"),
            Err(_) => tracing::debug!("the broker did not say goodbye"),
        }
        ended.ok_or(Stopped)
    }
}
