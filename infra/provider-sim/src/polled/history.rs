//! What a polled provider has: the reports of its vehicles in the order in which they reached it.
//!
//! A report is a function of (seed, drive, time), and so is when it arrives: most within half a second, late ones later. The
//! history is carried on to the present whenever somebody asks, and forgets what is oldest, so its memory is bounded.
//! Pure: the time comes in as an argument.

use crate::{
    drive::{Activity, Position, State, Vehicle},
    polled::PolledConfig,
};
use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};
use std::collections::{BTreeMap, VecDeque};

/// The longest that a report takes that is not late, in milliseconds.
const SLOWEST_MS: i64 = 400;

/// One report of one vehicle.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record {
    /// Its place in the history, from 1, without gaps.
    pub(crate) seq: u64,
    /// Which vehicle of the fleet, from 0.
    pub(crate) vehicle: usize,
    /// When it was, by a clock that is right (a satellite's).
    pub(crate) true_ms: i64,
    /// When it was, by the vehicle's clock.
    pub(crate) observed_ms: i64,
    /// When it reached the provider, by the provider's clock.
    pub(crate) received_ms: i64,
    /// State of charge in thousandths of a per cent.
    pub(crate) soc_milli_percent: i64,
    /// Lifetime distance in metres.
    pub(crate) odo_m: i64,
    /// Speed in kilometres an hour, unrounded.
    pub(crate) speed_kmh: f64,
    /// Power drawn from the battery in watts; negative while charging.
    pub(crate) power_w: i64,
    /// Where it was, with seven decimals.
    pub(crate) position: Position,
    /// Whether it drives or stands at a stop, rather than at the depot.
    pub(crate) is_driving: bool,
}

/// The reports, oldest first.
#[derive(Debug)]
pub(crate) struct History {
    fleet: Vec<Vehicle>,
    seed: u64,
    every_ms: i64,
    parked_every: i64,
    kept: usize,
    pub(crate) late: f64,
    pub(crate) late_by_ms: i64,
    pub(crate) skew_ms: i64,
    pub(crate) is_paused: bool,
    /// The first stretch of time that no vehicle has reported for yet.
    next_slot: i64,
    /// Reports under way, by the time of their arrival.
    under_way: BTreeMap<(i64, usize, i64), Record>,
    records: VecDeque<Record>,
    /// The newest report of each vehicle among those forgotten.
    forgotten: Vec<Option<Record>>,
    last_seq: u64,
}

impl History {
    pub(crate) fn new(config: &PolledConfig, now_ms: i64) -> Self {
        let every_ms = whole_ms(config.every).max(1);
        let begin = now_ms - whole_ms(config.backlog);
        Self {
            fleet: config
                .drives
                .iter()
                .map(|drive| Vehicle::new(config.seed, *drive))
                .collect(),
            seed: config.seed,
            every_ms,
            parked_every: i64::from(config.parked_every),
            kept: config.kept,
            late: config.late,
            late_by_ms: whole_ms(config.late_by),
            skew_ms: config.clock_skew_ms,
            is_paused: false,
            next_slot: begin.div_euclid(every_ms),
            under_way: BTreeMap::new(),
            records: VecDeque::new(),
            forgotten: vec![None; config.drives.len()],
            last_seq: 0,
        }
    }

    /// How many vehicles there are.
    pub(crate) fn vehicles(&self) -> usize {
        self.fleet.len()
    }

    /// How many reports have not reached the provider yet.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The place of the last report; 0 if there is none.
    pub(crate) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// Takes in all that has reached the provider by `now_ms`.
    pub(crate) fn advance(&mut self, now_ms: i64) {
        let current = now_ms.div_euclid(self.every_ms);
        // What would be forgotten at once need not be made.
        let reach = self.kept / self.fleet.len().max(1) + 1;
        let reach = i64::try_from(reach).unwrap_or(i64::MAX);
        self.next_slot = self.next_slot.max(current.saturating_sub(reach));
        // The present stretch too: its first reports arrive before it ends.
        while self.next_slot <= current {
            if !self.is_paused {
                self.report(self.next_slot);
            }
            self.next_slot += 1;
        }
        while let Some(next) = self.under_way.first_entry() {
            if next.key().0 > now_ms {
                break;
            }
            let record = next.remove();
            self.take(record);
        }
    }

    /// The reports behind `seq`, oldest first.
    pub(crate) fn after(&self, seq: u64) -> impl Iterator<Item = &Record> {
        let from = self.records.partition_point(|record| record.seq <= seq);
        self.records.range(from..)
    }

    /// The newest report of each vehicle by the vehicles' clocks, among those that reached the provider before `end_ms` and
    /// stand no later than `seq`.
    pub(crate) fn latest(&self, end_ms: i64, seq: u64) -> Vec<&Record> {
        let mut latest: Vec<Option<&Record>> = self.forgotten.iter().map(Option::as_ref).collect();
        let seen = self.records.iter();
        for record in seen.filter(|record| record.received_ms < end_ms && record.seq <= seq) {
            let newest = &mut latest[record.vehicle];
            if newest.is_none_or(|newest| newest.observed_ms < record.observed_ms) {
                *newest = Some(record);
            }
        }
        latest.into_iter().flatten().collect()
    }

    /// What the vehicles report about a stretch of time: those on the road once, those parked now and then.
    fn report(&mut self, slot: i64) {
        for index in 0..self.fleet.len() {
            let begin = slot * self.every_ms;
            // Spread over the stretch, as real vehicles are.
            let offset = self.every_ms * index as i64 / self.fleet.len() as i64;
            let true_ms = begin + offset;
            let state = self.fleet[index].at(true_ms);
            let is_driving = state.activity == Activity::Driving;
            if !is_driving && slot.rem_euclid(self.parked_every) != 0 {
                continue;
            }
            let received_ms = true_ms + self.delay_ms(index, slot);
            let record = self.record(index, state, true_ms, received_ms);
            self.under_way.insert((received_ms, index, slot), record);
        }
    }

    fn record(&self, vehicle: usize, state: State, true_ms: i64, received_ms: i64) -> Record {
        Record {
            seq: 0,
            vehicle,
            true_ms,
            observed_ms: true_ms + self.skew_ms,
            received_ms,
            soc_milli_percent: whole(state.soc_percent * 10.0) * 100,
            odo_m: whole(state.odo_km * 1000.0),
            speed_kmh: state.speed_kmh,
            power_w: whole(state.power_kw * 1000.0),
            position: Position {
                latitude: rounded(state.position.latitude, 1e7),
                longitude: rounded(state.position.longitude, 1e7),
            },
            is_driving: state.activity == Activity::Driving,
        }
    }

    fn delay_ms(&self, vehicle: usize, slot: i64) -> i64 {
        let key = (self.seed ^ vehicle as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(key ^ slot.cast_unsigned());
        let usual = rng.random_range(20..=SLOWEST_MS);
        let is_late = rng.random::<f64>() < self.late;
        let more = if is_late && self.late_by_ms > 0 {
            rng.random_range(0..=self.late_by_ms)
        } else {
            0
        };
        usual + more
    }

    fn take(&mut self, record: Record) {
        self.last_seq += 1;
        self.records.push_back(Record {
            seq: self.last_seq,
            ..record
        });
        if self.records.len() <= self.kept {
            return;
        }
        if let Some(oldest) = self.records.pop_front() {
            let newest = &mut self.forgotten[oldest.vehicle];
            if newest
                .as_ref()
                .is_none_or(|newest| newest.observed_ms < oldest.observed_ms)
            {
                *newest = Some(oldest);
            }
        }
    }
}

/// `number` with as many decimals as `scale` has zeros.
pub(crate) fn rounded(number: f64, scale: f64) -> f64 {
    (number * scale).round() / scale
}

/// The nearest whole number. The quantities of a vehicle are far below 2^53.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounded, and far below 2^53"
)]
pub(crate) fn whole(number: f64) -> i64 {
    number.round() as i64
}

fn whole_ms(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::polled::PolledProvider;
    use std::time::Duration;

    pub(crate) const NOW_MS: i64 = 1_790_000_000_000;

    /// A history of `vehicles` that reported every second for a minute.
    pub(crate) fn minute(vehicles: usize, late: f64) -> History {
        let config = PolledConfig {
            drives: (0..vehicles).collect(),
            every: Duration::from_secs(1),
            parked_every: 1,
            late,
            ..PolledConfig::new(PolledProvider::Rfms)
        };
        let mut history = History::new(&config, NOW_MS);
        history.advance(NOW_MS);
        history
    }

    #[test]
    fn reports_are_in_order_of_arrival_and_numbered_without_gaps() {
        let history = minute(3, 0.3);
        let all: Vec<_> = history.after(0).collect();
        assert!(all.len() > 150, "{}", all.len());
        for (index, pair) in all.windows(2).enumerate() {
            assert_eq!(pair[0].seq, index as u64 + 1);
            assert!(pair[0].received_ms <= pair[1].received_ms);
            assert!(pair[0].received_ms <= NOW_MS);
        }
        let of_one: Vec<_> = all.iter().filter(|record| record.vehicle == 1).collect();
        assert!(
            of_one
                .windows(2)
                .any(|pair| pair[0].observed_ms > pair[1].observed_ms),
            "some come after newer ones"
        );
    }

    #[test]
    fn it_does_not_matter_how_often_somebody_asks() {
        let at_once = minute(4, 0.2);
        let mut by_and_by = History::new(
            &PolledConfig {
                drives: (0..4).collect(),
                every: Duration::from_secs(1),
                parked_every: 1,
                late: 0.2,
                ..PolledConfig::new(PolledProvider::Rfms)
            },
            NOW_MS,
        );
        for back in (0..600).rev() {
            by_and_by.advance(NOW_MS - back * 100);
        }
        assert!(at_once.after(0).eq(by_and_by.after(0)));
    }

    #[test]
    fn the_oldest_are_forgotten_but_a_silent_vehicle_is_still_known() {
        let config = PolledConfig {
            drives: (0..3).collect(),
            every: Duration::from_secs(1),
            kept: 50,
            ..PolledConfig::new(PolledProvider::Rfms)
        };
        let mut history = History::new(&config, NOW_MS);
        for second in 0..1000 {
            history.advance(NOW_MS + second * 1000);
        }
        assert_eq!(history.after(0).count(), 50);
        assert_eq!(history.latest(i64::MAX, u64::MAX).len(), 3);
        // An hour in which nobody asked is not made up for.
        history.advance(NOW_MS + 3_600_000);
        assert_eq!(history.after(0).count(), 50);
    }

    #[test]
    fn a_paused_fleet_reports_nothing_more_and_what_is_under_way_arrives() {
        let mut history = minute(2, 1.0);
        assert!(!history.under_way.is_empty());
        history.is_paused = true;
        history.advance(NOW_MS + 60_000);
        assert!(history.under_way.is_empty());
        let last = history.last_seq();
        history.advance(NOW_MS + 120_000);
        assert_eq!(history.last_seq(), last);
        assert!(
            history
                .after(0)
                .all(|record| record.true_ms < NOW_MS + 1000)
        );
    }

    #[test]
    fn skewed_clocks_are_the_vehicles_alone() {
        let mut history = minute(1, 0.0);
        history.skew_ms = -30_000;
        history.advance(NOW_MS + 5000);
        let is_since = |record: &&Record| record.true_ms >= NOW_MS + 1000;
        assert!(history.after(0).any(|record| is_since(&record)));
        for record in history.after(0).filter(is_since) {
            assert_eq!(record.observed_ms, record.true_ms - 30_000);
            assert!(record.received_ms > record.true_ms);
        }
    }
}
