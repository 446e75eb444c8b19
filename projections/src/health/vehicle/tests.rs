//! What is known of a vehicle, what goes to its history, and what is said.

use chrono::TimeDelta;
use shared_model::time::from_unix_millis;
use shared_model::{VehicleId, WorkspaceId};

use super::*;
use crate::health::fold::Registration;
use crate::health::freshness::Limits;
use crate::health::judgement::Outage;

fn at(second: i64) -> DateTime<Utc> {
    from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
}

fn limits() -> LimitsByProvider {
    let limits = |stale, offline| Limits {
        stale_after: TimeDelta::seconds(stale),
        offline_after: TimeDelta::seconds(offline),
    };
    let mut by_provider = LimitsByProvider::from(limits(10, 100));
    by_provider
        .providers
        .insert(provider("rfms"), limits(50, 500));
    by_provider
}

fn provider(name: &str) -> Provider {
    Provider::new(name).unwrap()
}

fn workspace() -> WorkspaceId {
    WorkspaceId::new("demo").unwrap()
}

fn vehicle() -> Vehicle {
    let key = VehicleKey {
        workspace: workspace(),
        vehicle: VehicleId::new("bus-1").unwrap(),
    };
    Vehicle::new(key, at(0))
}

fn id(number: u128) -> ConnectionId {
    ConnectionId(Uuid::from_u128(number))
}

fn registered(connection: u128, name: &str) -> Heard {
    Heard {
        registration: Some(Registration {
            at: at(0),
            connection: id(connection),
            provider: provider(name),
        }),
        ..Heard::default()
    }
}

fn received(second: i64, name: &str) -> Heard {
    Heard {
        receipts: [(at(second), Some(provider(name)))].into(),
        ..Heard::default()
    }
}

fn calm(now: i64) -> Situation {
    Situation::calm(at(now))
}

fn outage(number: u128, began: i64, ended: Option<i64>) -> Outage {
    Outage {
        incident: Uuid::from_u128(number),
        began: at(began),
        ended: ended.map(at),
    }
}

/// Connection 1 of viriciti is out since `began`; 2 is well, and of the same provider.
fn out(began: i64, now: i64) -> Situation {
    let mut situation = calm(now);
    let open = outage(7, began, None);
    situation.add_outage(open);
    situation.add_connection(workspace(), provider("viriciti"), id(1), Some(open));
    situation.add_connection(workspace(), provider("viriciti"), id(2), None);
    situation
}

fn judge(vehicle: &mut Vehicle, situation: &Situation, now: i64) -> Option<Transition> {
    let before = vehicle.clone();
    vehicle.judge(&before, &limits(), situation, at(now))
}

/// What was found, and under which number and after what it is said.
fn found(transition: Option<Transition>) -> (&'static str, Option<(u64, &'static str)>) {
    let transition = transition.expect("something has changed");
    let said = transition.said;
    let cause = transition.cause.map_or("", Cause::name);
    let what = match (transition.freshness, cause) {
        (Freshness::Stale, "source_silent") => "stale: silent",
        (Freshness::Stale, "pipeline_late") => "stale: late",
        (Freshness::Stale, "provider_outage") => "stale: out",
        (freshness, _) => freshness.name(),
    };
    let before = |of: Option<Freshness>| of.map_or("", Freshness::name);
    (
        what,
        said.map(|(number, previous)| (number, before(previous))),
    )
}

fn behind(connection: u128) -> Vehicle {
    let mut vehicle = vehicle();
    assert_eq!(
        vehicle.take(&registered(connection, "viriciti"), &limits()),
        News::Origin
    );
    let first = judge(&mut vehicle, &calm(0), 0);
    assert_eq!(found(first), ("never_seen", Some((1, ""))));
    vehicle.take(&received(5, "viriciti"), &limits());
    let fresh = judge(&mut vehicle, &calm(5), 5);
    assert_eq!(found(fresh), ("fresh", Some((2, "never_seen"))));
    vehicle
}

#[test]
fn each_change_is_said_once_and_numbered() {
    let mut vehicle = behind(1);
    assert_eq!(judge(&mut vehicle, &calm(14), 14), None);
    let stale = judge(&mut vehicle, &calm(15), 15);
    assert_eq!(found(stale), ("stale: silent", Some((3, "fresh"))));
    assert_eq!(judge(&mut vehicle, &calm(16), 16), None);
    vehicle.take(&received(20, "viriciti"), &limits());
    let fresh = judge(&mut vehicle, &calm(20), 20).unwrap();
    assert_eq!(fresh.previous, Some(Freshness::Stale));
    let fact = fresh.fact().unwrap();
    assert_eq!((fact.number, fact.freshness.as_str()), (4, "fresh"));
    assert_eq!(fact.previous.as_deref(), Some("stale"));
    assert_eq!(fact.since, at(20));
}

#[test]
fn an_incident_stands_for_what_it_explains() {
    let mut vehicle = behind(1);
    let hidden = judge(&mut vehicle, &out(8, 15), 15);
    assert_eq!(found(hidden), ("stale: out", None));
    assert_eq!(vehicle.incident, Some(Uuid::from_u128(7)));
    vehicle.take(&received(20, "viriciti"), &limits());
    // As far as anybody was told it has been fresh all along.
    assert_eq!(found(judge(&mut vehicle, &out(8, 20), 20)), ("fresh", None));

    // One that does not come back is said to be silent, a while after the outage.
    let hidden = judge(&mut vehicle, &out(8, 30), 30);
    assert_eq!(found(hidden), ("stale: out", None));
    let mut over = calm(41);
    over.add_outage(outage(7, 8, Some(32)));
    assert_eq!(judge(&mut vehicle, &over, 41), None);
    assert_eq!(vehicle.judgement.deadline, Some(at(42)));
    let silent = judge(&mut vehicle, &over, 42);
    assert_eq!(found(silent), ("stale: silent", Some((3, "fresh"))));
}

#[test]
fn a_vehicle_is_behind_its_own_connection_if_that_is_there() {
    let outage_of = |vehicle: &Vehicle, situation: &Situation| {
        situation.outage_of(vehicle).map(|outage| outage.incident)
    };
    let incident = Some(Uuid::from_u128(7));
    let situation = out(8, 15);
    assert_eq!(outage_of(&behind(1), &situation), incident);
    assert_eq!(outage_of(&behind(2), &situation), None);
    assert_eq!(outage_of(&behind(3), &situation), None, "2 may bring it");
    // Last heard from through another provider: its connections count.
    let mut other = behind(1);
    other.take(&received(6, "rfms"), &limits());
    assert_eq!(outage_of(&other, &situation), None);
    let mut all_out = out(8, 15);
    let rfms = outage(9, 3, None);
    all_out.add_connection(workspace(), provider("rfms"), id(4), Some(rfms));
    all_out.add_connection(
        workspace(),
        provider("rfms"),
        id(5),
        Some(outage(8, 2, None)),
    );
    assert_eq!(outage_of(&other, &all_out), Some(Uuid::from_u128(8)));
    let elsewhere = WorkspaceId::new("other").unwrap();
    other.key.workspace = elsewhere;
    assert_eq!(outage_of(&other, &all_out), None);
}

#[test]
fn a_late_pipeline_is_said_and_taken_back() {
    let mut vehicle = behind(1);
    let late = judge(&mut vehicle, &calm(10), 15);
    assert_eq!(found(late), ("stale: late", Some((3, "fresh"))));
    let proven = judge(&mut vehicle, &calm(16), 16);
    assert_eq!(found(proven), ("stale: silent", Some((4, "stale"))));
}

#[test]
fn the_provider_that_was_heard_last_sets_the_limits() {
    let mut vehicle = behind(1);
    vehicle.take(&received(8, "rfms"), &limits());
    assert_eq!(judge(&mut vehicle, &calm(57), 57), None);
    let stale = judge(&mut vehicle, &calm(58), 58).unwrap();
    assert_eq!(stale.provider, Some(provider("rfms")));
    assert_eq!(stale.since, at(58));
    vehicle.take(&received(60, "viriciti"), &limits());
    judge(&mut vehicle, &calm(60), 60);
    assert_eq!(vehicle.judgement.deadline, Some(at(70)));
}

#[test]
fn what_is_not_new_changes_nothing() {
    let mut vehicle = behind(1);
    let before = vehicle.clone();
    for said in [
        received(5, "rfms"),
        received(4, "rfms"),
        registered(2, "rfms"),
    ] {
        assert_eq!(vehicle.take(&said, &limits()), News::None);
        assert_eq!(vehicle, before);
    }
}
