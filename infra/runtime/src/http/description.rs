//! The description of all services' APIs as one `OpenAPI` document. Pure.
//!
//! Services describe what is particular to their operations. What all have in common is added here: the
//! problems that each may answer with, how a credential is sent, and what the tags stand for.

use serde_json::Value;
use utoipa::PartialSchema;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, ObjectBuilder, OpenApi, Ref, Response, ResponseBuilder, Type,
};

use super::Problem;
use crate::access::SCHEME;

/// The name of the security scheme for API keys in a header of their own.
const API_KEY: &str = "api_key";
const ABOUT: &str = "Vehicles' signals, their health, and what happens to them, for operators of \
    electric fleets. Lists are answered in pages; errors are RFC 9457 problems.";

/// The tags, in the order in which they are shown.
const TAGS: [(&str, &str); 9] = [
    ("vehicles", "What vehicles' signals are, and were."),
    (
        "health",
        "How recently vehicles were heard from, and why one is silent.",
    ),
    ("live", "What happens, as it happens."),
    (
        "connections",
        "The accounts at providers that frames come from.",
    ),
    ("ingest", "Frames that are delivered by HTTP."),
    ("parked frames", "Frames that cannot be interpreted."),
    ("webhooks", "Who is told of events, and what came of it."),
    ("access", "Who may do what."),
    (
        "pipeline",
        "What belongs to no workspace: queues, the event log, its readers.",
    ),
];

/// When an operation may answer with a problem.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Always,
    /// It has a path, query or body that may be wrong.
    Asked,
    /// Something has to be allowed.
    Scoped,
    /// Its path names something that may not exist.
    Named,
    /// It changes something.
    Changing,
    /// It takes a body.
    Taking,
}

/// The problems that operations have in common: status, name of the component, when, and what it means.
const PROBLEMS: [(u16, &str, When, &str); 14] = [
    (
        400,
        "BadRequest",
        When::Asked,
        "The request is wrong; `detail` says how.",
    ),
    (
        401,
        "Unauthorized",
        When::Always,
        "The request has no credential, or one that is not known.",
    ),
    (
        403,
        "Forbidden",
        When::Scoped,
        "The credential does not reach the workspace, or lacks the scope.",
    ),
    (
        404,
        "NotFound",
        When::Named,
        "There is no such thing in this workspace.",
    ),
    (
        408,
        "RequestTimeout",
        When::Taking,
        "The body did not come in time.",
    ),
    (
        409,
        "Conflict",
        When::Changing,
        "Things do not stand so that this can be done.",
    ),
    (413, "TooLarge", When::Taking, "The body is too large."),
    (
        415,
        "UnsupportedMediaType",
        When::Taking,
        "The body is of a type, or encoded in a way, that is not taken.",
    ),
    (
        422,
        "Unprocessable",
        When::Taking,
        "The body says something that cannot be.",
    ),
    (
        429,
        "TooManyRequests",
        When::Always,
        "Too many requests; try again after `Retry-After` seconds.",
    ),
    (
        500,
        "Internal",
        When::Always,
        "A failure of ours; its cause is in the service's log.",
    ),
    (
        502,
        "UpstreamAway",
        When::Always,
        "The service that answers this is away; the others are not.",
    ),
    (
        503,
        "Unavailable",
        When::Always,
        "Something that this needs is away; try again after `Retry-After` seconds.",
    ),
    (
        504,
        "UpstreamSlow",
        When::Always,
        "The service that answers this did not answer in time.",
    ),
];

/// What `merged` and all operations have in common, completed: fit to be shown to everybody.
#[must_use]
pub fn finish(mut merged: OpenApi) -> OpenApi {
    merged.info = InfoBuilder::new()
        .title("Headrace")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .build();
    let tags = TAGS.map(|(name, about)| {
        let tag = TagBuilder::new().name(name).description(Some(about));
        tag.build()
    });
    merged.tags = Some(tags.into());
    for (path, item) in &mut merged.paths.paths {
        for (changes, operation) in operations(item) {
            complete(path, changes, operation);
        }
    }
    let mut components = merged.components.take().unwrap_or_default();
    let schema = Problem::schema();
    components.schemas.insert("Problem".to_owned(), schema);
    for (status, name, _, about) in PROBLEMS {
        let response = problem(status, about);
        components
            .responses
            .insert(name.to_owned(), response.into());
    }
    for (name, scheme) in schemes() {
        components.add_security_scheme(name, scheme);
    }
    merged.components = Some(components);
    merged
}

/// The operations of a path, each with whether it changes something.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (bool, &mut Operation)> {
    let reading = [&mut item.get, &mut item.head];
    let changing = [
        &mut item.post,
        &mut item.put,
        &mut item.patch,
        &mut item.delete,
    ];
    let reading = reading.into_iter().flatten().map(|found| (false, found));
    reading.chain(changing.into_iter().flatten().map(|found| (true, found)))
}

fn complete(path: &str, changes: bool, operation: &mut Operation) {
    let scopes = scopes(operation);
    // A workspace that does not exist has nothing in it.
    let names = path.matches('{').count() > path.matches("{workspace}").count();
    let has_body = operation.request_body.is_some();
    let has_parameters = operation
        .parameters
        .as_ref()
        .is_some_and(|all| !all.is_empty());
    for (status, name, when, _) in PROBLEMS {
        let may_happen = match when {
            When::Always => true,
            When::Asked => has_body || has_parameters || path.contains('{'),
            When::Scoped => scopes.as_ref().is_none_or(|scopes| !scopes.is_empty()),
            When::Named => names,
            When::Changing => changes,
            When::Taking => has_body,
        };
        let responses = &mut operation.responses.responses;
        if may_happen {
            responses
                .entry(status.to_string())
                .or_insert_with(|| Ref::from_response_name(name).into());
        }
    }
    if let (Some(scopes), Some(security)) = (scopes, &mut operation.security) {
        security.push(SecurityRequirement::new(API_KEY, scopes));
    }
}

/// The scopes that an operation asks for, if it says anything of that.
fn scopes(operation: &Operation) -> Option<Vec<String>> {
    let security = serde_json::to_value(operation.security.as_ref()?).ok()?;
    let scopes = security.as_array()?.iter().find_map(|one| one.get(SCHEME));
    let scopes = scopes.and_then(Value::as_array)?.iter();
    Some(
        scopes
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
    )
}

fn problem(status: u16, about: &str) -> Response {
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem")));
    let mut response = ResponseBuilder::new()
        .description(about)
        .content("application/problem+json", content.build());
    let header = match status {
        401 => Some((
            "WWW-Authenticate",
            Type::String,
            "How to send a credential.",
        )),
        429 | 503 => Some(("Retry-After", Type::Integer, "Seconds to wait.")),
        _ => None,
    };
    if let Some((name, kind, about)) = header {
        let schema = ObjectBuilder::new().schema_type(kind).build();
        let header = HeaderBuilder::new()
            .schema(Some(schema))
            .description(Some(about));
        response = response.header(name, header.build());
    }
    response.build()
}

fn schemes() -> [(&'static str, SecurityScheme); 2] {
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key (`hr_…`) or a JSON web token."))
        .build();
    let about = "An API key (`hr_…`).";
    let key = ApiKey::Header(ApiKeyValue::with_description("X-API-Key", about));
    [
        (SCHEME, SecurityScheme::Http(bearer)),
        (API_KEY, SecurityScheme::ApiKey(key)),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn finished(path: &str, method: &str, operation: Value) -> Value {
        let document = json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"},
            "paths": {path: {method: operation}}});
        let finished = finish(serde_json::from_value(document).unwrap());
        serde_json::to_value(finished).unwrap()
    }

    fn statuses(document: &Value) -> String {
        let item = document["paths"]
            .as_object()
            .unwrap()
            .values()
            .next()
            .unwrap();
        let operation = item.as_object().unwrap().values().next().unwrap();
        let responses = operation["responses"].as_object().unwrap();
        responses.keys().cloned().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_operation_is_given_the_problems_that_it_may_answer_with() {
        let read = json!({"responses": {"200": {"description": "ok"}}, "security": [{"credential": ["read"]}]});
        let of_all = finished("/v1/things", "get", read.clone());
        assert_eq!(statuses(&of_all), "200 401 403 429 500 502 503 504");
        let of_workspace = finished("/v1/workspaces/{workspace}/things", "get", read.clone());
        assert_eq!(
            statuses(&of_workspace),
            "200 400 401 403 429 500 502 503 504"
        );
        let one = finished("/v1/workspaces/{workspace}/things/{id}", "get", read);
        assert_eq!(statuses(&one), "200 400 401 403 404 429 500 502 503 504");
        let post = json!({"responses": {"404": {"description": "own"}}, "security": [{"credential": []}],
            "requestBody": {"content": {}}});
        let post = finished("/v1/things", "post", post);
        assert_eq!(
            statuses(&post),
            "400 401 404 408 409 413 415 422 429 500 502 503 504"
        );
        let operation = &post["paths"]["/v1/things"]["post"];
        assert_eq!(operation["responses"]["404"]["description"], "own");
        assert_eq!(
            operation["security"],
            json!([{"credential": []}, {"api_key": []}])
        );
    }

    #[test]
    fn a_document_says_what_a_problem_is_and_how_to_send_a_credential() {
        let document = finished("/v1/things", "get", json!({"responses": {}}));
        assert_eq!(document["openapi"], "3.1.0");
        let components = &document["components"];
        let problem = &components["schemas"]["Problem"]["properties"];
        assert!(problem["type"].is_object() && problem["detail"].is_object());
        assert_eq!(
            components["securitySchemes"]["credential"]["scheme"],
            "bearer"
        );
        assert_eq!(components["securitySchemes"]["api_key"]["in"], "header");
        let limited = &components["responses"]["TooManyRequests"];
        assert!(limited["headers"]["Retry-After"].is_object());
        assert!(limited["content"]["application/problem+json"].is_object());
    }
}
