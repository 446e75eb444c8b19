//! Signals: canonical quantities, each with one unit, a plausible range and a deadband.

use std::cmp::Ordering;
use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::Provider;

/// A canonical unit. Every value of a signal is in the signal's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub enum Unit {
    /// Per cent.
    #[serde(rename = "%")]
    Percent,
    /// Metres.
    #[serde(rename = "m")]
    Metre,
    /// Kilometres an hour.
    #[serde(rename = "km/h")]
    KilometrePerHour,
    /// Kilowatts.
    #[serde(rename = "kW")]
    Kilowatt,
    /// Kilowatt hours.
    #[serde(rename = "kWh")]
    KilowattHour,
    /// Volts.
    #[serde(rename = "V")]
    Volt,
    /// Amperes.
    #[serde(rename = "A")]
    Ampere,
    /// Degrees of latitude and longitude, WGS 84.
    #[serde(rename = "deg")]
    Degree,
}

/// A canonical quantity.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// Charge of the traction battery, in % of its usable capacity, 0 to 100.
    StateOfCharge,
    /// Distance driven over the vehicle's life, in m.
    Odometer,
    /// Speed over ground, in km/h.
    Speed,
    /// Where the vehicle is: WGS 84 degrees.
    Position,
    /// Power drawn from the traction battery, in kW; negative while charging.
    Power,
    /// Energy counter as the provider reports it, in kWh.
    Energy,
    /// Voltage of the traction battery, in V.
    BatteryVoltage,
    /// Current drawn from the traction battery, in A; negative while charging.
    BatteryCurrent,
    /// Distance that the vehicle can still drive, in m.
    Range,
}

impl Signal {
    /// Every signal, in the order of their names' declaration.
    pub const ALL: [Self; 9] = [
        Self::StateOfCharge,
        Self::Odometer,
        Self::Speed,
        Self::Position,
        Self::Power,
        Self::Energy,
        Self::BatteryVoltage,
        Self::BatteryCurrent,
        Self::Range,
    ];

    /// The name used in JSON, routing and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::StateOfCharge => "state_of_charge",
            Self::Odometer => "odometer",
            Self::Speed => "speed",
            Self::Position => "position",
            Self::Power => "power",
            Self::Energy => "energy",
            Self::BatteryVoltage => "battery_voltage",
            Self::BatteryCurrent => "battery_current",
            Self::Range => "range",
        }
    }

    /// The signal called `name`, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|signal| signal.name() == name)
    }

    /// The unit of every value of this signal.
    #[must_use]
    pub const fn unit(self) -> Unit {
        match self {
            Self::StateOfCharge => Unit::Percent,
            Self::Odometer | Self::Range => Unit::Metre,
            Self::Speed => Unit::KilometrePerHour,
            Self::Position => Unit::Degree,
            Self::Power => Unit::Kilowatt,
            Self::Energy => Unit::KilowattHour,
            Self::BatteryVoltage => Unit::Volt,
            Self::BatteryCurrent => Unit::Ampere,
        }
    }

    /// How far a value must move from the one last published to be news by itself.
    ///
    /// In the signal's unit; for a position, in degrees of latitude or longitude. What moves less is
    /// kept exactly in the state all the same and published by the next sweep.
    #[must_use]
    pub const fn deadband(self) -> f64 {
        match self {
            Self::StateOfCharge | Self::Energy => 0.1,
            Self::Odometer => 10.0,
            Self::Speed | Self::Power | Self::BatteryVoltage | Self::BatteryCurrent => 1.0,
            // About 5 m of latitude.
            Self::Position => 0.000_05,
            Self::Range => 100.0,
        }
    }

    /// Whether `value` can be a reading of this signal at all. What is outside is a sender's way of
    /// saying "not available" (255 %, 0°N 0°E …) and never a value.
    #[must_use]
    pub fn is_plausible(self, value: SignalValue) -> bool {
        let within = |low: f64, high: f64| matches!(value, SignalValue::Number(number) if (low..=high).contains(&number));
        match self {
            Self::StateOfCharge => within(0.0, 100.0),
            Self::Odometer => within(0.0, 1e10),
            Self::Range => within(0.0, 1e7),
            Self::Speed => within(-50.0, 500.0),
            Self::Power | Self::BatteryCurrent => within(-10_000.0, 10_000.0),
            Self::Energy => within(-1e9, 1e9),
            Self::BatteryVoltage => within(0.0, 10_000.0),
            Self::Position => {
                matches!(value, SignalValue::Position(position) if position.is_plausible())
            }
        }
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A point on the earth, in degrees, WGS 84.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Position {
    /// Degrees north, -90 to 90.
    pub latitude: f64,
    /// Degrees east, -180 to 180.
    pub longitude: f64,
}

impl Position {
    /// On the earth, and not the 0°N 0°E by which senders say that they have no fix.
    #[must_use]
    pub fn is_plausible(self) -> bool {
        (-90.0..=90.0).contains(&self.latitude)
            && (-180.0..=180.0).contains(&self.longitude)
            && !(self.latitude == 0.0 && self.longitude == 0.0)
    }
}

/// The value of a signal, in the signal's unit. Always finite.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum SignalValue {
    /// A quantity.
    Number(f64),
    /// A point on the earth.
    Position(Position),
}

impl SignalValue {
    /// A number, if it is finite. Negative zero is zero, so that equal values are equal bits.
    #[must_use]
    pub fn number(number: f64) -> Option<Self> {
        number.is_finite().then_some(Self::Number(number + 0.0))
    }

    /// A position, if both coordinates are finite.
    #[must_use]
    pub fn position(latitude: f64, longitude: f64) -> Option<Self> {
        (latitude.is_finite() && longitude.is_finite()).then_some(Self::Position(Position {
            latitude: latitude + 0.0,
            longitude: longitude + 0.0,
        }))
    }

    /// A total order, the same in every process: what breaks a tie between two values of one time.
    #[must_use]
    pub fn tie_break(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => a.total_cmp(b),
            (Self::Position(a), Self::Position(b)) => a
                .latitude
                .total_cmp(&b.latitude)
                .then_with(|| a.longitude.total_cmp(&b.longitude)),
            (Self::Number(_), Self::Position(_)) => Ordering::Less,
            (Self::Position(_), Self::Number(_)) => Ordering::Greater,
        }
    }

    /// Whether this value lies further than `deadband` from `other`.
    #[must_use]
    pub fn differs_beyond(&self, other: &Self, deadband: f64) -> bool {
        match (self, other) {
            (Self::Number(a), Self::Number(b)) => (a - b).abs() > deadband,
            (Self::Position(a), Self::Position(b)) => {
                (a.latitude - b.latitude).abs() > deadband
                    || (a.longitude - b.longitude).abs() > deadband
            }
            _ => true,
        }
    }
}

/// When and by whom a value was reported: a [`Reading`] without the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Provenance {
    /// When the vehicle observed it, by its own clock (UTC).
    pub observed_at: DateTime<Utc>,
    /// When Headrace received it (UTC).
    pub received_at: DateTime<Utc>,
    /// Whose protocol brought it.
    pub provider: Provider,
    /// The vehicle's clock was ahead: `observed_at` is the time of receipt in its stead.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub clock_ahead: bool,
}

/// The latest accepted value of one signal, with its provenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Reading {
    /// The value, in the signal's unit.
    pub value: SignalValue,
    /// When and by whom it was reported.
    #[serde(flatten)]
    pub provenance: Provenance,
}

impl Reading {
    /// A total order over readings of one signal; the greater one is the state.
    ///
    /// The later observation wins, then the greater value. Of the same observation received twice,
    /// the first receipt wins, so that a repeat changes nothing.
    #[must_use]
    pub fn precedence(&self, other: &Self) -> Ordering {
        let (a, b) = (&self.provenance, &other.provenance);
        a.observed_at
            .cmp(&b.observed_at)
            .then_with(|| self.value.tie_break(&other.value))
            .then_with(|| b.received_at.cmp(&a.received_at))
            .then_with(|| a.provider.cmp(&b.provider))
            .then_with(|| b.clock_ahead.cmp(&a.clock_ahead))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for signal in Signal::ALL {
            assert_eq!(Signal::from_name(signal.name()), Some(signal));
            assert_eq!(serde_json::to_value(signal).unwrap(), signal.name());
        }
    }

    #[test]
    fn units_are_written_as_people_write_them() {
        let units: Vec<_> = Signal::ALL
            .map(|signal| serde_json::to_value(signal.unit()).unwrap())
            .into();
        assert_eq!(units, ["%", "m", "km/h", "deg", "kW", "kWh", "V", "A", "m"]);
    }

    #[test]
    fn no_fix_and_sentinels_are_not_values() {
        let position = |lat, lon| SignalValue::position(lat, lon).unwrap();
        assert!(!Signal::Position.is_plausible(position(0.0, -0.0)));
        assert!(!Signal::Position.is_plausible(position(91.0, 5.0)));
        assert!(Signal::Position.is_plausible(position(0.0, 5.0)));
        assert!(!Signal::StateOfCharge.is_plausible(SignalValue::Number(255.0)));
        assert!(Signal::StateOfCharge.is_plausible(SignalValue::Number(0.0)));
        assert!(!Signal::Speed.is_plausible(position(1.0, 1.0)));
    }

    #[test]
    fn only_finite_numbers_are_values() {
        assert_eq!(SignalValue::number(f64::NAN), None);
        assert_eq!(SignalValue::number(f64::INFINITY), None);
        assert_eq!(SignalValue::position(1.0, f64::NAN), None);
        let zero = SignalValue::number(-0.0).unwrap();
        assert_eq!(zero.tie_break(&SignalValue::Number(0.0)), Ordering::Equal);
    }
}
