//! Metrics of the broker connection.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::global;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("headrace"));

static PUBLISHES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_amqp_publishes")
        .with_description("Messages sent to the broker, by what became of them")
        .build()
});

static CONFIRM_SECONDS: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    METER
        .f64_histogram("headrace_amqp_confirm_duration_seconds")
        .with_description("From sending a message to the broker's answer")
        .with_boundaries(vec![
            0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
        ])
        .build()
});

static CONNECTED: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_amqp_connected")
        .with_description("1 while the connection to the broker is up")
        .build()
});

static BLOCKED: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_amqp_blocked")
        .with_description("1 while the broker takes no messages for want of memory or disk")
        .build()
});

static RECONNECTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_amqp_reconnects")
        .with_description("Times that the connection to the broker was lost")
        .build()
});

fn service(name: &'static str) -> KeyValue {
    KeyValue::new("service", name)
}

pub(super) fn published(name: &'static str, outcome: &'static str, seconds: f64) {
    PUBLISHES.add(1, &[service(name), KeyValue::new("outcome", outcome)]);
    CONFIRM_SECONDS.record(seconds, &[service(name)]);
}

pub(super) fn connected(name: &'static str, connected: bool) {
    CONNECTED.record(u64::from(connected), &[service(name)]);
}

pub(super) fn lost(name: &'static str) {
    RECONNECTS.add(1, &[service(name)]);
}

pub(super) fn blocked(name: &'static str, blocked: bool) {
    BLOCKED.record(u64::from(blocked), &[service(name)]);
}
