//! How a simulated bus moves: everything known of a vehicle at one instant, as a pure function of (seed, index, time).
//!
//! A bus repeats a cycle of [`CYCLE_MS`]: for [`LAP_MS`] it drives one closed loop of several legs, each from stop to stop
//! (accelerate, cruise, brake, stand), and for the rest it is parked at the depot and charges. All quantities come from
//! closed forms, so any instant can be asked for without living through those before it, and they agree with one another:
//! the speed integrates to the odometer, the position moves along the loop by what the odometer gains, the state of charge
//! falls with the energy drawn and rises with the charging power. The buses of a fleet are spread evenly over the cycle, so
//! that of five buses or more the majority drives at any time.
//!
//! No clock, no I/O, no state: the same question always has the same answer.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// Length of one cycle of driving and charging, in milliseconds.
pub const CYCLE_MS: i64 = 900_000;

/// The part of a cycle spent driving, in milliseconds.
pub const LAP_MS: i64 = 720_000;

/// The instant at which odometers and energy counters had their start values: 2026-01-01T00:00:00Z, in milliseconds since
/// the Unix epoch. Instants before it are answered too, by counting down.
pub const DELIVERED_MS: i64 = 1_767_225_600_000;

/// Where every bus is parked and charged.
pub const DEPOT: Position = Position {
    latitude: 52.0907,
    longitude: 5.1214,
};

const LAP_HOURS: f64 = 0.2;
const CHARGE_HOURS: f64 = 0.05;
const ACCELERATION_MPS2: f64 = 1.0;
const BRAKING_MPS2: f64 = 1.2;
/// What a bus draws whether it rolls or stands: heating, doors, lights.
const AUXILIARY_KW: f64 = 5.0;
/// The state of charge at the start of a lap follows a triangle wave of this many cycles, so that over a shift a bus sees both
/// a low and a full battery.
const WAVE_CYCLES: i64 = 24;
const METRES_PER_DEGREE: f64 = 111_320.0;

/// A point on the earth, WGS 84 degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Position {
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

/// What a bus is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// On its loop, stops included.
    Driving,
    /// At the depot, charging.
    Parked {
        /// How long it has been parked, in milliseconds.
        for_ms: i64,
    },
}

/// Everything known of a bus at one instant, unrounded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct State {
    /// Driving or parked.
    pub activity: Activity,
    /// State of charge in percent, 0 to 100.
    pub soc_percent: f64,
    /// Lifetime distance in kilometres.
    pub odo_km: f64,
    /// Speed in kilometres per hour.
    pub speed_kmh: f64,
    /// Power drawn from the battery in kilowatts; negative while charging.
    pub power_kw: f64,
    /// Lifetime energy drawn from the battery in kilowatt-hours.
    pub energy_kwh: f64,
    /// Where it is.
    pub position: Position,
}

/// The unchanging properties of one bus, drawn from the seed.
#[derive(Debug, Clone, PartialEq)]
pub struct Vehicle {
    phase_ms: i64,
    leg_seconds: f64,
    dwell_seconds: f64,
    cruise_mps: f64,
    legs: f64,
    bearing: f64,
    odo_start_km: f64,
    energy_start_kwh: f64,
    kwh_per_km: f64,
    soc_mean: f64,
    soc_swing: f64,
    soc_per_lap: f64,
    wave_offset: i64,
}

impl Vehicle {
    /// The bus with this index (from 0) in the fleet of this seed.
    #[must_use]
    pub fn new(seed: u64, index: usize) -> Self {
        let mut rng = Xoshiro256PlusPlus::seed_from_u64(
            seed ^ (index as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15),
        );
        let legs: u32 = [6, 8, 9, 10, 12][rng.random_range(0..5)];
        Self {
            phase_ms: spread(index),
            leg_seconds: seconds(LAP_MS) / f64::from(legs),
            dwell_seconds: f64::from(rng.random_range(10..=18_u32)),
            cruise_mps: rng.random_range(8.0..14.0),
            legs: f64::from(legs),
            bearing: rng.random_range(0.0..std::f64::consts::TAU),
            odo_start_km: rng.random_range(20_000.0..80_000.0),
            energy_start_kwh: rng.random_range(20_000.0..90_000.0),
            kwh_per_km: rng.random_range(0.9..1.4),
            soc_mean: rng.random_range(50.0..62.0),
            // A sixth of the swing is what the start of a lap moves from one cycle to the next. It stays below what a
            // lap uses, so that every stay at the depot charges.
            soc_swing: rng.random_range(24.0..30.0),
            soc_per_lap: rng.random_range(7.0..9.0),
            wave_offset: rng.random_range(0..WAVE_CYCLES),
        }
    }

    /// What is known of this bus at `time_ms` (milliseconds since the Unix epoch).
    #[must_use]
    pub fn at(&self, time_ms: i64) -> State {
        let shifted = time_ms - DELIVERED_MS + self.phase_ms;
        let cycle = shifted.div_euclid(CYCLE_MS);
        let into_ms = shifted.rem_euclid(CYCLE_MS);
        if into_ms < LAP_MS {
            self.driving(cycle, seconds(into_ms))
        } else {
            self.parked(cycle, into_ms - LAP_MS)
        }
    }

    fn driving(&self, cycle: i64, into_lap_seconds: f64) -> State {
        let leg = (into_lap_seconds / self.leg_seconds).floor();
        let (speed_mps, leg_metres) = self.along_leg(into_lap_seconds - leg * self.leg_seconds);
        let lap_km = (leg * self.leg_metres() + leg_metres) / 1000.0;
        let drawn_kwh = AUXILIARY_KW * into_lap_seconds / 3600.0 + self.kwh_per_km * lap_km;
        let speed_kmh = speed_mps * 3.6;
        State {
            activity: Activity::Driving,
            soc_percent: self.soc_at_start(cycle)
                - self.soc_per_lap * drawn_kwh / self.lap_energy_kwh(),
            odo_km: self.odo_at_start(cycle) + lap_km,
            speed_kmh,
            power_kw: AUXILIARY_KW + self.kwh_per_km * speed_kmh,
            energy_kwh: self.energy_at_start(cycle) + drawn_kwh,
            position: self.on_loop(lap_km),
        }
    }

    fn parked(&self, cycle: i64, for_ms: i64) -> State {
        let empty = self.soc_at_start(cycle) - self.soc_per_lap;
        let charged = self.soc_at_start(cycle + 1) - empty;
        let battery_kwh = self.lap_energy_kwh() / self.soc_per_lap * 100.0;
        State {
            activity: Activity::Parked { for_ms },
            soc_percent: empty + charged * seconds(for_ms) / seconds(CYCLE_MS - LAP_MS),
            odo_km: self.odo_at_start(cycle + 1),
            speed_kmh: 0.0,
            power_kw: -(charged / 100.0 * battery_kwh) / CHARGE_HOURS,
            energy_kwh: self.energy_at_start(cycle + 1),
            position: DEPOT,
        }
    }

    /// Speed (m/s) and distance (m) at this many seconds into a leg.
    fn along_leg(&self, seconds: f64) -> (f64, f64) {
        let accelerating = self.cruise_mps / ACCELERATION_MPS2;
        let braking = self.cruise_mps / BRAKING_MPS2;
        let standing_from = self.leg_seconds - self.dwell_seconds;
        let braking_from = standing_from - braking;
        if seconds < accelerating {
            (
                ACCELERATION_MPS2 * seconds,
                ACCELERATION_MPS2 * seconds * seconds / 2.0,
            )
        } else if seconds < braking_from {
            (
                self.cruise_mps,
                self.cruise_mps * (seconds - accelerating / 2.0),
            )
        } else if seconds < standing_from {
            let left = standing_from - seconds;
            (
                BRAKING_MPS2 * left,
                self.leg_metres() - BRAKING_MPS2 * left * left / 2.0,
            )
        } else {
            (0.0, self.leg_metres())
        }
    }

    fn leg_metres(&self) -> f64 {
        let moving = self.leg_seconds - self.dwell_seconds;
        let ramps = self.cruise_mps / ACCELERATION_MPS2 + self.cruise_mps / BRAKING_MPS2;
        self.cruise_mps * (moving - ramps / 2.0)
    }

    fn lap_km(&self) -> f64 {
        self.legs * self.leg_metres() / 1000.0
    }

    fn lap_energy_kwh(&self) -> f64 {
        AUXILIARY_KW * LAP_HOURS + self.kwh_per_km * self.lap_km()
    }

    fn odo_at_start(&self, cycle: i64) -> f64 {
        self.odo_start_km + cycle as f64 * self.lap_km()
    }

    fn energy_at_start(&self, cycle: i64) -> f64 {
        self.energy_start_kwh + cycle as f64 * self.lap_energy_kwh()
    }

    fn soc_at_start(&self, cycle: i64) -> f64 {
        let place = (cycle + self.wave_offset).rem_euclid(WAVE_CYCLES) as f64 / WAVE_CYCLES as f64;
        self.soc_mean + self.soc_swing * (1.0 - 4.0 * (place - 0.5).abs())
    }

    /// The loop is a circle through the depot, its circumference the length of a lap.
    fn on_loop(&self, lap_km: f64) -> Position {
        let radius = self.lap_km() * 1000.0 / std::f64::consts::TAU;
        let angle = self.bearing + std::f64::consts::TAU * lap_km / self.lap_km();
        let north = radius * (self.bearing.cos() - angle.cos());
        let east = radius * (self.bearing.sin() - angle.sin());
        Position {
            latitude: DEPOT.latitude + north / METRES_PER_DEGREE,
            longitude: DEPOT.longitude
                + east / (METRES_PER_DEGREE * DEPOT.latitude.to_radians().cos()),
        }
    }
}

/// Where in the cycle a bus begins. Multiples of the golden ratio leave no crowded stretch, whatever the fleet's size.
fn spread(index: usize) -> i64 {
    const GOLDEN: u128 = 618_034;
    let millionths = (index as u128 * GOLDEN) % 1_000_000;
    i64::try_from(millionths).unwrap_or_default() * CYCLE_MS / 1_000_000
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SOME_TIME_MS: i64 = DELIVERED_MS + 28_000_123_456;

    fn metres_between(a: Position, b: Position) -> f64 {
        let north = (b.latitude - a.latitude) * METRES_PER_DEGREE;
        let east =
            (b.longitude - a.longitude) * METRES_PER_DEGREE * DEPOT.latitude.to_radians().cos();
        north.hypot(east)
    }

    fn seconds_of(vehicle: &Vehicle, cycles: i64) -> impl Iterator<Item = (State, State)> {
        let steps = cycles * CYCLE_MS / 1000;
        (0..steps).map(move |n| {
            let time = SOME_TIME_MS + n * 1000;
            (vehicle.at(time), vehicle.at(time + 1000))
        })
    }

    #[test]
    fn odometer_and_energy_never_fall() {
        for index in 0..20 {
            let vehicle = Vehicle::new(7, index);
            for (before, after) in seconds_of(&vehicle, 2) {
                assert!(after.odo_km >= before.odo_km - 1e-9, "{before:?} {after:?}");
                assert!(after.energy_kwh >= before.energy_kwh - 1e-9);
            }
        }
    }

    #[test]
    fn speed_integrates_to_the_odometer() {
        for index in 0..20 {
            let vehicle = Vehicle::new(7, index);
            let mut by_speed = 0.0;
            let mut by_odometer = 0.0;
            for (before, after) in seconds_of(&vehicle, 1) {
                let step = f64::midpoint(before.speed_kmh, after.speed_kmh) / 3600.0;
                assert!((after.odo_km - before.odo_km - step).abs() < 0.000_4);
                by_speed += step;
                by_odometer += after.odo_km - before.odo_km;
            }
            assert!(by_odometer > 2.0, "a lap is {by_odometer} km");
            assert!((by_speed - by_odometer).abs() < 0.002 * by_odometer);
        }
    }

    #[test]
    fn the_position_moves_by_what_the_odometer_gains() {
        for index in 0..20 {
            for (before, after) in seconds_of(&Vehicle::new(7, index), 1) {
                let gained = (after.odo_km - before.odo_km) * 1000.0;
                let moved = metres_between(before.position, after.position);
                assert!((gained - moved).abs() < 0.05, "{gained} m, {moved} m");
            }
        }
    }

    #[test]
    fn soc_falls_on_the_road_and_rises_at_the_depot() {
        for index in 0..20 {
            let vehicle = Vehicle::new(3, index);
            for (before, after) in seconds_of(&vehicle, WAVE_CYCLES) {
                match (before.activity, after.activity) {
                    (Activity::Driving, Activity::Driving) => {
                        assert!(after.soc_percent < before.soc_percent);
                        assert!(before.power_kw > 0.0);
                    }
                    (Activity::Parked { .. }, Activity::Parked { .. }) => {
                        assert!(after.soc_percent > before.soc_percent);
                        assert!(before.power_kw < -1.0, "{before:?}");
                    }
                    _ => assert!((after.soc_percent - before.soc_percent).abs() < 0.2),
                }
            }
        }
    }

    #[test]
    fn power_integrates_to_energy_and_to_charge() {
        let vehicle = Vehicle::new(3, 4);
        let battery_kwh = vehicle.lap_energy_kwh() / vehicle.soc_per_lap * 100.0;
        for (before, after) in seconds_of(&vehicle, 1) {
            if before.activity == Activity::Driving && after.activity == Activity::Driving {
                let drawn = f64::midpoint(before.power_kw, after.power_kw) / 3600.0;
                assert!((after.energy_kwh - before.energy_kwh - drawn).abs() < 0.001);
                let by_soc = (before.soc_percent - after.soc_percent) / 100.0 * battery_kwh;
                assert!((by_soc - drawn).abs() < 0.001);
            }
        }
    }

    #[test]
    fn a_parked_bus_stands_still_at_the_depot() {
        let vehicle = Vehicle::new(1, 0);
        let mut stays = 0;
        for (before, after) in seconds_of(&vehicle, 2) {
            if let (Activity::Parked { .. }, Activity::Parked { for_ms }) =
                (before.activity, after.activity)
            {
                stays += 1;
                assert!(for_ms > 0);
                assert_eq!(after.position, DEPOT);
                assert_eq!(after.odo_km.to_bits(), before.odo_km.to_bits());
                assert_eq!(after.speed_kmh.to_bits(), 0.0_f64.to_bits());
            }
        }
        assert!(stays > 300, "parked for {stays} s of two cycles");
    }

    #[test]
    fn the_majority_drives_at_any_time() {
        for fleet in [3_usize, 5, 6, 7, 8, 20, 100, 333] {
            let buses: Vec<_> = (0..fleet).map(|index| Vehicle::new(9, index)).collect();
            for minute_sixth in 0..90 {
                let time = SOME_TIME_MS + minute_sixth * 10_000;
                let driving = buses
                    .iter()
                    .filter(|bus| bus.at(time).activity == Activity::Driving)
                    .count();
                assert!(driving * 2 > fleet, "{driving} of {fleet} drive");
            }
        }
    }

    #[test]
    fn seeds_and_indices_make_different_buses() {
        assert_eq!(Vehicle::new(1, 2), Vehicle::new(1, 2));
        assert_ne!(Vehicle::new(1, 2), Vehicle::new(1, 3));
        assert_ne!(Vehicle::new(1, 2), Vehicle::new(2, 2));
    }

    proptest! {
        #[test]
        fn every_value_is_plausible(seed: u64, index in 0_usize..1000, offset in 0_i64..80_000_000_000) {
            let state = Vehicle::new(seed, index).at(DELIVERED_MS + offset);
            prop_assert!((0.0..=100.0).contains(&state.soc_percent), "{state:?}");
            prop_assert!((0.0..=51.0).contains(&state.speed_kmh), "{state:?}");
            prop_assert!(state.power_kw.abs() < 500.0, "{state:?}");
            prop_assert!(state.odo_km > 0.0 && state.energy_kwh > 0.0);
            prop_assert!(metres_between(state.position, DEPOT) < 6_000.0, "{state:?}");
        }
    }
}
