//! A provider that says what a test tells it to say, over the same protocol as the simulator.

use crate::{
    DEFAULT_API_KEY,
    archive::{Handed, Sample},
    hub::{Closing, held},
    protocol::acl_frame,
    record::{Handshake, Record, RestRequest, Subscription},
    rest::{Rest, RestFault},
    server::{Server, Shared, StartError, Terms},
};
use axum::{extract::ws::Utf8Bytes, http::StatusCode};
use futures_util::future::join_all;
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

/// Settings of a [`ScriptedProvider`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptedConfig {
    /// Where to listen; port 0 takes any free port. Default `127.0.0.1:0`.
    pub listen: SocketAddr,
    /// The accepted API keys. Default [`DEFAULT_API_KEY`].
    pub api_keys: Vec<String>,
    /// How many frames may wait for one socket before sending to it waits. Default 1024.
    pub outbox_frames: usize,
}

impl Default for ScriptedConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            api_keys: vec![DEFAULT_API_KEY.to_owned()],
            outbox_frames: 1024,
        }
    }
}

/// A running scripted provider. Dropping it stops it without waiting.
///
/// It checks keys and confirms subscriptions as the simulator does, without a delay, and has no data of its own: its REST API
/// answers with what it was handed. It keeps a record of what clients did.
#[derive(Debug)]
pub struct ScriptedProvider {
    server: Server,
    shared: Arc<Shared>,
    record: Arc<Record>,
    archive: Arc<Handed>,
    rest: Rest,
}

impl ScriptedProvider {
    /// Listens. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on, or a setting is out of its range.
    pub fn start(config: ScriptedConfig) -> Result<Self, StartError> {
        let record = Arc::new(Record::default());
        let shared = Shared::new(
            Terms {
                api_keys: config.api_keys,
                outbox_frames: config.outbox_frames,
                authorisation_delay: Duration::ZERO,
                disconnect_every: None,
                acl: acl_frame(0),
                seed: 0,
            },
            Some(Arc::clone(&record)),
        )?;
        let archive = Arc::new(Handed::default());
        let rest = Rest::new(Arc::clone(&shared), archive.clone());
        let routes = rest.clone().routes();
        let server = Server::start(config.listen, Arc::clone(&shared), routes)?;
        Ok(Self {
            server,
            shared,
            record,
            archive,
            rest,
        })
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

    /// Sends a frame to every subscribed socket; see [`send_all`](Self::send_all).
    pub async fn send_text(&self, text: impl Into<String>) -> usize {
        self.send_all(vec![text.into()]).await
    }

    /// Sends these frames, whatever they say, to every socket subscribed now, each in this order.
    ///
    /// Returns, once all are handed to the network or their connection has ended, how many sockets got all of them. It
    /// waits for clients that read slowly, and for one that does not read at all as long as its connection lasts.
    pub async fn send_all(&self, texts: Vec<String>) -> usize {
        self.send_where(texts, |_| true).await
    }

    /// Like [`send_all`](Self::send_all), but only to the connection of this number (as in [`Subscription::connection`]).
    pub async fn send_to(&self, connection: u64, texts: Vec<String>) -> usize {
        self.send_where(texts, |id| id == connection).await
    }

    /// Waits until at least this many sockets are connected and subscribed.
    pub async fn subscribed(&self, count: usize) {
        self.shared.hub.wait_subscribed(count).await;
    }

    /// Waits until at least this many subscriptions came since the start, over all connections, and returns them all.
    pub async fn subscriptions_received(&self, count: usize) -> Vec<Subscription> {
        self.record.wait_subscriptions(count).await
    }

    /// The subscriptions since the start, over all connections.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<Subscription> {
        self.record.subscriptions()
    }

    /// The requests for a websocket since the start, the refused ones too.
    #[must_use]
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.record.handshakes()
    }

    /// The last known value of a vehicle's label, as the REST API is to give it.
    pub fn set_state(&self, vid: &str, label: &str, sample: Sample) {
        self.archive.set_latest(vid, label, sample);
    }

    /// Adds to what the REST API is to give of a vehicle's label; a sample replaces an earlier one of the same time.
    pub fn add_history(&self, vid: &str, label: &str, samples: Vec<Sample>) {
        self.archive.add_history(vid, label, samples);
    }

    /// The answer to one of the next REST requests, one after the other, in place of data.
    pub fn fail_rest(&self, fault: RestFault) {
        held(&self.rest.scripted).push_back(fault);
    }

    /// The REST requests since the start, the refused ones too.
    #[must_use]
    pub fn rest_requests(&self) -> Vec<RestRequest> {
        self.record.rest_requests()
    }

    /// How many sockets are open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.hub.connections()
    }

    /// How many frames of tests were handed to the network since the start, over all sockets.
    #[must_use]
    pub fn frames_sent(&self) -> u64 {
        self.shared.hub.frames_sent()
    }

    /// Closes every open socket, which count as gone at once. Frames that were not yet written are lost.
    pub fn close_all(&self, closing: &Closing) {
        self.shared.hub.close_all(closing);
    }

    /// Refuses every handshake from now on with this status, whatever its key.
    pub fn refuse_with(&self, status: StatusCode) {
        *held(&self.shared.refusal) = Some(status);
    }

    /// Takes handshakes with a known key again.
    pub fn accept(&self) {
        *held(&self.shared.refusal) = None;
    }

    /// Stops reading what clients send, pings and close frames included.
    pub fn stop_reading(&self) {
        self.shared.reading.send_replace(false);
    }

    /// Reads on.
    pub fn resume_reading(&self) {
        self.shared.reading.send_replace(true);
    }

    /// Closes the port and every socket, and waits until all tasks have ended.
    pub async fn stop(self) {
        self.server.stop().await;
    }

    async fn send_where(&self, texts: Vec<String>, chosen: impl Fn(u64) -> bool) -> usize {
        let texts: Vec<Utf8Bytes> = texts.into_iter().map(Utf8Bytes::from).collect();
        let sockets = self.shared.hub.subscribed();
        let deliveries = sockets
            .iter()
            .filter(|socket| chosen(socket.id()))
            .map(|socket| socket.deliver(&texts));
        let delivered = join_all(deliveries).await;
        delivered.into_iter().filter(|all| *all).count()
    }
}
