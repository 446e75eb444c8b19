//! Folding a batch: what its frames do, all together, to states, log and parked frames. Pure.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use chrono::{DateTime, Utc};
use rangemap::RangeInclusiveSet;
use shared_model::event::{Fact, VehicleRegistered};
use shared_model::{ConnectionId, Provider};

use super::Received;
use super::reading::{Observation, ReadFrame};
use super::verdict::{FrameReport, FrameVerdict, ObservationReport, overall};
use crate::decide::{self, Offer, Policy, VehicleState, Verdict, decide};
use crate::interpret::{Control, Reason, Unreadable};
use crate::store::event_log::NewEvent;
use crate::store::parked::{Origin, ParkedFrame};
use crate::store::session::{Numbering, SeenFrames};
use crate::store::storable;
use crate::store::vehicle::{Vehicle, VehicleKey};
use crate::store::verdict::Rejected;

/// A batch and what the store knows about it.
pub struct Work<'a> {
    pub frames: &'a [ReadFrame],
    pub vehicles: &'a BTreeMap<VehicleKey, Vehicle>,
    /// Frames that have had their effect in an earlier batch.
    pub repeated: &'a HashSet<(Numbering, u64)>,
}

/// What a batch does.
#[derive(Debug, Default)]
pub struct Effect {
    pub vehicles: BTreeMap<VehicleKey, Vehicle>,
    pub events: Vec<NewEvent>,
    pub parked: Vec<ParkedFrame>,
    pub tally: Tally,
    /// One per frame, in order.
    pub reports: Vec<FrameReport>,
    /// The vehicles that there are, with those that the batch makes known.
    pub known: BTreeSet<VehicleKey>,
    /// When.
    pub decided_at: DateTime<Utc>,
}

/// What became of a batch's contents, for metrics.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Observations and signals without a value, by provider, connection and verdict.
    pub observations: BTreeMap<(Provider, ConnectionId, &'static str), u64>,
    /// Frames by provider and what they were.
    pub frames: BTreeMap<(Provider, &'static str), u64>,
    /// Parked frames by provider, connection and reason.
    pub parked: BTreeMap<(Provider, ConnectionId, &'static str), u64>,
    /// Frames that had been seen before, by provider.
    pub repeated: BTreeMap<Provider, u64>,
    /// Events by type.
    pub events: BTreeMap<&'static str, u64>,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Done {
    /// In numbers.
    pub tally: Tally,
    /// Frame by frame.
    pub reports: Vec<FrameReport>,
}

impl Done {
    /// Adds what came after.
    pub fn merge(&mut self, after: Self) {
        self.tally.merge(after.tally);
        self.reports.extend(after.reports);
    }
}

impl Tally {
    /// Adds what another batch did.
    pub fn merge(&mut self, other: Self) {
        merge(&mut self.observations, other.observations);
        merge(&mut self.frames, other.frames);
        merge(&mut self.parked, other.parked);
        merge(&mut self.repeated, other.repeated);
        merge(&mut self.events, other.events);
    }
}

fn merge<K: Ord>(into: &mut BTreeMap<K, u64>, from: BTreeMap<K, u64>) {
    for (key, count) in from {
        *into.entry(key).or_default() += count;
    }
}

/// Whether a frame belongs to the workspace that its envelope names. One that came over somebody
/// else's connection, or over none, must not show up in a workspace by merely naming it.
fn is_attributed(unreadable: &Unreadable) -> bool {
    !matches!(
        unreadable.reason,
        Reason::ConnectionMismatch | Reason::UnknownConnection
    )
}

fn numbering(received: &Received) -> Numbering {
    Numbering {
        session: received.attributes.session,
        partition: received.partition,
    }
}

/// What a frame is called if it is parked.
pub fn identity(received: &Received) -> String {
    format!(
        "{}/{}/{}",
        received.attributes.session, received.partition, received.frame.number
    )
}

/// The frame numbers of a batch, by session and partition.
pub fn seen_frames(frames: &[ReadFrame]) -> BTreeMap<Numbering, SeenFrames> {
    let mut sessions = BTreeMap::<Numbering, SeenFrames>::new();
    for ReadFrame { received, outcome } in frames {
        if outcome
            .as_ref()
            .is_err_and(|unreadable| !is_attributed(unreadable))
        {
            continue;
        }
        let at = received.frame.received_at;
        let seen = sessions
            .entry(numbering(received))
            .or_insert_with(|| SeenFrames {
                workspace: received.attributes.workspace.clone(),
                connection: received.attributes.connection,
                numbers: RangeInclusiveSet::new(),
                conflated: RangeInclusiveSet::new(),
                first_at: at,
                last_at: at,
            });
        let number = received.frame.number;
        seen.numbers.insert(number..=number);
        seen.conflated.extend(received.conflated.iter().cloned());
        seen.first_at = seen.first_at.min(at);
        seen.last_at = seen.last_at.max(at);
    }
    sessions
}

/// What a batch offers to one vehicle.
struct Offers<'a> {
    first: &'a Observation,
    made: Vec<Offer>,
    /// Of each offer: its frame, as an index of the batch, and which of its reports it is.
    places: Vec<(usize, usize)>,
}

impl Work<'_> {
    /// What the batch does, at the time `now`.
    pub fn fold(&self, policy: Policy, now: DateTime<Utc>) -> Effect {
        let mut effect = Effect {
            known: self.vehicles.keys().cloned().collect(),
            decided_at: now,
            ..Effect::default()
        };
        let mut by_vehicle = BTreeMap::<&VehicleKey, Offers<'_>>::new();
        let mut in_batch = HashSet::new();
        for (index, frame) in self.frames.iter().enumerate() {
            let id = (numbering(&frame.received), frame.received.frame.number);
            let repeated = self.repeated.contains(&id) || !in_batch.insert(id);
            if repeated {
                let provider = frame.received.attributes.provider.clone();
                *effect.tally.repeated.entry(provider).or_default() += 1;
            }
            match self.readable(frame) {
                Err(unreadable) => effect.park(frame, unreadable, self.repeated.contains(&id)),
                Ok(observations) => {
                    effect.reports.push(unjudged(frame));
                    for (place, observation) in observations.iter().enumerate() {
                        let offers = by_vehicle
                            .entry(&observation.key)
                            .or_insert_with(|| Offers {
                                first: observation,
                                made: Vec::new(),
                                places: Vec::new(),
                            });
                        offers.places.push((index, place));
                        offers.made.push(Offer {
                            signal: observation.signal,
                            reading: observation.reading.clone(),
                            origin: frame.received.frame.origin,
                            repeated,
                        });
                    }
                    effect.count_frame(frame, repeated);
                }
            }
        }
        for (key, offers) in by_vehicle {
            let stored = self.vehicles.get(key);
            effect.apply(key, stored, self.frames, &offers, policy, now);
        }
        for report in &mut effect.reports {
            if report.verdict != FrameVerdict::Parked {
                report.verdict = overall(&report.observations);
            }
        }
        effect
    }

    /// The frame's observations, or why it is to be parked after all.
    fn readable<'f>(&self, frame: &'f ReadFrame) -> Result<&'f [Observation], Unreadable> {
        let contents = frame.outcome.as_ref().map_err(Clone::clone)?;
        let unknown = contents.observations.iter().find(|observation| {
            !observation.registers && !self.vehicles.contains_key(&observation.key)
        });
        match unknown {
            None => Ok(&contents.observations),
            Some(observation) => Err(Unreadable::new(
                Reason::UnknownVehicle,
                format!(
                    "vehicle {} is not known and the connection registers none (register_unknown)",
                    observation.key.vehicle
                ),
            )),
        }
    }
}

impl Effect {
    /// What became of the batch, given the identities of the frames that were not parked before.
    pub fn done(mut self, parked: &[String]) -> Done {
        let parked: BTreeSet<_> = parked.iter().collect();
        for frame in self
            .parked
            .iter()
            .filter(|frame| parked.contains(&frame.identity))
        {
            if let Some(origin) = &frame.origin {
                let key = (origin.provider.clone(), origin.connection, frame.reason);
                *self.tally.parked.entry(key).or_default() += 1;
            }
        }
        Done {
            tally: self.tally,
            reports: self.reports,
        }
    }

    /// What did not become the state of its vehicle, the newest first. A name that no vehicle has is
    /// left out: whoever invents names would fill the table.
    pub fn rejected(&self, frames: &[ReadFrame]) -> BTreeMap<VehicleKey, Vec<Rejected>> {
        let mut rejected = BTreeMap::<_, Vec<_>>::new();
        for (frame, report) in frames.iter().zip(&self.reports).rev() {
            let (attributes, raw) = (&frame.received.attributes, &frame.received.frame);
            for observation in report.observations.iter().rev() {
                let is_state = observation.verdict == Some(Verdict::Accepted);
                if is_state || !self.known.contains(&observation.vehicle) {
                    continue;
                }
                let list = rejected.entry(observation.vehicle.clone()).or_default();
                list.push(Rejected {
                    decided_at: self.decided_at,
                    verdict: observation.name().to_owned(),
                    signal: observation.signal,
                    reading: observation.reading.clone(),
                    against: observation.against.clone(),
                    clock_ahead: observation.clock_ahead,
                    connection: attributes.connection,
                    session: attributes.session,
                    frame: raw.number,
                });
            }
        }
        rejected
    }

    fn count_frame(&mut self, frame: &ReadFrame, repeated: bool) {
        let Ok(contents) = &frame.outcome else { return };
        let attributes = &frame.received.attributes;
        let (provider, connection) = (&attributes.provider, attributes.connection);
        let kind = match contents.control {
            None => "report",
            Some(Control::Handshake) => "handshake",
            Some(Control::ProviderError) => "provider_error",
            Some(Control::Unused) => "unused",
        };
        *self
            .tally
            .frames
            .entry((provider.clone(), kind))
            .or_default() += 1;
        for (verdict, count) in [
            ("no_value", contents.no_values.len() as u64),
            ("unmapped", contents.unmapped),
        ] {
            let verdict = if repeated {
                Verdict::Duplicate.name()
            } else {
                verdict
            };
            if count > 0 {
                *self
                    .tally
                    .observations
                    .entry((provider.clone(), connection, verdict))
                    .or_default() += count;
            }
        }
    }

    fn park(&mut self, frame: &ReadFrame, unreadable: Unreadable, seen: bool) {
        let (attributes, raw) = (&frame.received.attributes, &frame.received.frame);
        let reason = unreadable.reason.name();
        self.reports.push(FrameReport {
            verdict: FrameVerdict::Parked,
            // It may quote the frame, and it is remembered with the answer.
            reason: Some(storable(&format!("{reason}: {}", unreadable.detail))),
            observations: Vec::new(),
        });
        *self
            .tally
            .frames
            .entry((attributes.provider.clone(), "parked"))
            .or_default() += 1;
        self.parked.push(ParkedFrame {
            identity: identity(&frame.received),
            origin: Some(Origin {
                seen: seen && is_attributed(&unreadable),
                workspace: is_attributed(&unreadable).then(|| attributes.workspace.clone()),
                connection: attributes.connection,
                provider: attributes.provider.clone(),
                session: attributes.session,
                partition: frame.received.partition,
                number: raw.number,
                received_at: raw.received_at,
                origin: raw.origin,
                claimed_workspace: attributes.workspace.clone(),
            }),
            reason,
            detail: unreadable.detail,
            headers: None,
            body: raw.body.to_vec(),
        });
    }

    fn apply(
        &mut self,
        key: &VehicleKey,
        stored: Option<&Vehicle>,
        frames: &[ReadFrame],
        offers: &Offers<'_>,
        policy: Policy,
        now: DateTime<Utc>,
    ) {
        let new = VehicleState::default();
        let before = stored.map_or(&new, |vehicle| &vehicle.state);
        let decision = decide(before, &offers.made, policy, now);
        for (&(frame, place), judgement) in offers.places.iter().zip(decision.judgements) {
            let attributes = &frames[frame].received.attributes;
            let mut count = |verdict| {
                let key = (attributes.provider.clone(), attributes.connection, verdict);
                *self.tally.observations.entry(key).or_default() += 1;
            };
            count(judgement.verdict.name());
            if judgement.clock_ahead {
                count("clock_ahead");
            }
            let report = &mut self.reports[frame].observations[place];
            report.verdict = Some(judgement.verdict);
            report.clock_ahead = judgement.clock_ahead;
            report.against = judgement.against;
        }
        let Some(state) = decision.state else { return };
        let vehicle = if let Some(stored) = stored {
            Vehicle {
                state,
                ..stored.clone()
            }
        } else {
            let vehicle = Vehicle {
                shard: offers.first.shard,
                registered_at: now,
                registered_by: frames[offers.places[0].0].received.attributes.connection,
                state,
            };
            let provider = offers.first.reading.provenance.provider.clone();
            self.event(key, vehicle.shard, registered(key, &vehicle, provider));
            vehicle
        };
        if !decision.news.is_empty() {
            let fact = decide::snapshot_changed(&key.vehicle, &vehicle.state, &decision.news);
            self.event(key, vehicle.shard, fact);
        }
        self.known.insert(key.clone());
        self.vehicles.insert(key.clone(), vehicle);
    }

    fn event(&mut self, key: &VehicleKey, shard: u32, fact: Fact) {
        *self
            .tally
            .events
            .entry(fact.event_type().name())
            .or_default() += 1;
        self.events.push(NewEvent {
            shard,
            workspace: key.workspace.clone(),
            fact,
        });
    }
}

/// The report on a frame whose observations are still to be judged.
fn unjudged(frame: &ReadFrame) -> FrameReport {
    let Ok(contents) = &frame.outcome else {
        return FrameReport {
            verdict: FrameVerdict::Parked,
            reason: None,
            observations: Vec::new(),
        };
    };
    let observed = contents
        .observations
        .iter()
        .map(|observation| ObservationReport {
            vehicle: observation.key.clone(),
            signal: observation.signal,
            reading: Some(observation.reading.clone()),
            verdict: None,
            clock_ahead: false,
            against: None,
        });
    let absent = contents
        .no_values
        .iter()
        .map(|(vehicle, signal)| ObservationReport {
            vehicle: vehicle.clone(),
            signal: *signal,
            reading: None,
            verdict: None,
            clock_ahead: false,
            against: None,
        });
    let reason = match contents.control {
        Some(Control::Handshake) => Some("a confirmation of the protocol".to_owned()),
        Some(Control::ProviderError) => Some("the provider reports an error".to_owned()),
        Some(Control::Unused) => Some("a kind of message that is not used".to_owned()),
        None if contents.unmapped > 0 => Some(format!(
            "{} labels are mapped to no signal",
            contents.unmapped
        )),
        None => None,
    };
    FrameReport {
        verdict: FrameVerdict::NoValue,
        reason,
        observations: observed.chain(absent).collect(),
    }
}

/// The event that makes `vehicle` known.
#[must_use]
pub fn registered(key: &VehicleKey, vehicle: &Vehicle, provider: Provider) -> Fact {
    Fact::VehicleRegistered(VehicleRegistered {
        vehicle: key.vehicle.clone(),
        connection: vehicle.registered_by,
        provider,
        registered_at: vehicle.registered_at,
    })
}

#[cfg(test)]
mod tests;
