//! What is under way to the broker, and how far everything is confirmed. Pure.

use std::collections::VecDeque;

/// The bounds of what may be under way at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// In messages.
    pub messages: usize,
    /// In bytes of bodies; a single message may be larger.
    pub bytes: usize,
}

/// What is under way, in the order of the log.
#[derive(Debug)]
pub struct Window {
    bounds: Bounds,
    spans: VecDeque<Span>,
    messages: usize,
    bytes: usize,
    settled: u64,
}

/// Offsets up to `last`, from behind the span before.
#[derive(Debug)]
struct Span {
    last: u64,
    bytes: usize,
    state: State,
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    UnderWay,
    Settled,
}

impl Window {
    /// Nothing is under way, and all up to offset `settled` is settled.
    #[must_use]
    pub fn behind(settled: u64, bounds: Bounds) -> Self {
        Self {
            bounds,
            spans: VecDeque::new(),
            messages: 0,
            bytes: 0,
            settled,
        }
    }

    /// Whether a message of `bytes` may be sent.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.messages == 0
            || (self.messages < self.bounds.messages && self.bytes + bytes <= self.bounds.bytes)
    }

    /// A message of `bytes` is sent that covers the offsets up to `last`.
    pub fn sent(&mut self, last: u64, bytes: usize) {
        self.messages += 1;
        self.bytes += bytes;
        self.push(last, bytes, State::UnderWay);
    }

    /// Nothing has to be sent of the offsets up to `last`.
    pub fn passed(&mut self, last: u64) {
        self.push(last, 0, State::Settled);
        self.close_ranks();
    }

    fn push(&mut self, last: u64, bytes: usize, state: State) {
        self.spans.push_back(Span { last, bytes, state });
    }

    /// The message that covers the offsets up to `last` is confirmed.
    pub fn confirmed(&mut self, last: u64) {
        let found = self
            .spans
            .iter_mut()
            .find(|span| span.last == last && span.state == State::UnderWay);
        let Some(span) = found else {
            return;
        };
        span.state = State::Settled;
        self.messages -= 1;
        self.bytes -= span.bytes;
        self.close_ranks();
    }

    fn close_ranks(&mut self) {
        while let Some(span) = self.spans.pop_front_if(|span| span.state == State::Settled) {
            self.settled = span.last;
        }
    }

    /// Up to here everything is settled, without a gap.
    #[must_use]
    pub fn settled(&self) -> u64 {
        self.settled
    }

    /// Up to here messages were sent.
    #[must_use]
    pub fn last_sent(&self) -> u64 {
        self.spans.back().map_or(self.settled, |span| span.last)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        messages: 3,
        bytes: 100,
    };

    #[test]
    fn it_is_bounded_in_messages_and_bytes_but_for_a_single_large_message() {
        let mut window = Window::behind(0, BOUNDS);
        assert!(window.has_room(1000));
        window.sent(1, 60);
        assert!(window.has_room(40) && !window.has_room(41));
        window.sent(2, 1);
        window.sent(3, 1);
        assert!(!window.has_room(1));
        window.confirmed(2);
        assert!(window.has_room(1));
        assert_eq!(window.settled(), 0);
        window.confirmed(1);
        assert_eq!((window.settled(), window.last_sent()), (2, 3));
    }

    #[test]
    fn what_is_not_to_be_sent_is_passed_in_its_turn() {
        let mut window = Window::behind(4, BOUNDS);
        window.passed(5);
        assert_eq!(window.settled(), 5);
        window.sent(6, 1);
        window.passed(9);
        assert_eq!(window.settled(), 5);
        window.confirmed(6);
        assert_eq!(window.settled(), 9);
    }

    proptest! {
        #[test]
        fn all_up_to_the_settled_offset_is_settled_and_the_next_is_not(
            (lengths, order) in prop::collection::vec((1_u64..5, any::<bool>()), 1..30)
                .prop_flat_map(|lengths| {
                    let order: Vec<_> = (0..lengths.len()).collect();
                    (Just(lengths), Just(order).prop_shuffle())
                }),
        ) {
            let mut window = Window::behind(0, Bounds { messages: usize::MAX, bytes: usize::MAX });
            let mut last = 0;
            let mut spans = Vec::new();
            for (length, is_sent) in lengths {
                last += length;
                if is_sent { window.sent(last, 1) } else { window.passed(last) }
                spans.push((last, !is_sent));
            }
            for index in order {
                window.confirmed(spans[index].0);
                spans[index].1 = true;
                let expected = spans.iter().take_while(|(_, settled)| *settled).last();
                prop_assert_eq!(window.settled(), expected.map_or(0, |(last, _)| *last));
            }
            prop_assert_eq!(window.settled(), last);
            prop_assert_eq!(window.bytes, 0);
        }
    }
}
