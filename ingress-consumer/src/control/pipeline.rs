//! `GET /v1/pipeline`: where frames and events are on their way, and what holds them up.
//!
//! It belongs to the whole installation and says nothing of any workspace's data. While the broker is
//! away, what only the broker knows is null; the rest is answered.

use std::collections::BTreeMap;

use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::amqp::Depth;
use runtime::http::Problem;
use serde::Serialize;
use shared_model::topology;
use sqlx::PgPool;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::installation;
use crate::config::PipelineConfig;
use crate::reconcile::watch::Queues;
use crate::store::dead_letter;
use crate::store::pipeline::{self, ParkedReason, Paused, PublisherLoad};
use crate::store::relay::{self, ShardProgress};
use crate::store::subscriber::{self, Place, Subscriber};

/// What the handler needs.
#[derive(Debug, Clone)]
pub struct PipelineControl {
    pool: PgPool,
    queues: Queues,
    config: PipelineConfig,
}

/// The route of the overview, answered from `pool` and, once there is a way to them, `queues`.
pub fn routes(pool: PgPool, queues: Queues, config: PipelineConfig) -> OpenApiRouter {
    router().with_state(PipelineControl {
        pool,
        queues,
        config,
    })
}

/// The same without what it is answered from.
pub fn router() -> OpenApiRouter<PipelineControl> {
    OpenApiRouter::new().routes(routes!(show))
}

/// Where frames and events are on their way, and what holds them up.
#[derive(Debug, Serialize, ToSchema)]
pub struct Pipeline {
    /// The ingress queues.
    ingress: Ingress,
    /// The event log on its way to the event bus, by shard.
    relay: Vec<RelayLag>,
    /// Who reads the event log, by name.
    subscribers: Vec<SubscriberLag>,
    /// Who reads streams, by name.
    publishers: Vec<PublisherView>,
    /// Of the newest 100,000 parked frames, how many were parked for which reason.
    parked: Vec<ParkedView>,
    /// Messages that the broker gave up and nobody has decided about.
    dead_letters: u64,
    /// Events that the broker refused for good.
    dead_events: u64,
    /// RabbitMQ's management pages.
    management_url: Option<String>,
}

/// The ingress queues.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Ingress {
    /// Each of them.
    partitions: Vec<PartitionView>,
    /// What waits in all of them; null while the broker does not say.
    messages: Option<u64>,
}

/// One ingress queue.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct PartitionView {
    /// The partition, from 0.
    partition: u32,
    /// The queue's name at the broker.
    queue: String,
    /// Messages that wait for the core; null while the broker does not say.
    messages: Option<u64>,
    /// Cores that take from it, of which one is active; null while the broker does not say.
    consumers: Option<u64>,
    /// The queue takes no more than this; then publishers keep what they read, and at last stop reading.
    max_bytes: u64,
}

/// A shard of the event log.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct RelayLag {
    /// The shard, from 0.
    shard: u32,
    /// Its last offset.
    head: u64,
    /// Up to here the broker has confirmed every event, or they are set aside.
    relayed: u64,
    /// Events that are not relayed yet.
    lag_events: u64,
    /// How long the first event has waited that is not relayed; null if none is.
    waiting_seconds: Option<f64>,
}

/// A reader of the event log.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct SubscriberLag {
    /// Its name.
    name: String,
    /// Events that it has not applied, as far as it has said.
    lag_events: u64,
    /// How long the first of them has waited; null if none does.
    lag_seconds: Option<f64>,
    /// When it was last heard of.
    seen_at: DateTime<Utc>,
}

/// A publisher.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct PublisherView {
    /// Its name.
    instance: String,
    /// Streams that it owns.
    streams: u64,
    /// When it was last heard of.
    seen_at: DateTime<Utc>,
    /// Whether it is about to stop.
    draining: bool,
    /// Why sockets of its streams are not read at the moment; none if all are.
    backpressure: Vec<Backpressure>,
}

/// Sockets that are not read, for one reason.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct Backpressure {
    /// `window_full`, `refused`, `blocked`, `broker_away` or `spool_full`.
    reason: String,
    /// How many streams.
    streams: u64,
}

/// Parked frames of one reason.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
struct ParkedView {
    /// Why, as a word such as `invalid_syntax`.
    reason: String,
    /// How many frames.
    frames: u64,
}

/// Where frames and events are on their way, and what holds them up.
#[utoipa::path(
    get,
    path = "/v1/pipeline",
    operation_id = "showPipeline",
    tag = "pipeline",
    responses((status = 200, body = Pipeline, description = "How the whole installation is doing")),
    security(("credential" = ["operate"]))
)]
async fn show(State(control): State<PipelineControl>) -> Result<axum::Json<Pipeline>, Problem> {
    let mut pg = control.pool.acquire().await?;
    let installation = installation(&mut pg).await?;
    let shards = relay::progress(&mut pg).await?;
    let subscribers = subscriber::all(&mut pg).await?;
    let places = subscriber::places(&mut pg, None).await?;
    let publishers = pipeline::publishers(&mut pg).await?;
    let paused = pipeline::paused(&mut pg).await?;
    let parked = pipeline::parked(&mut pg).await?;
    let dead_letters = dead_letter::waiting(&mut pg).await?;
    // Not held while the broker is asked, which may take its time.
    drop(pg);
    let names: Vec<_> = (0..installation.partitions)
        .map(topology::ingress_queue)
        .collect();
    let depths = match control.queues.get() {
        Some(link) => link.depths(&names).await,
        None => None,
    };
    Ok(axum::Json(Pipeline {
        ingress: ingress(names, depths.as_deref(), installation.partition_max_bytes),
        dead_events: shards.iter().map(|shard| shard.dead).sum(),
        relay: shards.into_iter().map(Into::into).collect(),
        subscribers: lags(subscribers, &places),
        publishers: loads(publishers, paused),
        parked: parked.into_iter().map(Into::into).collect(),
        dead_letters,
        management_url: control.config.management_url,
    }))
}

fn ingress(names: Vec<String>, depths: Option<&[Depth]>, max_bytes: u64) -> Ingress {
    let partitions = (0..).zip(names).enumerate();
    let partitions = partitions.map(|(index, (partition, queue))| {
        let depth = depths.and_then(|depths| depths.get(index));
        PartitionView {
            partition,
            queue,
            messages: depth.map(|depth| depth.messages),
            consumers: depth.map(|depth| depth.consumers),
            max_bytes,
        }
    });
    Ingress {
        partitions: partitions.collect(),
        messages: depths.map(|depths| depths.iter().map(|depth| depth.messages).sum()),
    }
}

impl From<ShardProgress> for RelayLag {
    fn from(at: ShardProgress) -> Self {
        Self {
            shard: at.shard,
            head: at.head,
            relayed: at.relayed,
            lag_events: at.head.saturating_sub(at.relayed),
            waiting_seconds: at.oldest_at.map(|_| at.waited),
        }
    }
}

impl From<ParkedReason> for ParkedView {
    fn from(ParkedReason { reason, frames }: ParkedReason) -> Self {
        Self { reason, frames }
    }
}

fn lags(subscribers: Vec<Subscriber>, places: &[Place]) -> Vec<SubscriberLag> {
    let lag = |known: Subscriber| {
        let of = || places.iter().filter(|place| place.name == known.name);
        SubscriberLag {
            lag_events: of()
                .map(|place| place.head.saturating_sub(place.applied))
                .sum(),
            // Clocks of transactions may differ by a moment.
            lag_seconds: of()
                .filter_map(|place| place.waiting_seconds)
                .map(|seconds| seconds.max(0.0))
                .reduce(f64::max),
            seen_at: known.seen_at,
            name: known.name,
        }
    };
    subscribers.into_iter().map(lag).collect()
}

fn loads(publishers: Vec<PublisherLoad>, paused: Vec<Paused>) -> Vec<PublisherView> {
    let mut reasons = BTreeMap::<_, Vec<_>>::new();
    for Paused {
        instance,
        reason,
        streams,
    } in paused
    {
        let of = reasons.entry(instance).or_default();
        of.push(Backpressure { reason, streams });
    }
    let load = |found: PublisherLoad| PublisherView {
        backpressure: reasons.remove(&found.instance).unwrap_or_default(),
        instance: found.instance,
        streams: found.streams,
        seen_at: found.seen_at,
        draining: found.draining,
    };
    publishers.into_iter().map(load).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(name: &str, applied: u64, head: u64, waiting_seconds: Option<f64>) -> Place {
        Place {
            name: name.to_owned(),
            shard: 0,
            applied,
            head,
            waiting_since: None,
            waiting_seconds,
        }
    }

    #[test]
    fn a_broker_that_says_nothing_leaves_nulls_and_the_queues_names() {
        let names = || vec!["ingress.0".to_owned(), "ingress.1".to_owned()];
        let silent = ingress(names(), None, 7);
        assert_eq!(silent.messages, None);
        assert_eq!(silent.partitions[1].queue, "ingress.1");
        assert_eq!(silent.partitions[1].partition, 1);
        assert_eq!(silent.partitions[1].messages, None);
        let depth = |messages, consumers| Depth {
            messages,
            consumers,
        };
        let told = ingress(names(), Some(&[depth(3, 1), depth(4, 0)]), 7);
        assert_eq!(told.messages, Some(7));
        let last = &told.partitions[1];
        assert_eq!((last.messages, last.consumers), (Some(4), Some(0)));
        assert_eq!(last.max_bytes, 7);
    }

    #[test]
    fn a_subscriber_lags_by_all_shards_and_waits_as_long_as_the_slowest() {
        let known = |name: &str| Subscriber {
            name: name.to_owned(),
            registered_at: DateTime::UNIX_EPOCH,
            seen_at: DateTime::UNIX_EPOCH,
        };
        let places = [
            place("a", 5, 9, Some(2.5)),
            place("a", 1, 2, Some(0.5)),
            place("b", 9, 9, None),
        ];
        let lags = lags(vec![known("a"), known("b"), known("c")], &places);
        let seen: Vec<_> = lags
            .iter()
            .map(|lag| (lag.lag_events, lag.lag_seconds))
            .collect();
        assert_eq!(seen, [(5, Some(2.5)), (0, None), (0, None)]);
    }

    #[test]
    fn what_holds_a_publisher_up_is_told_with_it() {
        let load = |instance: &str| PublisherLoad {
            instance: instance.to_owned(),
            draining: false,
            streams: 3,
            seen_at: DateTime::UNIX_EPOCH,
        };
        let paused = vec![Paused {
            instance: "b".to_owned(),
            reason: "refused".to_owned(),
            streams: 2,
        }];
        let loads = loads(vec![load("a"), load("b")], paused);
        assert_eq!(loads[0].backpressure, []);
        assert_eq!(loads[1].backpressure[0].reason, "refused");
        assert_eq!(loads[1].backpressure[0].streams, 2);
    }
}
