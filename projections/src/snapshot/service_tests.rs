//! The read API as a client has it.

use std::time::Duration;

use jsonschema::Validator;
use reqwest::header::{ETAG, IF_NONE_MATCH};
use reqwest::{Client, Response};
use runtime::access::AccessConfig;
use runtime::clock;
use runtime::config::HttpConfig;
use runtime::{Context, db};
use serde_json::{Value, json};
use shared_model::event::EventType;
use tokio::task::JoinSet;

use super::{FreshnessConfig, SnapshotConfig, SnapshotProjection, description, start};
use crate::fixture::{self, eventually};
use crate::rebuild::Rebuilt as _;
use crate::running::{KIND, Running};
use crate::schema::Schema;
use crate::service_tests::{changed, get, problem};
use crate::{Change as _, VehicleChange, VehicleKey};

const LIST: &str = "/v1/workspaces/demo/vehicles";
const ONE: &str = "/v1/workspaces/demo/vehicles/bus-1/snapshot";
const EXPORT: &str = "/v1/workspaces/demo/export/vehicles";

/// Answers of the API, checked against what they are described as.
fn schema(name: &str) -> Validator {
    let description = serde_json::to_value(description()).unwrap();
    let schema = json!({"$ref": format!("#/components/schemas/{name}"),
        "components": description["components"]});
    jsonschema::validator_for(&schema).unwrap()
}

#[test]
fn the_description_says_how_the_query_is_written() {
    let description = serde_json::to_value(description()).unwrap();
    let list = &description["paths"][LIST.replace("demo", "{workspace}")]["get"];
    let of = |name: &str| {
        let all = list["parameters"].as_array().unwrap();
        all.iter().find(|of| of["name"] == name).unwrap().clone()
    };
    for name in ["freshness", "fields", "bbox"] {
        let parameter = of(name);
        let schema = &parameter["schema"];
        assert_eq!(
            (&parameter["explode"], &parameter["in"]),
            (&json!(false), &json!("query"))
        );
        assert_ne!(parameter["required"], true, "{parameter}");
        assert!(schema["type"].to_string().contains("array"), "{parameter}");
    }
    let names = &of("fields")["schema"]["items"]["enum"];
    assert!(
        names
            .as_array()
            .unwrap()
            .contains(&json!("signals.state_of_charge")),
        "{names}"
    );
    let freshness = &of("freshness")["schema"]["items"]["enum"];
    assert_eq!(
        freshness,
        &json!(["fresh", "stale", "offline", "never_seen"])
    );
    assert_eq!(list["security"], json!([{"credential": ["read"]}]));
}

async fn ask(running: &Running, path: &str, known: Option<&str>) -> Response {
    let request = Client::new()
        .get(format!("http://{}{path}", running.http))
        .bearer_auth(fixture::INTERNAL_TOKEN);
    let request = match known {
        None => request,
        Some(tag) => request.header(IF_NONE_MATCH, tag),
    };
    request.send().await.unwrap()
}

fn tag(answer: &Response) -> String {
    answer.headers()[ETAG].to_str().unwrap().to_owned()
}

fn vehicles(page: &Value) -> Vec<&str> {
    let items = page["items"].as_array().unwrap();
    items
        .iter()
        .map(|of| of["vehicle"].as_str().unwrap())
        .collect()
}

async fn listed(running: &Running, query: &str) -> Value {
    let (status, page) = get(running.http, &format!("{LIST}{query}")).await;
    assert_eq!(status, 200, "{query}: {page}");
    page
}

fn with(vehicle: &str, provider: &str, signals: &[(&str, Value)]) -> Value {
    let mut event = changed(vehicle, 1, "%");
    let now = event["last_received_at"].clone();
    event["signals"] = signals
        .iter()
        .map(|(name, value)| {
            let reading = json!({"value": value, "unit": "%", "observed_at": now,
                "received_at": now, "provider": provider});
            ((*name).to_owned(), reading)
        })
        .collect::<serde_json::Map<_, _>>()
        .into();
    event
}

#[tokio::test(flavor = "multi_thread")]
async fn vehicles_are_found_by_what_is_asked_for_and_written_as_described() {
    let running = Running::start(51).await;
    let position = json!({"latitude": 52.1, "longitude": 5.2});
    for event in [
        with(
            "bus-1",
            "viriciti",
            &[("state_of_charge", json!(15)), ("position", position)],
        ),
        with("bus-2", "rfms", &[("state_of_charge", json!(80))]),
        with("tram-3", "rfms", &[("state_of_charge", json!("full"))]),
    ] {
        running.send(KIND, event).await;
    }
    let registration = json!({"vehicle": "bus-4", "provider": "samsara",
        "connection": "01890a5d-ac96-774b-bcce-b302099a8057", "registered_at": clock::now()});
    running
        .send(EventType::VehicleRegistered, registration)
        .await;
    let count = |page: &Value| vehicles(page).len() == 4;
    let all = eventually(|| listed(&running, ""), count).await;
    let page = schema("VehiclePage");
    let errors: Vec<_> = page
        .iter_errors(&all)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?} {all}");
    for (query, expected) in [
        ("?search=BUS", &["bus-1", "bus-2", "bus-4"][..]),
        ("?provider=rfms", &["bus-2", "tram-3"]),
        ("?provider=samsara", &["bus-4"]),
        ("?soc_min=15&soc_max=80", &["bus-1", "bus-2"]),
        ("?soc_max=20", &["bus-1"]),
        ("?bbox=5,52,6,53", &["bus-1"]),
        ("?freshness=never_seen", &["bus-4"]),
        ("?freshness=fresh&provider=rfms&search=tram", &["tram-3"]),
        (
            "?observed_since=2026-01-01T00:00:00%2B01:00",
            &["bus-1", "bus-2", "tram-3"],
        ),
        ("?observed_since=9999-12-31T23:59:59Z", &[]),
    ] {
        let found = listed(&running, query).await;
        assert_eq!(vehicles(&found), expected, "{query}");
        assert!(page.is_valid(&found), "{query}: {found}");
    }

    let sparse = listed(&running, "?fields=freshness,signals.position&limit=1").await;
    let item = &sparse["items"][0];
    let keys: Vec<_> = item.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["freshness", "signals", "vehicle", "version"]);
    assert_eq!(item["signals"].as_object().unwrap().len(), 1);
    assert!(page.is_valid(&sparse), "{sparse}");

    // A cursor goes on under its filter alone.
    let first = listed(&running, "?search=bus&limit=2").await;
    assert_eq!(vehicles(&first), ["bus-1", "bus-2"]);
    let next = first["next"].as_str().unwrap();
    let rest = listed(
        &running,
        &format!("?search=bus&limit=2&after={next}&fields=version"),
    )
    .await;
    assert_eq!(
        (vehicles(&rest), &rest["next"]),
        (vec!["bus-4"], &Value::Null)
    );
    let other = get(running.http, &format!("{LIST}?search=tram&after={next}")).await;
    assert_eq!(problem(&other), (400, "cursor-mismatch"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_asked_is_answered_or_refused_and_never_an_error_of_ours() {
    let running = Running::start(52).await;
    running.send(KIND, changed("bus-1", 1, "%")).await;
    eventually(|| listed(&running, ""), |page| vehicles(page).len() == 1).await;
    for (path, expected) in [
        (
            LIST,
            &[
                ("soc_min=NaN", "invalid-filter"),
                ("soc_max=1e400", "invalid-filter"),
                ("soc_min=2&soc_max=1", "invalid-filter"),
                ("bbox=1,2,3", "invalid-filter"),
                ("bbox=-1e308,0,1e308,0", "invalid-filter"),
                ("search=%00", "invalid-filter"),
                ("search=", "invalid-filter"),
                ("provider=%00", "invalid-filter"),
                ("freshness=rotten", "invalid-filter"),
                ("observed_since=now", "invalid-filter"),
                ("fields=soc", "invalid-fields"),
                ("fields=", "invalid-fields"),
                ("after=%00", "invalid-cursor"),
                ("after=AAAA", "invalid-cursor"),
                ("limit=0", "invalid-limit"),
                ("limit=99999999999999999999", "invalid-query"),
                ("limit=1&limit=2", "invalid-query"),
                ("color=blue", "invalid-query"),
                ("soc_min=1&soc_min=2", "invalid-query"),
            ][..],
        ),
        (
            ONE,
            &[
                ("min_version=-1", "invalid-min-version"),
                ("min_version=99999999999999999999", "invalid-query"),
                ("min_version=1&wait=11", "invalid-wait"),
                ("min_version=1&wait=NaN", "invalid-wait"),
                ("wait=-1", "invalid-wait"),
                ("limit=1", "invalid-query"),
                ("fields=%00", "invalid-fields"),
            ][..],
        ),
        (
            EXPORT,
            &[
                ("limit=1", "invalid-query"),
                ("after=x", "invalid-query"),
                ("fields=x", "invalid-fields"),
                ("soc_min=inf", "invalid-filter"),
            ][..],
        ),
    ] {
        for (query, name) in expected {
            let answer = get(running.http, &format!("{path}?{query}")).await;
            assert_eq!(
                problem(&answer),
                (400, *name),
                "{path}?{query}: {}",
                answer.1
            );
        }
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_known_is_not_sent_again() {
    let running = Running::start(53).await;
    running.send(KIND, changed("bus-1", 1, "%")).await;
    eventually(|| get(running.http, ONE), |of| of.0 == 200).await;
    for path in [ONE, LIST] {
        let answer = ask(&running, path, None).await;
        assert_eq!(answer.headers()["cache-control"], "private, no-cache");
        let known = tag(&answer);
        assert!(known.starts_with("W/"), "{known}");
        // It gets older, and is the same.
        let again = ask(&running, path, Some(&known)).await;
        assert_eq!((again.status().as_u16(), tag(&again)), (304, known.clone()));
        assert!(again.bytes().await.unwrap().is_empty());
        assert_eq!(
            ask(&running, path, Some("W/\"0-0-0-fresh\""))
                .await
                .status(),
            200
        );
    }
    let known = tag(&ask(&running, ONE, None).await);
    running.send(KIND, changed("bus-1", 2, "%")).await;
    let (_, newer) = get(running.http, &format!("{ONE}?min_version=2")).await;
    assert_eq!(newer["version"], 2);
    let newer = ask(&running, ONE, Some(&known)).await;
    assert_eq!(newer.status(), 200);
    assert_ne!(tag(&newer), known);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicle_turns_stale_while_nothing_arrives() {
    let amqp = fixture::broker().await;
    let relay = crate::service_tests::Relay::new(&amqp).await;
    let config = SnapshotConfig {
        amqp,
        database: fixture::database(&super::MIGRATIONS).await,
        http: HttpConfig::local(0),
        access: AccessConfig::internal(fixture::INTERNAL_TOKEN),
        core: relay.core.config(),
        freshness: FreshnessConfig {
            stale_after: Duration::from_secs(4),
            offline_after: Duration::from_secs(12),
            ..FreshnessConfig::default()
        },
        ..SnapshotConfig::default()
    };
    let context = Context::new("snapshot-projection", "0");
    let http = start(context.clone(), config).await.unwrap().http;
    relay
        .send(EventType::VehicleSnapshotChanged, changed("bus-1", 1, "%"))
        .await;
    // Who reports once an hour is not stale after seconds.
    let hourly = with("bus-2", "rfms", &[("speed", json!(1))]);
    relay.send(EventType::VehicleSnapshotChanged, hourly).await;
    let is = |freshness: &'static str| move |of: &(u16, Value)| of.1["freshness"] == freshness;
    let fresh = eventually(|| get(http, ONE), is("fresh")).await.1;
    let client = Client::new();
    let request = client
        .get(format!("http://{http}{ONE}"))
        .bearer_auth(fixture::INTERNAL_TOKEN);
    let known = tag(&request.send().await.unwrap());
    let stale = eventually(|| get(http, ONE), is("stale")).await.1;
    assert_eq!(stale["last_received_at"], fresh["last_received_at"]);
    assert!(
        (4.0..12.0).contains(&stale["age_seconds"].as_f64().unwrap()),
        "{stale}"
    );
    // Only time has passed, and still the answer that is known is not the answer.
    let request = client
        .get(format!("http://{http}{ONE}"))
        .bearer_auth(fixture::INTERNAL_TOKEN);
    let answer = request.header(IF_NONE_MATCH, known).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    eventually(|| get(http, ONE), is("offline")).await;
    let (_, page) = get(http, &format!("{LIST}?freshness=offline")).await;
    assert_eq!(vehicles(&page), ["bus-1"]);
    let (_, page) = get(http, &format!("{LIST}?freshness=fresh")).await;
    assert_eq!(vehicles(&page), ["bus-2"]);
    relay
        .send(EventType::VehicleSnapshotChanged, changed("bus-1", 2, "%"))
        .await;
    eventually(|| get(http, ONE), is("fresh")).await;
    context.stop().await.unwrap();
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_a_version_and_holds_nothing_meanwhile() {
    let running = Running::start(54).await;
    running.send(KIND, changed("bus-1", 1, "%")).await;
    eventually(|| get(running.http, ONE), |of| of.0 == 200).await;
    let not_reached = get(running.http, &format!("{ONE}?min_version=2&wait=0.2")).await;
    assert_eq!(problem(&not_reached), (409, "version-not-reached"));
    assert_eq!(not_reached.1["version"], 1);
    let described = schema("VersionNotReached");
    assert!(described.is_valid(&not_reached.1), "{}", not_reached.1);
    let answer = ask(&running, &format!("{ONE}?min_version=2&wait=0"), None).await;
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let unknown = format!("{LIST}/bus-9/snapshot?min_version=1&wait=0.2");
    assert_eq!(
        problem(&get(running.http, &unknown).await),
        (404, "vehicle-not-found")
    );

    // Many more than there are connections, for a vehicle that is known and for one that is not yet. They
    // share a client, which is costly to make.
    let client = Client::new();
    let ask = |path: String| {
        let request = client
            .get(format!("http://{}{path}", running.http))
            .bearer_auth(fixture::INTERNAL_TOKEN);
        async move {
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            (status, answer.json::<Value>().await.unwrap())
        }
    };
    let mut waiting = JoinSet::new();
    for number in 0..60 {
        let vehicle = 1 + number % 2;
        waiting.spawn(ask(format!(
            "{LIST}/bus-{vehicle}/snapshot?min_version=3&wait=10"
        )));
    }
    // Others are answered meanwhile.
    for _ in 0..5 {
        assert_eq!(ask(ONE.to_owned()).await.0, 200);
    }
    let early = waiting.try_join_next();
    assert!(early.is_none(), "they wait: {early:?}");
    running.send(KIND, changed("bus-1", 3, "%")).await;
    running.send(KIND, changed("bus-2", 4, "%")).await;
    while let Some(answer) = waiting.join_next().await {
        let (status, snapshot) = answer.unwrap();
        assert_eq!(status, 200, "{snapshot}");
        assert!(snapshot["version"].as_i64() >= Some(3));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_replica_commits_ends_a_wait_too() {
    let running = Running::start(55).await;
    running.send(KIND, changed("bus-1", 1, "%")).await;
    eventually(|| get(running.http, ONE), |of| of.0 == 200).await;
    let http = running.http;
    let waiting =
        tokio::spawn(async move { get(http, &format!("{ONE}?min_version=7&wait=10")).await });
    // One that shares no memory with the process that is asked.
    let other = SnapshotProjection::on(running.pool.clone(), Schema("snapshot"));
    let data = changed("bus-1", 7, "%");
    let fact = shared_model::event::Fact::read(KIND, data).unwrap();
    let (vehicle, change) = super::Snapshot::of(fact).unwrap().remove(0);
    let change = VehicleChange {
        key: VehicleKey {
            workspace: "demo".parse().unwrap(),
            vehicle,
        },
        change,
        events: Vec::new(),
    };
    let (other, change) = (&other, &[change]);
    db::in_tx(&running.pool, "test", |mut tx| async move {
        crate::projection::Projection::write(other, &mut tx, change).await?;
        Ok::<_, sqlx::Error>((tx, ()))
    })
    .await
    .unwrap();
    let (status, snapshot) = waiting.await.unwrap();
    assert_eq!((status, &snapshot["version"]), (200, &json!(7)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_has_every_vehicle_once_and_says_that_it_is_whole() {
    let running = Running::start(56).await;
    let event = changed("bus-1", 1, "%");
    running.send(KIND, event).await;
    eventually(|| get(running.http, ONE), |of| of.0 == 200).await;
    // More than two pages, in the order of their bytes.
    sqlx::query(
        "INSERT INTO snapshot.vehicle
         SELECT workspace, 'many-' || lpad(number::text, 5, '0'), version, signals, revision, times,
             last_received_at, provider, observed_at
         FROM snapshot.vehicle, generate_series(1, 1203) AS number",
    )
    .execute(&running.pool)
    .await
    .unwrap();
    let answer = ask(&running, EXPORT, None).await;
    assert_eq!(answer.headers()["content-type"], "application/x-ndjson");
    assert_eq!(
        answer.headers()["content-disposition"],
        "attachment; filename=\"vehicles-demo.ndjson\""
    );
    let text = answer.text().await.unwrap();
    assert!(text.ends_with('\n'));
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let (end, vehicles) = lines.split_last().unwrap();
    assert_eq!(
        (vehicles.len(), end),
        (1204, &json!({"end": {"vehicles": 1204}}))
    );
    let names: Vec<_> = vehicles
        .iter()
        .map(|of| of["vehicle"].as_str().unwrap())
        .collect();
    assert!(names.is_sorted() && names[0] == "bus-1");
    let described = schema("VehicleSnapshot");
    assert!(vehicles.iter().all(|line| described.is_valid(line)));

    let query = "?search=many-000&fields=signals.state_of_charge";
    let text = ask(&running, &format!("{EXPORT}{query}"), None)
        .await
        .text()
        .await
        .unwrap();
    assert_eq!(text.lines().count(), 100);
    assert!(text.ends_with("{\"end\":{\"vehicles\":99}}\n"), "{text}");
    let empty = ask(&running, "/v1/workspaces/other/export/vehicles", None).await;
    assert_eq!(empty.text().await.unwrap(), "{\"end\":{\"vehicles\":0}}\n");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_off_has_no_end() {
    let running = Running::start(57).await;
    running.send(KIND, changed("bus-1", 1, "%")).await;
    eventually(|| get(running.http, ONE), |of| of.0 == 200).await;
    // So much that it does not fit between the service and a client that does not read.
    sqlx::query(
        "INSERT INTO snapshot.vehicle
         SELECT workspace, 'many-' || lpad(number::text, 5, '0'), version, signals, revision, times,
             last_received_at, provider, observed_at
         FROM snapshot.vehicle, generate_series(1, 40000) AS number",
    )
    .execute(&running.pool)
    .await
    .unwrap();
    let mut answer = ask(&running, EXPORT, None).await;
    let mut read = answer.chunk().await.unwrap().unwrap().to_vec();
    sqlx::query("ALTER TABLE snapshot.vehicle RENAME TO gone")
        .execute(&running.pool)
        .await
        .unwrap();
    let cut = loop {
        match answer.chunk().await {
            Ok(Some(chunk)) => read.extend(chunk),
            Ok(None) => break false,
            Err(_) => break true,
        }
    };
    assert!(cut, "the connection is broken off");
    assert!(!String::from_utf8_lossy(&read).contains("\"end\""));
    // Nothing is held, and the service goes on.
    sqlx::query("ALTER TABLE snapshot.gone RENAME TO vehicle")
        .execute(&running.pool)
        .await
        .unwrap();
    assert_eq!(get(running.http, ONE).await.0, 200);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_measured_by_route() {
    let running = Running::start(58).await;
    running.send(KIND, changed("bus-1", 1, "%")).await;
    eventually(|| get(running.http, ONE), |of| of.0 == 200).await;
    get(running.http, "/v1/nowhere").await;
    let page = reqwest::get(format!("http://{}/metrics", running.http)).await;
    let page = page.unwrap().text().await.unwrap();
    let counted = |labels: &[&str]| {
        page.lines().any(|line| {
            line.starts_with("headrace_http_request_seconds_count")
                && labels.iter().all(|label| line.contains(label))
        })
    };
    let route = "route=\"/v1/workspaces/{workspace}/vehicles/{vehicle}/snapshot\"";
    assert!(
        counted(&[route, "method=\"GET\"", "status=\"200\""]),
        "{page}"
    );
    assert!(counted(&["route=\"none\"", "status=\"404\""]), "{page}");
    assert!(!page.contains("nowhere"));
    running.stop().await;
}
