//! The port: HTTP, the check of API keys, the upgrade to websockets, and the end of it all.

use crate::{
    hub::{Hub, held},
    protocol::LIVE_PATH,
    record::{Handshake, Record},
    session,
};
use axum::{
    Json, Router,
    extract::{
        Query, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use serde::Deserialize;
use serde_json::json;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    time::sleep,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// What the kernel may hold for a client that does not read. A fixed size, or the kernel would grow it to megabytes.
const SEND_BUFFER_BYTES: u32 = 256 * 1024;

/// The largest subscription: some ten thousand vehicles.
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

const BACKLOG: u32 = 1024;

/// How long HTTP requests in progress may take to finish once the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// Why a provider did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A setting makes no sense.
    #[error("{key} is {value}, {rule}")]
    Setting {
        /// The setting's name.
        key: &'static str,
        /// Its value.
        value: String,
        /// What it has to be.
        rule: &'static str,
    },
}

/// What holds for every socket.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) api_keys: Vec<String>,
    pub(crate) outbox_frames: usize,
    /// The least time from a subscription to its data; up to half as much is added.
    pub(crate) authorisation_delay: Duration,
    /// The mean lifetime of a socket; none: as long as the client wants.
    pub(crate) disconnect_every: Option<Duration>,
    /// The answer to `show acl`.
    pub(crate) acl: String,
    pub(crate) seed: u64,
}

/// What all tasks of a provider share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) terms: Terms,
    pub(crate) hub: Hub,
    pub(crate) refusal: Mutex<Option<StatusCode>>,
    pub(crate) reading: watch::Sender<bool>,
    pub(crate) record: Option<Arc<Record>>,
    pub(crate) shutdown: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl Shared {
    pub(crate) fn new(terms: Terms, record: Option<Arc<Record>>) -> Result<Arc<Self>, StartError> {
        if terms.outbox_frames == 0 {
            return Err(StartError::Setting {
                key: "outbox_frames",
                value: "0".to_owned(),
                rule: "must be at least 1",
            });
        }
        Ok(Arc::new(Self {
            terms,
            hub: Hub::default(),
            refusal: Mutex::new(None),
            reading: watch::Sender::new(true),
            record,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }))
    }

    /// Runs a task without which the provider is of no use: when it ends, for whatever reason, everything stops.
    pub(crate) fn spawn_vital(&self, task: impl Future<Output = ()> + Send + 'static) {
        let ends_all = self.shutdown.clone().drop_guard();
        self.tasks.spawn(async move {
            let _ends_all = ends_all;
            task.await;
        });
    }

    /// The answer to a handshake: none if it is welcome.
    fn refusal_of(&self, key: Option<&str>) -> Option<StatusCode> {
        let scripted = *held(&self.refusal);
        scripted.or_else(|| {
            let known = self.knows(key);
            (!known).then_some(StatusCode::UNAUTHORIZED)
        })
    }

    /// Whether a request comes with an accepted key.
    pub(crate) fn knows(&self, key: Option<&str>) -> bool {
        key.is_some_and(|key| self.terms.api_keys.iter().any(|known| known == key))
    }
}

/// A listening provider. Dropping it stops it without waiting.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    _stop_on_drop: DropGuard,
}

impl Server {
    /// Listens, and serves the websocket and these further routes.
    pub(crate) fn start(
        listen: SocketAddr,
        shared: Arc<Shared>,
        routes: Router,
    ) -> Result<Self, StartError> {
        let (listener, address) = self::listen(listen)?;
        let service = Router::new()
            .route(LIVE_PATH, get(live))
            .with_state(Arc::clone(&shared))
            .merge(routes);
        shared.spawn_vital(serve(listener, service, shared.shutdown.clone()));
        Ok(Self {
            address,
            _stop_on_drop: shared.shutdown.clone().drop_guard(),
            shared,
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn live_url(&self) -> String {
        format!("ws://{}{LIVE_PATH}", self.address)
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Closes the port and every socket, and waits until all tasks have ended.
    pub(crate) async fn stop(self) {
        self.shared.shutdown.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

/// Opens the port; returns where.
pub(crate) fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |source| StartError::Listen { address, source };
    let listener = bind(address).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Answers until `shutdown`; requests in progress may then finish, for a while.
pub(crate) async fn serve(listener: TcpListener, service: Router, shutdown: CancellationToken) {
    // Telemetry is many small frames: each leaves when it is written.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot turn off delays on a connection");
        }
    });
    let serving = axum::serve(listener, service)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    let overdue = async {
        shutdown.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => if let Err(error) = served {
            tracing::error!(%error, "the server ended");
        },
        () = overdue => tracing::warn!("requests were still open when the server stopped"),
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit it.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[derive(Debug, Deserialize)]
struct Credentials {
    #[serde(rename = "apiKey")]
    api_key: Option<String>,
}

async fn live(
    State(shared): State<Arc<Shared>>,
    uri: Uri,
    headers: HeaderMap,
    Query(credentials): Query<Credentials>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let header = headers
        .get("x-api-key")
        .map(|key| key.to_str().unwrap_or_default());
    let response = match shared.refusal_of(header.or(credentials.api_key.as_deref())) {
        Some(status) => refuse(status),
        None => match upgrade {
            Ok(upgrade) => accept(upgrade, Arc::clone(&shared)),
            Err(rejection) => rejection.into_response(),
        },
    };
    if let Some(record) = &shared.record {
        record.add_handshake(Handshake {
            target: uri.to_string(),
            headers,
            status: response.status(),
        });
    }
    response
}

fn refuse(status: StatusCode) -> Response {
    let reason = status.canonical_reason().unwrap_or("refused");
    (status, Json(json!({"error": reason}))).into_response()
}

fn accept(upgrade: WebSocketUpgrade, shared: Arc<Shared>) -> Response {
    let tracked = shared.tasks.token();
    upgrade
        .max_message_size(MAX_REQUEST_BYTES)
        .max_frame_size(MAX_REQUEST_BYTES)
        .on_upgrade(move |websocket| async move {
            let _tracked = tracked;
            session::run(websocket, &shared).await;
        })
}
