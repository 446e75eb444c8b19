//! Metrics of the publisher. Labels are closed sets: neither workspaces nor connections.

use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::global;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};
use shared_model::FrameOrigin;

use shared_model::control::StreamState;

use crate::pause::PauseReason;

static METER: LazyLock<Meter> = LazyLock::new(|| global::meter("headrace"));

static FRAMES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_publisher_frames")
        .with_description("Frames read from the providers' sockets")
        .build()
});

static FRAME_BYTES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_publisher_frame_bytes")
        .with_description("Bytes of frames read from the providers' sockets")
        .build()
});

static ENVELOPES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_publisher_envelopes")
        .with_description("Envelopes that the broker has confirmed")
        .build()
});

static REPUBLISHED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_publisher_canary_republished")
        .with_description("Envelopes that the broker has confirmed a second time, as a canary")
        .build()
});

static STREAMS: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
    METER
        .i64_up_down_counter("headrace_publisher_streams")
        .with_description("Streams that are owned, by state")
        .build()
});

static RECONNECTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_publisher_reconnects")
        .with_description("Times that a stream had to connect again, by reason")
        .build()
});

static BACKFILL_REQUESTS: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_backfill_requests")
        .with_description("Requests for what streams have missed, by outcome")
        .build()
});

static BACKFILL_FRAMES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_backfill_frames")
        .with_description("Frames that were asked for, by origin")
        .build()
});

static BACKFILL_GAP: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    METER
        .f64_histogram("headrace_backfill_gap_seconds")
        .with_description("Lengths of the gaps that streams had")
        .with_boundaries(vec![
            10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 21_600.0, 86_400.0,
        ])
        .build()
});

static WINDOW_BYTES: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
    METER
        .i64_up_down_counter("headrace_publisher_window_bytes")
        .with_description("Bytes of frames between the sockets and the broker's confirm")
        .build()
});

static CONFLATED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_publisher_conflated_frames")
        .with_description("Frames that a newer one replaced before they were sent")
        .build()
});

static SPOOL_BYTES: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
    METER
        .i64_up_down_counter("headrace_spool_bytes")
        .with_description("Bytes of messages in the spool")
        .build()
});

static SPOOL_MESSAGES: LazyLock<UpDownCounter<i64>> = LazyLock::new(|| {
    METER
        .i64_up_down_counter("headrace_spool_messages")
        .with_description("Messages in the spool")
        .build()
});

static SPOOL_AGE: LazyLock<Gauge<f64>> = LazyLock::new(|| {
    METER
        .f64_gauge("headrace_spool_oldest_age_seconds")
        .with_description("For how long the oldest message has been in the spool; 0 if it is empty")
        .build()
});

static SPOOL_DAMAGED: LazyLock<Counter<u64>> = LazyLock::new(|| {
    METER
        .u64_counter("headrace_spool_damaged_segments")
        .with_description("Files of the spool that were damaged and are set aside")
        .build()
});

static PAUSED: LazyLock<Gauge<u64>> = LazyLock::new(|| {
    METER
        .u64_gauge("headrace_ingress_paused")
        .with_description("1 while something keeps sources from being read, by reason")
        .build()
});

/// Makes the series that stand at zero visible from the start.
pub(crate) fn begin() {
    for state in StreamState::ALL {
        stream(state, 0);
    }
    window_bytes(0);
    spool(0, 0);
    spool_age(Duration::ZERO);
    SPOOL_DAMAGED.add(0, &[]);
    REPUBLISHED.add(0, &[]);
    for reason in PauseReason::ALL {
        paused(reason, 0);
    }
}

pub(crate) fn frame(provider: &'static str, bytes: usize) {
    let labels = [KeyValue::new("provider", provider)];
    FRAMES.add(1, &labels);
    FRAME_BYTES.add(bytes as u64, &labels);
}

pub(crate) fn envelope_confirmed() {
    ENVELOPES.add(1, &[]);
}

pub(crate) fn canary_republished() {
    REPUBLISHED.add(1, &[]);
}

/// `change` more streams are in `state`.
pub(crate) fn stream(state: StreamState, change: i64) {
    STREAMS.add(change, &[KeyValue::new("state", state.name())]);
}

pub(crate) fn reconnect(reason: &'static str) {
    RECONNECTS.add(1, &[KeyValue::new("reason", reason)]);
}

/// A request was answered, or not: `ok`, `retried`, `rejected` or `too_large`.
pub(crate) fn backfill_request(outcome: &'static str) {
    BACKFILL_REQUESTS.add(1, &[KeyValue::new("outcome", outcome)]);
}

pub(crate) fn backfill_frame(origin: FrameOrigin) {
    BACKFILL_FRAMES.add(1, &[KeyValue::new("origin", origin.name())]);
}

pub(crate) fn backfill_gap(seconds: f64) {
    BACKFILL_GAP.record(seconds, &[]);
}

/// `change` more bytes are in the window.
pub(crate) fn window_bytes(change: i64) {
    WINDOW_BYTES.add(change, &[]);
}

/// A frame was replaced by a newer one.
pub(crate) fn conflated(provider: &str) {
    CONFLATED.add(1, &[KeyValue::new("provider", provider.to_owned())]);
}

/// So many more bytes and messages are in the spool.
pub(crate) fn spool(bytes: i64, messages: i64) {
    SPOOL_BYTES.add(bytes, &[]);
    SPOOL_MESSAGES.add(messages, &[]);
}

pub(crate) fn spool_age(age: Duration) {
    SPOOL_AGE.record(age.as_secs_f64(), &[]);
}

pub(crate) fn spool_segment_damaged() {
    SPOOL_DAMAGED.add(1, &[]);
}

/// How many sources of the process wait, by reason.
static PAUSES: Mutex<[i64; PauseReason::ALL.len()]> = Mutex::new([0; PauseReason::ALL.len()]);

/// `change` more sources are not read for `reason`.
pub(crate) fn paused(reason: PauseReason, change: i64) {
    // Recorded under the lock, so that the last one to record is right.
    let mut pauses = PAUSES.lock().unwrap_or_else(PoisonError::into_inner);
    let count = &mut pauses[reason as usize];
    *count += change;
    let now = u64::from(*count > 0);
    PAUSED.record(now, &[KeyValue::new("reason", reason.name())]);
}
