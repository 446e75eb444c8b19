//! The protocol: commands with their answers, and events, over one websocket.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use futures_util::stream::SplitStream;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// How long anything may take that the browser is asked to do.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);
const QUEUE: usize = 64;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The connection; clones share it.
#[derive(Debug, Clone)]
pub struct Wire {
    shared: Arc<Shared>,
    commands: mpsc::Sender<String>,
}

#[derive(Debug, Default)]
struct Shared {
    next: AtomicU64,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Value>>>,
    events: Mutex<Vec<Value>>,
}

impl Wire {
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        let (socket, _) = connect_async_with_config(url, None, true).await?;
        let (mut sink, stream) = socket.split();
        let (commands, mut queued) = mpsc::channel::<String>(QUEUE);
        let shared = Arc::<Shared>::default();
        tokio::spawn(async move {
            while let Some(command) = queued.recv().await {
                if sink.send(Message::text(command)).await.is_err() {
                    break;
                }
            }
        });
        tokio::spawn(Arc::clone(&shared).read(stream));
        Ok(Self { shared, commands })
    }

    /// Sends a command, to a page where `session` names one; returns what it is answered with.
    pub async fn send(
        &self,
        session: Option<&str>,
        method: &str,
        parameters: Value,
    ) -> anyhow::Result<Value> {
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        let mut command = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = session {
            command["sessionId"] = json!(session);
        }
        let (sender, answer) = oneshot::channel();
        lock(&self.shared.waiting).insert(id, sender);
        self.commands
            .send(command.to_string())
            .await
            .map_err(|_| anyhow!("the browser is gone"))?;
        let mut answer = tokio::time::timeout(ANSWER_LIMIT, answer)
            .await
            .with_context(|| format!("{method} is not answered"))?
            .context("the browser is gone")?;
        if let Some(error) = answer.get("error") {
            bail!("{method}: {error}");
        }
        Ok(answer["result"].take())
    }

    /// The events of the page `session` so far.
    pub fn events(&self, session: &str) -> Vec<Value> {
        let events = lock(&self.shared.events);
        let of_page = events.iter().filter(|event| event["sessionId"] == session);
        of_page.cloned().collect()
    }
}

impl Shared {
    async fn read(self: Arc<Self>, mut stream: SplitStream<Socket>) {
        while let Some(Ok(message)) = stream.next().await {
            let Ok(text) = message.to_text() else {
                continue;
            };
            let Ok(message) = serde_json::from_str::<Value>(text) else {
                continue;
            };
            match message["id"].as_u64() {
                Some(id) => {
                    // Who does not wait any more does not need it.
                    if let Some(waiting) = lock(&self.waiting).remove(&id) {
                        drop(waiting.send(message));
                    }
                }
                None => lock(&self.events).push(message),
            }
        }
        lock(&self.waiting).clear();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
