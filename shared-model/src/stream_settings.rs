//! Settings that every connection of kind `stream` has, whatever its provider.
//!
//! They stand beside the provider's own in a connection's `settings`. [`StreamSettings::split`] tells
//! the two apart, so that a provider's code sees its own settings only.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::settings;

/// What becomes of frames while the broker takes fewer than the provider sends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overflow {
    /// Every frame is kept: in memory, then on disk, then the socket is not read.
    #[default]
    Block,
    /// The newest frame of a device and label replaces the one that still waits. Each replaced frame
    /// is counted, and its number reported.
    Conflate,
}

/// How a stream passes from one publisher to another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// The new owner reads before the old one closes; what both read is the same twice.
    #[default]
    Overlap,
    /// The old owner closes before the new one connects: for providers that allow one socket only.
    Exclusive,
}

/// The settings, each with its default where it is not given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSettings {
    /// `overflow`.
    pub overflow: Overflow,
    /// `handover`.
    pub handover: Handover,
    /// `backfill`: whether gaps are closed from the provider's history, where it has one.
    pub backfill: bool,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            overflow: Overflow::default(),
            handover: Handover::default(),
            backfill: true,
        }
    }
}

const KEYS: [&str; 3] = ["overflow", "handover", "backfill"];

impl StreamSettings {
    /// These settings, and what is left of `settings` for the provider. The error says which key is
    /// wrong and what to write.
    pub fn split(settings: &Value) -> Result<(Self, Value), String> {
        let (own, rest) = settings::take(settings, &KEYS);
        let own = Self::deserialize(own).map_err(|error| {
            format!(
                r#"{error}; write "overflow": "block" or "conflate", "handover": "overlap" or "exclusive", "backfill": true or false"#
            )
        })?;
        Ok((own, rest))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_providers_settings_are_what_is_left() {
        let (own, rest) = StreamSettings::split(&json!({
            "vehicles": {"bus-1": ["soc"]}, "overflow": "conflate", "handover": "exclusive",
        }))
        .unwrap();
        assert_eq!(own.overflow, Overflow::Conflate);
        assert_eq!(own.handover, Handover::Exclusive);
        assert!(own.backfill);
        assert_eq!(rest, json!({"vehicles": {"bus-1": ["soc"]}}));
        let (own, rest) = StreamSettings::split(&json!(["no object"])).unwrap();
        assert_eq!(
            (own, rest),
            (StreamSettings::default(), json!(["no object"]))
        );
    }

    #[test]
    fn a_wrong_value_is_named_with_what_to_write() {
        for (wrong, named) in [
            (json!({"overflow": "drop"}), "drop"),
            (json!({"handover": 7}), "handover"),
            (json!({"backfill": "maybe"}), "backfill"),
        ] {
            let error = StreamSettings::split(&wrong).unwrap_err();
            assert!(
                error.contains(named) && error.contains("conflate"),
                "{error}"
            );
        }
    }
}
