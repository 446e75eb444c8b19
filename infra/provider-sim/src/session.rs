//! One socket, from its acceptance to its end: reading commands, writing what its outbox holds.
//!
//! Reading and writing do not wait for one another, except that an answer waits for room in the outbox: a client that does not read
//! is in the end not read either.

use crate::{
    hub::{Closing, Kind, Outgoing, Socket},
    protocol::{Command, EMPTY_QUERY, error_frame},
    record::Subscription,
    server::Shared,
};
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout},
};

/// How many frames go out before the network is flushed.
const BATCH: usize = 64;

/// How long a client has to answer a close frame.
const FAREWELL: Duration = Duration::from_millis(500);

/// Serves a socket until either side ends it.
pub(crate) async fn run(websocket: WebSocket, shared: &Shared) {
    let (socket, mut outbox) = shared.hub.admit(shared.terms.outbox_frames);
    let connection = socket.id();
    tracing::debug!(connection, "socket opened");
    let mut rng = Xoshiro256PlusPlus::seed_from_u64(shared.terms.seed ^ connection);
    let lifetime = shared.terms.disconnect_every.map(|every| {
        let closing = if rng.random() {
            Closing::going_away()
        } else {
            Closing::Abrupt
        };
        (every.mul_f64(rng.random_range(0.5..1.5)), closing)
    });

    let (mut sink, mut stream) = websocket.split();
    let closing = tokio::select! {
        closing = socket.told_to_close() => closing,
        closing = outlived(lifetime) => closing,
        () = shared.shutdown.cancelled() => Closing::going_away(),
        () = write(&mut sink, &mut outbox, shared) => Closing::Abrupt,
        () = read(&mut stream, &socket, shared, rng) => Closing::Abrupt,
    };
    shared.hub.dismiss(connection);
    drop(outbox);
    tracing::debug!(connection, ?closing, "socket closed");
    if let Closing::Frame { code, reason } = closing {
        let farewell = say_farewell(sink, stream, code, reason);
        if timeout(FAREWELL, farewell).await.is_err() {
            tracing::debug!(connection, "the client did not answer the close frame");
        }
    }
}

async fn outlived(lifetime: Option<(Duration, Closing)>) -> Closing {
    match lifetime {
        Some((length, closing)) => {
            sleep(length).await;
            closing
        }
        None => std::future::pending().await,
    }
}

async fn write(
    sink: &mut SplitSink<WebSocket, Message>,
    outbox: &mut mpsc::Receiver<Outgoing>,
    shared: &Shared,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while outbox.recv_many(&mut batch, BATCH).await > 0 {
        for frame in &batch {
            if let Err(error) = sink.feed(Message::Text(frame.text.clone())).await {
                tracing::debug!(%error, "socket ended while writing");
                return;
            }
        }
        if let Err(error) = sink.flush().await {
            tracing::debug!(%error, "socket ended while writing");
            return;
        }
        let data = batch.iter().filter(|frame| frame.kind == Kind::Data);
        shared.hub.count_sent(data.count() as u64);
        for frame in batch.drain(..) {
            // Whoever handed the frame over may have stopped waiting for it.
            if let Some(Err(())) = frame.written.map(|written| written.send(())) {
                tracing::debug!("a frame was written that nobody waited for");
            }
        }
    }
}

async fn read(
    stream: &mut SplitStream<WebSocket>,
    socket: &Socket,
    shared: &Shared,
    mut rng: Xoshiro256PlusPlus,
) {
    let mut reading = shared.reading.subscribe();
    loop {
        if reading.wait_for(|reads| *reads).await.is_err() {
            return;
        }
        let message = tokio::select! {
            biased;
            _ = reading.wait_for(|reads| !*reads) => continue,
            message = stream.next() => message,
        };
        match message {
            Some(Ok(Message::Text(text))) => obey(text, socket, shared, &mut rng).await,
            Some(Ok(Message::Binary(_))) => {
                socket.reply(error_frame("requests are text frames")).await;
            }
            // Pings and close frames are answered by the websocket itself as it is read on.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_))) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "socket ended while reading");
                return;
            }
            None => return,
        }
    }
}

async fn obey(text: Utf8Bytes, socket: &Socket, shared: &Shared, rng: &mut Xoshiro256PlusPlus) {
    match Command::parse(&text) {
        Ok(Command::Subscribe(query)) => {
            let delay = shared.terms.authorisation_delay;
            let live_from = Instant::now() + delay.mul_f64(rng.random_range(1.0..1.5));
            shared.hub.subscribe(socket, text.clone(), query, live_from);
            if let Some(record) = &shared.record {
                record.add_subscription(Subscription {
                    connection: socket.id(),
                    text: text.to_string(),
                });
            }
            socket.reply(text).await;
        }
        Ok(Command::ShowAcl) => socket.reply(shared.terms.acl.clone()).await,
        Ok(Command::ShowQuery) => {
            let current = socket.query_text();
            socket
                .reply(current.unwrap_or_else(|| EMPTY_QUERY.into()))
                .await;
        }
        Err(misunderstanding) => {
            socket
                .reply(error_frame(&misunderstanding.to_string()))
                .await;
        }
    }
}

async fn say_farewell(
    mut sink: SplitSink<WebSocket, Message>,
    mut stream: SplitStream<WebSocket>,
    code: u16,
    reason: String,
) {
    let frame = Message::Close(Some(CloseFrame {
        code,
        reason: reason.into(),
    }));
    if let Err(error) = sink.send(frame).await {
        tracing::debug!(%error, "socket ended before its close frame");
        return;
    }
    // Read on until the client has answered: closing a socket with unread data would reset it and lose the close frame.
    while let Some(Ok(_)) = stream.next().await {}
}
