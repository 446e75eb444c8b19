//! An API's description, held against what the API does.

use std::collections::BTreeSet;
use std::sync::Mutex;

use jsonschema::Validator;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

use crate::harness::World;

/// What every operation may be answered that is refused or cannot be done now.
const REFUSALS: [u16; 11] = [400, 401, 403, 404, 409, 413, 415, 422, 429, 500, 503];

/// A request of an operation.
#[derive(Debug)]
pub struct Asked<'a> {
    /// The operation's id.
    pub operation: &'a str,
    /// The path and the query.
    pub path: String,
    /// The body, if it has one.
    pub body: Option<Value>,
}

/// An API's description, and which of its operations were answered as they say.
#[derive(Debug)]
pub struct Described {
    document: Value,
    kept: Mutex<BTreeSet<String>>,
}

impl Described {
    /// What `api` describes. Members that it does not describe are taken for wrong.
    ///
    /// # Panics
    /// If it is no JSON.
    #[must_use]
    pub fn new(api: &OpenApi) -> Self {
        let mut document = serde_json::to_value(api).expect("a description is JSON");
        close(&mut document["components"]["schemas"]);
        Self {
            document,
            kept: Mutex::default(),
        }
    }

    /// Sends `asked`, which must be answered as described: with success, and a body by its schema.
    ///
    /// # Panics
    /// If it is not.
    pub async fn succeeds(&self, world: &World, asked: Asked<'_>) -> Value {
        let found = self.find(asked.operation);
        if let Some(body) = &asked.body {
            let wrong = self.wrong(request_schema(found.operation), body);
            assert_eq!(wrong, None, "the request of {asked:?}");
        }
        let answer = send(world, &found.method, &asked).await;
        let status = answer.status();
        let described = &found.operation["responses"][status.as_str()];
        let text = answer.text().await.expect("a whole answer");
        assert!(
            status.is_success() && described.is_object(),
            "{asked:?}: {status} {text}"
        );
        let content = &described["content"]["application/json"];
        let answer = if content.is_null() {
            assert_eq!(text, "", "{asked:?} has no body");
            Value::Null
        } else {
            let answer = serde_json::from_str(&text).expect("JSON");
            let wrong = self.wrong(&content["schema"], &answer);
            assert_eq!(wrong, None, "the answer of {asked:?}: {answer}");
            answer
        };
        let mut kept = self.kept.lock().expect("no test panics with it");
        kept.insert(asked.operation.to_owned());
        answer
    }

    /// Sends `asked`, which must be refused with a problem of the kind `name`. A body that is refused as
    /// such must not be one by its schema.
    ///
    /// # Panics
    /// If it is not.
    pub async fn refuses(&self, world: &World, asked: Asked<'_>, status: u16, name: &str) {
        let found = self.find(asked.operation);
        let answer = send(world, &found.method, &asked).await;
        let (got, kind) = (
            answer.status().as_u16(),
            answer.headers()["content-type"].clone(),
        );
        let text = answer.text().await.expect("a whole answer");
        assert_eq!(got, status, "{asked:?}: {text}");
        assert!(REFUSALS.contains(&status), "{status} is not described");
        assert_eq!(kind, "application/problem+json", "{asked:?}: {text}");
        let problem: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(
            problem["type"],
            format!("urn:headrace:problem:{name}"),
            "{asked:?}: {problem}"
        );
        if let (Some(body), "invalid-body") = (&asked.body, name) {
            let wrong = self.wrong(request_schema(found.operation), body);
            assert!(wrong.is_some(), "{asked:?} is right by its schema");
        }
    }

    /// The operations that have not been answered with success yet.
    ///
    /// # Panics
    /// If there are no paths.
    #[must_use]
    pub fn untried(&self) -> Vec<String> {
        let kept = self.kept.lock().expect("no test panics with it");
        let all = operations(&self.document).map(|(_, operation)| id(operation));
        all.filter(|id| !kept.contains(*id))
            .map(str::to_owned)
            .collect()
    }

    fn find(&self, wanted: &str) -> Found<'_> {
        let mut all = operations(&self.document);
        let found = all.find(|(_, operation)| id(operation) == wanted);
        let (method, operation) = found.unwrap_or_else(|| panic!("{wanted} is not described"));
        Found {
            method: method.to_uppercase().parse().expect("a method"),
            operation,
        }
    }

    /// What is wrong with `value` by `schema`, if anything is.
    fn wrong(&self, schema: &Value, value: &Value) -> Option<String> {
        let validator = self.validator(schema);
        let errors: Vec<_> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        (!errors.is_empty()).then(|| errors.join("; "))
    }

    fn validator(&self, schema: &Value) -> Validator {
        let root = json!({"allOf": [schema], "components": self.document["components"]});
        jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .build(&root)
            .unwrap_or_else(|error| panic!("{schema} is no schema: {error}"))
    }
}

struct Found<'a> {
    method: Method,
    operation: &'a Value,
}

fn operations(document: &Value) -> impl Iterator<Item = (&String, &Value)> {
    let paths = document["paths"].as_object().expect("paths");
    let all = paths.values().filter_map(Value::as_object).flatten();
    all.filter(|(_, operation)| operation["operationId"].is_string())
}

fn id(operation: &Value) -> &str {
    operation["operationId"].as_str().unwrap_or_default()
}

fn request_schema(operation: &Value) -> &Value {
    &operation["requestBody"]["content"]["application/json"]["schema"]
}

async fn send(world: &World, method: &Method, asked: &Asked<'_>) -> Response {
    let request = world.http.request(method.clone(), world.url(&asked.path));
    let request = match &asked.body {
        Some(body) => request.json(body),
        None => request,
    };
    request.send().await.expect("an answer")
}

/// Makes schemas refuse members that they do not name. What is a part of another one stays open, and the
/// whole is closed.
fn close(schemas: &mut Value) {
    let schemas = schemas.as_object_mut().expect("schemas");
    let parts: BTreeSet<_> = schemas
        .values()
        .filter_map(|schema| schema["allOf"].as_array())
        .flatten()
        .filter_map(|part| part["$ref"].as_str()?.rsplit('/').next())
        .map(str::to_owned)
        .collect();
    for (name, schema) in schemas {
        let is_whole = schema["allOf"].is_array() || schema["properties"].is_object();
        if is_whole && !parts.contains(name) {
            schema["unevaluatedProperties"] = json!(false);
        }
    }
}
