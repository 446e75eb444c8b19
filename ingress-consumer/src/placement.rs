//! Which publisher reads which stream. Pure.
//!
//! Rendezvous hashing: every stream ranks the publishers by a hash of both, and goes to the first
//! that has room. So where publishers come and go, only the streams move that have to. A cap keeps a
//! lucky publisher from getting much more than its share.
//!
//! What nobody reads is granted at once. What a publisher that is about to stop reads is handed over
//! at once too. What would merely be better elsewhere moves a few at a time.

use std::collections::{BTreeMap, HashMap};

use shared_model::ConnectionId;
use shared_model::stream_settings::Handover;
use xxhash_rust::xxh3::xxh3_64;

/// A publisher that is alive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublisherView {
    /// Its name.
    pub instance: String,
    /// The most streams that it takes.
    pub capacity: u32,
    /// Whether it is about to stop.
    pub draining: bool,
}

/// A stream, and who reads it under a lease that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamView {
    /// The connection.
    pub connection: ConnectionId,
    /// How it passes from one publisher to another.
    pub handover: Handover,
    /// Its owner.
    pub owner: Option<String>,
    /// Its owner before, which has not let go yet.
    pub outgoing: Option<String>,
    /// Whether that one has to close before anybody else is granted the stream.
    pub asked_back: bool,
}

/// The bounds of placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How many streams may be on their way from one publisher to another for balance alone.
    pub moves: usize,
}

/// A change of ownership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nobody reads it: this publisher is to.
    Grant {
        /// The stream.
        connection: ConnectionId,
        /// The new owner.
        to: String,
    },
    /// The new owner is to read it beside the old one, which lets go once the new one is subscribed.
    HandOver {
        /// The stream.
        connection: ConnectionId,
        /// The new owner.
        to: String,
    },
    /// The owner is to close it; it is granted to another once it has.
    AskBack {
        /// The stream.
        connection: ConnectionId,
    },
}

/// A publisher takes up to this much more than its even share, in per cent.
const SLACK: usize = 25;

/// What to change, given the publishers that are alive and every stream.
#[must_use]
pub fn place(publishers: &[PublisherView], streams: &[StreamView], policy: Policy) -> Vec<Step> {
    let targets = targets(publishers, streams);
    let mut moving = streams.iter().filter(|s| s.outgoing.is_some()).count();
    let mut steps = Vec::new();
    for stream in streams {
        let connection = stream.connection;
        let target = targets.get(&connection).map(|to| (*to).to_owned());
        match (&stream.owner, &stream.outgoing, target) {
            (None, None, Some(to)) => steps.push(Step::Grant { connection, to }),
            // Its successor is gone before it was subscribed. The one before reads on until the next
            // is, unless that is itself.
            (None, Some(outgoing), Some(to)) if !stream.asked_back => {
                steps.push(if *outgoing == to {
                    Step::Grant { connection, to }
                } else {
                    Step::HandOver { connection, to }
                });
            }
            (Some(owner), None, Some(to)) if *owner != to => {
                let must = publishers
                    .iter()
                    .any(|publisher| publisher.instance == *owner && publisher.draining);
                if must || moving < policy.moves {
                    moving += 1;
                    steps.push(match stream.handover {
                        Handover::Overlap => Step::HandOver { connection, to },
                        Handover::Exclusive => Step::AskBack { connection },
                    });
                }
            }
            // Settled, on its way, or nobody has room for it.
            _ => {}
        }
    }
    steps
}

/// Where each stream belongs; a stream for which nobody has room is left out.
fn targets<'a>(
    publishers: &'a [PublisherView],
    streams: &[StreamView],
) -> HashMap<ConnectionId, &'a str> {
    let takers: Vec<_> = publishers.iter().filter(|p| !p.draining).collect();
    let Some(share) = streams.len().checked_div(takers.len()) else {
        return HashMap::new();
    };
    let cap = (share + 1) * (100 + SLACK) / 100;
    let mut owned: BTreeMap<&str, usize> = BTreeMap::new();
    let mut order: Vec<_> = streams.iter().map(|stream| stream.connection).collect();
    order.sort_unstable();
    let mut targets = HashMap::new();
    for connection in order {
        // Where some are full, the others take more than their share.
        let within = |cap: usize| {
            let has_room = |p: &&&PublisherView| {
                let owned = owned.get(p.instance.as_str()).copied().unwrap_or_default();
                owned < cap.min(p.capacity as usize)
            };
            takers
                .iter()
                .filter(has_room)
                .max_by_key(|p| (score(connection, &p.instance), &p.instance))
        };
        if let Some(best) = within(cap).or_else(|| within(usize::MAX)) {
            *owned.entry(&best.instance).or_default() += 1;
            targets.insert(connection, best.instance.as_str());
        }
    }
    targets
}

fn score(connection: ConnectionId, instance: &str) -> u64 {
    xxh3_64(&[connection.0.as_bytes().as_slice(), instance.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    const POLICY: Policy = Policy { moves: 5 };

    fn publisher(name: &str) -> PublisherView {
        PublisherView {
            instance: name.to_owned(),
            capacity: 10_000,
            draining: false,
        }
    }

    fn streams(count: u128) -> Vec<StreamView> {
        let stream = |n: u128| StreamView {
            connection: ConnectionId(Uuid::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
            handover: Handover::Overlap,
            owner: None,
            outgoing: None,
            asked_back: false,
        };
        (1..=count).map(stream).collect()
    }

    /// Takes the steps as if every hand-over succeeded at once.
    fn take(streams: &mut [StreamView], steps: &[Step]) {
        for step in steps {
            let (Step::Grant { connection, .. }
            | Step::HandOver { connection, .. }
            | Step::AskBack { connection }) = step;
            let stream = streams
                .iter_mut()
                .find(|s| s.connection == *connection)
                .unwrap();
            stream.owner = match step {
                Step::Grant { to, .. } | Step::HandOver { to, .. } => Some(to.clone()),
                Step::AskBack { .. } => None,
            };
        }
    }

    fn count(streams: &[StreamView], owner: &str) -> usize {
        let of = |stream: &&StreamView| stream.owner.as_deref() == Some(owner);
        streams.iter().filter(of).count()
    }

    #[test]
    fn everything_is_granted_at_once_and_about_evenly() {
        let publishers = [publisher("a"), publisher("b"), publisher("c")];
        let mut streams = streams(300);
        let steps = place(&publishers, &streams, POLICY);
        assert_eq!(steps.len(), 300);
        take(&mut streams, &steps);
        for p in &publishers {
            let owned = count(&streams, &p.instance);
            assert!((70..=127).contains(&owned), "{}: {owned}", p.instance);
        }
        assert_eq!(
            place(&publishers, &streams, POLICY),
            [],
            "and stays where it is"
        );
    }

    #[test]
    fn who_is_lost_loses_only_its_own_streams() {
        let all = [publisher("a"), publisher("b"), publisher("c")];
        let mut streams = streams(300);
        let steps = place(&all, &streams, POLICY);
        take(&mut streams, &steps);
        let lost = count(&streams, "b");
        for stream in &mut streams {
            stream.owner.take_if(|owner| owner == "b");
        }
        let left = [publisher("a"), publisher("c")];
        let steps = place(&left, &streams, POLICY);
        let granted = steps.iter().filter(|s| matches!(s, Step::Grant { .. }));
        assert_eq!(granted.count(), lost);
        assert!(steps.len() <= lost + POLICY.moves);
    }

    #[test]
    fn who_joins_is_given_streams_a_few_at_a_time() {
        let mut streams = streams(100);
        let steps = place(&[publisher("a")], &streams, POLICY);
        take(&mut streams, &steps);
        let both = [publisher("a"), publisher("b")];
        let steps = place(&both, &streams, POLICY);
        assert_eq!(steps.len(), 5);
        // As long as these are on their way, no others move.
        for step in &steps {
            let Step::HandOver { connection, to } = step else {
                panic!("{step:?}");
            };
            let stream = streams
                .iter_mut()
                .find(|s| s.connection == *connection)
                .unwrap();
            stream.outgoing = stream.owner.replace(to.clone());
        }
        assert_eq!(place(&both, &streams, POLICY), []);
        for _ in 0..100 {
            for stream in &mut streams {
                stream.outgoing = None;
            }
            let steps = place(&both, &streams, POLICY);
            take(&mut streams, &steps);
        }
        assert!(
            (37..=63).contains(&count(&streams, "b")),
            "{}",
            count(&streams, "b")
        );
    }

    #[test]
    fn who_is_about_to_stop_hands_over_everything_if_somebody_is_there() {
        let mut streams = streams(40);
        streams[7].handover = Handover::Exclusive;
        let steps = place(&[publisher("a")], &streams, POLICY);
        take(&mut streams, &steps);
        let draining = PublisherView {
            draining: true,
            ..publisher("a")
        };
        assert_eq!(place(std::slice::from_ref(&draining), &streams, POLICY), []);
        let steps = place(&[draining, publisher("b")], &streams, POLICY);
        assert_eq!(steps.len(), 40);
        let asked: Vec<_> = steps
            .iter()
            .filter(|s| matches!(s, Step::AskBack { .. }))
            .collect();
        assert_eq!(
            asked,
            [&Step::AskBack {
                connection: streams[7].connection
            }]
        );
    }

    #[test]
    fn what_is_asked_back_is_granted_to_nobody_until_it_is_closed() {
        let mut streams = streams(1);
        streams[0].outgoing = Some("a".to_owned());
        streams[0].asked_back = true;
        assert_eq!(place(&[publisher("b")], &streams, POLICY), []);
        streams[0].outgoing = None;
        assert_eq!(place(&[publisher("b")], &streams, POLICY).len(), 1);
    }

    #[test]
    fn a_successor_that_is_lost_is_succeeded_while_the_one_before_reads_on() {
        let mut streams = streams(1);
        let connection = streams[0].connection;
        streams[0].outgoing = Some("a".to_owned());
        let draining = PublisherView {
            draining: true,
            ..publisher("a")
        };
        let to = "b".to_owned();
        assert_eq!(
            place(&[draining, publisher("b")], &streams, POLICY),
            [Step::HandOver { connection, to }]
        );
        let to = "a".to_owned();
        assert_eq!(
            place(&[publisher("a")], &streams, POLICY),
            [Step::Grant { connection, to }]
        );
    }

    proptest! {
        #[test]
        fn nobody_gets_more_than_it_takes_and_all_that_fits_is_placed(
            count in 0_u128..80,
            capacities in prop::collection::vec(0_u32..60, 0..5),
        ) {
            let publishers: Vec<_> = capacities
                .iter()
                .enumerate()
                .map(|(n, capacity)| PublisherView { capacity: *capacity, ..publisher(&format!("p{n}")) })
                .collect();
            let mut streams = streams(count);
            let steps = place(&publishers, &streams, POLICY);
            take(&mut streams, &steps);
            for p in &publishers {
                prop_assert!(super::tests::count(&streams, &p.instance) <= p.capacity as usize);
            }
            let placed = streams.iter().filter(|s| s.owner.is_some()).count();
            let room = capacities.iter().map(|c| *c as usize).sum();
            prop_assert_eq!(placed, streams.len().min(room));
            prop_assert_eq!(place(&publishers, &streams, POLICY), []);
        }
    }
}
