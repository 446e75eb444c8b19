//! The description of all that the core offers to others than services.

use utoipa::openapi::{Info, OpenApi, Paths};

use super::{access, dead_letters, log, parked, pipeline, reconcile, router, vehicle_events};
use crate::sources;

/// The core's operations. Needs no database.
#[must_use]
pub fn description() -> OpenApi {
    let info = Info::new("Headrace: the core", env!("CARGO_PKG_VERSION"));
    [
        router().into_openapi(),
        access::router().into_openapi(),
        pipeline::router().into_openapi(),
        vehicle_events::routes().into_openapi(),
        parked::router().into_openapi(),
        dead_letters::router().into_openapi(),
        log::router().into_openapi(),
        reconcile::router().into_openapi(),
        sources::http::router().into_openapi(),
        access::router().into_openapi(),
    ]
    .into_iter()
    .fold(OpenApi::new(info, Paths::new()), OpenApi::merge_from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// The tags under which operations are found.
    const TAGS: [&str; 9] = [
        "vehicles",
        "health",
        "live",
        "connections",
        "ingest",
        "parked frames",
        "webhooks",
        "access",
        "pipeline",
    ];
    const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

    fn document() -> Value {
        serde_json::to_value(description()).unwrap()
    }

    /// Every operation, behind its method and path.
    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let mut found = Vec::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for method in METHODS {
                if let Some(operation) = item.get(method) {
                    found.push((format!("{method} {path}"), operation));
                }
            }
        }
        found
    }

    fn is_text(value: &Value) -> bool {
        value.as_str().is_some_and(|text| !text.trim().is_empty())
    }

    #[test]
    fn every_operation_says_what_it_does_and_who_may_use_it() {
        let document = document();
        let operations = operations(&document);
        assert!(operations.len() >= 27, "{} are described", operations.len());
        let mut ids = BTreeSet::new();
        for (name, operation) in operations {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{name}: {id} is there twice");
            assert!(is_text(&operation["summary"]), "{name} has no summary");
            let tags = operation["tags"].as_array().unwrap();
            let [tag] = tags.as_slice() else {
                panic!("{name} has the tags {tags:?}");
            };
            assert!(TAGS.contains(&tag.as_str().unwrap()), "{name}: {tag}");
            let scopes = operation["security"][0]["credential"].as_array().unwrap();
            // What anyone may use names none.
            let needed = usize::from(name != "get /v1/me");
            assert_eq!(scopes.len(), needed, "{name} needs {scopes:?}");
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                assert!(is_text(&response["description"]), "{name}: {status}");
            }
        }
    }

    #[test]
    fn every_parameter_is_explained_and_each_of_the_path_is_there() {
        let document = document();
        for (name, operation) in operations(&document) {
            let none = Vec::new();
            let parameters = operation["parameters"].as_array().unwrap_or(&none);
            let mut in_path = BTreeSet::new();
            for parameter in parameters {
                assert!(is_text(&parameter["description"]), "{name}: {parameter}");
                let kind = &parameter["schema"]["type"];
                assert!(kind.is_string(), "{name}: a query has no null: {parameter}");
                let is_bounded = kind != "integer" || parameter["schema"]["maximum"].is_number();
                assert!(is_bounded, "{name}: {parameter}");
                if parameter["in"] == "path" {
                    in_path.insert(format!("{{{}}}", parameter["name"].as_str().unwrap()));
                }
            }
            let declared = name.split('/').filter(|part| part.starts_with('{'));
            assert_eq!(in_path, declared.map(str::to_owned).collect(), "{name}");
        }
    }

    #[test]
    fn every_schema_that_is_named_is_there_and_every_member_explained() {
        let document = document();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let text = document.to_string();
        for part in text.split("\"$ref\":\"").skip(1) {
            let name = part.split('"').next().unwrap();
            let name = name.strip_prefix("#/components/schemas/").unwrap();
            assert!(schemas.contains_key(name), "{name} is not there");
        }
        for (name, schema) in schemas {
            let parts = schema["allOf"].as_array().cloned().unwrap_or_default();
            for part in parts.iter().chain([schema]) {
                let members = part["properties"].as_object();
                for (member, described) in members.into_iter().flatten() {
                    // What may be null names its type beside it.
                    let is_explained = is_text(&described["description"])
                        || is_text(&described["oneOf"][0]["description"]);
                    assert!(is_explained, "{name}.{member}: {described}");
                }
            }
        }
    }

    #[test]
    fn what_takes_no_unknown_member_says_so() {
        let document = document();
        for name in [
            "NewConnection",
            "ParkedOrder",
            "ParkedFilter",
            "DeadLetterOrder",
            "DeadLetterFilter",
            "IngestEnvelope",
            "IngestFrame",
            "NewApiKey",
            "NewWideApiKey",
        ] {
            let schema = &document["components"]["schemas"][name];
            assert_eq!(schema["additionalProperties"], false, "{name}: {schema}");
        }
    }
}
