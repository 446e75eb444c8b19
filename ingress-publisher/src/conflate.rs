//! Conflation: while the broker does not take them, the newest frame about a topic replaces the one
//! that still waits.
//!
//! Only frames with a topic take part, which a stream gives to those of connections that ask for it.
//! Each replaced frame is counted, and its number kept until an envelope of its session reports it,
//! so that sent = seen + conflated. What waits here is in memory only: whoever has it wait sees to it
//! that it does not wait for long, and is not too much. Pure.

use std::collections::HashMap;

use rangemap::RangeInclusiveSet;
use shared_model::SessionId;

use crate::metrics;
use crate::window::{FRAME_OVERHEAD, PendingFrame, Topic};

/// The frames that wait to be sent or replaced, and the numbers of those that were.
#[derive(Debug, Default)]
pub(crate) struct Conflation {
    waiting: HashMap<(SessionId, Topic), PendingFrame>,
    replaced: HashMap<SessionId, RangeInclusiveSet<u64>>,
    /// What the frames that wait cost.
    bytes: usize,
}

impl Conflation {
    /// Takes `frame` in place of an older one about the same; gives it back if it is about nothing.
    pub(crate) fn offer(&mut self, mut frame: PendingFrame) -> Option<PendingFrame> {
        let Some(topic) = frame.topic.take() else {
            return Some(frame);
        };
        let session = frame.attributes.session;
        self.bytes += cost(&frame);
        if let Some(older) = self.waiting.insert((session, topic), frame) {
            self.bytes -= cost(&older);
            let number = older.frame.number;
            let replaced = self.replaced.entry(session).or_default();
            replaced.insert(number..=number);
            metrics::conflated(older.attributes.provider.as_str());
        }
        None
    }

    /// Takes out every frame that waits, in the order of each session.
    pub(crate) fn take(&mut self) -> Vec<PendingFrame> {
        self.bytes = 0;
        let mut frames: Vec<_> = self.waiting.drain().map(|(_, frame)| frame).collect();
        frames.sort_by_key(|frame| frame.frame.number);
        frames
    }

    /// What the frames that wait cost in bytes; zero if there are none.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes out at most `most` ranges of the session's replaced numbers, for the next envelope.
    pub(crate) fn report(&mut self, session: SessionId, most: usize) -> RangeInclusiveSet<u64> {
        let Some(replaced) = self.replaced.get_mut(&session) else {
            return RangeInclusiveSet::new();
        };
        let reported: RangeInclusiveSet<u64> = replaced.iter().take(most).cloned().collect();
        for range in reported.iter() {
            replaced.remove(range.clone());
        }
        if replaced.is_empty() {
            self.replaced.remove(&session);
        }
        reported
    }
}

fn cost(frame: &PendingFrame) -> usize {
    frame.frame.body.len() + FRAME_OVERHEAD as usize
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use shared_model::Envelope;

    use crate::pack::{Load, Packer};
    use crate::parcel::Parcel;
    use crate::testing;
    use crate::window::{Limits, Pending, PendingFrame, Topic, Window};

    use super::*;

    /// What a frame is about, if anything, and which session it is of.
    type Sent = (usize, Option<u8>);

    /// Batches, and whether what waits to be replaced is taken out behind each.
    fn arrivals() -> impl Strategy<Value = Vec<(Vec<Sent>, bool)>> {
        let frame = (0..3_usize, prop::option::of(0..40_u8));
        let batch = prop::collection::vec(frame, 0..60);
        prop::collection::vec((batch, any::<bool>()), 0..8)
    }

    fn envelope(Parcel { headers, body, .. }: &Parcel) -> Envelope {
        Envelope::decode(headers, body).unwrap()
    }

    proptest! {
        #[test]
        fn every_number_is_sent_or_reported_and_the_newest_of_each_topic_is_sent_last(
            batches in arrivals(),
            frames in 1_usize..300,
        ) {
            let (window, _queues) = Window::open(1, &testing::config().window);
            let sessions: Vec<_> = (0..3).map(|_| Arc::new(testing::attributes())).collect();
            let mut packer = Packer::new(0, Limits { frames, bytes: 10_000 });
            let mut numbers = [0; 3];
            let mut newest = BTreeMap::new();
            let mut topics = BTreeMap::new();
            let mut loads: Vec<Load> = Vec::new();
            for (batch, take) in batches {
                let pending: Vec<_> = batch.into_iter().map(|(session, topic)| {
                    numbers[session] += 1;
                    if let Some(topic) = topic {
                        newest.insert((session, topic), numbers[session]);
                        topics.insert((sessions[session].session, numbers[session]), topic);
                    }
                    Pending::Frame(PendingFrame {
                        attributes: Arc::clone(&sessions[session]),
                        frame: testing::frame(numbers[session], b"{}"),
                        topic: topic.map(|topic| Topic {
                            device: "bus-1".into(),
                            label: topic.to_string().into(),
                        }),
                        held: window.hold_for_test(2),
                    })
                }).collect();
                loads.extend(packer.pack_or_conflate(pending));
                if take {
                    loads.extend(packer.pack_conflated());
                    prop_assert_eq!(packer.conflated_bytes(), 0);
                }
            }
            loads.extend(packer.pack_conflated());

            let mut sent = BTreeMap::<_, RangeInclusiveSet<u64>>::new();
            let mut conflated = BTreeMap::<_, RangeInclusiveSet<u64>>::new();
            let mut last_of_topic = BTreeMap::new();
            for load in &loads {
                let envelope = envelope(&load.parcel);
                let session = envelope.attributes.session;
                for frame in &envelope.frames {
                    if let Some(topic) = topics.get(&(session, frame.number)) {
                        let before = last_of_topic.insert((session, *topic), frame.number);
                        prop_assert!(before < Some(frame.number), "older behind newer");
                    }
                }
                let numbers = envelope.frames.iter().map(|frame| frame.number..=frame.number);
                sent.entry(session).or_default().extend(numbers);
                conflated.entry(session).or_default().extend(envelope.conflated);
            }
            for (session, last) in sessions.iter().zip(numbers).filter(|(_, last)| *last > 0) {
                let (sent, conflated) = (&sent[&session.session], &conflated[&session.session]);
                let mut all = sent.clone();
                all.extend(conflated.iter().cloned());
                prop_assert_eq!(all, [1..=last].into_iter().collect());
                prop_assert!(!sent.iter().any(|range| conflated.overlaps(range)));
            }
            for ((session, _), number) in newest {
                prop_assert!(sent[&sessions[session].session].contains(&number));
            }
        }
    }
}
