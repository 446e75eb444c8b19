//! Names and arguments of everything that Headrace declares at the broker.
//!
//! Two boundaries: the `ingress` exchange, between services, and the `events` exchange, behind the
//! core. Data only; `runtime::amqp` declares it.

/// The exchange that publishers send envelopes to, by partition.
pub const INGRESS_EXCHANGE: &str = "ingress";
/// Where a partition's queue sends what it gives up on.
pub const DEAD_LETTER_EXCHANGE: &str = "ingress.dead";
/// The queue of what the partitions gave up on.
pub const DEAD_LETTER_QUEUE: &str = "ingress.dead";
/// The exchange that the relay sends events to, by type.
pub const EVENTS_EXCHANGE: &str = "events";

/// How often a message may come back to its partition's queue before it is dead-lettered.
///
/// A frame that cannot be read is parked after one delivery, and a database that is away returns
/// nothing to the queue. What counts is a consumer that dies holding the message, so the limit is
/// far above what restarts of a healthy consumer reach and still ends a crash loop.
pub const DELIVERY_LIMIT: i64 = 100;

/// How often an event may come back to its subscriber's queue: as good as always. A broker that
/// gives up (RabbitMQ 4 does after 20 returns, unless told otherwise) would drop it.
pub const EVENT_DELIVERY_LIMIT: i64 = 1_000_000;

/// The subscribers of the event bus, each with a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subscriber {
    /// The snapshot projection.
    Snapshot,
    /// The health projection.
    Health,
    /// The reactions, which tell others.
    Reactions,
}

impl Subscriber {
    /// Every subscriber.
    pub const ALL: [Self; 3] = [Self::Snapshot, Self::Health, Self::Reactions];

    /// The subscriber's queue.
    #[must_use]
    pub const fn queue(self) -> &'static str {
        match self {
            Self::Snapshot => "events.snapshot-projection",
            Self::Health => "events.health-projection",
            Self::Reactions => "events.reactions",
        }
    }
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By equal routing key.
    Direct,
    /// By pattern.
    Topic,
}

/// A queue argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// Text.
    Text(&'static str),
    /// A number.
    Integer(i64),
    /// A switch.
    Flag(bool),
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: &'static str,
    /// How it routes.
    pub kind: ExchangeKind,
}

/// A durable quorum queue, bound to one exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<(&'static str, Argument)>,
    /// The exchange that it is bound to.
    pub exchange: &'static str,
    /// The binding's key.
    pub routing_key: String,
}

/// A set of exchanges and queues to declare together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// The exchanges.
    pub exchanges: Vec<Exchange>,
    /// The queues, each with its binding.
    pub queues: Vec<Queue>,
}

/// The queue of ingress partition `partition`.
#[must_use]
pub fn ingress_queue(partition: u32) -> String {
    format!("ingress.{partition}")
}

/// The routing key of ingress partition `partition`.
#[must_use]
pub fn ingress_routing_key(partition: u32) -> String {
    partition.to_string()
}

/// The ingress side: `partitions` queues of at most `max_bytes` each, and the dead letters.
#[must_use]
pub fn ingress(partitions: u32, max_bytes: u64) -> Topology {
    let partition = |partition| Queue {
        name: ingress_queue(partition),
        arguments: vec![
            ("x-queue-type", Argument::Text("quorum")),
            // One consumer at a time keeps a partition's commits from conflicting with each other.
            ("x-single-active-consumer", Argument::Flag(true)),
            (
                "x-max-length-bytes",
                Argument::Integer(i64::try_from(max_bytes).unwrap_or(i64::MAX)),
            ),
            // A full queue says so to the publisher instead of dropping its oldest message.
            ("x-overflow", Argument::Text("reject-publish")),
            ("x-delivery-limit", Argument::Integer(DELIVERY_LIMIT)),
            (
                "x-dead-letter-exchange",
                Argument::Text(DEAD_LETTER_EXCHANGE),
            ),
            ("x-dead-letter-strategy", Argument::Text("at-least-once")),
        ],
        exchange: INGRESS_EXCHANGE,
        routing_key: ingress_routing_key(partition),
    };
    // Dead letters keep the key of the partition that they came from.
    let dead = (0..partitions).map(|partition| Queue {
        name: DEAD_LETTER_QUEUE.to_owned(),
        arguments: vec![("x-queue-type", Argument::Text("quorum"))],
        exchange: DEAD_LETTER_EXCHANGE,
        routing_key: ingress_routing_key(partition),
    });
    Topology {
        exchanges: vec![
            Exchange {
                name: INGRESS_EXCHANGE,
                kind: ExchangeKind::Direct,
            },
            Exchange {
                name: DEAD_LETTER_EXCHANGE,
                kind: ExchangeKind::Direct,
            },
        ],
        queues: dead.chain((0..partitions).map(partition)).collect(),
    }
}

/// The event bus with every subscriber's queue, so that no event finds nobody listening.
///
/// The queues have no length limit: a refusal by one of several queues would be ambiguous, and the
/// event log, not the queue, is the buffer that is sized for an outage.
#[must_use]
pub fn events() -> Topology {
    Topology {
        exchanges: vec![Exchange {
            name: EVENTS_EXCHANGE,
            kind: ExchangeKind::Topic,
        }],
        queues: Subscriber::ALL
            .into_iter()
            .map(|subscriber| Queue {
                name: subscriber.queue().to_owned(),
                arguments: vec![
                    ("x-queue-type", Argument::Text("quorum")),
                    ("x-delivery-limit", Argument::Integer(EVENT_DELIVERY_LIMIT)),
                ],
                exchange: EVENTS_EXCHANGE,
                routing_key: "#".to_owned(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_partition_refuses_when_full_and_gives_up_into_the_dead_letters() {
        let topology = ingress(4, 1024);
        for partition in 0..4 {
            let name = ingress_queue(partition);
            let queue = topology
                .queues
                .iter()
                .find(|queue| queue.name == name)
                .unwrap();
            for argument in [
                ("x-max-length-bytes", Argument::Integer(1024)),
                ("x-overflow", Argument::Text("reject-publish")),
                ("x-dead-letter-strategy", Argument::Text("at-least-once")),
            ] {
                assert!(queue.arguments.contains(&argument), "{name}: {argument:?}");
            }
            let key = ingress_routing_key(partition);
            assert!(
                topology
                    .queues
                    .iter()
                    .any(|queue| queue.name == DEAD_LETTER_QUEUE
                        && queue.exchange == DEAD_LETTER_EXCHANGE
                        && queue.routing_key == key)
            );
        }
    }

    #[test]
    fn every_subscriber_hears_every_event() {
        let topology = events();
        for subscriber in Subscriber::ALL {
            let queue = topology
                .queues
                .iter()
                .find(|queue| queue.name == subscriber.queue());
            assert_eq!(queue.unwrap().routing_key, "#");
        }
    }
}
