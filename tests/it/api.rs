//! Every endpoint answers as documented, and every error is a problem.

use std::time::Duration;

use headrace::services::Service;
use serde_json::{Value, json};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_added_listed_shown_and_removed() {
    let world = World::start().await;
    let settings = json!({"vehicles": {"bus-1": ["soc"]}});
    let id = world
        .connect("depot", "ws://127.0.0.1:9/api/v2/live", settings.clone())
        .await;
    let (status, shown) = world
        .get(&format!("/v1/workspaces/depot/connections/{id}"))
        .await;
    assert_eq!(status, 200);
    assert_eq!(shown["id"], id.to_string());
    assert_eq!(shown["settings"], settings);
    let (_, listed) = world.get("/v1/workspaces/depot/connections").await;
    assert_eq!(listed, json!({"items": [shown], "next": null}));
    assert_eq!(
        world.get("/v1/workspaces/other/connections").await.1["items"],
        json!([])
    );
    // A workspace never sees another's.
    assert_eq!(
        world
            .get(&format!("/v1/workspaces/other/connections/{id}"))
            .await
            .0,
        404
    );

    let url = world.url(&format!("/v1/workspaces/depot/connections/{id}"));
    assert_eq!(world.http.delete(&url).send().await.unwrap().status(), 204);
    assert_eq!(world.http.delete(&url).send().await.unwrap().status(), 404);
    assert_eq!(
        world.get("/v1/workspaces/depot/connections").await.1["items"],
        json!([])
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_name_only_what_the_installation_allows() {
    let world = World::with(Options {
        settings: vec![
            ("connections.endpoints", "[\"ws://127.0.0.1:9/\"]"),
            ("connections.credentials", "[\"file:/run/{workspace}/\"]"),
        ],
        ..Options::core_only()
    })
    .await;
    world.ready(Service::IngressConsumer).await;
    let url = world.url("/v1/workspaces/depot/connections");
    for (endpoint, credential, expected) in [
        ("ws://127.0.0.1:9/live", "file:/run/depot/key", 201),
        ("ws://127.0.0.1:99/live", "file:/run/depot/key", 400),
        ("ws://127.0.0.1:9/live", "file:/run/harbour/key", 400),
        ("ws://127.0.0.1:9/live", "env:THEIR_KEY", 400),
    ] {
        let new = json!({"provider": "viriciti", "kind": "stream", "endpoint": endpoint,
            "credential": credential, "settings": {"vehicles": {"bus-1": ["soc"]}}});
        let answer = world.http.post(&url).json(&new).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{endpoint} {credential}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vehicle_may_have_any_name_and_lists_have_pages() {
    let world = World::start().await;
    let names = ["<script>", "Bus №7 / Süd", "a%2Fb", "bus 1"].map(str::to_owned);
    let connection = world.connect_nowhere("w", &names).await;
    let now = runtime::clock::now().timestamp_millis();
    let bodies: Vec<_> = names
        .iter()
        .map(|name| frame(name, "soc", json!(5), now))
        .collect();
    world.send(&envelopes("w", connection, &bodies)).await;
    world.drained().await;
    let mut found = Vec::new();
    let mut path = "/v1/workspaces/w/vehicles?limit=3".to_owned();
    loop {
        let (_, page) = world.get(&path).await;
        for item in page["items"].as_array().unwrap() {
            found.push(item["vehicle"].as_str().unwrap().to_owned());
        }
        let Some(next) = page["next"].as_str() else {
            break;
        };
        path = format!("/v1/workspaces/w/vehicles?limit=3&after={next}");
    }
    let mut expected = names.to_vec();
    expected.sort();
    assert_eq!(found, expected);
    for (name, encoded) in [
        ("<script>", "%3Cscript%3E"),
        ("a%2Fb", "a%252Fb"),
        ("Bus №7 / Süd", "Bus%20%E2%84%967%20%2F%20S%C3%BCd"),
    ] {
        let (status, snapshot) = world
            .get(&format!("/v1/workspaces/w/vehicles/{encoded}/snapshot"))
            .await;
        assert_eq!((status, &snapshot["vehicle"]), (200, &json!(name)));
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_a_problem_that_says_what_to_do() {
    let world = World::start().await;
    world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let known = || async { world.get("/v1/workspaces/w/vehicles/bus-1/health").await.0 };
    eventually(SOON, "known", known, |status| *status == 200).await;
    for (path, status, kind) in [
        (
            "/v1/workspaces/w/vehicles/nope/snapshot",
            404,
            "vehicle-not-found",
        ),
        (
            "/v1/workspaces/w/vehicles/nope/health",
            404,
            "vehicle-not-found",
        ),
        (
            "/v1/workspaces/nope/vehicles/bus-1/snapshot",
            404,
            "vehicle-not-found",
        ),
        (
            "/v1/workspaces/W/vehicles/bus-1/snapshot",
            400,
            "invalid-workspace",
        ),
        ("/v1/workspaces/w/vehicles?limit=0", 400, "invalid-limit"),
        ("/v1/workspaces/w/vehicles?limit=many", 400, "invalid-query"),
        ("/v1/workspaces/w/vehicles?after=!", 400, "invalid-cursor"),
        ("/v1/workspaces/w/connections?limit=0", 400, "invalid-limit"),
        ("/v1/workspaces/w/connections/7", 400, "invalid-path"),
        ("/v1/nothing", 404, "route-not-found"),
        ("/internal/v1/publishers/x", 404, "route-not-found"),
    ] {
        let answer = world.http.get(world.url(path)).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status, "{path}");
        assert_eq!(
            answer.headers()["content-type"],
            "application/problem+json",
            "{path}"
        );
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(
            problem["type"],
            format!("urn:headrace:problem:{kind}"),
            "{path}: {problem}"
        );
        assert_eq!(problem["status"], status);
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| detail.len() > 10),
            "{problem}"
        );
    }

    let url = world.url("/v1/workspaces/w/connections");
    for (body, part) in [
        (json!({"provider": "fax"}), "kind"),
        (
            json!({"provider": "viriciti", "kind": "poll", "endpoint": "ws://x", "settings": {"vehicles": {"b": ["soc"]}}}),
            "stream",
        ),
        (
            json!({"provider": "viriciti", "kind": "stream", "endpoint": "ws://x", "credential": "hunter2",
                "settings": {"vehicles": {"b": ["soc"]}}}),
            "env:NAME",
        ),
    ] {
        let answer = world.http.post(&url).json(&body).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{body}");
        let problem: Value = answer.json().await.unwrap();
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(part) && !detail.contains("hunter2"),
            "{detail}"
        );
    }
    let answer = world
        .http
        .post(&url)
        .header("content-type", "application/json")
        .body("{")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let direct = format!("http://{}", world.address(Service::SnapshotProjection));
    for base in [world.url(""), direct] {
        let url = format!("{base}/v1/workspaces/w/vehicles");
        let answer = world.http.post(url).send().await.unwrap();
        assert_eq!(answer.status(), 405);
        let allowed = answer.headers()["allow"].to_str().unwrap();
        assert_eq!(allowed.replace(' ', ""), "GET,HEAD");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics_are_there_and_a_service_that_is_away_is_named() {
    let mut world = World::start().await;
    for service in Service::ALL {
        world.ready(service).await;
        let base = format!("http://{}", world.address(service));
        assert_eq!(
            world
                .http
                .get(format!("{base}/livez"))
                .send()
                .await
                .unwrap()
                .status(),
            200
        );
        let ready: Value = world
            .http
            .get(format!("{base}/readyz"))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        // Live updates come from the core's log, not from the bus.
        let needed = if service == Service::Live {
            "core"
        } else {
            "rabbitmq"
        };
        assert_eq!(ready["checks"][needed]["status"], "up", "{ready}");
        let page = world
            .http
            .get(format!("{base}/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        assert!(
            page.contains("# TYPE headrace_amqp_connected gauge"),
            "{page}"
        );
    }
    world.stop_service(Service::HealthProjection).await;
    let (status, problem) = world.get("/v1/workspaces/w/health").await;
    assert_eq!(
        (status, &problem["type"]),
        (502, &json!("urn:headrace:problem:upstream-away"))
    );
    assert!(
        problem["detail"].as_str().unwrap().contains("health"),
        "{problem}"
    );
    assert_eq!(world.get("/v1/workspaces/w/vehicles").await.0, 200);
    world.stop().await;
}
