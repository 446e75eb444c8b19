//! Every operation that is described asks who it is and whether they may, at its service as through the
//! gateway. The tests are made from the description, so an operation that is added is tested too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use headrace::services::Service;
use reqwest::{Client, Method};
use runtime::access::Scope;
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};
use tests::issuer::Issuer;

const SOON: Duration = Duration::from_mins(1);
/// Nothing is called this.
const NOTHING: &str = "01890a5d-ac96-774b-bcce-b302099a8057";
/// A vehicle whose name no answer may have by chance.
const VEHICLE: &str = "canary-0815";

/// The names of things that are there, by the parameters of paths that stand for them; `{id}` with what
/// comes before it.
type Things = BTreeMap<&'static str, String>;

/// An operation of the description.
#[derive(Debug, Clone)]
pub struct Operation {
    method: Method,
    path: String,
    pub service: Service,
    /// What it asks for; nothing where any principal will do.
    scope: Option<Scope>,
    has_body: bool,
}

impl Operation {
    /// How far it goes: what removes things comes last.
    fn weight(&self) -> usize {
        [Method::GET, Method::POST, Method::PUT, Method::PATCH]
            .iter()
            .position(|method| *method == self.method)
            .unwrap_or(usize::MAX)
    }

    /// The path in `workspace` with the names of things that are there.
    fn filled(&self, workspace: &str, things: &Things) -> String {
        let mut path = self.path.replace("{workspace}", workspace);
        for (parameter, name) in things {
            let start = parameter.find('{').unwrap();
            path = path.replace(parameter, &format!("{}{name}", &parameter[..start]));
        }
        while let Some(start) = path.find('{') {
            let end = path[start..].find('}').unwrap() + start;
            path.replace_range(start..=end, NOTHING);
        }
        path
    }
}

/// The descriptions of all services, each with the service.
fn descriptions() -> Vec<(Service, Value)> {
    let value = |description| serde_json::to_value(description).unwrap();
    vec![
        (
            Service::IngressConsumer,
            value(ingress_consumer::description()),
        ),
        (
            Service::SnapshotProjection,
            value(projections::snapshot::description()),
        ),
        (
            Service::HealthProjection,
            value(projections::health::description()),
        ),
        (
            Service::Reactions,
            value(projections::reactions::description()),
        ),
        (Service::Live, value(projections::live::description())),
    ]
}

pub fn operations() -> Vec<Operation> {
    let mut found = Vec::new();
    for (service, description) in descriptions() {
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                let scopes = operation["security"][0]["credential"].as_array().unwrap();
                let scope = scopes.first().map(|scope| scope.as_str().unwrap());
                found.push(Operation {
                    method: method.to_uppercase().parse().unwrap(),
                    path: path.clone(),
                    service,
                    scope: scope.map(|scope| scope.parse().unwrap()),
                    has_body: operation["requestBody"].is_object(),
                });
            }
        }
    }
    found.sort_by_key(Operation::weight);
    found
}

/// One credential of each kind that reaches `workspaces` and has `scopes`.
async fn credentials(
    world: &World,
    issuer: &Issuer,
    workspaces: &[&str],
    scopes: &[Scope],
) -> [String; 2] {
    [
        world.key(workspaces, scopes).await,
        issuer.token(workspaces, scopes),
    ]
}

/// The world, and what is in its workspace `w`.
pub async fn world(further: &[(&'static str, &'static str)]) -> (World, Things) {
    let mut settings = vec![
        ("webhooks.allow_http", "true"),
        ("webhooks.allow_private", "true"),
    ];
    settings.extend(further);
    let world = World::with(Options {
        settings,
        ..Options::default()
    })
    .await;
    for service in Service::ALL {
        world.ready(service).await;
    }
    let connection = world.connect_nowhere("w", &[VEHICLE.to_owned()]).await;
    let now = runtime::clock::now().timestamp_millis();
    let frames = [frame(VEHICLE, "soc", json!(51), now), "no frame".to_owned()];
    world.send(&envelopes("w", connection, &frames)).await;
    let new = json!({"url": "http://127.0.0.1:9/canary"});
    let url = world.url("/v1/workspaces/w/webhooks");
    let webhook = post(&world, &url, &new).await;
    let webhook = webhook["id"].as_str().unwrap().to_owned();
    let delivery = post(&world, &format!("{url}/{webhook}/test"), &json!({})).await;
    let parked = || async { world.get("/v1/workspaces/w/parked").await.1["items"][0].clone() };
    let parked = eventually(SOON, "a parked frame", parked, Value::is_object).await;
    for list in ["vehicles", "health/vehicles"] {
        let path = format!("/v1/workspaces/w/{list}");
        let known = || async { world.get(&path).await.1["items"][0].clone() };
        eventually(SOON, "the vehicle", known, Value::is_object).await;
    }
    let key = json!({"name": "canary", "scopes": ["read"]});
    let key = post(&world, &world.url("/v1/workspaces/w/api-keys"), &key).await;
    let (dead, incident) = (dead_event(&world).await, incident(&world).await);
    let things = BTreeMap::from([
        ("{vehicle}", VEHICLE.to_owned()),
        ("{connection}", connection.to_string()),
        ("{webhook}", webhook),
        ("{delivery}", delivery["id"].as_str().unwrap().to_owned()),
        ("/parked/{id}", parked["id"].to_string()),
        ("/api-keys/{id}", key["id"].as_str().unwrap().to_owned()),
        ("/dead-events/{id}", dead),
        ("{incident}", incident),
    ]);
    (world, things)
}

/// An event of the workspace `w` that was given up on.
async fn dead_event(world: &World) -> String {
    sqlx::query(
        "INSERT INTO core.event_dead (shard, log_offset, subject_key, workspace, event_type, logged_at, data,
             blocked_at, attempts, reason)
         VALUES (3, 4711000815, 'canary', 'w', 'vehicle.registered', now(), '{}', now(), 8, 'canary-4711')",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    "3:4711000815".to_owned()
}

/// An outage in the workspace `w`.
async fn incident(world: &World) -> String {
    let incident = runtime::clock::new_id();
    sqlx::query(
        "INSERT INTO health.incident (incident, workspace, connection, provider, reason, opened_at, closed_at,
             vehicles)
         VALUES ($1, 'w', gen_random_uuid(), 'viriciti', 'refused', now(), now(), 1)",
    )
    .bind(incident)
    .execute(&world.pool)
    .await
    .unwrap();
    incident.to_string()
}

async fn post(world: &World, url: &str, body: &Value) -> Value {
    let answer = world.http.post(url).json(body).send().await.unwrap();
    assert!(answer.status().is_success(), "{url}: {}", answer.status());
    answer.json().await.unwrap()
}

/// Asks for `operation` at `path` with `credential`: status, and the body unless it goes on for ever.
async fn ask(
    client: &Client,
    operation: &Operation,
    url: String,
    credential: Option<&str>,
) -> (u16, String) {
    let mut request = client.request(operation.method.clone(), url);
    if let Some(credential) = credential {
        request = request.bearer_auth(credential);
    }
    if operation.has_body {
        request = request.json(&json!({}));
    }
    let answer = request.send().await.unwrap();
    let status = answer.status();
    let kind = answer.headers().get("content-type");
    let body = if kind.is_some_and(|kind| kind == "text/event-stream") {
        String::new()
    } else {
        answer.text().await.unwrap()
    };
    (status.as_u16(), body)
}

/// Where an operation is: at its service, and at the gateway.
fn bases(world: &World, operation: &Operation) -> [String; 2] {
    let direct = format!("http://{}", world.address(operation.service));
    [direct, world.url("")]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_asks_who_it_is_and_whether_they_may() {
    let issuer = Issuer::start().await;
    let (world, things) = world(&issuer.settings()).await;
    let client = Client::new();
    let ours = issuer.token(&["w"], &Scope::ALL);
    let theirs = credentials(&world, &issuer, &["theirs"], &Scope::ALL).await;
    let past = json!({"exp": runtime::clock::now().timestamp() - 3600});
    let past = issuer.token_with(&["w"], &Scope::ALL, &past);
    let mut lacking = BTreeMap::new();
    for scope in Scope::ALL {
        let others = Scope::ALL.into_iter().filter(|other| *other != scope);
        let others: Vec<_> = others.collect();
        lacking.insert(scope, credentials(&world, &issuer, &["w"], &others).await);
    }
    let never: Vec<_> = things.values().filter(|name| name.len() > 8).collect();
    let operations = operations();
    let of_nothing = operations
        .iter()
        .find(|of| of.path.contains("{workspace}") && of.filled("w", &things).contains(NOTHING));
    assert!(of_nothing.is_none(), "nothing is there for {of_nothing:?}");
    for operation in &operations {
        let path = operation.filled("w", &things);
        let (of_nowhere, nothing) = (
            operation.filled("nowhere", &BTreeMap::new()),
            BTreeMap::new(),
        );
        for base in bases(&world, operation) {
            let what = format!("{} {base}{path}", operation.method);
            let ask_at = |path: &str, credential| {
                ask(&client, operation, format!("{base}{path}"), credential)
            };

            let (status, body) = ask_at(&path, None).await;
            assert_eq!(status, 401, "{what} without a credential: {body}");
            for nobodys in ["hr_0_0", &past] {
                let (status, body) = ask_at(&path, Some(nobodys)).await;
                assert_eq!(status, 401, "{what} with {nobodys}: {body}");
            }
            let refusals = [&path, &operation.filled("w", &nothing), &of_nowhere];
            if operation.path.contains("{workspace}") {
                let mut bodies = BTreeSet::new();
                for theirs in &theirs {
                    for path in refusals {
                        let (status, body) = ask_at(path, Some(theirs)).await;
                        assert_eq!(status, 403, "{what} from another workspace: {body}");
                        for name in &never {
                            assert!(!body.contains(*name), "{what} tells {name}: {body}");
                        }
                        let body = body
                            .replace("\\\"w\\\"", "…")
                            .replace("\\\"nowhere\\\"", "…");
                        bodies.insert(body);
                    }
                }
                assert_eq!(bodies.len(), 1, "{what} tells what is there: {bodies:?}");
                // Nor do they find it from where they may look.
                let [ours, none] = [&things, &nothing].map(|of| operation.filled("theirs", of));
                let (status, body) = ask_at(&ours, Some(&theirs[0])).await;
                if ours == none {
                    for name in &never {
                        assert!(!body.contains(*name), "{what} tells {name}: {body}");
                    }
                } else {
                    // A stream begins for a vehicle that may yet come.
                    let is_none = [400, 404, 422].contains(&status)
                        || (status == 200 && ours.ends_with("/live"));
                    assert!(is_none, "{what}: {ours} is {status}: {body}");
                }
            }
            if !operation.path.contains("{workspace}") {
                // What names no workspace is the whole installation's, for who operates it, or says by its
                // body whose it is, or tells of nothing but the credential.
                let is_for_all = operation.scope == Some(Scope::Operate);
                let is_own = operation.path == "/v1/me";
                if !is_for_all && !is_own {
                    for theirs in &theirs {
                        let (status, body) = ask_at(&path, Some(theirs)).await;
                        assert!(status >= 400, "{what} from another workspace");
                        for name in &never {
                            assert!(!body.contains(*name), "{what} tells {name}: {body}");
                        }
                    }
                }
            }
            if let Some(scope) = operation.scope {
                for lacking in &lacking[&scope] {
                    let (status, body) = ask_at(&path, Some(lacking)).await;
                    assert_eq!(status, 403, "{what} without {scope}: {body}");
                    assert!(body.contains("scope-missing"), "{what}: {body}");
                }
            }
        }
    }
    // Only now, since this changes what is there.
    for operation in &operations {
        for base in bases(&world, operation) {
            let url = base + &operation.filled("w", &things);
            let (status, body) = ask(&client, operation, url.clone(), Some(&ours)).await;
            assert!(
                ![401, 403, 405].contains(&status),
                "{} {url} with all that it needs: {status} {body}",
                operation.method
            );
        }
    }
    world.stop().await;
}

#[test]
fn the_gateways_description_is_that_of_all_services() {
    let merged = serde_json::to_value(headrace::gateway::description().unwrap()).unwrap();
    let merged: BTreeSet<_> = merged["paths"].as_object().unwrap().keys().collect();
    let operations = operations();
    let tested: BTreeSet<_> = operations.iter().map(|operation| &operation.path).collect();
    assert_eq!(merged, tested, "a service's description is not tested here");
}

/// The files beneath `directory` that are part of a program, not of its tests.
pub fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_of_tests = name.contains("test") || name == "core_stand_in.rs";
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|kind| kind == "rs") && !is_of_tests {
            found.push(path);
        }
    }
    found
}

#[test]
fn what_is_not_described_is_internal() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let services = ["ingress-consumer", "ingress-publisher", "projections"];
    let files = services.map(|service| sources(&root.join(service).join("src")));
    let files: Vec<_> = files.into_iter().flatten().collect();
    assert!(files.len() > 50);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // What has tests in it ends with them.
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for route in text.split(".route(").skip(1) {
            let path = route.split(',').next().unwrap().trim();
            assert!(
                path.contains("\"/internal/") || path.contains("INTERNAL"),
                "{}: the route {path} has no description; register it with routes!",
                file.display()
            );
        }
    }
}
