//! Who is to blame for a silence.

use proptest::prelude::*;
use shared_model::time::from_unix_millis;

use super::*;

const LIMITS: Limits = Limits {
    stale_after: TimeDelta::seconds(300),
    offline_after: TimeDelta::seconds(3600),
};
const ALWAYS: DateTime<Utc> = DateTime::<Utc>::MAX_UTC;

fn at(second: i64) -> DateTime<Utc> {
    from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
}

fn run(last: i64) -> Run {
    Run {
        since: at(last),
        last: at(last),
    }
}

fn outage(number: u128, began: i64, ended: Option<i64>) -> Outage {
    Outage {
        incident: Uuid::from_u128(number),
        began: at(began),
        ended: ended.map(at),
    }
}

fn nothing() -> Evidence {
    Evidence {
        before: None,
        outage: None,
        proven_until: ALWAYS,
    }
}

/// Of a vehicle that was heard from for the last time at 0: stale at 300, offline at 3600.
fn why_at(evidence: &Evidence, now: i64) -> Option<Why> {
    judge(run(0), LIMITS, evidence, at(now)).why
}

#[test]
fn who_is_fresh_needs_no_cause() {
    let evidence = Evidence {
        outage: Some(outage(1, 10, None)),
        proven_until: at(0),
        ..nothing()
    };
    assert_eq!(why_at(&evidence, 299), None);
}

#[test]
fn a_silence_that_nothing_explains_is_the_sources_own() {
    assert_eq!(why_at(&nothing(), 300), Some(Why::Silent));
    assert_eq!(why_at(&nothing(), 9999), Some(Why::Silent));
}

#[test]
fn an_outage_explains_what_turned_stale_in_it() {
    let during = |began| Evidence {
        outage: Some(outage(1, began, None)),
        ..nothing()
    };
    assert_eq!(
        why_at(&during(200), 300),
        Some(Why::Out(outage(1, 200, None)))
    );
    assert_eq!(
        why_at(&during(300), 400),
        Some(Why::Out(outage(1, 300, None)))
    );
    assert_eq!(
        why_at(&during(301), 400),
        Some(Why::Silent),
        "it was before"
    );
}

#[test]
fn once_found_to_be_silent_a_vehicle_stays_so() {
    let evidence = Evidence {
        before: Some(Why::Silent),
        outage: Some(outage(1, 10, None)),
        proven_until: at(0),
    };
    assert_eq!(why_at(&evidence, 4000), Some(Why::Silent));
}

#[test]
fn after_an_outage_a_vehicle_has_its_limit_again() {
    let over = outage(1, 200, Some(1000));
    let after = Evidence {
        before: Some(Why::Out(over)),
        ..nothing()
    };
    let verdict = judge(run(0), LIMITS, &after, at(1299));
    assert_eq!(verdict.why, Some(Why::Out(over)));
    assert_eq!(verdict.judgement.deadline, Some(at(1300)));
    assert_eq!(why_at(&after, 1300), Some(Why::Silent));
    // Another one that began meanwhile explains the rest.
    let next = outage(2, 1100, None);
    let again = Evidence {
        outage: Some(next),
        ..after
    };
    assert_eq!(why_at(&again, 1299), Some(Why::Out(over)));
    assert_eq!(why_at(&again, 1300), Some(Why::Out(next)));
    // Offline and behind an outage that lasts: nothing changes by time alone.
    let lasts = Evidence {
        before: Some(Why::Out(outage(1, 200, None))),
        ..nothing()
    };
    assert_eq!(
        judge(run(0), LIMITS, &lasts, at(3600)).judgement.deadline,
        None
    );
}

#[test]
fn what_may_be_on_its_way_is_not_proven() {
    let until = |second| Evidence {
        proven_until: at(second),
        ..nothing()
    };
    assert_eq!(why_at(&until(299), 400), Some(Why::Late));
    assert_eq!(why_at(&until(300), 400), Some(Why::Silent));
    assert_eq!(
        why_at(&until(3599), 3700),
        Some(Why::Late),
        "that it is offline"
    );
    let known = Evidence {
        outage: Some(outage(1, 200, None)),
        ..until(250)
    };
    assert_eq!(
        why_at(&known, 400).map(Why::cause),
        Some(Cause::ProviderOutage)
    );
}

#[test]
fn a_projection_that_is_behind_proves_nothing_since() {
    let minute = TimeDelta::minutes(1);
    assert_eq!(proven_until(None, minute, at(100)), DateTime::UNIX_EPOCH);
    assert_eq!(proven_until(Some(minute), minute, at(100)), at(100));
    let late = Some(TimeDelta::seconds(61));
    assert_eq!(proven_until(late, minute, at(100)), at(39));
    let endless = Some(TimeDelta::MAX);
    assert_eq!(proven_until(endless, minute, at(100)), DateTime::UNIX_EPOCH);
}

fn evidence() -> impl Strategy<Value = Evidence> {
    let outage_of = |number| {
        let ended = prop::option::of(0..2000_i64);
        (0..2000_i64, ended).prop_map(move |(began, lasted)| {
            outage(number, began, lasted.map(|lasted| began + lasted))
        })
    };
    let before = prop_oneof![
        Just(None),
        Just(Some(Why::Silent)),
        Just(Some(Why::Late)),
        outage_of(1).prop_map(|outage| Some(Why::Out(outage))),
    ];
    let open = prop::option::of(outage_of(2));
    (before, open, 0..6000_i64).prop_map(|(before, open, proven)| Evidence {
        before,
        outage: open.map(|outage| Outage {
            ended: None,
            ..outage
        }),
        proven_until: at(proven),
    })
}

proptest! {
    #[test]
    fn a_verdict_holds_until_its_deadline(evidence in evidence(), now in 0..6000_i64) {
        let verdict = judge(run(0), LIMITS, &evidence, at(now));
        let freshness = verdict.judgement.freshness;
        prop_assert_eq!(verdict.why.is_some(), freshness.has_cause());
        let held = Evidence { before: verdict.why, ..evidence };
        // Judged again by the same evidence, it is the same; and so it is just before its deadline, unless
        // the pipeline has caught up.
        prop_assert_eq!(judge(run(0), LIMITS, &held, at(now)), verdict);
        if let Some(deadline) = verdict.judgement.deadline {
            prop_assert!(at(now) < deadline);
            let just_before = deadline - TimeDelta::microseconds(1);
            prop_assert_eq!(judge(run(0), LIMITS, &held, just_before), verdict);
            prop_assert_ne!(judge(run(0), LIMITS, &held, deadline), verdict);
        } else {
            prop_assert_eq!(judge(run(0), LIMITS, &held, at(1_000_000)), verdict);
        }
    }
}
