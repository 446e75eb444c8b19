//! Metrics of the core and the relay.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use chrono::TimeDelta;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use opentelemetry::{KeyValue, global};

use shared_model::ConnectionId;

use crate::acceptance::Tally;
use crate::acceptance::verdict::FrameReport;

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("headrace"));

fn counter(name: &'static str, description: &'static str) -> Counter<u64> {
    METER
        .u64_counter(name)
        .with_description(description)
        .build()
}

fn gauge(name: &'static str, description: &'static str) -> Gauge<u64> {
    METER.u64_gauge(name).with_description(description).build()
}

static OBSERVATIONS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_acceptance_observations",
        "Observations by what became of them",
    )
});
static FRAMES: LazyLock<Counter<u64>> =
    LazyLock::new(|| counter("headrace_acceptance_frames", "Frames by what they were"));
static PARKED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_acceptance_parked_frames",
        "Frames parked, by reason",
    )
});
static EVENTS: LazyLock<Counter<u64>> =
    LazyLock::new(|| counter("headrace_acceptance_events", "Events appended to the log"));
static CONFLICTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_acceptance_conflicts",
        "Batches folded anew because somebody else wrote the same vehicles",
    )
});
static SWEPT: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_sweep_vehicles",
        "Vehicles whose noise a sweep published",
    )
});
static PLACED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_ownership_changes",
        "Streams that were given to a publisher or asked back",
    )
});
static RELAYED: LazyLock<Counter<u64>> =
    LazyLock::new(|| counter("headrace_relay_events", "Events that the broker confirmed"));
static RELAY_LAG: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    gauge(
        "headrace_relay_lag_events",
        "Events in the log that the broker has not confirmed",
    )
});

static POLL_RUNS: LazyLock<Counter<u64>> =
    LazyLock::new(|| counter("headrace_polling_runs", "Runs by how they ended"));
static POLL_ROWS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_polling_rows",
        "Records of the pages that were committed",
    )
});
static POLL_SKIPS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_polling_skips",
        "Pages after which records may have been passed over",
    )
});
static POLL_REQUESTS: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    seconds(
        "headrace_polling_request_duration_seconds",
        "Requests to providers, by what came of them",
    )
});
static POLL_LATE: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    seconds(
        "headrace_polling_late_seconds",
        "From when a connection was due to when its run began",
    )
});
static POLL_LAG: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    gauge(
        "headrace_polling_lag_seconds",
        "How far a feed was behind its provider when it was last read",
    )
});

fn seconds(name: &'static str, description: &'static str) -> Histogram<f64> {
    METER
        .f64_histogram(name)
        .with_description(description)
        .with_boundaries(vec![
            0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0,
        ])
        .build()
}

/// A run ended.
pub fn poll_run(outcome: &'static str) {
    POLL_RUNS.add(1, &[KeyValue::new("outcome", outcome)]);
}

/// A run began so long after its connection was due.
pub fn poll_late(late: Duration) {
    POLL_LATE.record(late.as_secs_f64(), &[]);
}

/// A provider was asked.
pub fn polled(provider: &str, outcome: &'static str, took: Duration) {
    let labels = [
        KeyValue::new("provider", provider.to_owned()),
        KeyValue::new("outcome", outcome),
    ];
    POLL_REQUESTS.record(took.as_secs_f64(), &labels);
}

/// A page was committed.
pub fn poll_page(provider: &str, rows: u64) {
    POLL_ROWS.add(rows, &[KeyValue::new("provider", provider.to_owned())]);
}

/// A provider gave no way to some records.
pub fn poll_skip(provider: &str) {
    POLL_SKIPS.add(1, &[KeyValue::new("provider", provider.to_owned())]);
}

/// How far a feed is behind its provider.
pub fn poll_lag(connection: ConnectionId, feed: &str, lag: TimeDelta) {
    let labels = [
        KeyValue::new("connection", connection.to_string()),
        KeyValue::new("feed", feed.to_owned()),
    ];
    POLL_LAG.record(lag.num_seconds().try_into().unwrap_or_default(), &labels);
}

/// `count` streams changed hands.
pub fn placed(change: &'static str, count: u64) {
    PLACED.add(count, &[KeyValue::new("change", change)]);
}

/// A batch was committed.
pub fn accepted(tally: &Tally) {
    for ((provider, connection, verdict), count) in &tally.observations {
        let labels = [
            KeyValue::new("provider", provider.to_string()),
            KeyValue::new("connection", connection.to_string()),
            KeyValue::new("verdict", *verdict),
        ];
        OBSERVATIONS.add(*count, &labels);
    }
    for ((provider, kind), count) in &tally.frames {
        let labels = [
            KeyValue::new("provider", provider.to_string()),
            KeyValue::new("kind", *kind),
        ];
        FRAMES.add(*count, &labels);
    }
    for ((provider, connection, reason), count) in &tally.parked {
        parked(provider.as_str(), Some(*connection), reason, *count);
    }
    for (kind, count) in &tally.events {
        appended(kind, *count);
    }
}

/// Frames were parked.
pub fn parked(provider: &str, connection: Option<ConnectionId>, reason: &'static str, count: u64) {
    let connection = connection.map_or_else(|| "unknown".to_owned(), |id| id.to_string());
    let labels = [
        KeyValue::new("provider", provider.to_owned()),
        KeyValue::new("connection", connection),
        KeyValue::new("reason", reason),
    ];
    PARKED.add(count, &labels);
}

/// Events were appended to the log.
pub fn appended(kind: &'static str, count: u64) {
    EVENTS.add(count, &[KeyValue::new("type", kind)]);
}

/// A batch lost a race for a vehicle.
pub fn conflict() {
    CONFLICTS.add(1, &[]);
}

/// A sweep published vehicles' noise.
pub fn swept(kind: &'static str, count: u64) {
    SWEPT.add(count, &[KeyValue::new("type", kind)]);
}

/// The broker confirmed events.
pub fn relayed(count: u64) {
    RELAYED.add(count, &[]);
}

/// How far a shard's relay is behind.
pub fn relay_lag(shard: u32, lag: u64) {
    RELAY_LAG.record(lag, &[KeyValue::new("shard", i64::from(shard))]);
}

static INGEST_REQUESTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_ingest_requests",
        "Requests of HTTP provider-ingest, by the status that they were answered",
    )
});
static INGEST_FRAMES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_ingest_frames",
        "Frames delivered over HTTP provider-ingest, by verdict",
    )
});
static INGEST_GROUP_REQUESTS: LazyLock<Histogram<u64>> = LazyLock::new(|| {
    METER
        .u64_histogram("headrace_ingest_group_requests")
        .with_description("Requests of HTTP provider-ingest that share a commit")
        .with_boundaries(vec![1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0])
        .build()
});
static INGEST_GROUP_FRAMES: LazyLock<Histogram<u64>> = LazyLock::new(|| {
    METER
        .u64_histogram("headrace_ingest_group_frames")
        .with_description("Frames of HTTP provider-ingest that share a commit")
        .with_boundaries(vec![1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0])
        .build()
});
static INGEST_WAITING: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    gauge(
        "headrace_ingest_queue_requests",
        "Requests of HTTP provider-ingest that wait for their commit",
    )
});

/// A request of provider-ingest was answered.
pub fn ingest_request(status: u16) {
    INGEST_REQUESTS.add(1, &[KeyValue::new("status", i64::from(status))]);
}

/// Frames of provider-ingest were committed.
pub fn ingest_frames(reports: &[FrameReport]) {
    let mut verdicts = BTreeMap::<_, u64>::new();
    for report in reports {
        *verdicts.entry(report.verdict.name()).or_default() += 1;
    }
    for (verdict, count) in verdicts {
        INGEST_FRAMES.add(count, &[KeyValue::new("verdict", verdict)]);
    }
}

/// Requests are committed together.
pub fn ingest_group(requests: usize, frames: usize) {
    INGEST_GROUP_REQUESTS.record(requests as u64, &[]);
    INGEST_GROUP_FRAMES.record(frames as u64, &[]);
}

/// So many requests wait for their commit.
pub fn ingest_waiting(requests: usize) {
    INGEST_WAITING.record(requests as u64, &[]);
}

static UNPARKED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_parked_removed_frames",
        "Parked frames that are kept no longer, copies included, by cause",
    )
});

/// Parked frames are kept no longer.
pub fn unparked(cause: &'static str, count: u64) {
    UNPARKED.add(count, &[KeyValue::new("cause", cause)]);
}

static LOG_PARTITIONS: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    gauge(
        "headrace_log_partitions",
        "Days of the event log that exist",
    )
});
static LOG_DAYS_AHEAD: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    gauge(
        "headrace_log_days_ahead",
        "Days in a row, from tomorrow on, whose partition of the event log exists",
    )
});
static LOG_OLDEST: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    gauge(
        "headrace_log_oldest_event_seconds",
        "Age of the oldest event that is kept",
    )
});
static LOG_KEPT_BACK: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    gauge(
        "headrace_log_kept_back_events",
        "Events beyond their retention that somebody has not read",
    )
});
static LOG_DROPPED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_log_dropped_partitions",
        "Days of the event log that were dropped",
    )
});
static ARCHIVED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    counter(
        "headrace_acceptance_archived_sessions",
        "Rows of sessions that are only counted any more",
    )
});

/// How many days of the log there are, how many of them are ahead, and how old the oldest event is.
pub fn log_days(partitions: usize, ahead: usize, oldest: Option<TimeDelta>) {
    LOG_PARTITIONS.record(partitions as u64, &[]);
    LOG_DAYS_AHEAD.record(ahead as u64, &[]);
    let oldest = oldest.map_or(0, |age| age.num_seconds());
    LOG_OLDEST.record(oldest.try_into().unwrap_or_default(), &[]);
}

/// How many events are kept beyond their retention for readers of the kind `held_by`.
pub fn log_kept_back(held_by: &'static str, events: u64) {
    LOG_KEPT_BACK.record(events, &[KeyValue::new("held_by", held_by)]);
}

/// A day of the log was dropped.
pub fn log_dropped() {
    LOG_DROPPED.add(1, &[]);
}

/// Sessions are only counted any more.
pub fn archived(rows: u64) {
    ARCHIVED.add(rows, &[]);
}
