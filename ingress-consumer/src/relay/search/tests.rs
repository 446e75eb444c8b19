use proptest::prelude::*;
use serde_json::value::RawValue;
use shared_model::event::LogPosition;
use shared_model::{CloudEvent, EventType, WorkspaceId, time};

use super::*;

fn event(offset: u64, vehicle: &str) -> (u64, LoggedEvent) {
    let at = LogPosition {
        shard: 0,
        offset,
        logged_at: time::from_unix_millis(1_700_000_000_000).unwrap(),
    };
    let (kind, subject) = match vehicle {
        "" => (EventType::VehiclesSeen, None),
        vehicle => (EventType::VehicleSnapshotChanged, Some(vehicle.to_owned())),
    };
    let workspace = WorkspaceId::new("w").unwrap();
    let data = RawValue::from_string("{}".to_owned()).unwrap();
    (
        offset,
        CloudEvent::new(&at, kind, workspace, subject, None, data),
    )
}

/// A search over events of `vehicles` at the offsets from 1, `size` of them a message.
fn search(vehicles: &[&str], size: usize, blocked: &[&str]) -> Search {
    let events: Vec<_> = (1..)
        .zip(vehicles)
        .map(|(offset, vehicle)| event(offset, vehicle))
        .collect();
    let last = events.len() as u64;
    let blocked = blocked
        .iter()
        .map(|vehicle| format!("w/{vehicle}"))
        .collect();
    Search::of(
        events.chunks(size).map(<[_]>::to_vec).collect(),
        last,
        blocked,
    )
}

/// Runs it against a broker; returns what was confirmed, in order.
fn run(search: &mut Search, broker: impl Fn(u64) -> Verdict) -> Vec<u64> {
    let mut confirmed = Vec::new();
    while let Some(group) = search.next() {
        let offsets: Vec<_> = group.iter().map(|(offset, _)| *offset).collect();
        let refusal = offsets
            .iter()
            .map(|offset| broker(*offset))
            .find(|v| *v != Verdict::Confirmed);
        let verdict = refusal.unwrap_or(Verdict::Confirmed);
        if verdict == Verdict::Confirmed {
            confirmed.extend(offsets);
        }
        if search.answered(verdict) == Next::Full {
            break;
        }
    }
    confirmed
}

fn blocked(found: &Found) -> Vec<(u64, bool)> {
    found
        .blocked
        .iter()
        .map(|b| (b.offset, b.reason.is_some()))
        .collect()
}

fn refusing(bad: &[u64]) -> impl Fn(u64) -> Verdict {
    move |offset| {
        if bad.contains(&offset) {
            Verdict::Refused("full".to_owned())
        } else {
            Verdict::Confirmed
        }
    }
}

fn too_large(bad: &[u64]) -> impl Fn(u64) -> Verdict {
    move |offset| {
        if bad.contains(&offset) {
            Verdict::Unacceptable("large".to_owned())
        } else {
            Verdict::Confirmed
        }
    }
}

#[test]
fn a_refused_event_blocks_its_vehicle_and_nobody_else() {
    let mut search = search(&["a", "b", "a", "c", "b", ""], 6, &[]);
    assert_eq!(run(&mut search, refusing(&[2])), [1, 3, 4, 6]);
    let found = search.end(false);
    assert_eq!((found.to, found.is_full), (6, false));
    assert_eq!(blocked(&found), [(2, true), (5, false)]);
}

#[test]
fn what_is_blocked_already_is_not_sent() {
    let mut search = search(&["a", "b", "a"], 2, &["a"]);
    assert_eq!(run(&mut search, refusing(&[])), [2]);
    assert_eq!(blocked(&search.end(false)), [(1, false), (3, false)]);
}

#[test]
fn events_without_a_subject_wait_for_none() {
    let mut search = search(&["", "", "a"], 1, &[]);
    assert_eq!(run(&mut search, refusing(&[1])), [2, 3]);
    assert_eq!(blocked(&search.end(false)), [(1, true)]);
}

#[test]
fn a_broker_that_takes_nothing_is_to_blame_itself() {
    let mut search = search(&["a", "b", "c", "d", "e"], 5, &[]);
    assert!(run(&mut search, |_| Verdict::Refused("full".to_owned())).is_empty());
    let found = search.end(false);
    assert_eq!((found.to, found.is_full), (0, true));
    assert!(found.blocked.is_empty());
}

#[test]
fn a_lone_event_is_to_blame_only_once_others_are_taken() {
    let all = |_| Verdict::Refused("full".to_owned());
    let mut alone = search(&["a", "a"], 2, &[]);
    run(&mut alone, all);
    let found = alone.end(false);
    assert_eq!((found.to, found.is_full), (0, true));
    let mut beside_others = search(&["a", "a"], 2, &[]);
    run(&mut beside_others, all);
    let found = beside_others.end(true);
    assert_eq!((found.to, found.is_full), (2, false));
    assert_eq!(blocked(&found), [(1, true), (2, false)]);
}

#[test]
fn what_the_broker_never_takes_is_blocked_though_it_takes_nothing_else() {
    let mut search = search(&["a", "b", "a"], 3, &[]);
    let broker = |offset| {
        if offset == 1 {
            Verdict::Unacceptable("large".to_owned())
        } else {
            Verdict::Refused("full".to_owned())
        }
    };
    run(&mut search, broker);
    let found = search.end(false);
    assert_eq!((found.to, found.is_full), (1, true));
    assert_eq!(blocked(&found), [(1, true)]);
}

#[test]
fn a_broker_that_never_takes_anything_is_to_blame_itself() {
    let vehicles: Vec<_> = (0..40).map(|n| format!("bus-{n}")).collect();
    let vehicles: Vec<_> = vehicles.iter().map(String::as_str).collect();
    let mut search = search(&vehicles, 10, &[]);
    let all: Vec<_> = (1..=40).collect();
    run(&mut search, too_large(&all));
    let found = search.end(false);
    assert_eq!((found.to, found.is_full), (0, true));
    assert!(found.blocked.is_empty());
}

#[test]
fn what_was_not_sent_for_others_that_were_taken_elsewhere_is_not_passed() {
    let mut search = search(&["a", "b", "c", "d"], 1, &[]);
    run(&mut search, |_| Verdict::Refused("full".to_owned()));
    let found = search.end(true);
    assert_eq!((found.to, found.is_full), (3, false));
    assert_eq!(blocked(&found), [(1, true), (2, true), (3, true)]);
}

proptest! {
    /// Everything up to the end is confirmed or blocked, never both, and in order per vehicle.
    #[test]
    fn no_event_is_left_out(
        vehicles in prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "d", ""]), 1..40),
        bad in prop::collection::vec(1_u64..40, 0..5),
        size in 1_usize..10,
        is_certain in any::<bool>(),
    ) {
        let mut search = search(&vehicles, size, &["d"]);
        let confirmed = if is_certain {
            run(&mut search, too_large(&bad))
        } else {
            run(&mut search, refusing(&bad))
        };
        let found = search.end(is_certain);
        let mut all: Vec<_> = confirmed.iter().copied().filter(|offset| *offset <= found.to).collect();
        let held: Vec<_> = blocked(&found);
        all.extend(held.iter().map(|(offset, _)| *offset));
        all.sort_unstable();
        prop_assert_eq!(all, (1..=found.to).collect::<Vec<_>>());
        let vehicle = |offset: u64| vehicles[usize::try_from(offset).unwrap() - 1];
        for (offset, is_refused) in held {
            if is_refused {
                prop_assert!(bad.contains(&offset));
            }
            // Nothing of a blocked vehicle is confirmed behind what is blocked of it.
            if !vehicle(offset).is_empty() {
                let passed = confirmed.iter().any(|c| *c > offset && vehicle(*c) == vehicle(offset));
                prop_assert!(!passed);
            }
        }
        prop_assert!(confirmed.is_sorted());
    }
}
