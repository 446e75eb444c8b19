//! A subscriber of the event bus that notes what it sees, and in what order.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rangemap::RangeInclusiveSet;
use runtime::Context;
use runtime::amqp::{Batch, Consumer, Delivery, Link};
use runtime::config::{AmqpConfig, BatchLimit, SecretUrl};
use shared_model::topology::{Argument, EVENTS_EXCHANGE, Exchange, ExchangeKind, Queue, Topology};
use shared_model::{CloudEvent, headers};

/// The subscriber's queue.
pub const QUEUE: &str = "events.test";

/// What was seen on the bus.
#[derive(Debug, Default)]
pub struct Seen {
    /// Offsets by shard.
    pub offsets: BTreeMap<u32, RangeInclusiveSet<u64>>,
    /// How many events were seen that had been seen before.
    pub repeats: u64,
    /// Events that were first seen after a later one of the same subject.
    pub out_of_order: Vec<String>,
    /// The relays that published a shard under an epoch.
    pub senders: BTreeMap<(u32, u64), BTreeSet<String>>,
    newest: HashMap<(String, String), u64>,
}

impl Seen {
    fn note(&mut self, delivery: &Delivery) {
        let header = |name| delivery.headers.get(name).cloned().unwrap_or_default();
        let (relay, epoch) = (header(headers::RELAY), header(headers::RELAY_EPOCH));
        let epoch = epoch.parse().expect("every message has an epoch");
        let events = CloudEvent::decode(&delivery.content_type, &delivery.body);
        for event in events.expect("a message of events") {
            let event = event.expect("an event");
            let offset: u64 = event.sequence.parse().expect("an offset");
            let senders = self.senders.entry((event.shard, epoch)).or_default();
            senders.insert(relay.clone());
            let offsets = self.offsets.entry(event.shard).or_default();
            if offsets.contains(&offset) {
                self.repeats += 1;
                continue;
            }
            offsets.insert(offset..=offset);
            if let Some(subject) = event.subject {
                let key = (event.workspace.to_string(), subject);
                let newest = self.newest.entry(key).or_default();
                if *newest > offset {
                    self.out_of_order.push(event.id);
                }
                *newest = offset.max(*newest);
            }
        }
    }

    /// Whether the event at `offset` of `shard` was seen.
    #[must_use]
    pub fn has(&self, shard: u32, offset: u64) -> bool {
        self.offsets
            .get(&shard)
            .is_some_and(|seen| seen.contains(&offset))
    }

    /// How many events were seen, repeats not counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        let ranges = self.offsets.values().flat_map(RangeInclusiveSet::iter);
        ranges.map(|range| range.end() - range.start() + 1).sum()
    }

    /// Checks that no event is missing up to the heads, by shard; that those of each subject came in
    /// order; and that no two relays published a shard under one epoch.
    ///
    /// # Panics
    /// If it is not so.
    pub fn assert_sound(&self, heads: &BTreeMap<u32, u64>) {
        for (shard, head) in heads {
            let seen: Vec<_> = self
                .offsets
                .get(shard)
                .into_iter()
                .flat_map(RangeInclusiveSet::iter)
                .collect();
            let all = 1..=*head;
            let wanted: Vec<_> = Some(&all)
                .into_iter()
                .filter(|all| !all.is_empty())
                .collect();
            assert_eq!(seen, wanted, "shard {shard}");
        }
        assert_eq!(self.out_of_order, Vec::<String>::new());
        for (of, senders) in &self.senders {
            assert_eq!(senders.len(), 1, "{of:?}: {senders:?}");
        }
    }
}

/// A subscriber of the event bus.
pub struct Subscriber {
    context: Context,
    seen: Arc<Mutex<Seen>>,
}

impl Subscriber {
    /// Declares the subscriber's queue at `amqp`, and takes what comes.
    ///
    /// # Panics
    /// If the context is stopped.
    pub async fn start(amqp: &str) -> Self {
        let context = Context::new("tests", "subscriber");
        let seen = Arc::<Mutex<Seen>>::default();
        let link = open(&context, amqp);
        let (worker, noted) = (context.clone(), Arc::clone(&seen));
        // The queue is there once there is a session.
        link.session(context.stopping()).await.expect("a session");
        context.spawn("subscriber", async move {
            let stop = worker.stopping();
            let limit = BatchLimit::default();
            while let Ok(mut consumer) = Consumer::open(&link, QUEUE, stop).await {
                while let Batch::Messages(messages) = consumer.next_batch(limit, stop).await {
                    let Some(last) = messages.last() else { break };
                    let tag = last.tag;
                    for message in &messages {
                        lock(&noted).note(message);
                    }
                    if consumer.ack_through(tag).await.is_err() {
                        break;
                    }
                }
            }
            Ok(())
        });
        Self { context, seen }
    }

    /// What was seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        lock(&self.seen)
    }

    /// Stops; the queue stays.
    ///
    /// # Panics
    /// If it does not stop well.
    pub async fn stop(self) {
        self.context
            .stop()
            .await
            .expect("the subscriber stops well");
    }
}

fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(context: &Context, amqp: &str) -> Link {
    let config = AmqpConfig {
        url: Some(SecretUrl::new(amqp)),
        ..AmqpConfig::default()
    };
    let topology = Topology {
        exchanges: vec![Exchange {
            name: EVENTS_EXCHANGE,
            kind: ExchangeKind::Topic,
        }],
        queues: vec![Queue {
            name: QUEUE.to_owned(),
            arguments: vec![("x-queue-type", Argument::Text("quorum"))],
            exchange: EVENTS_EXCHANGE,
            routing_key: "#".to_owned(),
        }],
    };
    Link::open(context, &config, topology)
}
