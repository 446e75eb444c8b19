//! A reader of live updates: server-sent events over a plain socket, so that a test decides when it reads.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::INTERNAL_TOKEN;

/// How long a stream may say nothing that a test waits for.
const SOON: Duration = Duration::from_mins(1);

/// A server-sent event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// The position behind it.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: String,
}

impl Sent {
    /// The data as JSON.
    ///
    /// # Panics
    /// If they are none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).expect("the data are JSON")
    }
}

/// An open stream.
#[derive(Debug)]
pub struct Follower {
    socket: TcpStream,
    buffer: Vec<u8>,
    /// The answer's status.
    pub status: u16,
    /// The position of the last event, or of the last sign of life.
    pub last_id: String,
    /// How many signs of life there were.
    pub heartbeats: usize,
}

impl Follower {
    /// Opens the stream at `path`, behind the event `last_id` if that is not empty.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn open(address: SocketAddr, path: &str, last_id: &str) -> Self {
        Self::try_open(address, path, last_id, None)
            .await
            .expect("there is an answer")
    }

    /// The same, with a receive buffer of so many bytes at most; an error if there is no answer.
    pub async fn try_open(
        address: SocketAddr,
        path: &str,
        last_id: &str,
        receive: Option<u32>,
    ) -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = receive {
            socket.set_recv_buffer_size(bytes)?;
        }
        let mut socket = socket.connect(address).await?;
        let resume = if last_id.is_empty() {
            String::new()
        } else {
            format!("Last-Event-ID: {last_id}\r\n")
        };
        // Of version 1.0, so that the answer comes as it is and ends with the connection.
        let request = format!(
            "GET {path} HTTP/1.0\r\nHost: live\r\nAuthorization: Bearer {INTERNAL_TOKEN}\r\n{resume}\r\n"
        );
        socket.write_all(request.as_bytes()).await?;
        let mut follower = Self {
            socket,
            buffer: Vec::new(),
            status: 0,
            last_id: last_id.to_owned(),
            heartbeats: 0,
        };
        let head = follower.block(b"\r\n\r\n").await?;
        let head = head.ok_or(std::io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
        follower.status = status.ok_or(std::io::ErrorKind::InvalidData)?;
        Ok(follower)
    }

    /// The next event; none at the end of the stream.
    ///
    /// # Panics
    /// If nothing comes for a minute, or the connection breaks.
    pub async fn next(&mut self) -> Option<Sent> {
        self.try_next().await.expect("the connection holds")
    }

    /// The same; an error if the connection breaks.
    ///
    /// # Panics
    /// If nothing comes for a minute.
    pub async fn try_next(&mut self) -> std::io::Result<Option<Sent>> {
        let next = tokio::time::timeout(SOON, async {
            loop {
                let Some(block) = self.block(b"\n\n").await? else {
                    return Ok(None);
                };
                if let Some(sent) = self.read(&block) {
                    return Ok(Some(sent));
                }
            }
        });
        next.await.expect("something comes within a minute")
    }

    /// The rest of an answer that is no stream, as JSON.
    ///
    /// # Panics
    /// If the connection breaks.
    pub async fn rest(mut self) -> Value {
        let rest = self.socket.read_to_end(&mut self.buffer).await;
        rest.expect("the connection holds");
        serde_json::from_slice(&self.buffer).unwrap_or_default()
    }

    /// What a block of lines says; none if it is no event.
    fn read(&mut self, block: &str) -> Option<Sent> {
        let (mut name, mut data) = (String::new(), None);
        for line in block.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "" => self.heartbeats += 1,
                "id" => value.clone_into(&mut self.last_id),
                "event" => value.clone_into(&mut name),
                "data" => data = Some(value.to_owned()),
                _ => {}
            }
        }
        Some(Sent {
            id: self.last_id.clone(),
            name,
            data: data?,
        })
    }

    /// Everything up to `end`, without it; none at the end of the stream.
    async fn block(&mut self, end: &[u8]) -> std::io::Result<Option<String>> {
        let mut searched = 0_usize;
        loop {
            let from = searched.saturating_sub(end.len());
            let found = self.buffer[from..]
                .windows(end.len())
                .position(|window| window == end);
            if let Some(at) = found {
                let rest = self.buffer.split_off(from + at + end.len());
                let block = std::mem::replace(&mut self.buffer, rest);
                let text = String::from_utf8_lossy(&block[..from + at]).into_owned();
                return Ok(Some(text));
            }
            searched = self.buffer.len();
            if self.socket.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
