//! What a reader wants of a workspace's events. Pure.

use std::collections::BTreeSet;

use bytes::Bytes;
use runtime::http::Problem;
use shared_model::{EventType, VehicleId, WorkspaceId};

use super::event::LogEvent;
use super::several::Several;

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

/// How much of an event a reader wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// The event as it is.
    All,
    /// This line instead of the event's.
    Part(Bytes),
    /// Nothing of it.
    Nothing,
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

    /// Whether `event`, which is of the workspace, may be wanted, as far as it can be told without its data.
    pub(super) fn may_want(&self, event: &LogEvent) -> bool {
        if !self.wants_type(&event.kind) {
            return false;
        }
        let Some(vehicles) = &self.vehicles else {
            return true;
        };
        event.is_of_several() || event.vehicle().is_some_and(|one| vehicles.contains(one))
    }

    /// What is sent of `event`, which is of the workspace.
    pub(super) fn wants(&self, event: &LogEvent) -> Wanted {
        if !self.may_want(event) {
            return Wanted::Nothing;
        }
        let Some(vehicles) = self.vehicles.as_ref().filter(|_| event.is_of_several()) else {
            return Wanted::All;
        };
        let narrowed = Several::of(event).and_then(|several| {
            let named = several.vehicles().enumerate();
            let kept = named.filter(|(_, vehicle)| vehicles.contains(*vehicle));
            let kept: Vec<_> = kept.map(|(at, _)| at).collect();
            several.narrowed(&event.line, &kept)
        });
        narrowed.map_or(Wanted::Nothing, Wanted::Part)
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
        events().map(|event| filter.wants(&event) != Wanted::Nothing)
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
    fn an_event_of_several_vehicles_is_sent_in_part() {
        let [registered, _, seen, _] = events();
        let all = filter(&[], &[]).unwrap();
        assert_eq!(all.wants(&seen), Wanted::All);
        let one = filter(&[], &["a"]).unwrap();
        assert_eq!(one.wants(&registered), Wanted::All);
        let Wanted::Part(part) = one.wants(&seen) else {
            panic!("a part");
        };
        let part: serde_json::Value = serde_json::from_slice(&part).unwrap();
        assert_eq!(part["data"], json!({"vehicles": [{"vehicle": "a"}]}));
        // Only its data says that it is about others.
        let other = filter(&[], &["b"]).unwrap();
        assert!(other.may_want(&seen) && !other.may_want(&registered));
        assert_eq!(other.wants(&seen), Wanted::Nothing);
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
