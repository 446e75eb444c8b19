//! Which events an endpoint is told of, and in what words. Pure.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared_model::{CloudEvent, WorkspaceId};

/// What narrows the events of an endpoint further than their types do. What is absent does not narrow.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookFilters)]
pub struct Filters {
    /// Only events about these vehicles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vehicles: Option<BTreeSet<String>>,
    /// Only events with something from these providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub providers: Option<BTreeSet<String>>,
}

/// Which events an endpoint is told of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interest {
    /// Their types; none stands for all, those of a newer core too.
    pub event_types: Option<BTreeSet<String>>,
    /// What else narrows them.
    pub filters: Filters,
}

impl Interest {
    /// What the endpoint is sent of `event`: JSON text, or none if it does not care.
    ///
    /// An event about several vehicles is cut down to those that pass the filters.
    #[must_use]
    pub fn body(&self, event: &CloudEvent) -> Option<String> {
        let wanted = |types: &BTreeSet<String>| types.contains(&event.kind);
        if !self.event_types.as_ref().is_none_or(wanted) {
            return None;
        }
        let data = match event.data.get("vehicles").and_then(Value::as_array) {
            Some(vehicles) => {
                let passing: Vec<_> = vehicles
                    .iter()
                    .filter(|vehicle| self.filters.pass(vehicle))
                    .cloned()
                    .collect();
                if passing.is_empty() {
                    return None;
                }
                let mut data = event.data.clone();
                data["vehicles"] = Value::Array(passing);
                data
            }
            None if self.filters.pass(&event.data) => event.data.clone(),
            None => return None,
        };
        Some(body(event, &data))
    }
}

impl Filters {
    /// Whether `data`, of an event or of one of its vehicles, pass.
    fn pass(&self, data: &Value) -> bool {
        let vehicle = self.vehicles.as_ref().is_none_or(|vehicles| {
            let vehicle = data.get("vehicle").and_then(Value::as_str);
            vehicle.is_some_and(|vehicle| vehicles.contains(vehicle))
        });
        vehicle
            && self.providers.as_ref().is_none_or(|providers| {
                let own = data.get("provider").and_then(Value::as_str);
                let signals = data.get("signals").and_then(Value::as_object);
                let of_signals = signals
                    .into_iter()
                    .flat_map(serde_json::Map::values)
                    .filter_map(|signal| signal.get("provider")?.as_str());
                own.into_iter()
                    .chain(of_signals)
                    .any(|provider| providers.contains(provider))
            })
    }
}

/// What is sent, in the order in which it is read.
#[derive(Debug, Serialize)]
pub(super) struct Body<'a> {
    /// The event's type.
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    /// When it was committed (UTC).
    pub(super) timestamp: DateTime<Utc>,
    /// Its id.
    pub(super) id: &'a str,
    /// Whose data it carries.
    pub(super) workspace: &'a WorkspaceId,
    /// What it is about, if that is one thing.
    pub(super) subject: Option<&'a str>,
    /// The fact.
    pub(super) data: &'a Value,
}

impl Body<'_> {
    /// The body as text.
    ///
    /// # Panics
    /// Never: it is plain data with text keys.
    pub(super) fn text(&self) -> String {
        serde_json::to_string(self).expect("plain data with text keys are JSON")
    }
}

fn body(event: &CloudEvent, data: &Value) -> String {
    let body = Body {
        kind: &event.kind,
        timestamp: event.time,
        id: &event.id,
        workspace: &event.workspace,
        subject: event.subject.as_deref(),
        data,
    };
    body.text()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn event(kind: &str, data: Value) -> CloudEvent {
        serde_json::from_value(json!({"specversion": "1.0", "id": "0:41", "source": "urn:headrace:core",
            "type": kind, "subject": data.get("vehicle"), "time": "2017-11-23T11:31:34.25Z",
            "datacontenttype": "application/json", "dataschema": "any", "workspace": "demo", "shard": 0,
            "sequence": "41", "data": data}))
        .unwrap()
    }

    fn changed(vehicle: &str) -> CloudEvent {
        let signals = json!({"odometer": {"value": 1, "provider": "viriciti"},
            "state_of_charge": {"value": 81.5, "provider": "samsara"}});
        let data = json!({"vehicle": vehicle, "version": 7, "signals": signals});
        event("vehicle.snapshot.changed", data)
    }

    fn set(of: &[&str]) -> BTreeSet<String> {
        of.iter().map(|&text| text.to_owned()).collect()
    }

    fn interest(
        types: Option<&[&str]>,
        vehicles: Option<&[&str]>,
        providers: Option<&[&str]>,
    ) -> Interest {
        Interest {
            event_types: types.map(set),
            filters: Filters {
                vehicles: vehicles.map(set),
                providers: providers.map(set),
            },
        }
    }

    #[test]
    fn a_body_has_type_time_and_data_and_says_whose_they_are() {
        let body = Interest::default().body(&changed("bus-1")).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body,
            json!({"type": "vehicle.snapshot.changed", "timestamp": "2017-11-23T11:31:34.250Z",
                "id": "0:41", "workspace": "demo", "subject": "bus-1", "data": changed("bus-1").data})
        );
    }

    #[test]
    fn types_vehicles_and_providers_narrow() {
        let event = changed("bus-1");
        let passes = |interest: Interest| interest.body(&event).is_some();
        for (types, vehicles, providers, expected) in [
            (None, None, None, true),
            (Some(&["vehicle.snapshot.changed"][..]), None, None, true),
            (Some(&["vehicle.registered"][..]), None, None, false),
            (Some(&[][..]), None, None, false),
            (None, Some(&["bus-1", "bus-2"][..]), None, true),
            (None, Some(&["bus-2"][..]), None, false),
            // Ids are exact.
            (None, Some(&["bus"][..]), None, false),
            (None, None, Some(&["samsara"][..]), true),
            (None, None, Some(&["geotab"][..]), false),
            (None, Some(&["bus-1"][..]), Some(&["geotab"][..]), false),
        ] {
            let what = format!("{types:?} {vehicles:?} {providers:?}");
            assert_eq!(
                passes(interest(types, vehicles, providers)),
                expected,
                "{what}"
            );
        }
    }

    #[test]
    fn an_event_about_connections_passes_by_its_provider_and_never_by_a_vehicle() {
        let event = event(
            "connection.status.changed",
            json!({"connection": "c", "provider": "viriciti"}),
        );
        assert!(
            interest(None, None, Some(&["viriciti"]))
                .body(&event)
                .is_some()
        );
        assert!(
            interest(None, None, Some(&["geotab"]))
                .body(&event)
                .is_none()
        );
        assert!(
            interest(None, Some(&["bus-1"]), None)
                .body(&event)
                .is_none()
        );
    }

    #[test]
    fn an_event_about_many_vehicles_is_cut_down_to_those_that_pass() {
        let seen = |vehicle: &str, provider: &str| json!({"vehicle": vehicle, "signals": {"speed": {"provider": provider}}});
        let vehicles = json!([seen("bus-1", "viriciti"), seen("bus-2", "geotab")]);
        let event = event("vehicles.seen", json!({"vehicles": vehicles}));
        let sent = |interest: Interest| {
            let body: Value = serde_json::from_str(&interest.body(&event)?).unwrap();
            let vehicles = body["data"]["vehicles"].as_array().unwrap();
            Some(
                vehicles
                    .iter()
                    .map(|of| of["vehicle"].as_str().unwrap().to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(sent(Interest::default()).unwrap(), ["bus-1", "bus-2"]);
        assert_eq!(
            sent(interest(None, Some(&["bus-2"]), None)).unwrap(),
            ["bus-2"]
        );
        assert_eq!(
            sent(interest(None, None, Some(&["viriciti"]))).unwrap(),
            ["bus-1"]
        );
        assert_eq!(sent(interest(None, Some(&["bus-3"]), None)), None);
    }
}
