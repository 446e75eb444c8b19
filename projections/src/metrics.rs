//! Metrics of the projections.

use std::sync::LazyLock;

use opentelemetry::metrics::{Counter, Gauge, Meter};
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

pub(crate) fn health_vehicles(freshness: &'static str, count: u64) {
    HEALTH_VEHICLES.record(count, &[KeyValue::new("freshness", freshness)]);
}

pub(crate) fn health_transitions(from: &'static str, to: &'static str, count: u64) {
    let labels = [KeyValue::new("from", from), KeyValue::new("to", to)];
    HEALTH_TRANSITIONS.add(count, &labels);
}
