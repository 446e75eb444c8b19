//! What waits to be sent to one reader: bounded, and shared between who puts in and who takes out.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::end::End;
use super::event::Frame;

/// What waits for one reader.
#[derive(Debug)]
pub(super) struct Mailbox {
    state: Mutex<State>,
    arrived: Notify,
    most_events: usize,
    most_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Frame>,
    bytes: usize,
    end: Option<End>,
}

/// What a reader is to be sent next.
#[derive(Debug)]
pub(super) enum Mail {
    /// An event.
    Frame(Frame),
    /// Nothing more, for this reason.
    End(End),
}

impl Mailbox {
    /// A box for so many frames and bytes.
    pub(super) fn new(most_events: usize, most_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            arrived: Notify::new(),
            most_events,
            most_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in a frame. One that does not fit ends the stream, and what waited is let go: the reader gets it
    /// from the log when it comes back.
    pub(super) fn put(&self, frame: Frame) {
        let mut state = self.lock();
        if state.end.is_some() {
            return;
        }
        let has_room = state.frames.len() < self.most_events
            && (state.frames.is_empty() || state.bytes + frame.len() <= self.most_bytes);
        if has_room {
            state.bytes += frame.len();
            state.frames.push_back(frame);
        } else {
            state.frames = VecDeque::new();
            state.bytes = 0;
            state.end = Some(End::SlowReader);
        }
        drop(state);
        self.arrived.notify_one();
    }

    /// Says that nothing comes behind what waits.
    pub(super) fn end(&self, end: End) {
        self.lock().end.get_or_insert(end);
        self.arrived.notify_one();
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        let state = self.lock();
        state.frames.is_empty() && state.end.is_none()
    }

    /// The next thing to send, as soon as there is one.
    pub(super) async fn next(&self) -> Mail {
        loop {
            if let Some(mail) = self.take() {
                return mail;
            }
            self.arrived.notified().await;
        }
    }

    fn take(&self) -> Option<Mail> {
        let mut state = self.lock();
        if let Some(frame) = state.frames.pop_front() {
            state.bytes -= frame.len();
            if state.frames.is_empty() {
                // A burst does not make the box large for good.
                state.frames = VecDeque::new();
            }
            return Some(Mail::Frame(frame));
        }
        state.end.clone().map(Mail::End)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::live::event::LogEvent;
    use crate::live::event::tests::line;
    use crate::live::position::Position;

    fn frame(offset: u64) -> Frame {
        let line = line(
            offset,
            "demo",
            "vehicle.registered",
            json!({"vehicle": "a"}),
        );
        let event = LogEvent::read(line).unwrap();
        let behind = Arc::new(Position::new(1, vec![offset]));
        Frame::new(0, &event, &event.line, behind)
    }

    async fn next(mailbox: &Mailbox) -> Result<u64, End> {
        match mailbox.next().await {
            Mail::Frame(frame) => Ok(frame.offset),
            Mail::End(end) => Err(end),
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_ends_the_stream() {
        let length = frame(1).len();
        for (most_events, most_bytes) in [(2, usize::MAX), (9, 2 * length)] {
            let mailbox = Mailbox::new(most_events, most_bytes);
            assert!(mailbox.is_empty());
            for offset in 1..=2 {
                mailbox.put(frame(offset));
            }
            assert_eq!(next(&mailbox).await, Ok(1));
            mailbox.put(frame(3));
            assert_eq!(next(&mailbox).await, Ok(2));
            for offset in 4..=6 {
                mailbox.put(frame(offset));
            }
            assert_eq!(next(&mailbox).await, Err(End::SlowReader));
            mailbox.put(frame(7));
            mailbox.end(End::Stopping);
            assert_eq!(next(&mailbox).await, Err(End::SlowReader));
        }
    }

    #[tokio::test]
    async fn what_waits_is_sent_before_the_end() {
        let mailbox = Mailbox::new(2, 1);
        mailbox.put(frame(1));
        mailbox.end(End::Stopping);
        mailbox.put(frame(2));
        assert_eq!(
            next(&mailbox).await,
            Ok(1),
            "one may be larger than the box"
        );
        assert_eq!(next(&mailbox).await, Err(End::Stopping));
        assert!(!mailbox.is_empty());
    }
}
