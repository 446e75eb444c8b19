//! Metrics of the projections and reactions.

use std::sync::LazyLock;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("headrace"));

static EVENTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_projection_events")
        .with_description("Events, by whether they changed the read model")
        .build()
});

static BATCHES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_projection_batches")
        .with_description("Batches of messages that were applied")
        .build()
});

static REJECTED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_projection_rejected_messages")
        .with_description("Messages, or events of one, that could not be applied, by reason")
        .build()
});

static LAG_EVENTS: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_projection_lag_events")
        .with_description("Events of a shard behind the first that is not applied, with it")
        .build()
});

static LAG_SECONDS: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    METER
        .f64_gauge("headrace_projection_lag_seconds")
        .with_description("How long the first event of a shard that is not applied has waited")
        .build()
});

static REPORTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_projection_reports")
        .with_description("Times that the core was told how far the projection is, by outcome")
        .build()
});

static FETCHED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_projection_fetched_events")
        .with_description("Events that did not arrive and were fetched from the log")
        .build()
});

static LOST: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_projection_lost_events")
        .with_description("Events of a shard that were never applied and are no longer in the log")
        .build()
});

static HEALTH_VEHICLES: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_health_vehicles")
        .with_description("Vehicles by freshness, and by why they are not fresh")
        .build()
});

static HEALTH_TRANSITIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_health_transitions")
        .with_description("Changes of vehicles' health")
        .build()
});

static HEALTH_INCIDENTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_health_incidents")
        .with_description("Outages of providers that were found to begin or to end")
        .build()
});

static HEALTH_INCIDENTS_OPEN: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_health_incidents_open")
        .with_description("Outages of providers that go on, one for each connection")
        .build()
});

static HEALTH_PIPELINE_LAG: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    METER
        .f64_gauge("headrace_health_pipeline_lag_seconds")
        .with_description("How long the oldest event has waited that was not applied yet")
        .build()
});

static HEALTH_UNTOLD: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_health_untold_findings")
        .with_description("Findings that the core was not told of yet")
        .build()
});

static HEALTH_TOLD: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_health_told_findings")
        .with_description("Findings that the core was told of")
        .build()
});

static HEALTH_TELLING_FAILURES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_health_telling_failures")
        .with_description("Attempts to tell the core that failed, by reason")
        .build()
});

/// What an event did to the read model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It changed at least one vehicle's row.
    Applied,
    /// All that it says was known.
    Unchanged,
    /// Its type is not known here.
    Ignored,
}

impl Outcome {
    const fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Unchanged => "unchanged",
            Self::Ignored => "ignored",
        }
    }
}

fn projection(name: &'static str) -> KeyValue {
    KeyValue::new("projection", name)
}

pub(crate) fn events(name: &'static str, outcome: Outcome, count: u64) {
    let labels = [projection(name), KeyValue::new("outcome", outcome.name())];
    EVENTS.add(count, &labels);
}

pub(crate) fn batch(name: &'static str) {
    BATCHES.add(1, &[projection(name)]);
}

pub(crate) fn rejected(name: &'static str, reason: &'static str) {
    REJECTED.add(1, &[projection(name), KeyValue::new("reason", reason)]);
}

fn of_shard(name: &'static str, shard: u32) -> [KeyValue; 2] {
    [projection(name), KeyValue::new("shard", i64::from(shard))]
}

pub(crate) fn lag(name: &'static str, shard: u32, events: u64, seconds: f64) {
    let labels = of_shard(name, shard);
    LAG_EVENTS.record(events, &labels);
    LAG_SECONDS.record(seconds, &labels);
}

pub(crate) fn reported(name: &'static str, outcome: &'static str) {
    REPORTS.add(1, &[projection(name), KeyValue::new("outcome", outcome)]);
}

pub(crate) fn fetched(name: &'static str, count: u64) {
    FETCHED.add(count, &[projection(name)]);
}

pub(crate) fn lost(name: &'static str, shard: u32, count: u64) {
    LOST.record(count, &of_shard(name, shard));
}

pub(crate) fn health_vehicles(freshness: &'static str, cause: &'static str, count: u64) {
    let labels = [
        KeyValue::new("freshness", freshness),
        KeyValue::new("cause", cause),
    ];
    HEALTH_VEHICLES.record(count, &labels);
}

pub(crate) fn health_transition(from: &'static str, to: &'static str, cause: &'static str) {
    let labels = [
        KeyValue::new("from", from),
        KeyValue::new("to", to),
        KeyValue::new("cause", cause),
    ];
    HEALTH_TRANSITIONS.add(1, &labels);
}

pub(crate) fn health_incident(change: &'static str) {
    HEALTH_INCIDENTS.add(1, &[KeyValue::new("change", change)]);
}

pub(crate) fn health_incidents_open(count: u64) {
    HEALTH_INCIDENTS_OPEN.record(count, &[]);
}

pub(crate) fn health_pipeline_lag(seconds: f64) {
    HEALTH_PIPELINE_LAG.record(seconds, &[]);
}

pub(crate) fn health_untold(count: u64) {
    HEALTH_UNTOLD.record(count, &[]);
}

pub(crate) fn health_told(count: u64) {
    HEALTH_TOLD.add(count, &[]);
}

pub(crate) fn health_telling_failed(reason: &'static str) {
    HEALTH_TELLING_FAILURES.add(1, &[KeyValue::new("reason", reason)]);
}

static REACTION_EVENTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_reaction_events")
        .with_description("Events that a reaction took, by whether it cared about them")
        .build()
});

static REACTION_REJECTED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_reaction_rejected_messages")
        .with_description("Messages, or events of one, that a reaction left out, by reason")
        .build()
});

static WEBHOOK_MADE: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_webhook_deliveries_made")
        .with_description("Deliveries that events have made")
        .build()
});

static WEBHOOK_DELIVERIES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_webhook_deliveries")
        .with_description("Deliveries that are done, by outcome")
        .build()
});

static WEBHOOK_ATTEMPTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_webhook_attempts")
        .with_description("Calls of webhooks, by outcome")
        .build()
});

static WEBHOOK_SECONDS: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    METER
        .f64_histogram("headrace_webhook_attempt_duration_seconds")
        .with_description("From the beginning of a call to the end of what is kept of its answer")
        .with_boundaries(vec![0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 20.0])
        .build()
});

static WEBHOOK_PENDING: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_webhook_pending_deliveries")
        .with_description("Deliveries that wait for their first or next attempt")
        .build()
});

static WEBHOOK_OLDEST_SECONDS: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    METER
        .f64_gauge("headrace_webhook_oldest_pending_seconds")
        .with_description("Age of the oldest pending delivery; 0 if there is none")
        .build()
});

static WEBHOOK_ENDPOINTS: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_webhook_endpoints")
        .with_description("Endpoints of webhooks, by state")
        .build()
});

pub(crate) fn reaction_events(name: &'static str, outcome: &'static str, count: u64) {
    let labels = [
        KeyValue::new("reaction", name),
        KeyValue::new("outcome", outcome),
    ];
    REACTION_EVENTS.add(count, &labels);
}

pub(crate) fn reaction_rejected(name: &'static str, reason: &'static str) {
    let labels = [
        KeyValue::new("reaction", name),
        KeyValue::new("reason", reason),
    ];
    REACTION_REJECTED.add(1, &labels);
}

pub(crate) fn webhook_made(count: u64) {
    WEBHOOK_MADE.add(count, &[]);
}

pub(crate) fn webhook_deliveries(outcome: &'static str, count: u64) {
    WEBHOOK_DELIVERIES.add(count, &[KeyValue::new("outcome", outcome)]);
}

pub(crate) fn webhook_attempt(outcome: &'static str, seconds: f64) {
    WEBHOOK_ATTEMPTS.add(1, &[KeyValue::new("outcome", outcome)]);
    WEBHOOK_SECONDS.record(seconds, &[]);
}

pub(crate) fn webhook_pending(deliveries: u64, oldest_seconds: f64) {
    WEBHOOK_PENDING.record(deliveries, &[]);
    WEBHOOK_OLDEST_SECONDS.record(oldest_seconds, &[]);
}

pub(crate) fn webhook_endpoints(state: &'static str, count: u64) {
    WEBHOOK_ENDPOINTS.record(count, &[KeyValue::new("state", state)]);
}

static LIVE_READERS: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_live_readers")
        .with_description("Readers of live updates that are connected")
        .build()
});

static LIVE_SENT: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_live_sent_events")
        .with_description("Events that were handed to readers, each counted for each reader")
        .build()
});

static LIVE_CAUGHT_UP: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_live_caught_up_events")
        .with_description("Events that readers were sent from the log because they had missed them")
        .build()
});

static LIVE_ENDS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_live_ended_streams")
        .with_description("Streams that the service ended, by reason")
        .build()
});

static LIVE_REFUSED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_live_refused_readers")
        .with_description("Readers that were not taken, by reason")
        .build()
});

static LIVE_LAG: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    METER
        .f64_gauge("headrace_live_lag_seconds")
        .with_description(
            "How long after its commit the newest event of a shard came; while the core does not answer, \
             for how long it has not",
        )
        .build()
});

static LIVE_BUFFERED_EVENTS: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_live_buffered_events")
        .with_description("Events in memory for readers that come back")
        .build()
});

static LIVE_BUFFERED_BYTES: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_live_buffered_bytes")
        .with_description("Bytes of them")
        .build()
});

pub(crate) fn live_readers(count: usize) {
    LIVE_READERS.record(count as u64, &[]);
}

pub(crate) fn live_sent(events: u64) {
    LIVE_SENT.add(events, &[]);
}

pub(crate) fn live_caught_up(events: u64) {
    LIVE_CAUGHT_UP.add(events, &[]);
}

pub(crate) fn live_ended(reason: &'static str) {
    LIVE_ENDS.add(1, &[KeyValue::new("reason", reason)]);
}

pub(crate) fn live_refused(reason: &'static str) {
    LIVE_REFUSED.add(1, &[KeyValue::new("reason", reason)]);
}

pub(crate) fn live_lag(shard: u32, seconds: f64) {
    LIVE_LAG.record(seconds, &[KeyValue::new("shard", i64::from(shard))]);
}

pub(crate) fn live_buffered((events, bytes): (usize, usize)) {
    LIVE_BUFFERED_EVENTS.record(events as u64, &[]);
    LIVE_BUFFERED_BYTES.record(bytes as u64, &[]);
}
