//! Units that providers report in, and how they become canonical ones.

use serde::{Deserialize, Serialize};
use shared_model::Unit;

/// A unit that a provider's label may be in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceUnit {
    /// Per cent.
    #[serde(rename = "%")]
    Percent,
    /// Metres.
    #[serde(rename = "m")]
    Metre,
    /// Kilometres.
    #[serde(rename = "km")]
    Kilometre,
    /// Statute miles, 1,609.344 m.
    #[serde(rename = "mi")]
    Mile,
    /// Kilometres an hour.
    #[serde(rename = "km/h")]
    KilometrePerHour,
    /// Metres a second.
    #[serde(rename = "m/s")]
    MetrePerSecond,
    /// Statute miles an hour.
    #[serde(rename = "mph")]
    MilePerHour,
    /// Watts.
    #[serde(rename = "W")]
    Watt,
    /// Kilowatts.
    #[serde(rename = "kW")]
    Kilowatt,
    /// Watt hours.
    #[serde(rename = "Wh")]
    WattHour,
    /// Kilowatt hours.
    #[serde(rename = "kWh")]
    KilowattHour,
    /// Volts.
    #[serde(rename = "V")]
    Volt,
    /// Amperes.
    #[serde(rename = "A")]
    Ampere,
    /// Degrees of latitude and longitude.
    #[serde(rename = "deg")]
    Degree,
}

impl SourceUnit {
    /// The canonical unit of the same quantity.
    #[must_use]
    pub const fn canonical(self) -> Unit {
        match self {
            Self::Percent => Unit::Percent,
            Self::Metre | Self::Kilometre | Self::Mile => Unit::Metre,
            Self::KilometrePerHour | Self::MetrePerSecond | Self::MilePerHour => {
                Unit::KilometrePerHour
            }
            Self::Watt | Self::Kilowatt => Unit::Kilowatt,
            Self::WattHour | Self::KilowattHour => Unit::KilowattHour,
            Self::Volt => Unit::Volt,
            Self::Ampere => Unit::Ampere,
            Self::Degree => Unit::Degree,
        }
    }

    /// `number` in the canonical unit.
    ///
    /// Powers of ten divide or multiply by a whole number, which rounds once: 88,527.902 km are
    /// exactly the nearest number to 88,527,902 m.
    #[must_use]
    pub fn to_canonical(self, number: f64) -> f64 {
        match self {
            Self::Kilometre => number * 1000.0,
            Self::Mile => number * 1609.344,
            Self::MetrePerSecond => number * 3.6,
            Self::MilePerHour => number * 1.609_344,
            Self::Watt | Self::WattHour => number / 1000.0,
            Self::Percent
            | Self::Metre
            | Self::KilometrePerHour
            | Self::Kilowatt
            | Self::KilowattHour
            | Self::Volt
            | Self::Ampere
            | Self::Degree => number,
        }
    }
}
