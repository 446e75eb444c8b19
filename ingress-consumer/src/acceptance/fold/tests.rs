use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rangemap::RangeInclusiveSet;
use shared_model::envelope::Attributes;
use shared_model::signal::Provenance;
use shared_model::{
    EventType, Frame, FrameKind, FrameOrigin, Reading, Signal, SignalValue, VehicleId, WorkspaceId,
    time,
};

use super::super::Received;
use super::super::reading::Contents;
use super::*;

const POLICY: Policy = Policy {
    clock_skew: Duration::from_mins(5),
};

fn at(seconds: i64) -> DateTime<Utc> {
    time::from_unix_millis(1_700_000_000_000 + seconds * 1000).unwrap()
}

fn key(vehicle: &str) -> VehicleKey {
    VehicleKey {
        workspace: WorkspaceId::new("demo").unwrap(),
        vehicle: VehicleId::new(vehicle).unwrap(),
    }
}

fn frame(number: u64, outcome: Result<Contents, Unreadable>) -> ReadFrame {
    let attributes = Attributes {
        provider: Provider::new("viriciti").unwrap(),
        workspace: WorkspaceId::new("demo").unwrap(),
        connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
        session: "01890a5d-ac96-774b-bcce-b302099a8058".parse().unwrap(),
        epoch: 1,
        owner: "publisher-0".to_owned(),
    };
    let frame = Frame {
        number,
        received_at: at(number.try_into().unwrap()),
        kind: FrameKind::Text,
        origin: FrameOrigin::Live,
        body: Bytes::from_static(b"{}"),
    };
    ReadFrame {
        received: Received {
            attributes: Arc::new(attributes),
            partition: 2,
            frame,
            conflated: RangeInclusiveSet::new(),
        },
        outcome,
    }
}

fn speed(number: u64, vehicle: &str, value: f64) -> ReadFrame {
    let observation = Observation {
        key: key(vehicle),
        shard: 3,
        registers: true,
        signal: Signal::Speed,
        reading: Reading {
            value: SignalValue::Number(value),
            provenance: Provenance {
                observed_at: at(number.try_into().unwrap()),
                received_at: at(number.try_into().unwrap()),
                provider: Provider::new("viriciti").unwrap(),
                clock_ahead: false,
            },
        },
    };
    frame(
        number,
        Ok(Contents {
            observations: vec![observation],
            ..Contents::default()
        }),
    )
}

fn fold(
    frames: &[ReadFrame],
    vehicles: &BTreeMap<VehicleKey, Vehicle>,
    repeated: &[u64],
) -> Effect {
    let of = numbering(&frame(0, Ok(Contents::default())).received);
    let repeated = repeated.iter().map(|number| (of, *number)).collect();
    Work {
        frames,
        vehicles,
        repeated: &repeated,
    }
    .fold(POLICY, at(100))
}

fn verdicts(effect: &Effect) -> Vec<(&'static str, u64)> {
    effect
        .tally
        .observations
        .iter()
        .map(|((_, _, verdict), count)| (*verdict, *count))
        .collect()
}

#[test]
fn a_new_vehicle_is_registered_and_many_frames_of_it_are_one_write_and_one_event() {
    let frames = [
        speed(1, "a", 10.0),
        speed(2, "a", 20.0),
        speed(3, "a", 30.0),
    ];
    let effect = fold(&frames, &BTreeMap::new(), &[]);
    let types: Vec<_> = effect
        .events
        .iter()
        .map(|event| event.fact.event_type())
        .collect();
    assert_eq!(
        types,
        [
            EventType::VehicleRegistered,
            EventType::VehicleSnapshotChanged
        ]
    );
    assert!(effect.events.iter().all(|event| event.shard == 3));
    let vehicle = &effect.vehicles[&key("a")];
    assert_eq!((vehicle.state.version, vehicle.state.revision), (1, 1));
    assert_eq!(
        vehicle.state.signals[&Signal::Speed].value,
        SignalValue::Number(30.0)
    );
}

#[test]
fn the_same_frames_again_change_nothing_and_count_as_duplicates() {
    let frames = [speed(1, "a", 10.0), speed(2, "a", 20.0)];
    let stored = fold(&frames, &BTreeMap::new(), &[]).vehicles;
    let again = fold(&frames, &stored, &[1, 2]);
    assert!(again.vehicles.is_empty() && again.events.is_empty());
    assert_eq!(verdicts(&again), [("duplicate", 2)]);
}

#[test]
fn a_frame_twice_in_one_batch_is_a_duplicate() {
    let frames = [
        speed(2, "a", 20.0),
        speed(1, "a", 10.0),
        speed(1, "a", 10.0),
    ];
    let effect = fold(&frames, &BTreeMap::new(), &[]);
    assert_eq!(
        verdicts(&effect),
        [("accepted", 1), ("duplicate", 1), ("stale", 1)]
    );
}

#[test]
fn a_frame_that_cannot_be_read_is_parked_and_the_others_have_their_effect() {
    let poison = Unreadable::new(Reason::InvalidSyntax, "not JSON");
    let frames = [
        speed(1, "a", 10.0),
        frame(2, Err(poison)),
        speed(3, "b", 30.0),
    ];
    let effect = fold(&frames, &BTreeMap::new(), &[]);
    assert_eq!(effect.vehicles.len(), 2);
    assert_eq!(effect.parked.len(), 1);
    assert_eq!(effect.parked[0].reason, "invalid_syntax");
    assert!(effect.parked[0].identity.ends_with("/2/2"));
}

#[test]
fn a_frame_is_parked_whatever_else_had_its_number_and_says_whether_it_was_seen() {
    let parked = |frames: &[ReadFrame], repeated: &[u64]| {
        let effect = fold(frames, &BTreeMap::new(), repeated);
        assert_eq!(effect.parked.len(), 1);
        effect.parked[0].origin.as_ref().unwrap().seen
    };
    let frame = |reason| frame(2, Err(Unreadable::new(reason, "detail")));
    let poison = frame(Reason::InvalidSyntax);
    assert!(parked(std::slice::from_ref(&poison), &[2]));
    assert!(!parked(&[speed(2, "a", 10.0), poison], &[]));
    let mismatch = frame(Reason::ConnectionMismatch);
    assert!(!parked(&[mismatch], &[2]), "its number is another's");
}

#[test]
fn a_connection_that_registers_nothing_parks_what_unknown_vehicles_send() {
    let mut stranger = speed(1, "a", 10.0);
    stranger.outcome.as_mut().unwrap().observations[0].registers = false;
    let effect = fold(&[stranger.clone()], &BTreeMap::new(), &[]);
    assert!(effect.vehicles.is_empty() && effect.events.is_empty());
    assert_eq!(effect.parked[0].reason, "unknown_vehicle");

    let known = fold(&[speed(0, "a", 5.0)], &BTreeMap::new(), &[]).vehicles;
    assert!(fold(&[stranger], &known, &[]).parked.is_empty());
}

#[test]
fn what_was_replaced_at_its_source_is_kept_beside_what_was_seen() {
    let mut frames = vec![speed(7, "bus-1", 1.0), speed(8, "bus-1", 2.0)];
    frames[0].received.conflated = [2..=4, 6..=6].into_iter().collect();
    frames[1].received.conflated = [5..=5].into_iter().collect();
    let seen = seen_frames(&frames);
    let (_, seen) = seen.first_key_value().unwrap();
    assert_eq!(seen.numbers, [7..=8].into_iter().collect());
    assert_eq!(seen.conflated, [2..=6].into_iter().collect());
}

#[test]
fn each_frame_is_reported_in_its_place_with_what_became_of_it() {
    let poison = Unreadable::new(Reason::InvalidSyntax, "not JSON");
    let absent = Contents {
        no_values: vec![(key("a"), Signal::Position)],
        ..Contents::default()
    };
    let frames = [
        speed(5, "a", 10.0),
        frame(2, Err(poison)),
        speed(4, "a", 30.0),
        frame(6, Ok(absent)),
    ];
    let effect = fold(&frames, &BTreeMap::new(), &[]);
    let found: Vec<_> = effect.reports.iter().map(|report| report.verdict).collect();
    assert_eq!(
        found,
        [
            FrameVerdict::Accepted,
            FrameVerdict::Parked,
            FrameVerdict::Stale,
            FrameVerdict::NoValue
        ]
    );
    let reason = effect.reports[1].reason.as_deref();
    assert_eq!(reason, Some("invalid_syntax: not JSON"));
    let rejected: Vec<_> = effect.rejected(&frames)[&key("a")]
        .iter()
        .map(|rejected| (rejected.frame, rejected.verdict.clone()))
        .collect();
    let newest_first = [(6, "no_value".to_owned()), (4, "stale".to_owned())];
    assert_eq!(rejected, newest_first);
}

#[test]
fn a_reason_can_be_stored_whatever_the_frame_holds() {
    let unreadable = Unreadable::new(Reason::UnknownShape, "a\0b is no object".to_owned());
    let effect = fold(&[frame(1, Err(unreadable))], &BTreeMap::new(), &[]);
    let reason = effect.reports[0].reason.as_deref().unwrap();
    assert!(reason.ends_with("a\u{fffd}b is no object"), "{reason}");
}

#[test]
fn a_name_that_no_vehicle_has_leaves_no_verdict() {
    let absent = |number, vehicle| {
        let contents = Contents {
            no_values: vec![(key(vehicle), Signal::StateOfCharge)],
            ..Contents::default()
        };
        frame(number, Ok(contents))
    };
    let frames = [
        absent(1, "invented"),
        speed(2, "new", 3.0),
        absent(3, "new"),
    ];
    let effect = fold(&frames, &BTreeMap::new(), &[]);
    assert_eq!(effect.reports[0].observations.len(), 1);
    let rejected = effect.rejected(&frames);
    assert_eq!(rejected.keys().collect::<Vec<_>>(), [&key("new")]);
    let after = fold(&frames[2..], &effect.vehicles, &[]);
    assert_eq!(after.rejected(&frames[2..]).len(), 1);
}

#[test]
fn a_clock_that_is_ahead_is_remembered_with_the_verdict() {
    let mut ahead = speed(1, "a", 10.0);
    if let Ok(contents) = &mut ahead.outcome {
        contents.observations[0].reading.provenance.observed_at = at(4000);
    }
    let frames = [speed(50, "a", 20.0), ahead];
    let effect = fold(&frames, &BTreeMap::new(), &[]);
    let rejected = &effect.rejected(&frames)[&key("a")];
    assert_eq!(rejected.len(), 1);
    assert!(rejected[0].clock_ahead);
    // What was stored before the field was there can still be read.
    let mut stored = serde_json::to_value(&rejected[0]).unwrap();
    stored.as_object_mut().unwrap().remove("clock_ahead");
    let read: Rejected = serde_json::from_value(stored).unwrap();
    assert!(!read.clock_ahead);
}
