//! The sender of a partition: takes what waits, puts it into envelopes, awaits the confirms.
//!
//! A lone frame leaves at once. While as many envelopes as allowed are unconfirmed, frames pile up
//! in the queue and then leave together; no timer is involved. It ends when the window is closed
//! and everything is confirmed. A hard stop ends it earlier; then the log says how many frames were
//! let go.

use std::future::Future;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use runtime::amqp::Message;
use runtime::backoff::Stopped;
use runtime::telemetry;
use shared_model::envelope::{self, Envelope};
use shared_model::{headers, topology};
use tokio::sync::mpsc;
use tracing::Instrument;

use crate::metrics;
use crate::window::{Held, Limits, Pending, group};

/// How many waiting frames are looked at together.
const BATCH: usize = 1024;

/// Sends what comes through one partition's queue.
#[derive(Debug)]
pub(crate) struct Sender<P> {
    partition: u32,
    queue: mpsc::Receiver<Pending>,
    limits: Limits,
    in_flight: usize,
    publish: P,
}

impl<P, F> Sender<P>
where
    P: Fn(Message) -> F,
    F: Future<Output = Result<(), Stopped>>,
{
    /// A sender that gives messages to `publish`, which returns once the message is confirmed; at
    /// most `in_flight` at a time, and at least one.
    pub(crate) fn new(
        partition: u32,
        queue: mpsc::Receiver<Pending>,
        limits: Limits,
        in_flight: usize,
        publish: P,
    ) -> Self {
        Self {
            partition,
            queue,
            limits,
            in_flight: in_flight.max(1),
            publish,
        }
    }

    /// Sends until the window is closed and empty.
    pub(crate) async fn run(mut self) -> Result<(), Stopped> {
        let mut unconfirmed = 0;
        let sent = self.send_all(&mut unconfirmed).await;
        if sent.is_err() {
            self.queue.close();
            let frames = unconfirmed + self.queue.len();
            if frames > 0 {
                tracing::error!(
                    partition = self.partition,
                    frames,
                    "frames that the broker has not confirmed are let go"
                );
            }
        }
        sent
    }

    async fn send_all(&mut self, unconfirmed: &mut usize) -> Result<(), Stopped> {
        let mut waiting = Vec::new();
        let mut in_flight = FuturesUnordered::new();
        loop {
            tokio::select! {
                biased;
                Some(confirmed) = in_flight.next() => *unconfirmed -= confirmed?,
                taken = self.queue.recv_many(&mut waiting, BATCH),
                    if in_flight.len() < self.in_flight =>
                {
                    if taken == 0 {
                        break;
                    }
                    *unconfirmed += taken;
                    for frames in group(waiting.drain(..), self.limits) {
                        while in_flight.len() >= self.in_flight
                            && let Some(confirmed) = in_flight.next().await
                        {
                            *unconfirmed -= confirmed?;
                        }
                        in_flight.push(send(&self.publish, self.partition, frames));
                    }
                }
            }
        }
        while let Some(confirmed) = in_flight.next().await {
            *unconfirmed -= confirmed?;
        }
        Ok(())
    }
}

/// Publishes one envelope; returns how many frames are confirmed with it.
async fn send<P, F>(publish: &P, partition: u32, pending: Vec<Pending>) -> Result<usize, Stopped>
where
    P: Fn(Message) -> F,
    F: Future<Output = Result<(), Stopped>>,
{
    let span = tracing::info_span!(
        "publish ingress",
        otel.kind = "producer",
        messaging.system = "rabbitmq",
        messaging.operation.name = "publish",
        messaging.destination.name = topology::INGRESS_EXCHANGE,
        messaging.rabbitmq.destination.routing_key = partition,
        messaging.batch.message_count = pending.len(),
    );
    let frames = pending.len();
    let publishing = async {
        let (message, held) = pack(partition, pending);
        publish(message).await?;
        drop(held);
        metrics::envelope_confirmed();
        Ok(frames)
    };
    publishing.instrument(span).await
}

/// The message of an envelope, and the places in the window that it keeps until it is confirmed.
fn pack(partition: u32, pending: Vec<Pending>) -> (Message, Vec<Held>) {
    let attributes = pending.first().map(|first| first.attributes.clone());
    let (frames, held) = pending
        .into_iter()
        .map(|pending| (pending.frame, pending.held))
        .unzip();
    let envelope = Envelope {
        attributes: attributes
            .as_deref()
            .cloned()
            .expect("no envelope is empty"),
        partition,
        frames,
    };
    let mut all_headers = envelope.encode_headers();
    if let Some(traceparent) = telemetry::traceparent() {
        all_headers.insert(headers::TRACEPARENT.to_owned(), traceparent);
    }
    let message = Message {
        exchange: topology::INGRESS_EXCHANGE,
        routing_key: topology::ingress_routing_key(partition),
        message_id: envelope.message_id(),
        content_type: envelope::CONTENT_TYPE,
        headers: all_headers,
        body: envelope.encode_body(),
    };
    (message, held)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::{Semaphore, mpsc};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::testing;
    use crate::window::Window;

    const LIMITS: Limits = Limits {
        frames: 256,
        bytes: 128 * 1024,
    };

    fn decode(message: &Message) -> Vec<u64> {
        let envelope = Envelope::decode(&message.headers, &message.body).unwrap();
        assert_eq!(envelope.message_id(), message.message_id);
        envelope.frames.iter().map(|frame| frame.number).collect()
    }

    #[tokio::test]
    async fn frames_that_wait_for_confirms_leave_together_and_none_is_lost() {
        let (window, mut queues) = Window::open(1, &testing::config().window);
        let (published, mut messages) = mpsc::channel(100);
        let confirms = Arc::new(Semaphore::new(0));
        let unconfirmed = Arc::new(AtomicUsize::new(0));
        let publish = {
            let (confirms, unconfirmed) = (Arc::clone(&confirms), Arc::clone(&unconfirmed));
            move |message| {
                let (published, confirms) = (published.clone(), Arc::clone(&confirms));
                let unconfirmed = Arc::clone(&unconfirmed);
                async move {
                    assert!(unconfirmed.fetch_add(1, Ordering::SeqCst) < 2);
                    published.send(message).await.unwrap();
                    confirms.acquire().await.unwrap().forget();
                    unconfirmed.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                }
            }
        };
        let sender = Sender::new(0, queues.remove(0), LIMITS, 2, publish);
        let sending = tokio::spawn(sender.run());
        let attributes = Arc::new(testing::attributes());
        let let_go = CancellationToken::new();
        for number in 1..=2 {
            let frame = testing::frame(number, b"{}");
            let submitted = window.submit(0, attributes.clone(), frame, &let_go);
            submitted.await.unwrap();
            let message = messages.recv().await.unwrap();
            assert_eq!(decode(&message), [number], "a lone frame leaves at once");
        }
        for number in 3..=9 {
            let frame = testing::frame(number, b"{}");
            let submitted = window.submit(0, attributes.clone(), frame, &let_go);
            submitted.await.unwrap();
        }
        confirms.add_permits(1);
        let together = messages.recv().await.unwrap();
        assert_eq!(decode(&together), (3..=9).collect::<Vec<_>>());
        assert_eq!(together.routing_key, "0");
        // The window's end is the sender's, once everything is confirmed.
        drop(window);
        assert!(!sending.is_finished());
        confirms.add_permits(2);
        assert_eq!(sending.await.unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_hard_stop_ends_it_with_frames_in_hand() {
        let (window, mut queues) = Window::open(1, &testing::config().window);
        let let_go = CancellationToken::new();
        let publish = {
            let let_go = let_go.clone();
            move |_| {
                let let_go = let_go.clone();
                async move {
                    let_go.cancelled().await;
                    Err(Stopped)
                }
            }
        };
        let sending = tokio::spawn(Sender::new(0, queues.remove(0), LIMITS, 1, publish).run());
        let frame = testing::frame(1, b"{}");
        let attributes = Arc::new(testing::attributes());
        window.submit(0, attributes, frame, &let_go).await.unwrap();
        let_go.cancel();
        assert_eq!(sending.await.unwrap(), Err(Stopped));
    }
}
