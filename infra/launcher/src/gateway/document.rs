//! `/openapi.json`: what all services have for the public, as one `OpenAPI` document.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use runtime::http::description::finish;
use utoipa::openapi::OpenApi;
use xxhash_rust::xxh3::xxh3_128;

use super::routing::{Described, services};

/// Where the document is served.
pub(super) const PATH: &str = "/openapi.json";

/// The description of everything that the gateway hands on.
pub fn description() -> anyhow::Result<OpenApi> {
    let mut merged = OpenApi::default();
    let mut known = BTreeMap::new();
    for Described {
        name, description, ..
    } in services()
    {
        let components = description.components.as_ref();
        for (schema, shape) in components.iter().flat_map(|all| &all.schemas) {
            // One name with two meanings would describe one of them wrongly.
            let shape = serde_json::to_value(shape)?;
            if known.get(schema).is_some_and(|other| *other != shape) {
                bail!("two schemas are called {schema}, one of them in the {name} service");
            }
            known.insert(schema.clone(), shape);
        }
        merged.merge(description);
    }
    Ok(finish(merged))
}

#[derive(Debug, Clone)]
struct Document {
    text: Bytes,
    etag: HeaderValue,
}

/// Serves `description`.
pub(super) fn routes(description: &OpenApi) -> anyhow::Result<Router> {
    let text = serde_json::to_vec(description).context("the description is no JSON")?;
    // The same content has the same tag, however it is compressed.
    let etag = HeaderValue::try_from(format!("W/\"{:032x}\"", xxh3_128(&text)))?;
    let text = text.into();
    Ok(Router::new()
        .route(PATH, get(show))
        .with_state(Document { text, etag }))
}

async fn show(State(document): State<Document>, headers: HeaderMap) -> Response {
    let Document { text, etag } = document;
    let is_known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || Some(tag.trim()) == etag.to_str().ok());
    let common = [
        (header::ETAG, etag),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    if is_known {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let json = [(header::CONTENT_TYPE, "application/json")];
    (common, json, text).into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
                    found.insert(reference.to_owned());
                }
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn the_document_is_whole() {
        let document = serde_json::to_value(description().unwrap()).unwrap();
        let mut found = BTreeSet::new();
        references(&document, &mut found);
        for reference in &found {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
        let tags = document["tags"].as_array().unwrap();
        let mut ids = BTreeSet::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let what = format!("{method} {path}");
                let id = operation["operationId"].as_str().expect(&what);
                assert!(ids.insert(id.to_owned()), "{id} is there twice");
                let tag = &operation["tags"][0];
                assert!(
                    tags.iter().any(|known| known["name"] == *tag),
                    "{what}: {tag}"
                );
                let named = path.split(['{', '}']).skip(1).step_by(2);
                let described = operation["parameters"]
                    .as_array()
                    .cloned()
                    .unwrap_or_default();
                for name in named {
                    let is = |one: &Value| one["in"] == "path" && one["name"] == name;
                    assert!(described.iter().any(is), "{what} does not describe {name}");
                }
                for one in described {
                    let about = one["description"].as_str().unwrap_or_default();
                    assert!(!about.is_empty(), "{what}: {one} says nothing");
                }
                let summary = operation["summary"].as_str().unwrap_or_default();
                assert!(!summary.is_empty(), "{what} has no summary");
            }
        }
    }
}
