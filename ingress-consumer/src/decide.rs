//! `decide`: what observations do to a vehicle's state. The heart of Headrace, and pure.
//!
//! Each signal is a last-writer-wins register under a total order ([`Reading::precedence`]), so the
//! state after any set of observations is the same in whatever order and however often they come.
//! What events say is decided here as well: *news* (a value beyond its deadband, a first value) is
//! published at once and raises the version; *noise* is kept exactly in the state and left to the
//! [`sweep`].

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use shared_model::event::{Fact, PublishedReading, VehicleSeen, VehicleSnapshotChanged};
use shared_model::{FrameOrigin, Reading, Signal, SignalValue, VehicleId};

/// Everything the core knows of a vehicle.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VehicleState {
    /// Raised by each `vehicle.snapshot.changed`.
    pub version: u64,
    /// Raised by each write; 0 means that the vehicle is not stored yet.
    pub revision: u64,
    /// The latest reading of each signal.
    pub signals: BTreeMap<Signal, Reading>,
    /// The values that the last event carried.
    pub published: BTreeMap<Signal, SignalValue>,
    /// When the vehicle was last heard from, see [`heard_at`].
    pub last_received_at: Option<DateTime<Utc>>,
    /// Since when the state has held something that no event has carried.
    pub unsent_since: Option<DateTime<Utc>>,
}

/// An observation of one vehicle, as it is put to [`decide`].
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// What was observed.
    pub signal: Signal,
    /// The value, with its times and source.
    pub reading: Reading,
    /// How the frame that brought it came to be read.
    pub origin: FrameOrigin,
    /// Whether the frame that brought it has had its effect before.
    pub repeated: bool,
}

/// What became of an observation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// It is the state now.
    Accepted,
    /// The same was known already.
    Duplicate,
    /// Something newer was known already.
    Stale,
    /// Of the same time something else was known, which wins the tie-break.
    Conflict,
}

impl Verdict {
    /// Every verdict.
    pub const ALL: [Self; 4] = [Self::Accepted, Self::Duplicate, Self::Stale, Self::Conflict];

    /// The verdict's name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Stale => "stale",
            Self::Conflict => "conflict",
        }
    }
}

/// What became of an observation, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Judgement {
    /// What became of it.
    pub verdict: Verdict,
    /// Its clock was ahead, so its time was not believed.
    pub clock_ahead: bool,
    /// What it lost against, or is a repeat of.
    pub against: Option<Reading>,
}

/// Settings of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How far a vehicle's clock may be ahead of ours.
    pub clock_skew: Duration,
}

/// The outcome of [`decide`].
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// The state to store, or `None` if nothing about it changed.
    pub state: Option<VehicleState>,
    /// The signals that are news; empty means that there is no event.
    pub news: Vec<Signal>,
    /// One per offer, in order.
    pub judgements: Vec<Judgement>,
}

/// What `offers` do to the state `before`. `now` is when the state changes, if it does.
#[must_use]
pub fn decide(
    before: &VehicleState,
    offers: &[Offer],
    policy: Policy,
    now: DateTime<Utc>,
) -> Decision {
    let mut after = before.clone();
    let judgements = offers
        .iter()
        .map(|offer| fold(&mut after, offer, policy))
        .collect();
    if after == *before && before.revision > 0 {
        return Decision {
            state: None,
            news: Vec::new(),
            judgements,
        };
    }
    after.revision += 1;
    let news = news(&after);
    if news.is_empty() {
        after.unsent_since = after.unsent_since.or(Some(now));
    } else {
        publish(&mut after);
    }
    Decision {
        state: Some(after),
        news,
        judgements,
    }
}

fn fold(state: &mut VehicleState, offer: &Offer, policy: Policy) -> Judgement {
    let reading = clamp(offer.reading.clone(), policy.clock_skew);
    state.last_received_at = state
        .last_received_at
        .max(Some(heard_at(&reading, offer.origin)));
    let clock_ahead = reading.provenance.clock_ahead;
    let Some(current) = state.signals.get_mut(&offer.signal) else {
        state.signals.insert(offer.signal, reading);
        return Judgement {
            verdict: Verdict::Accepted,
            clock_ahead,
            against: None,
        };
    };
    let same_time = current.provenance.observed_at == reading.provenance.observed_at;
    let same = same_time && current.value == reading.value;
    let wins = reading.precedence(current).is_gt();
    let verdict = match (same, wins) {
        (true, _) => Verdict::Duplicate,
        (false, true) => Verdict::Accepted,
        (false, false) if offer.repeated => Verdict::Duplicate,
        (false, false) if same_time => Verdict::Conflict,
        (false, false) => Verdict::Stale,
    };
    let against = (verdict != Verdict::Accepted).then(|| current.clone());
    if wins {
        *current = reading;
    }
    Judgement {
        verdict,
        clock_ahead,
        against,
    }
}

/// When a reading tells that its vehicle was heard from. What the provider pushed, it had just heard.
/// What it was asked for it may have had for days: that an old value is still stored is no sign of
/// life, so such a reading counts from when it was observed.
fn heard_at(reading: &Reading, origin: FrameOrigin) -> DateTime<Utc> {
    let provenance = &reading.provenance;
    match origin {
        FrameOrigin::Live => provenance.received_at,
        FrameOrigin::State | FrameOrigin::Backfill => {
            provenance.received_at.min(provenance.observed_at)
        }
    }
}

/// A clock that is ahead must not freeze the vehicle: nothing could be newer until it is reached.
fn clamp(mut reading: Reading, skew: Duration) -> Reading {
    let provenance = &mut reading.provenance;
    let ahead = provenance.observed_at - provenance.received_at;
    if ahead.to_std().is_ok_and(|ahead| ahead > skew) {
        provenance.observed_at = provenance.received_at;
        provenance.clock_ahead = true;
    }
    reading
}

fn news(state: &VehicleState) -> Vec<Signal> {
    let is_news = |(signal, reading): &(&Signal, &Reading)| {
        state
            .published
            .get(*signal)
            .is_none_or(|published| reading.value.differs_beyond(published, signal.deadband()))
    };
    state
        .signals
        .iter()
        .filter(is_news)
        .map(|(signal, _)| *signal)
        .collect()
}

fn publish(state: &mut VehicleState) {
    state.version += 1;
    state.published = values(state);
    state.unsent_since = None;
}

fn values(state: &VehicleState) -> BTreeMap<Signal, SignalValue> {
    state
        .signals
        .iter()
        .map(|(signal, reading)| (*signal, reading.value))
        .collect()
}

/// What a sweep publishes of a vehicle whose noise has waited long enough.
#[derive(Debug, Clone, PartialEq)]
pub enum Swept {
    /// Values moved within their deadbands: an event with the full state.
    Changed(VehicleState),
    /// Only times moved: a line in an event about many vehicles.
    Seen(VehicleState),
}

/// The state once its noise is published.
#[must_use]
pub fn sweep(before: &VehicleState) -> Swept {
    let mut after = before.clone();
    after.revision += 1;
    if values(&after) == after.published {
        after.unsent_since = None;
        Swept::Seen(after)
    } else {
        publish(&mut after);
        Swept::Changed(after)
    }
}

/// The `vehicle.snapshot.changed` that carries `state`.
#[must_use]
pub fn snapshot_changed(vehicle: &VehicleId, state: &VehicleState, news: &[Signal]) -> Fact {
    let signals = state.signals.iter().map(|(signal, reading)| {
        let published = PublishedReading {
            value: json!(reading.value),
            unit: unit_name(*signal),
            provenance: reading.provenance.clone(),
        };
        (signal.name().to_owned(), published)
    });
    Fact::VehicleSnapshotChanged(VehicleSnapshotChanged {
        vehicle: vehicle.clone(),
        version: state.version,
        revision: state.revision,
        last_received_at: last_received_at(state),
        changed: news.iter().map(|signal| signal.name().to_owned()).collect(),
        signals: signals.collect(),
    })
}

/// The line of a `vehicles.seen` that carries the times of `state`.
#[must_use]
pub fn vehicle_seen(vehicle: &VehicleId, state: &VehicleState) -> VehicleSeen {
    let times = state
        .signals
        .iter()
        .map(|(signal, reading)| (signal.name().to_owned(), reading.provenance.clone()));
    VehicleSeen {
        vehicle: vehicle.clone(),
        version: state.version,
        revision: state.revision,
        last_received_at: last_received_at(state),
        signals: times.collect(),
    }
}

/// A state that events are made of has had an observation; the epoch stands for "never".
fn last_received_at(state: &VehicleState) -> DateTime<Utc> {
    state.last_received_at.unwrap_or_default()
}

fn unit_name(signal: Signal) -> String {
    json!(signal.unit()).as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests;
