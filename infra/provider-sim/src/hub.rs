//! The open sockets and what they are subscribed to.
//!
//! Every socket has an outbox of fixed size, which is all the memory that a client who does not read can cost.

use crate::protocol::{Label, Query};
use axum::extract::ws::Utf8Bytes;
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};

/// How a provider ends a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closing {
    /// With a websocket close frame.
    Frame {
        /// Close code, e.g. 1001.
        code: u16,
        /// Text for humans, at most 123 bytes.
        reason: String,
    },
    /// By closing the TCP connection without a word.
    Abrupt,
}

impl Closing {
    /// The close frame of a server that goes away.
    #[must_use]
    pub fn going_away() -> Self {
        Self::Frame {
            code: 1001,
            reason: "going away".to_owned(),
        }
    }
}

/// A frame on its way to a client.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) text: Utf8Bytes,
    pub(crate) kind: Kind,
    /// Told when the frame has been handed to the network.
    pub(crate) written: Option<oneshot::Sender<()>>,
}

/// Whether a frame counts as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Reply,
}

/// What a client is subscribed to.
#[derive(Debug)]
struct Subscribed {
    text: Utf8Bytes,
    query: Query,
    /// When the request has been authorised.
    live_from: Instant,
}

/// One open socket.
#[derive(Debug)]
pub(crate) struct Socket {
    id: u64,
    outbox: mpsc::Sender<Outgoing>,
    subscribed: Mutex<Option<Subscribed>>,
    closing: watch::Sender<Option<Closing>>,
}

impl Socket {
    /// The number of this connection, from 1 in the order of acceptance.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// The text of the current subscription.
    pub(crate) fn query_text(&self) -> Option<Utf8Bytes> {
        let subscribed = held(&self.subscribed);
        subscribed.as_ref().map(|current| current.text.clone())
    }

    /// Queues an answer, waiting for room.
    pub(crate) async fn reply(&self, text: impl Into<Utf8Bytes>) {
        let reply = Outgoing {
            text: text.into(),
            kind: Kind::Reply,
            written: None,
        };
        if self.outbox.send(reply).await.is_err() {
            tracing::debug!(
                connection = self.id,
                "a reply came after the connection's end"
            );
        }
    }

    /// Offers a vehicle's frames; those asked for are queued if there is room. Returns how many were skipped for want of it.
    pub(crate) fn offer(&self, vid: &str, frames: &[(Label, Utf8Bytes)], now: Instant) -> u64 {
        // Held until all are queued: once a subscription is replaced, nothing more of the old one may follow.
        let subscribed = held(&self.subscribed);
        let Some(labels) = subscribed
            .as_ref()
            .filter(|current| current.live_from <= now)
            .and_then(|current| current.query.vehicles.get(vid))
        else {
            return 0;
        };
        let mut skipped = 0;
        for (label, text) in frames {
            if labels.iter().any(|wanted| wanted == label.name()) {
                let frame = Outgoing {
                    text: text.clone(),
                    kind: Kind::Data,
                    written: None,
                };
                match self.outbox.try_send(frame) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => skipped += 1,
                    Err(mpsc::error::TrySendError::Closed(_)) => break,
                }
            }
        }
        skipped
    }

    /// Queues all of these, waiting for room, then waits until the last is written. False if the connection ended before.
    pub(crate) async fn deliver(&self, texts: &[Utf8Bytes]) -> bool {
        let (written, all_written) = oneshot::channel();
        let mut written = Some(written);
        for (position, text) in texts.iter().enumerate() {
            let is_last = position + 1 == texts.len();
            let frame = Outgoing {
                text: text.clone(),
                kind: Kind::Data,
                written: if is_last { written.take() } else { None },
            };
            if self.outbox.send(frame).await.is_err() {
                return false;
            }
        }
        texts.is_empty() || all_written.await.is_ok()
    }

    /// Completes when this connection is to be closed.
    pub(crate) async fn told_to_close(&self) -> Closing {
        let mut closing = self.closing.subscribe();
        match closing.wait_for(Option::is_some).await {
            Ok(told) => told.clone().unwrap_or(Closing::Abrupt),
            Err(_) => Closing::Abrupt,
        }
    }
}

/// All open sockets.
#[derive(Debug, Default)]
pub(crate) struct Hub {
    sockets: Mutex<BTreeMap<u64, Arc<Socket>>>,
    subscribed: watch::Sender<usize>,
    accepted: AtomicU64,
    sent: AtomicU64,
    skipped: AtomicU64,
}

impl Hub {
    /// Registers a new connection, with an outbox of this many frames.
    pub(crate) fn admit(&self, outbox_frames: usize) -> (Arc<Socket>, mpsc::Receiver<Outgoing>) {
        let (outbox, waiting) = mpsc::channel(outbox_frames);
        let socket = Arc::new(Socket {
            id: self.accepted.fetch_add(1, Ordering::Relaxed) + 1,
            outbox,
            subscribed: Mutex::new(None),
            closing: watch::Sender::new(None),
        });
        held(&self.sockets).insert(socket.id, Arc::clone(&socket));
        (socket, waiting)
    }

    /// Forgets a connection that ended.
    pub(crate) fn dismiss(&self, id: u64) {
        let mut sockets = held(&self.sockets);
        sockets.remove(&id);
        self.recount(&sockets);
    }

    /// Replaces a connection's subscription; its data start at `live_from`.
    pub(crate) fn subscribe(
        &self,
        socket: &Socket,
        text: Utf8Bytes,
        query: Query,
        live_from: Instant,
    ) {
        *held(&socket.subscribed) = Some(Subscribed {
            text,
            query,
            live_from,
        });
        self.recount(&held(&self.sockets));
    }

    /// Tells every open socket to close, and forgets it at once.
    pub(crate) fn close_all(&self, closing: &Closing) {
        let mut sockets = held(&self.sockets);
        let closed = std::mem::take(&mut *sockets);
        self.recount(&sockets);
        for socket in closed.values() {
            socket.closing.send_replace(Some(closing.clone()));
        }
    }

    /// The sockets with a subscription, authorised or not yet.
    pub(crate) fn subscribed(&self) -> Vec<Arc<Socket>> {
        let sockets = held(&self.sockets);
        sockets
            .values()
            .filter(|socket| held(&socket.subscribed).is_some())
            .cloned()
            .collect()
    }

    /// Waits until at least this many sockets are subscribed.
    pub(crate) async fn wait_subscribed(&self, count: usize) {
        let mut subscribed = self.subscribed.subscribe();
        // Fails only when the sender is gone, and the sender is borrowed here.
        if subscribed.wait_for(|now| *now >= count).await.is_err() {
            tracing::debug!("the provider ended while it was waited for");
        }
    }

    /// How many sockets are open.
    pub(crate) fn connections(&self) -> usize {
        held(&self.sockets).len()
    }

    /// How many sockets are subscribed.
    pub(crate) fn subscriptions(&self) -> usize {
        *self.subscribed.borrow()
    }

    /// How many sockets were ever accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many data frames were handed to the network.
    pub(crate) fn frames_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// How many data frames were skipped because an outbox was full.
    pub(crate) fn frames_skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Counts data frames that were handed to the network.
    pub(crate) fn count_sent(&self, frames: u64) {
        self.sent.fetch_add(frames, Ordering::Relaxed);
    }

    /// Counts data frames that found an outbox full.
    pub(crate) fn count_skipped(&self, frames: u64) {
        self.skipped.fetch_add(frames, Ordering::Relaxed);
    }

    fn recount(&self, sockets: &BTreeMap<u64, Arc<Socket>>) {
        let count = sockets
            .values()
            .filter(|socket| held(&socket.subscribed).is_some())
            .count();
        self.subscribed.send_replace(count);
    }
}

/// Locks; what these locks guard is whole at every step, so a panic elsewhere does not spoil it.
pub(crate) fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
