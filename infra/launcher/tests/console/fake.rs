//! A gateway that answers in the APIs' shapes from a fleet that a test makes up, so that the page can be put
//! before any fleet, and any trouble.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::broadcast;

use crate::paths::{Api, decoded};

pub const KEY: &str = "hr_0123456789abcdef_key-of-the-tests";
/// When everything was observed and received; the page tells the time by the answers.
const RECEIVED: &str = "2026-11-28T10:00:00Z";

#[derive(Clone)]
pub struct Fake {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    vehicles: Mutex<BTreeMap<String, Value>>,
    pub scopes: Mutex<Vec<&'static str>>,
    events: broadcast::Sender<String>,
    sent: AtomicU16,
    /// What all APIs are answered with, if it is not 200.
    refusal: AtomicU16,
    no_live: AtomicBool,
    /// What single APIs are answered with, if it is not 200.
    away: Mutex<BTreeMap<Api, u16>>,
    /// Whether the places where streams were are of another history.
    is_restored: AtomicBool,
    asked: Mutex<Vec<String>>,
    resumed: Mutex<Vec<Option<String>>>,
}

/// A vehicle as the list of vehicles has it.
pub fn vehicle(name: &str, freshness: &str, charge: f64, latitude: f64, longitude: f64) -> Value {
    let reading = |value: Value, unit: &str| json!({"value": value, "unit": unit, "observed_at": RECEIVED, "received_at": RECEIVED, "provider": "viriciti"});
    let mut position = reading(json!({"latitude": latitude, "longitude": longitude}), "deg");
    if name.ends_with('7') {
        position["clock_ahead"] = json!(true);
    }
    json!({
        "workspace": "demo", "vehicle": name, "version": 1, "age_seconds": 3.5, "freshness": freshness,
        "last_received_at": RECEIVED,
        "signals": {
            "state_of_charge": reading(json!(charge), "%"),
            "position": position,
            "speed": reading(json!(if freshness == "fresh" { 42.0 } else { 0.0 }), "km/h"),
            "power": reading(json!(-12.5), "kW"),
            "odometer": reading(json!(charge * 1_234_567.0), "m"),
        },
    })
}

impl Fake {
    pub async fn start(vehicles: impl IntoIterator<Item = Value>) -> Self {
        let vehicles = vehicles.into_iter();
        let vehicles = vehicles.map(|one| (one["vehicle"].as_str().unwrap().to_owned(), one));
        let shared = Arc::new(Shared {
            vehicles: Mutex::new(vehicles.collect()),
            scopes: Mutex::new(vec!["read", "operate"]),
            events: broadcast::channel(256).0,
            sent: AtomicU16::new(0),
            refusal: AtomicU16::new(200),
            no_live: AtomicBool::new(false),
            away: Mutex::default(),
            is_restored: AtomicBool::new(false),
            asked: Mutex::default(),
            resumed: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/v1/{*path}", get(answer))
            .with_state(Arc::clone(&shared))
            .merge(headrace::console::routes());
        tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, shared }
    }

    /// Sends an event to those who listen.
    pub fn tell(&self, kind: &str, data: Value) {
        let id = self.shared.sent.fetch_add(1, Ordering::Relaxed) + 1;
        let event = json!({"id": format!("0:{id}"), "type": kind, "time": RECEIVED, "subject": data["vehicle"], "data": data});
        self.send(format!(
            "id: position-{id}\r\nevent: {kind}\r\ndata: {event}\r\n\r\n"
        ));
    }

    /// Sends text over the live streams.
    pub fn send(&self, text: String) {
        drop(self.shared.events.send(text));
    }

    /// Puts another vehicle in the place of the one of its name, without telling.
    pub fn put(&self, vehicle: Value) {
        let name = vehicle["vehicle"].as_str().unwrap().to_owned();
        lock(&self.shared.vehicles).insert(name, vehicle);
    }

    /// Answers everything with `status` from now on.
    pub fn refuse(&self, status: u16) {
        self.shared.refusal.store(status, Ordering::Relaxed);
    }

    /// Answers what is of `api` with `status` from now on.
    pub fn put_away(&self, api: Api, status: u16) {
        lock(&self.shared.away).insert(api, status);
    }

    /// Answers what is of `api` again.
    pub fn put_back(&self, api: Api) {
        lock(&self.shared.away).remove(&api);
    }

    /// Knows no place any more where a stream was.
    pub fn restore(&self) {
        self.shared.is_restored.store(true, Ordering::Relaxed);
    }

    /// Whether there is a live stream from now on.
    pub fn has_live(&self, has: bool) {
        self.shared.no_live.store(!has, Ordering::Relaxed);
    }

    /// What the key may do.
    pub fn allow(&self, scopes: &[&'static str]) {
        *lock(&self.shared.scopes) = scopes.to_vec();
    }

    /// The paths and queries that were asked for.
    pub fn asked(&self) -> Vec<String> {
        lock(&self.shared.asked).clone()
    }

    /// How many live streams listen.
    pub fn listeners(&self) -> usize {
        self.shared.events.receiver_count()
    }

    /// Where each live stream was to resume.
    pub fn resumed(&self) -> Vec<Option<String>> {
        lock(&self.shared.resumed).clone()
    }
}

type Asked = BTreeMap<String, String>;

async fn answer(
    State(fake): State<Arc<Shared>>,
    uri: Uri,
    Query(query): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let path = uri.path().trim_start_matches("/v1/");
    let written: Vec<_> = query
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    lock(&fake.asked).push(format!("{path}?{}", written.join("&")));
    if headers
        .get(header::AUTHORIZATION)
        .is_none_or(|given| given != &format!("Bearer {KEY}"))
    {
        return problem(401, "unknown-credential");
    }
    let refusal = fake.refusal.load(Ordering::Relaxed);
    if refusal != 200 {
        return problem(refusal, "told-by-the-test");
    }
    if path == "me" {
        let scopes = lock(&fake.scopes).clone();
        return axum::Json(json!({"principal": "key:test", "kind": "api_key", "workspaces": ["demo", "depot"], "scopes": scopes})).into_response();
    }
    let away = lock(&fake.away).get(&Api::of(path)).copied();
    if let Some(status) = away {
        return problem(status, "told-by-the-test");
    }
    if path == "pipeline" {
        return axum::Json(super::shapes::pipeline()).into_response();
    }
    let Some(rest) = path.strip_prefix("workspaces/demo/") else {
        return problem(403, "workspace-forbidden");
    };
    // A name may have any sign in it.
    let parts: Vec<_> = rest.split('/').map(decoded).collect();
    let parts: Vec<_> = parts.iter().map(String::as_str).collect();
    match parts[..] {
        ["live"] => live(&fake, &headers),
        ["health"] => axum::Json(fake.summary()).into_response(),
        ["vehicles"] => axum::Json(fake.list(&query)).into_response(),
        ["vehicles", name, ref of @ ..] => fake.vehicle(name, of),
        ref of => match super::shapes::of_workspace(of) {
            Some(shape) => axum::Json(shape).into_response(),
            None => problem(404, "route-not-found"),
        },
    }
}

fn problem(status: u16, name: &str) -> Response {
    let status = StatusCode::from_u16(status).unwrap();
    let body = json!({"type": format!("urn:headrace:problem:{name}"), "title": "A test's", "status": status.as_u16(), "detail": format!("the test said {name}")});
    let headers = [
        (header::CONTENT_TYPE, "application/problem+json"),
        (header::RETRY_AFTER, "1"),
    ];
    (status, headers, body.to_string()).into_response()
}

fn live(fake: &Shared, headers: &HeaderMap) -> Response {
    if fake.no_live.load(Ordering::Relaxed) {
        return problem(404, "route-not-found");
    }
    let last = headers.get("last-event-id");
    let last = last.map(|last| last.to_str().unwrap().to_owned());
    let is_resumed = last.is_some();
    lock(&fake.resumed).push(last);
    if is_resumed && fake.is_restored.load(Ordering::Relaxed) {
        return problem(409, "log-restored");
    }
    let events = fake.events.subscribe();
    let body = stream::unfold(
        (events, Some("retry: 200\n: hello\n\n".to_owned())),
        |(mut events, first)| async move {
            let text = match first {
                Some(first) => first,
                None => events.recv().await.ok()?,
            };
            // An empty text cuts the stream.
            (!text.is_empty()).then_some((Ok::<_, Infallible>(text), (events, None)))
        },
    );
    (
        [(header::CONTENT_TYPE, "text/event-stream")],
        Body::from_stream(body),
    )
        .into_response()
}

impl Shared {
    fn summary(&self) -> Value {
        let vehicles = lock(&self.vehicles);
        let count = |name: &str| {
            vehicles
                .values()
                .filter(|one| one["freshness"] == name)
                .count()
        };
        json!({
            "workspace": "demo", "vehicles": vehicles.len(), "fresh": count("fresh"), "stale": count("stale"),
            "offline": count("offline"), "never_seen": count("never_seen"),
            "causes": {"source_silent": 1, "pipeline_late": 0, "provider_outage": 0}, "providers": {},
            "connections": {"connected": 0, "subscribed": 1, "silent": 0, "disconnected": 0},
            "open_incidents": 0, "incidents": [], "pipeline_lag_seconds": 0.2,
        })
    }

    fn list(&self, query: &Asked) -> Value {
        let vehicles = lock(&self.vehicles);
        let limit: usize = query
            .get("limit")
            .map_or(100, |limit| limit.parse().unwrap());
        let (after, search) = (
            query.get("after"),
            query.get("search").map(|search| search.to_lowercase()),
        );
        let freshness = query.get("freshness");
        let found = vehicles.iter().filter(|(name, one)| {
            after.is_none_or(|after| *name > after)
                && search
                    .as_ref()
                    .is_none_or(|search| name.to_lowercase().contains(search))
                && freshness.is_none_or(|freshness| one["freshness"] == **freshness)
        });
        let found: Vec<_> = found.take(limit + 1).collect();
        let next = (found.len() > limit).then(|| found[limit - 1].0);
        let items: Vec<_> = found.iter().take(limit).map(|(_, one)| one).collect();
        json!({"items": items, "next": next})
    }

    fn vehicle(&self, name: &str, of: &[&str]) -> Response {
        let vehicles = lock(&self.vehicles);
        let Some(one) = vehicles.get(name) else {
            return problem(404, "vehicle-not-found");
        };
        let shape = match of {
            ["snapshot"] => Some(one.clone()),
            _ => super::shapes::of_vehicle(one, of),
        };
        shape.map_or_else(
            || problem(404, "route-not-found"),
            |shape| axum::Json(shape).into_response(),
        )
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}
