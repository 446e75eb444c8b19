//! The window: what was read from sockets and is neither confirmed by the broker nor on disk.
//!
//! One budget of bytes covers all of it, and each partition has a bounded queue in front of its
//! sender, so that a partition that is stuck leaves room for the others. If either is exhausted,
//! whoever brings a frame waits, and its socket is not read meanwhile. No frame is ever dropped
//! here.

use std::collections::HashMap;
use std::sync::Arc;

use runtime::backoff::Stopped;
use shared_model::envelope::Attributes;
use shared_model::{Frame, SessionId};
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::WindowConfig;
use crate::metrics;
use crate::parcel::Parcel;
use crate::pause::{Board, Waits};

/// What a frame costs besides its body, in bytes: its place in the queue, its line in the envelope.
pub(crate) const FRAME_OVERHEAD: u32 = 256;

/// A handle on the window; clones share it. The senders end once all handles are gone.
#[derive(Debug, Clone)]
pub(crate) struct Window {
    queues: Vec<mpsc::Sender<Pending>>,
    budget: Budget,
    board: Board,
}

/// A source of frames in front of the window, which shows whether it waits; clones share that.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    window: Window,
    waits: Waits,
}

/// Something on its way to the broker.
#[derive(Debug)]
pub(crate) enum Pending {
    /// A frame, which shares an envelope with others.
    Frame(PendingFrame),
    /// A message of its own. It stays in its place among the partition's frames.
    Message(PendingMessage),
}

/// A frame on its way to the broker.
#[derive(Debug)]
pub(crate) struct PendingFrame {
    /// What it has in common with the other frames of its session.
    pub(crate) attributes: Arc<Attributes>,
    /// The frame.
    pub(crate) frame: Frame,
    /// What it is about, if a newer frame about the same may replace it.
    pub(crate) topic: Option<Topic>,
    /// Its place in the window.
    pub(crate) held: Held,
}

/// A message on its way to the broker.
#[derive(Debug)]
pub(crate) struct PendingMessage {
    /// The message.
    pub(crate) parcel: Parcel,
    /// Its place in the window.
    pub(crate) held: Held,
}

/// What a frame is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Topic {
    /// The device that sent it.
    pub(crate) device: Box<str>,
    /// What of the device it tells.
    pub(crate) label: Box<str>,
}

/// Bytes of the window, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held(OwnedSemaphorePermit);

/// The bounds of an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The most frames.
    pub(crate) frames: usize,
    /// The most bytes of their bodies; a single larger frame goes alone.
    pub(crate) bytes: usize,
}

impl Window {
    /// A window in front of `partitions`, and the queue of each for its sender.
    pub(crate) fn open(
        partitions: u32,
        config: &WindowConfig,
    ) -> (Self, Vec<mpsc::Receiver<Pending>>) {
        // As many of the smallest frames as a partition's share of the budget pays for. Together the
        // queues hold more than the budget, which therefore is the bound that counts.
        let capacity = config.max_bytes / FRAME_OVERHEAD / partitions.max(1);
        let pairs = (0..partitions).map(|_| mpsc::channel(capacity.max(1) as usize));
        let (queues, receivers) = pairs.unzip();
        let budget = Budget::new(config.max_bytes);
        let board = Board::new(partitions);
        let window = Self {
            queues,
            budget,
            board,
        };
        (window, receivers)
    }

    /// Where senders say what keeps them.
    pub(crate) fn board(&self) -> &Board {
        &self.board
    }

    /// A handle for one source of frames.
    pub(crate) fn source(&self) -> Source {
        Source {
            waits: self.board.source(),
            window: self.clone(),
        }
    }

    #[cfg(test)]
    pub(crate) fn hold_for_test(&self, size: usize) -> Held {
        self.budget.try_hold(size).unwrap()
    }

    async fn put(
        &self,
        partition: u32,
        size: usize,
        waits: &Waits,
        pending: impl FnOnce(Held) -> Pending,
        let_go: &CancellationToken,
    ) -> Result<(), Stopped> {
        let queue = &self.queues[partition as usize];
        let held = if let Some(held) = self.budget.try_hold(size) {
            held
        } else {
            let _pause = waits.begin(partition);
            let held = self.budget.hold(size);
            let_go.run_until_cancelled(held).await.ok_or(Stopped)??
        };
        match queue.try_send(pending(held)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(pending)) => {
                let _pause = waits.begin(partition);
                let sent = let_go.run_until_cancelled(queue.send(pending)).await;
                // A queue is closed by a sender that ends, and a sender ends only with the service.
                sent.ok_or(Stopped)?.map_err(|_| Stopped)
            }
            Err(TrySendError::Closed(_)) => Err(Stopped),
        }
    }
}

impl Source {
    /// How many partitions there are.
    pub(crate) fn partitions(&self) -> u32 {
        // One queue was made for each of a u32's worth.
        u32::try_from(self.window.queues.len()).unwrap_or(u32::MAX)
    }

    /// Whether the source waits, and why.
    pub(crate) fn waits(&self) -> Waits {
        self.waits.clone()
    }

    /// Puts a message into the queue of `partition`, once there is room. It is published behind the
    /// frames that are there, by the same way, over the spool if need be.
    ///
    /// # Panics
    /// If there is no such partition.
    pub(crate) async fn submit_message(
        &self,
        partition: u32,
        parcel: Parcel,
        let_go: &CancellationToken,
    ) -> Result<(), Stopped> {
        let size = parcel.len();
        let pending = |held| Pending::Message(PendingMessage { parcel, held });
        self.window
            .put(partition, size, &self.waits, pending, let_go)
            .await
    }

    /// Puts a frame into the queue of `partition`, once there is room. One with a `topic` may be
    /// replaced by a newer one about the same while the broker does not take it.
    ///
    /// # Panics
    /// If there is no such partition.
    pub(crate) async fn submit(
        &self,
        partition: u32,
        attributes: Arc<Attributes>,
        frame: Frame,
        topic: Option<Topic>,
        let_go: &CancellationToken,
    ) -> Result<(), Stopped> {
        let size = frame.body.len();
        let pending = |held| {
            Pending::Frame(PendingFrame {
                attributes,
                frame,
                topic,
                held,
            })
        };
        let put = self
            .window
            .put(partition, size, &self.waits, pending, let_go);
        put.await
    }
}

#[derive(Debug, Clone)]
struct Budget {
    bytes: Arc<Semaphore>,
    most: u32,
}

impl Budget {
    fn new(bytes: u32) -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(bytes as usize)),
            most: bytes,
        }
    }

    /// What a frame costs: never more than there is, or it would wait for ever.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .saturating_add(FRAME_OVERHEAD)
            .min(self.most)
    }

    fn try_hold(&self, bytes: usize) -> Option<Held> {
        let permits = Arc::clone(&self.bytes).try_acquire_many_owned(self.cost(bytes));
        Some(Held::new(permits.ok()?))
    }

    async fn hold(&self, bytes: usize) -> Result<Held, Stopped> {
        let permits = Arc::clone(&self.bytes).acquire_many_owned(self.cost(bytes));
        // The semaphore is never closed.
        Ok(Held::new(permits.await.map_err(|_| Stopped)?))
    }
}

impl Held {
    fn new(permits: OwnedSemaphorePermit) -> Self {
        metrics::window_bytes(permits.num_permits() as i64);
        Self(permits)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        metrics::window_bytes(-(self.0.num_permits() as i64));
    }
}

/// Groups frames into envelopes: each holds frames of one session in their order, within `limits`.
pub(crate) fn group(
    pending: impl IntoIterator<Item = PendingFrame>,
    limits: Limits,
) -> Vec<Vec<PendingFrame>> {
    let mut envelopes: Vec<Vec<PendingFrame>> = Vec::new();
    // Where each session's last envelope is, and how many bytes it holds.
    let mut open: HashMap<SessionId, (usize, usize)> = HashMap::new();
    for pending in pending {
        let session = pending.attributes.session;
        let bytes = pending.frame.body.len();
        match open.get_mut(&session) {
            Some((at, held))
                if envelopes[*at].len() < limits.frames && *held + bytes <= limits.bytes =>
            {
                *held += bytes;
                envelopes[*at].push(pending);
            }
            _ => {
                open.insert(session, (envelopes.len(), bytes));
                envelopes.push(vec![pending]);
            }
        }
    }
    envelopes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::pause::PauseReason;
    use crate::testing;

    const LIMITS: Limits = Limits {
        frames: 4,
        bytes: 100,
    };

    fn pending(
        budget: &Budget,
        attributes: &Arc<Attributes>,
        number: u64,
        size: usize,
    ) -> PendingFrame {
        PendingFrame {
            attributes: Arc::clone(attributes),
            frame: testing::frame(number, &vec![b'x'; size]),
            topic: None,
            held: budget.try_hold(size).unwrap(),
        }
    }

    proptest! {
        #[test]
        fn envelopes_hold_every_frame_in_order_and_within_bounds(
            arrivals in prop::collection::vec((0_usize..4, 0_usize..150), 0..200),
        ) {
            let budget = Budget::new(u32::MAX);
            let sessions: Vec<_> = (0..4).map(|_| Arc::new(testing::attributes())).collect();
            let mut numbers = [0; 4];
            let arriving: Vec<_> = arrivals.iter().map(|&(session, size)| {
                numbers[session] += 1;
                pending(&budget, &sessions[session], numbers[session], size)
            }).collect();

            let mut seen: BTreeMap<SessionId, Vec<u64>> = BTreeMap::new();
            for envelope in group(arriving, LIMITS) {
                let bytes: usize = envelope.iter().map(|pending| pending.frame.body.len()).sum();
                prop_assert!((1..=LIMITS.frames).contains(&envelope.len()));
                prop_assert!(bytes <= LIMITS.bytes || envelope.len() == 1);
                let session = envelope[0].attributes.session;
                for pending in &envelope {
                    prop_assert_eq!(pending.attributes.session, session);
                    seen.entry(session).or_default().push(pending.frame.number);
                }
            }
            for (session, count) in sessions.iter().zip(numbers) {
                let numbers = seen.remove(&session.session).unwrap_or_default();
                prop_assert_eq!(numbers, (1..=count).collect::<Vec<_>>());
            }
        }
    }

    #[tokio::test]
    async fn a_full_window_holds_back_the_next_frame_until_there_is_room() {
        let mut config = testing::config().window;
        config.max_bytes = 1000;
        let (window, mut queues) = Window::open(1, &config);
        let source = window.source();
        let attributes = Arc::new(testing::attributes());
        let let_go = CancellationToken::new();
        let submit = |number, size: usize| {
            let frame = testing::frame(number, &vec![b'x'; size]);
            source.submit(0, Arc::clone(&attributes), frame, None, &let_go)
        };
        submit(1, 500).await.unwrap();
        let second = submit(2, 500);
        tokio::pin!(second);
        assert!(futures_util::poll!(&mut second).is_pending());
        assert_eq!(source.waits().paused(), Some(PauseReason::WindowFull));
        let first = queues[0].recv().await.unwrap();
        assert!(
            futures_util::poll!(&mut second).is_pending(),
            "it is not confirmed yet"
        );
        drop(first);
        second.await.unwrap();
        assert_eq!(source.waits().paused(), None);

        // A frame larger than the whole window still passes, alone.
        drop(queues[0].recv().await.unwrap());
        submit(3, 5000).await.unwrap();
        let fourth = submit(4, 1);
        tokio::pin!(fourth);
        assert!(futures_util::poll!(&mut fourth).is_pending());
        let_go.cancel();
        assert_eq!(fourth.await, Err(Stopped));
    }

    #[tokio::test]
    async fn a_full_queue_holds_back_the_next_frame() {
        let mut config = testing::config().window;
        config.max_bytes = 10 * FRAME_OVERHEAD;
        let (window, mut queues) = Window::open(2, &config);
        let source = window.source();
        let attributes = Arc::new(testing::attributes());
        let let_go = CancellationToken::new();
        let submit = |partition, number| {
            let frame = testing::frame(number, b"{}");
            source.submit(partition, Arc::clone(&attributes), frame, None, &let_go)
        };
        for number in 1..=5 {
            submit(0, number).await.unwrap();
        }
        submit(1, 1).await.unwrap();
        let late = submit(0, 0);
        tokio::pin!(late);
        assert!(futures_util::poll!(&mut late).is_pending());
        drop(queues[0].recv().await.unwrap());
        late.await.unwrap();
    }
}
