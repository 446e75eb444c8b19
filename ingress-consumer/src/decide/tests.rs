use proptest::prelude::*;
use shared_model::signal::Provenance;
use shared_model::{FrameOrigin, Provider, time};

use super::*;

const POLICY: Policy = Policy {
    clock_skew: Duration::from_mins(5),
};

fn at(seconds: i64) -> DateTime<Utc> {
    time::from_unix_millis(1_700_000_000_000 + seconds * 1000).unwrap()
}

fn offer(signal: Signal, value: f64, observed: i64, received: i64) -> Offer {
    Offer {
        signal,
        reading: Reading {
            value: SignalValue::number(value).unwrap(),
            provenance: Provenance {
                observed_at: at(observed),
                received_at: at(received),
                provider: Provider::new("viriciti").unwrap(),
                clock_ahead: false,
            },
        },
        origin: FrameOrigin::Live,
        repeated: false,
    }
}

fn soc(value: f64, observed: i64) -> Offer {
    offer(Signal::StateOfCharge, value, observed, observed + 1)
}

fn decide_from(before: &VehicleState, offers: &[Offer]) -> Decision {
    decide(before, offers, POLICY, at(10_000))
}

fn verdicts(judgements: &[Judgement]) -> Vec<Verdict> {
    judgements
        .iter()
        .map(|judgement| judgement.verdict)
        .collect()
}

fn state_after(offers: &[Offer]) -> VehicleState {
    decide_from(&VehicleState::default(), offers).state.unwrap()
}

#[test]
fn a_first_value_is_news() {
    let decision = decide_from(&VehicleState::default(), &[soc(81.5, 0)]);
    let state = decision.state.unwrap();
    assert_eq!(
        (state.version, state.revision, state.unsent_since),
        (1, 1, None)
    );
    assert_eq!(decision.news, [Signal::StateOfCharge]);
    assert_eq!(verdicts(&decision.judgements), [Verdict::Accepted]);
}

#[test]
fn later_observations_win_whatever_order_they_come_in() {
    let decision = decide_from(&VehicleState::default(), &[soc(80.0, 5), soc(81.0, 3)]);
    assert_eq!(
        verdicts(&decision.judgements),
        [Verdict::Accepted, Verdict::Stale]
    );
    let state = decision.state.unwrap();
    assert_eq!(
        state.signals[&Signal::StateOfCharge].value,
        SignalValue::Number(80.0)
    );
}

#[test]
fn a_repeat_is_a_duplicate_and_changes_nothing() {
    let before = state_after(&[soc(80.0, 5)]);
    let decision = decide_from(&before, &[soc(80.0, 5)]);
    assert_eq!(verdicts(&decision.judgements), [Verdict::Duplicate]);
    assert_eq!(decision.state, None);
    assert!(decision.news.is_empty());
}

#[test]
fn an_old_frame_that_comes_again_is_a_duplicate_not_stale() {
    let before = state_after(&[soc(81.0, 3), soc(80.0, 5)]);
    let again = Offer {
        repeated: true,
        ..soc(81.0, 3)
    };
    assert_eq!(
        verdicts(&decide_from(&before, &[again]).judgements),
        [Verdict::Duplicate]
    );
    assert_eq!(
        verdicts(&decide_from(&before, &[soc(81.0, 3)]).judgements),
        [Verdict::Stale]
    );
}

#[test]
fn two_values_of_one_time_are_settled_by_the_value_not_by_the_order() {
    let (low, high) = (soc(80.0, 5), soc(81.0, 5));
    let (a, b) = (
        state_after(&[low.clone(), high.clone()]),
        state_after(&[high, low]),
    );
    assert_eq!(a.signals, b.signals);
    assert_eq!(
        a.signals[&Signal::StateOfCharge].value,
        SignalValue::Number(81.0)
    );
}

#[test]
fn noise_is_kept_exactly_but_published_by_the_sweep() {
    let before = state_after(&[soc(80.0, 5)]);
    let decision = decide_from(&before, &[soc(80.05, 6)]);
    let state = decision.state.unwrap();
    assert!(decision.news.is_empty());
    assert_eq!((state.version, state.revision), (1, 2));
    assert_eq!(state.unsent_since, Some(at(10_000)));
    assert_eq!(
        state.signals[&Signal::StateOfCharge].value,
        SignalValue::Number(80.05)
    );

    let Swept::Changed(swept) = sweep(&state) else {
        panic!("the value moved")
    };
    assert_eq!(
        (swept.version, swept.revision, swept.unsent_since),
        (2, 3, None)
    );
    assert_eq!(
        swept.published[&Signal::StateOfCharge],
        SignalValue::Number(80.05)
    );
}

#[test]
fn where_only_times_moved_the_sweep_raises_no_version() {
    let before = state_after(&[soc(80.0, 5)]);
    let state = decide_from(&before, &[soc(80.0, 6)]).state.unwrap();
    let Swept::Seen(swept) = sweep(&state) else {
        panic!("no value moved")
    };
    assert_eq!(
        (swept.version, swept.revision, swept.unsent_since),
        (1, 3, None)
    );
    let seen = vehicle_seen(&VehicleId::new("bus-1").unwrap(), &swept);
    assert_eq!(seen.signals["state_of_charge"].observed_at, at(6));
}

#[test]
fn small_steps_add_up_to_news() {
    let mut state = state_after(&[soc(80.0, 0)]);
    let mut news = 0;
    for step in 1..=10_u8 {
        let decision = decide_from(&state, &[soc(80.0 - f64::from(step) * 0.04, step.into())]);
        news += decision.news.len();
        state = decision.state.unwrap();
    }
    assert_eq!(news, 3);
}

#[test]
fn a_clock_that_is_ahead_does_not_freeze_the_vehicle() {
    let ahead = offer(Signal::Speed, 30.0, 100_000, 10);
    let state = state_after(&[ahead]);
    let reading = &state.signals[&Signal::Speed].provenance;
    assert_eq!((reading.observed_at, reading.clock_ahead), (at(10), true));

    let later = offer(Signal::Speed, 20.0, 12, 12);
    let state = decide_from(&state, &[later]).state.unwrap();
    assert_eq!(
        state.signals[&Signal::Speed].value,
        SignalValue::Number(20.0)
    );
    assert!(!state.signals[&Signal::Speed].provenance.clock_ahead);
}

#[test]
fn a_clock_within_the_allowed_skew_is_believed() {
    let state = state_after(&[offer(Signal::Speed, 30.0, 300, 0)]);
    assert_eq!(
        state.signals[&Signal::Speed].provenance.observed_at,
        at(300)
    );
}

#[test]
fn late_data_still_say_that_the_vehicle_was_heard_from() {
    let before = state_after(&[offer(Signal::Speed, 30.0, 100, 100)]);
    let decision = decide_from(&before, &[offer(Signal::Speed, 10.0, 50, 200)]);
    assert_eq!(verdicts(&decision.judgements), [Verdict::Stale]);
    assert_eq!(decision.state.unwrap().last_received_at, Some(at(200)));
}

fn any_offer() -> impl Strategy<Value = Offer> {
    let signal = prop::sample::select(vec![Signal::StateOfCharge, Signal::Speed, Signal::Odometer]);
    // Few distinct values and times, so that ties of every kind come up.
    let origin = prop::sample::select(vec![
        FrameOrigin::Live,
        FrameOrigin::State,
        FrameOrigin::Backfill,
    ]);
    (signal, origin, 0..4_u8, 0..6_i64, 0..4_i64, any::<bool>()).prop_map(
        |(signal, origin, value, observed, delay, ahead)| {
            let observed = if ahead { observed + 1000 } else { observed };
            Offer {
                origin,
                ..offer(signal, f64::from(value) * 0.5, observed, 5 + delay)
            }
        },
    )
}

/// Offers, and a way to deliver them: each at least once, some again, in any order and batching.
fn any_delivery() -> impl Strategy<Value = (Vec<Offer>, Vec<Offer>, Vec<usize>)> {
    prop::collection::vec(any_offer(), 1..12).prop_flat_map(|offers| {
        let again = prop::collection::vec(prop::sample::select(offers.clone()), 0..12);
        let shuffled = again.prop_flat_map({
            let offers = offers.clone();
            move |again| Just([offers.clone(), again].concat()).prop_shuffle()
        });
        (
            Just(offers),
            shuffled,
            prop::collection::vec(1..5_usize, 24),
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn any_order_any_repetition_and_any_batching_end_in_the_same_state(
        (offers, delivered, batches) in any_delivery()
    ) {
        let expected = state_after(&offers);
        let mut state = VehicleState::default();
        let mut rest = &delivered[..];
        for size in batches {
            let (batch, tail) = rest.split_at(size.min(rest.len()));
            rest = tail;
            let decision = decide_from(&state, batch);
            prop_assert_eq!(decision.judgements.len(), batch.len());
            if let Some(after) = decision.state {
                // Versions are dense: raised by one where there is news, else not at all.
                prop_assert_eq!(after.version - state.version, u64::from(!decision.news.is_empty()));
                prop_assert_eq!(after.revision, state.revision + 1);
                state = after;
            }
        }
        prop_assert!(rest.is_empty());
        prop_assert_eq!(&state.signals, &expected.signals);
        prop_assert_eq!(state.last_received_at, expected.last_received_at);

        // Whatever was left unsent, the sweep makes the events converge to the state as well.
        let swept = match sweep(&state) { Swept::Changed(state) | Swept::Seen(state) => state };
        prop_assert_eq!(&swept.published, &values(&state));
    }
}

/// An observation that was asked for long after it was made.
fn asked_for(origin: FrameOrigin, observed: i64, received: i64) -> Offer {
    Offer {
        origin,
        ..offer(Signal::Odometer, 5.0, observed, received)
    }
}

#[test]
fn a_stored_value_is_no_sign_of_life_and_a_recent_one_is() {
    for origin in [FrameOrigin::State, FrameOrigin::Backfill] {
        let heard = |before: &[Offer], observed| {
            let mut offers = before.to_vec();
            offers.push(asked_for(origin, observed, 5000));
            state_after(&offers).last_received_at
        };
        // The provider still has what it was told at 100.
        assert_eq!(heard(&[], 100), Some(at(100)));
        // It is not news beside what was heard since, and does not make it older.
        assert_eq!(heard(&[soc(80.0, 300)], 100), Some(at(301)));
        // It has something newer than what was heard.
        assert_eq!(heard(&[soc(80.0, 300)], 4990), Some(at(4990)));
        // A vehicle's clock that is ahead is believed no further than the receipt.
        assert_eq!(heard(&[], 5100), Some(at(5000)));
        assert_eq!(heard(&[], 50_000), Some(at(5000)));
    }
    let pushed = asked_for(FrameOrigin::Live, 100, 5000);
    assert_eq!(state_after(&[pushed]).last_received_at, Some(at(5000)));
}

#[test]
fn what_was_asked_for_is_state_like_any_other() {
    let backfilled = Offer {
        origin: FrameOrigin::Backfill,
        ..soc(70.0, 3)
    };
    let decision = decide_from(
        &state_after(&[soc(80.0, 5)]),
        std::slice::from_ref(&backfilled),
    );
    assert_eq!(verdicts(&decision.judgements), [Verdict::Stale]);
    assert_eq!(decision.state, None, "late data change nothing");
    let decision = decide_from(&state_after(&[soc(60.0, 1)]), &[backfilled]);
    assert_eq!(decision.news, [Signal::StateOfCharge]);
}

#[test]
fn a_loser_is_told_what_it_lost_against() {
    let before = state_after(&[soc(81.0, 5)]);
    let decision = decide_from(&before, &[soc(80.0, 5), soc(99.0, 4), soc(81.5, 5)]);
    assert_eq!(
        verdicts(&decision.judgements),
        [Verdict::Conflict, Verdict::Stale, Verdict::Accepted]
    );
    let against = |n: usize| decision.judgements[n].against.clone().map(|a| a.value);
    assert_eq!(against(0), Some(SignalValue::Number(81.0)));
    assert_eq!(against(1), Some(SignalValue::Number(81.0)));
    assert_eq!(against(2), None);
    let ahead = offer(Signal::Speed, 1.0, 5_000, 10);
    assert!(decide_from(&before, &[ahead]).judgements[0].clock_ahead);
}
