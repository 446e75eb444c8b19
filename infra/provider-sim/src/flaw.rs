//! The ugliness of real telematics: blank values, nulls, positions without a fix and late data, at low rates.
//!
//! Which datum is flawed is decided by its coordinates and the seed alone, so a run can be repeated exactly.

use rand::{RngExt, SeedableRng, rngs::Xoshiro256PlusPlus};

/// How often data are flawed, each a probability per datum from 0 to 1. A datum has at most one flaw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flaws {
    /// The value is the empty string.
    pub blank: f64,
    /// The value is null.
    pub null: f64,
    /// The position is `0|0`. Drawn for every label, and visible on gps only.
    pub zero_position: f64,
    /// The datum is held back and arrives after newer ones of its label.
    pub late: f64,
}

impl Flaws {
    /// Perfect data.
    pub const NONE: Self = Self {
        blank: 0.0,
        null: 0.0,
        zero_position: 0.0,
        late: 0.0,
    };

    /// Whether these rates are probabilities and together no more than 1.
    #[must_use]
    pub fn are_probabilities(&self) -> bool {
        let rates = [self.blank, self.null, self.zero_position, self.late];
        rates.iter().all(|rate| (0.0..=1.0).contains(rate)) && rates.iter().sum::<f64>() <= 1.0
    }

    /// The flaw of the datum with these coordinates, if it has one.
    pub(crate) fn of(&self, seed: u64, vehicle: usize, label: usize, slot: i64) -> Option<Flaw> {
        if *self == Self::NONE {
            return None;
        }
        let key = [vehicle as u64, label as u64, slot.cast_unsigned()]
            .into_iter()
            .fold(seed, |key, part| {
                (key ^ part)
                    .wrapping_mul(0x9E37_79B9_7F4A_7C15)
                    .rotate_left(29)
            });
        let drawn: f64 = Xoshiro256PlusPlus::seed_from_u64(key).random();
        let mut below = 0.0;
        [
            (self.blank, Flaw::Blank),
            (self.null, Flaw::Null),
            (self.zero_position, Flaw::ZeroPosition),
            (self.late, Flaw::Late),
        ]
        .into_iter()
        .find_map(|(rate, flaw)| {
            below += rate;
            (drawn < below).then_some(flaw)
        })
    }
}

impl Default for Flaws {
    fn default() -> Self {
        Self {
            blank: 0.0005,
            null: 0.0005,
            zero_position: 0.001,
            late: 0.001,
        }
    }
}

/// What is wrong with a datum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    Blank,
    Null,
    ZeroPosition,
    Late,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flaws_come_at_the_asked_rates_and_repeat() {
        let flaws = Flaws {
            blank: 0.1,
            null: 0.0,
            zero_position: 0.2,
            late: 0.3,
        };
        let draw = || -> Vec<_> { (0..20_000).map(|slot| flaws.of(5, 3, 1, slot)).collect() };
        let drawn = draw();
        let share = |flaw: Option<Flaw>| {
            drawn.iter().filter(|found| **found == flaw).count() as f64 / drawn.len() as f64
        };
        assert!((share(Some(Flaw::Blank)) - 0.1).abs() < 0.01);
        assert!(share(Some(Flaw::Null)) < f64::EPSILON);
        assert!((share(Some(Flaw::ZeroPosition)) - 0.2).abs() < 0.015);
        assert!((share(Some(Flaw::Late)) - 0.3).abs() < 0.015);
        assert_eq!(drawn, draw());
    }

    #[test]
    fn rates_that_are_no_probabilities_are_told() {
        assert!(Flaws::default().are_probabilities());
        assert!(
            !Flaws {
                blank: -0.1,
                ..Flaws::NONE
            }
            .are_probabilities()
        );
        assert!(
            !Flaws {
                blank: f64::NAN,
                ..Flaws::NONE
            }
            .are_probabilities()
        );
        assert!(
            !Flaws {
                blank: 0.6,
                late: 0.6,
                ..Flaws::NONE
            }
            .are_probabilities()
        );
    }
}
