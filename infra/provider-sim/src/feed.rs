//! Which data a fleet produces when: pure, from a seed and a slot number to data.
//!
//! Time is cut into slots, and the vehicles are spread over the slots of one period, so that a large fleet is a steady stream
//! and not a burst every second. A driving bus produces every label once a period; a parked one when it arrives and then
//! every so often. A late datum is left out at its own slot and comes [`LATE_PERIODS`] periods later, after newer ones.

use crate::{
    drive::{Activity, State, Vehicle},
    flaw::{Flaw, Flaws},
    protocol::Label,
};
use serde_json::Value;
use std::{ops::RangeInclusive, time::Duration};

/// How many periods a late datum is held back.
const LATE_PERIODS: i64 = 3;

const SLOT_NANOS: i64 = 10_000_000;
const NANOS_PER_MS: i64 = 1_000_000;

/// The division of time into slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    slot_nanos: i64,
    /// How many slots make a period; a vehicle owns one of them.
    slots: i64,
}

impl Pace {
    /// The pace at which each vehicle has `rate` periods a second.
    pub(crate) fn new(rate: f64) -> Self {
        let period = Duration::from_secs_f64(1.0 / rate);
        let period_nanos = i64::try_from(period.as_nanos()).unwrap_or(i64::MAX).max(1);
        let slots = (period_nanos / SLOT_NANOS).max(1);
        Self {
            slot_nanos: period_nanos / slots,
            slots,
        }
    }

    /// How long a slot is.
    pub(crate) fn slot(self) -> Duration {
        Duration::from_nanos(self.slot_nanos.unsigned_abs())
    }

    /// How many slots a period has.
    pub(crate) fn slots_per_period(self) -> i64 {
        self.slots
    }

    /// The slot to which an instant belongs, in nanoseconds since the Unix epoch.
    pub(crate) fn slot_of(self, nanos: i64) -> i64 {
        nanos.div_euclid(self.slot_nanos)
    }

    /// The vehicles, of a fleet of this size, that own a slot.
    pub(crate) fn owners(self, slot: i64, fleet: usize) -> impl Iterator<Item = usize> {
        let step = usize::try_from(self.slots).unwrap_or(usize::MAX);
        let first = usize::try_from(slot.rem_euclid(self.slots)).unwrap_or_default();
        (first..fleet).step_by(step)
    }

    fn time_ms(self, slot: i64) -> i64 {
        slot * self.slot_nanos / NANOS_PER_MS
    }

    fn period_ms(self) -> i64 {
        self.slots * self.slot_nanos / NANOS_PER_MS
    }
}

/// One value of one label at one time.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Datum {
    pub(crate) label: Label,
    pub(crate) value: Value,
    pub(crate) time_ms: i64,
}

/// The data of a whole fleet.
#[derive(Debug)]
pub(crate) struct Feed {
    seed: u64,
    pace: Pace,
    flaws: Flaws,
    parked_every_ms: i64,
    vehicles: Vec<Vehicle>,
}

impl Feed {
    pub(crate) fn new(
        seed: u64,
        fleet: usize,
        pace: Pace,
        flaws: Flaws,
        parked_every: Duration,
    ) -> Self {
        Self {
            seed,
            pace,
            flaws,
            parked_every_ms: i64::try_from(parked_every.as_millis())
                .unwrap_or(i64::MAX)
                .max(1),
            vehicles: (0..fleet).map(|index| Vehicle::new(seed, index)).collect(),
        }
    }

    /// How many vehicles there are.
    pub(crate) fn fleet(&self) -> usize {
        self.vehicles.len()
    }

    /// What the vehicle with this index produces at a slot of its own, in the order in which it is sent.
    pub(crate) fn data(&self, index: usize, slot: i64) -> Vec<Datum> {
        let held_back = slot - LATE_PERIODS * self.pace.slots;
        let mut data = Vec::with_capacity(Label::ALL.len());
        self.produce(index, slot, Timing::Prompt, &mut data);
        if self.flaws.late > 0.0 {
            self.produce(index, held_back, Timing::Late, &mut data);
        }
        data
    }

    /// What the vehicle with this index observes of this label at a slot of its own, whenever it is sent.
    pub(crate) fn observed(&self, index: usize, slot: i64, label: Label) -> Option<Datum> {
        let time_ms = self.pace.time_ms(slot);
        let state = self.vehicles[index].at(time_ms);
        let reports = self.reports(state.activity);
        reports.then(|| self.datum(index, slot, label, &state).1)
    }

    /// When the data of a slot are observed, in milliseconds since the Unix epoch.
    pub(crate) fn time_ms(&self, slot: i64) -> i64 {
        self.pace.time_ms(slot)
    }

    /// How long a period is.
    pub(crate) fn period_ms(&self) -> i64 {
        self.pace.period_ms().max(1)
    }

    /// The last slot of this vehicle's own whose time is not after `time_ms`.
    pub(crate) fn last_slot_at(&self, index: usize, time_ms: i64) -> i64 {
        let nanos = time_ms.saturating_add(1).saturating_mul(NANOS_PER_MS) - 1;
        let slot = self.pace.slot_of(nanos);
        let own = i64::try_from(index).unwrap_or_default() % self.pace.slots;
        slot - (slot - own).rem_euclid(self.pace.slots)
    }

    /// The slots of this vehicle's own whose times are within `times`.
    pub(crate) fn slots_within(
        &self,
        index: usize,
        times: RangeInclusive<i64>,
    ) -> impl Iterator<Item = i64> {
        let last = self.last_slot_at(index, *times.end());
        let before = self.last_slot_at(index, times.start().saturating_sub(1));
        let step = usize::try_from(self.pace.slots).unwrap_or(usize::MAX);
        (before + self.pace.slots..=last).step_by(step)
    }

    fn produce(&self, index: usize, slot: i64, timing: Timing, data: &mut Vec<Datum>) {
        let state = self.vehicles[index].at(self.pace.time_ms(slot));
        if !self.reports(state.activity) {
            return;
        }
        for label in Label::ALL {
            let (own_timing, datum) = self.datum(index, slot, label, &state);
            if own_timing == timing {
                data.push(datum);
            }
        }
    }

    fn datum(&self, index: usize, slot: i64, label: Label, state: &State) -> (Timing, Datum) {
        let flaw = self.flaws.of(self.seed, index, label as usize, slot);
        let timing = match flaw {
            Some(Flaw::Late) => Timing::Late,
            _ => Timing::Prompt,
        };
        let value = match flaw {
            Some(Flaw::Blank) => Value::from(""),
            Some(Flaw::Null) => Value::Null,
            Some(Flaw::ZeroPosition) if label == Label::Gps => Value::from("0|0"),
            _ => label.value_of(state),
        };
        let time_ms = self.pace.time_ms(slot);
        let datum = Datum {
            label,
            value,
            time_ms,
        };
        (timing, datum)
    }

    fn reports(&self, activity: Activity) -> bool {
        match activity {
            Activity::Driving => true,
            Activity::Parked { for_ms } => {
                let at_last_slot = for_ms - self.pace.period_ms();
                at_last_slot < 0
                    || for_ms / self.parked_every_ms != at_last_slot / self.parked_every_ms
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Timing {
    Prompt,
    Late,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drive::{CYCLE_MS, DELIVERED_MS};
    use std::collections::BTreeMap;

    const PARKED_EVERY: Duration = Duration::from_mins(1);

    fn one_cycle(feed: &Feed, index: usize) -> Vec<(i64, Vec<Datum>)> {
        let first = feed.pace.slot_of(DELIVERED_MS * NANOS_PER_MS);
        let count = CYCLE_MS * NANOS_PER_MS / feed.pace.slot_nanos;
        (first..first + count)
            .filter(|slot| feed.pace.owners(*slot, feed.fleet()).any(|i| i == index))
            .map(|slot| (slot, feed.data(index, slot)))
            .collect()
    }

    #[test]
    fn every_vehicle_owns_one_slot_a_period() {
        for (rate, fleet) in [(1.0, 250), (0.5, 3), (3.0, 20), (100.0, 5), (1000.0, 2)] {
            let pace = Pace::new(rate);
            let mut seen = vec![0; fleet];
            for slot in 1_000_000..1_000_000 + pace.slots_per_period() {
                for index in pace.owners(slot, fleet) {
                    seen[index] += 1;
                }
            }
            assert!(
                seen.iter().all(|times| *times == 1),
                "rate {rate}: {seen:?}"
            );
            let period = pace.slot().as_secs_f64() * pace.slots_per_period() as f64;
            assert!((period * rate - 1.0).abs() < 1e-6, "rate {rate}: {period}");
        }
    }

    #[test]
    fn a_driving_bus_reports_each_period_and_a_parked_one_seldom() {
        let feed = Feed::new(1, 4, Pace::new(1.0), Flaws::NONE, PARKED_EVERY);
        for index in 0..4 {
            let (mut driving, mut parked) = (0, 0);
            for (slot, data) in one_cycle(&feed, index) {
                let state = feed.vehicles[index].at(feed.pace.time_ms(slot));
                let reports = usize::from(!data.is_empty());
                match state.activity {
                    Activity::Driving => {
                        assert_eq!(data.len(), Label::ALL.len());
                        driving += reports;
                    }
                    Activity::Parked { .. } => parked += reports,
                }
            }
            assert_eq!(driving, 720);
            assert_eq!(parked, 3, "on arrival and each minute of three");
        }
    }

    #[test]
    fn late_data_come_after_newer_ones_and_none_is_lost_or_doubled() {
        let late = Flaws {
            late: 0.2,
            ..Flaws::NONE
        };
        let perfect = Feed::new(1, 1, Pace::new(1.0), Flaws::NONE, PARKED_EVERY);
        let flawed = Feed::new(1, 1, Pace::new(1.0), late, PARKED_EVERY);
        let flatten = |feed: &Feed| -> Vec<Datum> {
            one_cycle(feed, 0)
                .into_iter()
                .flat_map(|(_, data)| data)
                .collect()
        };
        let sent = flatten(&flawed);
        let mut newest = BTreeMap::new();
        let mut overtaken = 0;
        for datum in &sent {
            let newest = newest.entry(datum.label.name()).or_insert(i64::MIN);
            overtaken += i32::from(datum.time_ms < *newest);
            *newest = datum.time_ms.max(*newest);
        }
        assert!(overtaken > 500, "{overtaken} of {}", sent.len());

        // Apart from the edges of the window, the same data came, in another order.
        let inside = |data: Vec<Datum>| {
            let mut data: Vec<_> = data
                .into_iter()
                .filter(|d| (10_000..CYCLE_MS - 10_000).contains(&(d.time_ms - DELIVERED_MS)))
                .map(|d| (d.time_ms, d.label.name(), d.value.to_string()))
                .collect();
            data.sort();
            data
        };
        assert_eq!(inside(sent), inside(flatten(&perfect)));
    }

    #[test]
    fn what_was_observed_is_what_is_sent() {
        let feed = Feed::new(1, 120, Pace::new(1.0), Flaws::default(), PARKED_EVERY);
        for index in [0, 7, 119] {
            let sent: Vec<_> = one_cycle(&feed, index)
                .into_iter()
                .flat_map(|(_, data)| data)
                .filter(|datum| datum.label == Label::Odo)
                .map(|datum| (datum.time_ms, datum.value.to_string()))
                .filter(|(time, _)| (10_000..CYCLE_MS - 10_000).contains(&(time - DELIVERED_MS)))
                .collect();
            let times = DELIVERED_MS + 10_000..=DELIVERED_MS + CYCLE_MS - 10_001;
            let observed: Vec<_> = feed
                .slots_within(index, times)
                .filter_map(|slot| feed.observed(index, slot, Label::Odo))
                .map(|datum| (datum.time_ms, datum.value.to_string()))
                .collect();
            let mut sorted = sent.clone();
            sorted.sort();
            assert_eq!(observed, sorted);
            assert!(observed.len() > 700);
        }
    }

    #[test]
    fn flawed_values_look_as_they_do_in_real_life() {
        let flaws = Flaws {
            blank: 0.2,
            null: 0.2,
            zero_position: 0.2,
            late: 0.0,
        };
        let feed = Feed::new(1, 1, Pace::new(1.0), flaws, PARKED_EVERY);
        let data: Vec<_> = one_cycle(&feed, 0)
            .into_iter()
            .flat_map(|(_, data)| data)
            .collect();
        let count = |value: &Value| data.iter().filter(|datum| datum.value == *value).count();
        assert!(count(&Value::from("")) > 500);
        assert!(count(&Value::Null) > 500);
        assert!(count(&Value::from("0|0")) > 80);
        assert!(
            data.iter()
                .filter(|datum| datum.value == "0|0")
                .all(|datum| datum.label == Label::Gps)
        );
    }
}
