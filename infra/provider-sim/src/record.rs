//! What clients did, for tests to look at afterwards.

use crate::hub::held;
use axum::http::{HeaderMap, StatusCode};
use std::sync::Mutex;
use tokio::sync::watch;

/// A request to open a websocket.
#[derive(Debug, Clone)]
pub struct Handshake {
    /// Path and query as the client sent them.
    pub target: String,
    /// All request headers.
    pub headers: HeaderMap,
    /// The answer; 101 if the socket was accepted.
    pub status: StatusCode,
}

/// A subscription frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// The connection it came by, numbered from 1 in the order of acceptance.
    pub connection: u64,
    /// The frame, verbatim.
    pub text: String,
}

/// A request to the REST API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestRequest {
    /// The method.
    pub method: String,
    /// Path and query as the client sent them.
    pub target: String,
    /// The body, empty if there was none.
    pub body: String,
    /// The answer.
    pub status: StatusCode,
}

/// Everything clients did since the start. It grows without limit, so only the scripted provider keeps one.
#[derive(Debug, Default)]
pub(crate) struct Record {
    handshakes: Mutex<Vec<Handshake>>,
    subscriptions: watch::Sender<Vec<Subscription>>,
    rest_requests: Mutex<Vec<RestRequest>>,
}

impl Record {
    pub(crate) fn add_handshake(&self, handshake: Handshake) {
        held(&self.handshakes).push(handshake);
    }

    pub(crate) fn add_subscription(&self, subscription: Subscription) {
        self.subscriptions.send_modify(|all| all.push(subscription));
    }

    pub(crate) fn add_rest_request(&self, request: RestRequest) {
        held(&self.rest_requests).push(request);
    }

    pub(crate) fn rest_requests(&self) -> Vec<RestRequest> {
        held(&self.rest_requests).clone()
    }

    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        held(&self.handshakes).clone()
    }

    pub(crate) fn subscriptions(&self) -> Vec<Subscription> {
        self.subscriptions.borrow().clone()
    }

    pub(crate) async fn wait_subscriptions(&self, count: usize) -> Vec<Subscription> {
        let mut subscriptions = self.subscriptions.subscribe();
        match subscriptions.wait_for(|all| all.len() >= count).await {
            Ok(all) => all.clone(),
            // Fails only when the sender is gone, and the sender is borrowed here.
            Err(_) => Vec::new(),
        }
    }
}
