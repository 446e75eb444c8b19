//! What a reader wants of a workspace's events. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;
use runtime::http::Problem;
use shared_model::{EventType, VehicleId, WorkspaceId};

use super::event::LogEvent;

/// What a reader wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Filter {
    /// Whose events.
    pub(super) workspace: WorkspaceId,
    /// Of which types; none stands for all.
    pub(super) types: Option<BTreeSet<String>>,
    /// About which vehicles; none stands for all, and for what is about no vehicle.
    pub(super) vehicles: Option<BTreeSet<String>>,
}

impl Filter {
    /// The filter as asked for: each of the texts names one or several, with commas between them.
    pub(super) fn asked(
        workspace: WorkspaceId,
        types: &[String],
        vehicles: &[String],
    ) -> Result<Self, Problem> {
        let types = names(types);
        for name in types.iter().flatten() {
            if EventType::from_name(name).is_none() {
                let known = EventType::ALL.map(EventType::name).join(", ");
                let detail = format!("{name:?} is no type of event; there are {known}");
                return Err(Problem::bad_request("invalid-types", detail));
            }
        }
        let vehicles = names(vehicles);
        for name in vehicles.iter().flatten() {
            VehicleId::new(name.as_str())
                .map_err(|error| Problem::bad_request("invalid-vehicle", error.to_string()))?;
        }
        Ok(Self {
            workspace,
            types,
            vehicles,
        })
    }

    /// Whether events of type `kind` are wanted.
    pub(super) fn wants_type(&self, kind: &str) -> bool {
        self.types.as_ref().is_none_or(|types| types.contains(kind))
    }

    /// The line that is sent of `event`, which is of the workspace; none if nothing is.
    pub(super) fn line(&self, event: &LogEvent) -> Option<Bytes> {
        if !self.wants_type(&event.kind) {
            return None;
        }
        let Some(vehicles) = &self.vehicles else {
            return Some(event.line.clone());
        };
        if event.is_of_several() {
            return event.narrowed(vehicles);
        }
        let is_about = event.vehicle().is_some_and(|one| vehicles.contains(one));
        is_about.then(|| event.line.clone())
    }
}

/// The names in `texts`; none where there is no text.
fn names(texts: &[String]) -> Option<BTreeSet<String>> {
    let names = texts.iter().flat_map(|text| text.split(','));
    let names: BTreeSet<_> = names.map(|name| name.trim().to_owned()).collect();
    (!names.is_empty()).then_some(names)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::live::event::tests::line;

    fn filter(types: &[&str], vehicles: &[&str]) -> Result<Filter, Problem> {
        let texts = |texts: &[&str]| {
            texts
                .iter()
                .map(|&text| text.to_owned())
                .collect::<Vec<_>>()
        };
        let workspace = WorkspaceId::new("demo").unwrap();
        Filter::asked(workspace, &texts(types), &texts(vehicles))
    }

    fn events() -> [LogEvent; 4] {
        [
            ("vehicle.registered", json!({"vehicle": "a"})),
            ("vehicle.snapshot.changed", json!({"vehicle": "b"})),
            (
                "vehicles.seen",
                json!({"vehicles": [{"vehicle": "a"}, {"vehicle": "c"}]}),
            ),
            ("connection.status.changed", json!({"connection": "a"})),
        ]
        .map(|(kind, data)| LogEvent::read(line(1, "demo", kind, data)).unwrap())
    }

    fn wanted(types: &[&str], vehicles: &[&str]) -> [bool; 4] {
        let filter = filter(types, vehicles).unwrap();
        events().map(|event| filter.line(&event).is_some())
    }

    #[test]
    fn types_and_vehicles_narrow() {
        assert_eq!(wanted(&[], &[]), [true; 4]);
        let seen_and_registered = ["vehicles.seen, vehicle.registered"];
        assert_eq!(
            wanted(&seen_and_registered, &[]),
            [true, false, true, false]
        );
        assert_eq!(wanted(&[], &["a"]), [true, false, true, false]);
        assert_eq!(wanted(&[], &["b", "c"]), [false, true, true, false]);
        assert_eq!(wanted(&["vehicles.seen"], &["b"]), [false; 4]);
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for (types, vehicles, name) in [
            (&["vehicle.sold"][..], &[][..], "invalid-types"),
            (&["vehicles.seen,"], &[], "invalid-types"),
            (&[], &[""], "invalid-vehicle"),
        ] {
            let problem = filter(types, vehicles).unwrap_err();
            assert_eq!(problem.kind, format!("urn:headrace:problem:{name}"));
        }
    }
}
