//! Which parts of a snapshot are asked for. Pure.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use runtime::http::Problem;
use shared_model::Signal;
use shared_model::event::PublishedReading;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The parts of a snapshot. `vehicle` and `version` are always there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Workspace,
    Vehicle,
    Version,
    AgeSeconds,
    Freshness,
    LastReceivedAt,
    Signals,
}

impl Field {
    const ALL: [Self; 7] = [
        Self::Workspace,
        Self::Vehicle,
        Self::Version,
        Self::AgeSeconds,
        Self::Freshness,
        Self::LastReceivedAt,
        Self::Signals,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Workspace => "workspace",
            Self::Vehicle => "vehicle",
            Self::Version => "version",
            Self::AgeSeconds => "age_seconds",
            Self::Freshness => "freshness",
            Self::LastReceivedAt => "last_received_at",
            Self::Signals => "signals",
        }
    }
}

/// Which parts of a snapshot are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fields {
    /// All of them.
    All,
    /// These, and of the signals these where not all.
    Some(BTreeSet<Field>, BTreeSet<Signal>),
}

impl Fields {
    /// What the query's `fields` asks for: names separated by commas.
    pub(super) fn read(text: Option<&str>) -> Result<Self, Problem> {
        let Some(text) = text else {
            return Ok(Self::All);
        };
        let (mut fields, mut signals) = (BTreeSet::new(), BTreeSet::new());
        for name in text.split(',').map(str::trim) {
            if let Some(field) = Field::ALL.into_iter().find(|field| field.name() == name) {
                fields.insert(field);
            } else if let Some(signal) = name.strip_prefix("signals.").and_then(Signal::from_name) {
                signals.insert(signal);
            } else {
                return Err(unknown(name));
            }
        }
        Ok(Self::Some(fields, signals))
    }

    /// `value`, if `field` is asked for.
    pub(super) fn pick<T>(&self, field: Field, value: T) -> Option<T> {
        let is_asked_for = match self {
            Self::All => true,
            Self::Some(fields, _) => fields.contains(&field),
        };
        is_asked_for.then_some(value)
    }

    /// The readings that are asked for; none if no signal is.
    pub(super) fn pick_signals(
        &self,
        mut readings: BTreeMap<String, PublishedReading>,
    ) -> Option<BTreeMap<String, PublishedReading>> {
        if let Self::Some(fields, signals) = self
            && !fields.contains(&Field::Signals)
        {
            if signals.is_empty() {
                return None;
            }
            let is_asked_for = |name: &str| {
                Signal::from_name(name).is_some_and(|signal| signals.contains(&signal))
            };
            readings.retain(|name, _| is_asked_for(name));
        }
        Some(readings)
    }
}

/// What `fields` may name, as it is described.
pub(super) struct FieldName;

impl FieldName {
    fn all() -> Vec<String> {
        let fields = Field::ALL.into_iter().map(|field| field.name().to_owned());
        let signals = Signal::ALL.into_iter();
        fields
            .chain(signals.map(|signal| format!("signals.{}", signal.name())))
            .collect()
    }
}

impl PartialSchema for FieldName {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new().schema_type(Type::String);
        text.enum_values(Some(Self::all())).into()
    }
}

impl ToSchema for FieldName {
    fn name() -> Cow<'static, str> {
        "VehicleSnapshotField".into()
    }
}

fn unknown(name: &str) -> Problem {
    let known = FieldName::all().join(", ");
    let detail = format!("fields has {name:?}; known are {known}");
    Problem::bad_request("invalid-fields", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn readings() -> BTreeMap<String, PublishedReading> {
        let reading: PublishedReading = serde_json::from_value(serde_json::json!({
            "value": 1, "unit": "%", "observed_at": "2017-11-23T11:31:38Z",
            "received_at": "2017-11-23T11:31:38Z", "provider": "viriciti"}))
        .unwrap();
        ["odometer", "state_of_charge", "from_a_newer_core"]
            .map(|name| (name.to_owned(), reading.clone()))
            .into()
    }

    fn names(fields: &str) -> Option<Vec<String>> {
        let fields = Fields::read(Some(fields)).unwrap();
        let picked = fields.pick_signals(readings())?;
        Some(picked.into_keys().collect())
    }

    #[test]
    fn without_names_all_is_asked_for() {
        let all = Fields::read(None).unwrap();
        assert_eq!(all.pick(Field::Workspace, 1), Some(1));
        assert_eq!(all.pick_signals(readings()), Some(readings()));
    }

    #[test]
    fn only_what_is_named_is_picked() {
        let fields = Fields::read(Some("freshness, signals.odometer")).unwrap();
        assert_eq!(fields.pick(Field::Freshness, 1), Some(1));
        assert_eq!(fields.pick(Field::Workspace, 1), None);
        assert_eq!(names("version"), None);
        assert_eq!(names("signals.odometer").unwrap(), ["odometer"]);
        assert!(names("signals.speed").unwrap().is_empty());
        assert_eq!(names("signals.speed,signals").unwrap().len(), 3);
    }

    #[test]
    fn an_unknown_name_is_answered_with_the_known_ones() {
        for name in [
            "",
            "soc",
            "signals.",
            "signals.soc",
            "version,,",
            "Version",
            "\0",
        ] {
            let problem = Fields::read(Some(name)).unwrap_err();
            assert_eq!(problem.kind, "urn:headrace:problem:invalid-fields");
            for known in ["age_seconds", "signals.state_of_charge"] {
                assert!(problem.detail.contains(known), "{}", problem.detail);
            }
        }
    }
}
