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

static LAG_SECONDS: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    METER
        .f64_gauge("headrace_projection_lag_seconds")
        .with_description("Age of the newest event of the last batch that changed the read model")
        .build()
});

static HEALTH_VEHICLES: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_health_vehicles")
        .with_description("Vehicles by freshness")
        .build()
});

static HEALTH_TRANSITIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_health_transitions")
        .with_description("Vehicles that went from one freshness to another")
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

pub(crate) fn lag(name: &'static str, seconds: f64) {
    LAG_SECONDS.record(seconds, &[projection(name)]);
}

pub(crate) fn health_vehicles(freshness: &'static str, count: u64) {
    HEALTH_VEHICLES.record(count, &[KeyValue::new("freshness", freshness)]);
}

pub(crate) fn health_transitions(from: &'static str, to: &'static str, count: u64) {
    let labels = [KeyValue::new("from", from), KeyValue::new("to", to)];
    HEALTH_TRANSITIONS.add(count, &labels);
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
