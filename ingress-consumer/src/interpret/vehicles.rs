//! Which vehicle a provider's device stands for: settings that every connection has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::{IdError, VehicleId, settings};

const KEYS: [&str; 2] = ["vehicle_ids", "register_unknown"];

/// A connection's vehicles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vehicles {
    /// Our vehicle ids for the provider's, where they differ.
    #[serde(default)]
    pub vehicle_ids: BTreeMap<String, VehicleId>,
    /// Whether a vehicle that is heard from for the first time becomes known by that.
    #[serde(default = "yes")]
    pub register_unknown: bool,
}

const fn yes() -> bool {
    true
}

impl Vehicles {
    /// Takes these settings out of a connection's; what is left is the provider's. The error says
    /// what to write.
    pub fn split(settings: &Value) -> Result<(Self, Value), String> {
        let (own, rest) = settings::take(settings, &KEYS);
        let own = Self::deserialize(own).map_err(|error| {
            format!(
                r#"{error}; write "vehicle_ids": {{"<theirs>":"<ours>"}}, "register_unknown": true or false"#
            )
        })?;
        Ok((own, rest))
    }

    /// The vehicle that `device` stands for: the one it is mapped to, or one of the same id.
    pub fn of(&self, device: &str) -> Result<VehicleId, IdError> {
        self.vehicle_ids
            .get(device)
            .map_or_else(|| VehicleId::new(device), |id| Ok(id.clone()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_device_is_its_vehicle_unless_it_is_mapped() {
        let settings = json!({"vehicle_ids": {"gillig_1430": "Bus 14"}, "own": 1});
        let (vehicles, rest) = Vehicles::split(&settings).unwrap();
        assert_eq!(rest, json!({"own": 1}));
        assert!(vehicles.register_unknown);
        assert_eq!(vehicles.of("gillig_1430").unwrap().as_str(), "Bus 14");
        assert_eq!(vehicles.of("other").unwrap().as_str(), "other");
        assert!(vehicles.of(" ").is_err());
    }

    #[test]
    fn a_wrong_value_is_named_with_what_to_write() {
        for wrong in [
            json!({"vehicle_ids": {"a": ""}}),
            json!({"register_unknown": "no"}),
        ] {
            let error = Vehicles::split(&wrong).unwrap_err();
            assert!(error.contains("register_unknown"), "{error}");
        }
    }
}
