//! What is fuzzed: each provider's interpreter, and its feed where it has one.
//!
//! No bytes may make either panic, nor answer with more than their size allows. A refusal says why, and a
//! page that says that there is more leads on. With `cargo-fuzz` and a nightly compiler, a minute of
//! one provider, starting from the payloads of its tests:
//!
//! ```sh
//! cd ingress-consumer && mkdir -p fuzz/corpus/rfms
//! cargo +nightly fuzz run rfms fuzz/corpus/rfms src/interpret/rfms/tests -- -max_total_time=60
//! ```

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use chrono::DateTime;
use ingress_consumer::interpret::feed::{Access, Feed, Response};
use ingress_consumer::interpret::{Interpret, Interpretation, Item, provision};
use serde_json::{Value, json};
use shared_model::{ConnectionKind, Provider};

/// How many bytes of ids one byte can make at the most: each statement has a copy of its device's.
const GROWTH: usize = 32;

static INSTALLED: OnceLock<Target> = OnceLock::new();

/// A provider's code, with usual settings.
#[derive(Debug)]
pub struct Target {
    interpreter: Arc<dyn Interpret>,
    feed: Option<Arc<dyn Feed>>,
}

impl Target {
    /// The provider called `name`.
    ///
    /// # Panics
    ///
    /// If there is no such provider.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let (kind, settings) = match name {
            "viriciti" => (
                ConnectionKind::Stream,
                json!({"vehicles": {"bus-1": ["soc"]}}),
            ),
            "canonical" => (ConnectionKind::Push, json!({})),
            _ => (ConnectionKind::Poll, json!({})),
        };
        let provider = Provider::new(name).expect("a provider's name");
        let provision = provision(&provider, kind, &settings).expect("a known provider");
        Self {
            interpreter: provision.interpreter,
            feed: provision.poll.map(|(feed, _)| feed),
        }
    }

    /// Makes the provider called `name` the one that [`Target::installed`] is.
    ///
    /// # Panics
    ///
    /// As [`Target::new`].
    pub fn install(name: &str) {
        INSTALLED.get_or_init(|| Self::new(name));
    }

    /// What [`Target::install`] made.
    ///
    /// # Panics
    ///
    /// If it was not called.
    #[must_use]
    pub fn installed() -> &'static Self {
        INSTALLED.get().expect("a target is installed")
    }

    /// Runs `data` through interpreter and feed.
    ///
    /// # Panics
    ///
    /// If what comes out is not allowed.
    pub fn run(&self, data: &[u8]) {
        self.interpret(data);
        if let Some(feed) = &self.feed {
            read(&**feed, data);
        }
    }

    fn interpret(&self, data: &[u8]) {
        match self.interpreter.interpret(data) {
            Ok(Interpretation::Report(items)) => {
                assert!(items.len() <= data.len());
                let ids = items.iter().map(|item| match item {
                    Item::Observed(observed) => observed.device.len(),
                    Item::NoValue { device, .. } => device.len(),
                    Item::Unmapped => 0,
                });
                assert!(ids.sum::<usize>() <= data.len() * GROWTH);
            }
            Ok(Interpretation::Control(_)) => {}
            Err(unreadable) => assert!(!unreadable.detail.is_empty()),
        }
    }
}

/// Reads `data` as an answer, from no cursor and from one that is in it too.
fn read(feed: &dyn Feed, data: &[u8]) {
    let response = Response {
        status: 200,
        headers: vec![("retry-after".to_owned(), "1".to_owned())],
        body: Bytes::copy_from_slice(data),
        received_at: DateTime::UNIX_EPOCH,
    };
    said(feed.session(&response));
    let any: Option<Value> = serde_json::from_slice(data).ok();
    for name in feed.names() {
        for cursor in [None, any.as_ref()] {
            follow(feed, &name, cursor, &response);
        }
    }
}

/// Reads an answer and, as long as it says that there is more, takes it for the next answer as well.
fn follow(feed: &dyn Feed, name: &str, cursor: Option<&Value>, response: &Response) {
    const PAGES: usize = 4;
    let access = Access {
        credential: Some("database/user:password"),
        session: cursor,
    };
    let mut cursor = cursor.cloned();
    for _ in 0..PAGES {
        let asked = feed.request(name, cursor.as_ref(), &access, response.received_at);
        let Some(page) = said(feed.read(name, cursor.as_ref(), response)) else {
            return;
        };
        let held: usize = page.frames.iter().map(Bytes::len).sum();
        assert!(held <= response.body.len());
        cursor = page.cursor.or(cursor);
        let next = feed.request(name, cursor.as_ref(), &access, response.received_at);
        if !page.more {
            return;
        }
        assert!(next != asked, "the same is asked for at once");
    }
}

fn said<T: Debug, E: std::error::Error>(result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| assert!(!error.to_string().is_empty()))
        .ok()
}
