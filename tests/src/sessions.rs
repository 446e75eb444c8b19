//! A provider with sessions that is polled as Geotab is, and can end its sessions at any time.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// The provider; it ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct SessionProvider {
    address: SocketAddr,
    state: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    password: String,
    records: usize,
    /// Sessions are numbered; 0 is none.
    session: usize,
    authentications: usize,
}

impl SessionProvider {
    /// A provider whose users have `password`.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(password: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("there is a free port");
        let provider = Self {
            address: listener.local_addr().expect("it has an address"),
            state: Arc::new(Mutex::new(Inner {
                password: password.to_owned(),
                records: 0,
                session: 0,
                authentications: 0,
            })),
        };
        let app = Router::new()
            .route("/apiv1", post(answer))
            .with_state(provider.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        provider
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// It receives one more record, of a vehicle of its own.
    pub fn receive(&self) {
        self.inner().records += 1;
    }

    /// It ends the session that is open.
    pub fn end_session(&self) {
        self.inner().session = 0;
    }

    /// How often somebody tried to open a session.
    #[must_use]
    pub fn authentications(&self) -> usize {
        self.inner().authentications
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer(State(provider): State<SessionProvider>, Json(call): Json<Value>) -> Json<Value> {
    let mut inner = provider.inner();
    let params = &call["params"];
    let invalid = json!({"error": {"message": "Incorrect login credentials",
        "data": {"type": "InvalidUserException"}}});
    let open = format!("s{}", inner.session);
    Json(match call["method"].as_str() {
        Some("Authenticate") => {
            inner.authentications += 1;
            if params["password"] == inner.password.as_str() {
                inner.session = inner.authentications;
                json!({"result": {"path": "ThisServer",
                    "credentials": {"sessionId": format!("s{}", inner.session)}}})
            } else {
                invalid
            }
        }
        Some("GetFeed") if inner.session > 0 && params["credentials"]["sessionId"] == open => {
            let from = params["fromVersion"].as_str().unwrap_or("0");
            let from: usize = from.parse().unwrap_or(0);
            let records = (from..inner.records).map(|number| {
                json!({"id": format!("r{number}"), "device": {"id": format!("V-{number}")},
                    "dateTime": "2026-07-01T00:00:00Z", "latitude": 52.1, "longitude": 4.3,
                    "speed": 30})
            });
            json!({"result": {"data": records.collect::<Vec<_>>(),
                "toVersion": inner.records.to_string()}})
        }
        _ => invalid,
    })
}
