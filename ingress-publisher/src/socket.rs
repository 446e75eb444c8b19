//! From an assignment to an open websocket on which the subscription is sent.

use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::SinkExt;
use runtime::clock;
use shared_model::control::StreamAssignment;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error};
use tokio_tungstenite::tungstenite::http::{HeaderMap, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

use crate::config::StreamConfig;
use crate::credential;
use crate::dialect::Dialect;
use crate::failure::Failure;

/// A telematics frame has some hundred bytes; larger ones make the buffer grow.
const READ_BUFFER: usize = 16 * 1024;

pub(crate) type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Opens the socket that `assignment` names and subscribes.
pub(crate) async fn open(
    assignment: &StreamAssignment,
    dialect: Dialect,
    config: &StreamConfig,
) -> Result<Socket, Failure> {
    let subscription = dialect.subscription(&assignment.settings)?;
    let mut request = assignment
        .endpoint
        .as_str()
        .into_client_request()
        .map_err(|_| Failure::Endpoint)?;
    if let Some(reference) = &assignment.credential {
        let value = credential::header(reference).await?;
        request
            .headers_mut()
            .insert(dialect.credential_header(), value);
    }
    let largest = config.max_frame_bytes as usize;
    let limits = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(largest))
        .max_frame_size(Some(largest));
    let opening = async {
        let (mut socket, _) = connect_async_with_config(request, Some(limits), true)
            .await
            .map_err(not_opened)?;
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

/// `Retry-After`, in seconds (some providers send fractions) or as a date.
fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    if let Ok(seconds) = text.trim().parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let date = DateTime::parse_from_rfc2822(text).ok()?;
    (date.to_utc() - now).to_std().ok()
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::http::HeaderValue;

    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = "2015-10-21T07:27:30Z".parse().unwrap();
        for (text, seconds) in [
            ("7", Some(7.0)),
            ("0.40235", Some(0.40235)),
            ("Wed, 21 Oct 2015 07:28:00 GMT", Some(30.0)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", None),
            ("-1", None),
            ("inf", None),
            ("NaN", None),
            ("soon", None),
        ] {
            let value = HeaderValue::from_static(text);
            let headers = [(header::RETRY_AFTER, value)].into_iter().collect();
            let found = retry_after(&headers, now).map(|wait| wait.as_secs_f64());
            assert_eq!(found, seconds, "{text}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
