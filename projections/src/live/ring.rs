//! The newest events of the log, for readers that come back soon. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::{Frame, LogEvent};
use super::filter::{Filter, Wanted};
use super::position::Position;

/// An event and the form in which it is sent.
#[derive(Debug)]
pub(super) struct Entry {
    /// The event.
    pub(super) event: LogEvent,
    /// Its frame.
    pub(super) frame: Frame,
}

impl Entry {
    /// What is sent of it to a reader of the workspace that wants `filter`; none if nothing is.
    pub(super) fn frame_for(&self, filter: &Filter) -> Option<Frame> {
        match filter.wants(&self.event) {
            Wanted::All => Some(self.frame.clone()),
            Wanted::Part(line) => Some(self.frame.with_line(&self.event, &line)),
            Wanted::Nothing => None,
        }
    }
}

/// The newest events, up to a count and to bytes, in the order in which they came.
#[derive(Debug)]
pub(super) struct Ring {
    /// Everything behind this is here, up to the head.
    base: Position,
    head: Position,
    entries: VecDeque<Arc<Entry>>,
    bytes: usize,
    most_events: usize,
    most_bytes: usize,
}

impl Ring {
    /// A ring without events, at `start`.
    pub(super) fn new(start: Position, most_events: usize, most_bytes: usize) -> Self {
        Self {
            base: start.clone(),
            head: start,
            entries: VecDeque::new(),
            bytes: 0,
            most_events,
            most_bytes,
        }
    }

    /// Behind the newest event.
    pub(super) const fn head(&self) -> &Position {
        &self.head
    }

    /// The log has begun a new generation that goes on from what is here.
    pub(super) fn go_on_in(&mut self, generation: u64) {
        self.base.generation = generation;
        self.head.generation = generation;
    }

    /// How many events are here, and how many bytes they take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Passes over an offset without an event.
    pub(super) fn skip(&mut self, shard: u32, offset: u64) {
        self.head.advance(shard, offset);
    }

    /// Adds the next event of `shard`, and drops the oldest for it.
    pub(super) fn push(&mut self, shard: u32, mut event: LogEvent) -> Arc<Entry> {
        self.head.advance(shard, event.offset);
        let frame = Frame::new(shard, &event, &event.line, Arc::new(self.head.clone()));
        // The text is kept once: what was read shares nothing with other events' any more.
        event.line = frame.line();
        let entry = Arc::new(Entry { event, frame });
        self.bytes += entry.frame.len();
        self.entries.push_back(Arc::clone(&entry));
        while self.entries.len() > self.most_events || self.bytes > self.most_bytes {
            let Some(oldest) = self.entries.pop_front() else {
                break;
            };
            self.bytes -= oldest.frame.len();
            self.base.advance(oldest.frame.shard, oldest.frame.offset);
        }
        entry
    }

    /// Whether everything behind `position` is here.
    pub(super) fn reaches_back_to(&self, position: &Position) -> bool {
        position.generation == self.base.generation && position.covers(&self.base)
    }

    /// What is here behind `position`, in order.
    pub(super) fn behind<'a>(
        &'a self,
        position: &'a Position,
    ) -> impl Iterator<Item = &'a Arc<Entry>> {
        self.entries
            .iter()
            .filter(|entry| entry.frame.offset > position.of(entry.frame.shard))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::live::event::tests::line;

    fn event(offset: u64) -> LogEvent {
        let data = json!({"vehicle": "bus-1"});
        LogEvent::read(line(offset, "demo", "vehicle.snapshot.changed", data)).unwrap()
    }

    fn at(offsets: &[u64]) -> Position {
        Position::new(1, offsets.to_vec())
    }

    fn behind(ring: &Ring, offsets: &[u64]) -> Vec<(u32, u64)> {
        let position = at(offsets);
        let found = ring.behind(&position);
        found
            .map(|entry| (entry.frame.shard, entry.frame.offset))
            .collect()
    }

    #[test]
    fn it_holds_the_newest_and_knows_how_far_back_it_reaches() {
        let mut ring = Ring::new(at(&[10, 20]), 3, usize::MAX);
        for (shard, offset) in [(0, 11), (1, 21), (1, 22)] {
            ring.push(shard, event(offset));
        }
        assert!(ring.reaches_back_to(&at(&[10, 20])));
        assert!(!ring.reaches_back_to(&at(&[9, 20])));
        assert!(!ring.reaches_back_to(&Position::new(2, vec![10, 20])));
        ring.push(0, event(12));
        assert!(!ring.reaches_back_to(&at(&[10, 20])));
        assert!(ring.reaches_back_to(&at(&[11, 20])));
        assert_eq!(behind(&ring, &[11, 21]), [(1, 22), (0, 12)]);
        assert_eq!(behind(&ring, &[12, 22]), []);
        assert_eq!(ring.head(), &at(&[12, 22]));
        assert_eq!(ring.size().0, 3);
        ring.go_on_in(2);
        assert!(ring.reaches_back_to(&Position::new(2, vec![11, 20])));
    }

    #[test]
    fn it_is_bounded_in_bytes() {
        let mut ring = Ring::new(at(&[0]), 100, 1000);
        for offset in 1..=50 {
            ring.push(0, event(offset));
            let (events, bytes) = ring.size();
            assert!(bytes <= 1000 && events >= 1);
        }
        ring.skip(0, 60);
        assert_eq!(ring.head(), &at(&[60]));
    }
}
