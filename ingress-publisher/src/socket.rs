//! From an assignment to an open websocket on which the subscription is sent.

use std::sync::Arc;

use futures_util::SinkExt;
use runtime::clock;
use rustls::ClientConfig;
use shared_model::control::StreamAssignment;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};

use crate::config::StreamConfig;
use crate::dialect::Dialect;
use crate::failure::Failure;
use runtime::outbound::retry_after;

/// What each socket keeps for as long as it lives. A telematics frame has some hundred bytes; larger
/// ones make the buffer grow.
const READ_BUFFER: usize = 4 * 1024;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens the socket that `assignment` names, with `credential`, and subscribes.
pub(crate) async fn open(
    assignment: &StreamAssignment,
    dialect: Dialect,
    credential: Option<HeaderValue>,
    config: &StreamConfig,
    tls: &Arc<ClientConfig>,
) -> Result<Socket, Failure> {
    let subscription = dialect.subscription(&assignment.settings)?;
    let mut request = assignment
        .endpoint
        .as_str()
        .into_client_request()
        .map_err(|_| Failure::Endpoint)?;
    if let Some(credential) = credential {
        let header = dialect.credential_header();
        request.headers_mut().insert(header, credential);
    }
    let largest = config.max_frame_bytes as usize;
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest));
    let opening = async {
        let connector = Some(Connector::Rustls(Arc::clone(tls)));
        let connecting = connect_async_tls_with_config(request, Some(limits), true, connector);
        let (mut socket, _) = connecting.await.map_err(not_opened)?;
        let sent = socket.send(Message::text(subscription)).await;
        sent.map_err(broken)?;
        Ok(socket)
    };
    let limit = config.connect_timeout;
    // Boxed, as a stream needs the room for its handshake only while it connects.
    timeout(limit, Box::pin(opening))
        .await
        .unwrap_or(Err(Failure::NoAnswer(limit)))
}

fn not_opened(error: Error) -> Failure {
    match error {
        // The text of this error may hold the whole URL.
        Error::Url(_) => Failure::Endpoint,
        Error::Http(answer) => match answer.status() {
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Failure::Refused { status }
            }
            status @ (StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) => {
                Failure::Later {
                    status,
                    retry_after: retry_after(answer.headers(), clock::now()),
                }
            }
            status => Failure::NoSocket { status },
        },
        error => Failure::Unreachable(error),
    }
}

/// What it means that reading or writing failed.
pub(crate) fn broken(error: Error) -> Failure {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => Failure::Oversized(error),
        Error::ConnectionClosed | Error::AlreadyClosed => Failure::Closed(String::new()),
        error => Failure::Broken(error),
    }
}

/// What it means that the provider said goodbye.
pub(crate) fn closed(goodbye: Option<&CloseFrame>) -> Failure {
    Failure::Closed(goodbye.map_or_else(String::new, |frame| {
        format!(": {} {}", u16::from(frame.code), frame.reason)
            .trim_end()
            .to_owned()
    }))
}
