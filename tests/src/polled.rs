//! A provider that is polled by rFMS, whose every answer the test decides.
//!
//! Its records are numbered from 0, and its clock is that number: record N was received N seconds after
//! [`BEGIN`], and "now" is one second after the last. So a cursor says how many records were read. Each
//! record is of a vehicle of its own: a record that is lost is a vehicle that is missing.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::json;
use tokio::net::TcpListener;

/// The time of the first record.
pub const BEGIN: &str = "2026-07-01T00:00:00Z";

/// An answer that stands in for the usual one.
#[derive(Debug, Clone)]
pub enum Scripted {
    /// 429 with this `Retry-After`.
    Limited(&'static str),
    /// This status, with a text that is no JSON.
    Status(u16),
}

/// A request that was made.
#[derive(Debug, Clone)]
pub struct Hit {
    /// When.
    pub at: Instant,
    /// Its path before the resource: each connection of a test has one of its own.
    pub prefix: String,
}

/// The provider; it ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct PolledProvider {
    address: SocketAddr,
    state: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    key: String,
    records: u64,
    page: u64,
    takes: Duration,
    scripted: VecDeque<Scripted>,
    hits: Vec<Hit>,
    open: BTreeMap<String, usize>,
    overlaps: usize,
}

impl PolledProvider {
    /// A provider that takes `key` and answers with up to `page` records at a time.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(key: &str, page: u64) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("there is a free port");
        let provider = Self {
            address: listener.local_addr().expect("it has an address"),
            state: Arc::new(Mutex::new(Inner {
                key: key.to_owned(),
                records: 0,
                page,
                takes: Duration::ZERO,
                scripted: VecDeque::new(),
                hits: Vec::new(),
                open: BTreeMap::new(),
                overlaps: 0,
            })),
        };
        let app = Router::new().fallback(answer).with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        provider
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// It receives `count` more records.
    pub fn receive(&self, count: u64) {
        self.inner().records += count;
    }

    /// How many records it has received.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.inner().records
    }

    /// The next answers, instead of the usual ones.
    pub fn script(&self, answers: impl IntoIterator<Item = Scripted>) {
        self.inner().scripted.extend(answers);
    }

    /// From now on it takes `key`.
    pub fn take(&self, key: &str) {
        key.clone_into(&mut self.inner().key);
    }

    /// From now on an answer takes so long.
    pub fn slow(&self, takes: Duration) {
        self.inner().takes = takes;
    }

    /// The requests so far.
    #[must_use]
    pub fn hits(&self) -> Vec<Hit> {
        self.inner().hits.clone()
    }

    /// How often a connection asked while it was being answered.
    #[must_use]
    pub fn overlaps(&self) -> usize {
        self.inner().overlaps
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The time of record `number`.
fn time(number: u64) -> String {
    let begin: DateTime<Utc> = BEGIN.parse().expect("a time");
    let at = begin + TimeDelta::seconds(number.cast_signed());
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// The number of the record of that time.
#[must_use]
pub fn number(time: &str) -> Option<u64> {
    let begin: DateTime<Utc> = BEGIN.parse().ok()?;
    let at: DateTime<Utc> = time.parse().ok()?;
    (at - begin).num_seconds().try_into().ok()
}

/// The record that a query starts with.
#[must_use]
pub fn start(query: &str) -> Option<u64> {
    let start = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("starttime="))?;
    number(&start.replace("%3A", ":"))
}

/// A request that is being answered; it is over with its answer, or when the client is gone.
struct Open {
    provider: PolledProvider,
    prefix: String,
}

impl Open {
    fn new(provider: PolledProvider, prefix: String) -> Self {
        let mut inner = provider.inner();
        inner.hits.push(Hit {
            at: Instant::now(),
            prefix: prefix.clone(),
        });
        let open = inner.open.entry(prefix.clone()).or_default();
        *open += 1;
        inner.overlaps += usize::from(*open > 1);
        drop(inner);
        Self { provider, prefix }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if let Some(open) = self.provider.inner().open.get_mut(&self.prefix) {
            *open -= 1;
        }
    }
}

async fn answer(State(provider): State<PolledProvider>, uri: Uri, headers: HeaderMap) -> Response {
    let prefix = uri.path().rsplit_once('/').map_or("", |(prefix, _)| prefix);
    let open = Open::new(provider.clone(), prefix.to_owned());
    let takes = provider.inner().takes;
    tokio::time::sleep(takes).await;
    let response = {
        let mut inner = provider.inner();
        let said = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
            .to_owned();
        match inner.scripted.pop_front() {
            Some(Scripted::Limited(wait)) => {
                (StatusCode::TOO_MANY_REQUESTS, [("retry-after", wait)]).into_response()
            }
            Some(Scripted::Status(status)) => {
                let status = StatusCode::from_u16(status).expect("a status");
                (status, "<html>no JSON</html>").into_response()
            }
            // Some repeat what they do not like.
            None if said != format!("Bearer {}", inner.key) => {
                (StatusCode::UNAUTHORIZED, format!("{said} is not known")).into_response()
            }
            None => page(&inner, prefix, start(uri.query().unwrap_or_default())),
        }
    };
    drop(open);
    response
}

fn page(inner: &Inner, prefix: &str, start: Option<u64>) -> Response {
    // Without a start it is asked for the latest record of each vehicle, which is all of them.
    let start = start.unwrap_or(0);
    let end = (start + inner.page).min(inner.records);
    let records: Vec<_> = (start..end)
        .map(|number| {
            json!({
                "vin": format!("V{}-{number}", prefix.trim_start_matches('/')),
                "createdDateTime": time(number),
                "receivedDateTime": time(number),
                "triggerType": {"context": "RFMS", "triggerType": "TIMER"},
                "wheelBasedSpeed": number % 90,
            })
        })
        .collect();
    axum::Json(json!({
        "vehiclePositionResponse": {"vehiclePositions": records},
        "moreDataAvailable": end < inner.records,
        "moreDataAvailableLink": format!("/vehiclepositions?starttime={}", time(end)),
        "requestServerDateTime": time(inner.records),
    }))
    .into_response()
}
