//! A websocket client and a few lines of HTTP.

use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::{future::Future, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, interval, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message, client::IntoClientRequest, http::HeaderValue, protocol::CloseFrame,
    },
};

pub const KEY: &str = provider_sim::DEFAULT_API_KEY;

const PATIENCE: Duration = Duration::from_secs(20);

/// Awaits what has to happen soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen in {PATIENCE:?}"))
}

/// Looks again and again until the look gives something.
pub async fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut beat = interval(Duration::from_millis(10));
    soon(what, async {
        loop {
            beat.tick().await;
            if let Some(found) = look() {
                return found;
            }
        }
    })
    .await
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Closed { code: u16, reason: String },
    Cut,
}

/// One datum as received.
#[derive(Debug, Clone, PartialEq)]
pub struct Datum {
    pub vid: String,
    pub label: String,
    pub value: Value,
    pub time: i64,
    pub at: Instant,
}

pub struct Client {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Client {
    /// Connects with this key in the header.
    pub async fn connect_as(url: &str, key: &str) -> Result<Self, Box<Error>> {
        let mut request = url.into_client_request()?;
        let key = HeaderValue::from_str(key).unwrap();
        request.headers_mut().insert("x-api-key", key);
        let (socket, _) = Box::pin(connect_async(request)).await.map_err(Box::new)?;
        Ok(Self { socket })
    }

    pub async fn connect(url: &str) -> Self {
        soon("connecting", Self::connect_as(url, KEY))
            .await
            .unwrap()
    }

    /// Connects, subscribes and reads the confirmation.
    pub async fn subscribed(url: &str, subscription: &str) -> Self {
        let mut client = Self::connect(url).await;
        client.send(subscription).await;
        assert_eq!(client.text().await, subscription);
        client
    }

    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next text frame.
    pub async fn text(&mut self) -> String {
        match soon("a frame", self.socket.next()).await {
            Some(Ok(Message::Text(text))) => text.to_string(),
            other => panic!("expected a text frame, not {other:?}"),
        }
    }

    /// The next text frame that is no datum, past any data.
    pub async fn answer(&mut self) -> String {
        loop {
            let text = self.text().await;
            if !text.starts_with(r#"{"type":"vehicles""#) {
                return text;
            }
        }
    }

    /// The next frame, which has to be a datum.
    pub async fn datum(&mut self) -> Datum {
        let text = self.text().await;
        let frame: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(frame["type"], "vehicles", "{text}");
        let payload = &frame["payload"];
        Datum {
            vid: payload["vid"].as_str().unwrap().to_owned(),
            label: payload["label"].as_str().unwrap().to_owned(),
            value: payload["value"].clone(),
            time: payload["time"].as_i64().unwrap(),
            at: Instant::now(),
        }
    }

    pub async fn data(&mut self, count: usize) -> Vec<Datum> {
        let mut data = Vec::with_capacity(count);
        while data.len() < count {
            data.push(self.datum().await);
        }
        data
    }

    /// Whether nothing arrives for this long.
    pub async fn is_silent_for(&mut self, length: Duration) -> bool {
        timeout(length, self.socket.next()).await.is_err()
    }

    /// Reads on until the connection ends.
    pub async fn end(&mut self) -> End {
        let mut end = End::Cut;
        soon("the end of the connection", async {
            while let Some(Ok(message)) = self.socket.next().await {
                if let Message::Close(Some(CloseFrame { code, reason })) = message {
                    end = End::Closed {
                        code: code.into(),
                        reason: reason.to_string(),
                    };
                }
            }
        })
        .await;
        end
    }
}

/// The status with which a handshake is refused.
pub async fn refused(url: &str, key: Option<&str>) -> u16 {
    let mut request = url.into_client_request().unwrap();
    if let Some(key) = key {
        let key = HeaderValue::from_str(key).unwrap();
        request.headers_mut().insert("x-api-key", key);
    }
    match soon("the refusal", Box::pin(connect_async(request))).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("the handshake was accepted"),
    }
}

/// An HTTP request without a body or with a JSON one; returns status and body.
pub async fn http(base: &str, request_line: &str, body: &str) -> (u16, Value) {
    let address = base.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{request_line} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\
         content-length: {}\r\nx-api-key: {KEY}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    soon("the response", stream.read_to_string(&mut response))
        .await
        .unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}
