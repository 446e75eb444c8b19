//! What the gateway does beyond handing requests on.

use std::time::Duration;

use headrace::gateway::CorsConfig;
use headrace::services::Service;
use reqwest::header::HeaderMap;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tests::harness::{Options, World, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SOON: Duration = Duration::from_secs(30);

/// A world in which only connections and their health can be asked for.
async fn world() -> World {
    let kept = [Service::IngressConsumer, Service::HealthProjection];
    let others = Service::ALL.into_iter();
    let without = others.filter(|service| !kept.contains(service)).collect();
    World::with(Options {
        without,
        ..Options::default()
    })
    .await
}

/// A client that has no credential.
fn stranger() -> Client {
    Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .unwrap()
}

async fn get(client: &Client, url: String, headers: &[(&str, &str)]) -> Response {
    let mut request = client.get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.unwrap()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .map_or("", |value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_and_its_page_are_there_for_everybody() {
    let world = world().await;
    let stranger = stranger();
    let answer = get(&stranger, world.url("/openapi.json"), &[]).await;
    assert_eq!(answer.status(), 200);
    let tag = text(answer.headers(), "etag").to_owned();
    let document: Value = answer.json().await.unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let summary = &document["paths"]["/v1/workspaces/{workspace}/health"]["get"];
    assert_eq!(summary["operationId"], "getWorkspaceHealth");
    assert_eq!(summary["security"][0], json!({"credential": ["read"]}));
    let again = get(
        &stranger,
        world.url("/openapi.json"),
        &[("if-none-match", &tag)],
    )
    .await;
    assert_eq!(again.status(), 304);
    assert_eq!(text(again.headers(), "etag"), tag);

    let moved = get(&stranger, world.url("/docs"), &[]).await;
    assert_eq!(
        (moved.status().as_u16(), text(moved.headers(), "location")),
        (308, "/docs/")
    );
    let page = get(&stranger, world.url("/docs/"), &[]).await;
    let policy = text(page.headers(), "content-security-policy").to_owned();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    assert!(text(page.headers(), "content-type").starts_with("text/html"));
    let page = page.text().await.unwrap();
    // Each script and style is a file of our own.
    let mut files = Vec::new();
    for start in ["src=\"", "href=\""] {
        let found = page.split(start).skip(1);
        files.extend(found.map(|rest| rest.split('"').next().unwrap().to_owned()));
    }
    assert!(files.len() > 3, "{page}");
    for file in &files {
        let file = file.trim_start_matches("./");
        assert!(!file.contains("//"), "{file} is elsewhere");
        let answer = get(&stranger, world.url(&format!("/docs/{file}")), &[]).await;
        assert_eq!(answer.status(), 200, "{file}");
    }
    for script in page.split("<script").skip(1) {
        let inline = script
            .split_once('>')
            .unwrap()
            .1
            .split("</script>")
            .next()
            .unwrap();
        assert_eq!(inline.trim(), "", "a script stands in the page");
    }
    assert!(!page.contains("<style"), "a style stands in the page");
    let start = get(&stranger, world.url("/docs/swagger-initializer.js"), &[]).await;
    let start = start.text().await.unwrap();
    assert!(start.contains("/openapi.json"), "{start}");
    assert!(start.contains("\"validatorUrl\": \"none\""), "{start}");
    let none = get(&stranger, world.url("/docs/nothing"), &[]).await;
    assert_eq!(none.status(), 404);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_others_may_use_the_apis_only_where_that_is_configured() {
    const PAGE: &str = "https://app.example.org";
    let preflight = |world: &World, origin: &'static str| {
        let request = stranger().request(reqwest::Method::OPTIONS, world.url("/v1/subscribers"));
        let request = request
            .header("origin", origin)
            .header("access-control-request-method", "GET")
            .header("access-control-request-headers", "authorization");
        async move { request.send().await.unwrap() }
    };
    let mut world = world().await;
    let answer = preflight(&world, PAGE).await;
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
    let answer = get(
        &world.http,
        world.url("/v1/subscribers"),
        &[("origin", PAGE)],
    )
    .await;
    assert!(!answer.headers().contains_key("access-control-allow-origin"));

    for (origins, origin, allowed) in [
        (vec![PAGE], PAGE, PAGE),
        (vec![PAGE], "https://evil.example.org", ""),
        (vec!["*"], "https://evil.example.org", "*"),
    ] {
        world.cors = CorsConfig {
            origins: origins.into_iter().map(str::to_owned).collect(),
            max_age: Duration::from_mins(5),
        };
        world.start_gateway().await;
        let answer = preflight(&world, origin).await;
        let headers = answer.headers();
        assert_eq!(text(headers, "access-control-allow-origin"), allowed);
        assert!(!headers.contains_key("access-control-allow-credentials"));
        assert!(text(headers, "access-control-allow-headers").contains("authorization"));
        assert_eq!(text(headers, "access-control-max-age"), "300");
        // Errors too, or a page could not read them.
        for (client, status) in [(&world.http, 200), (&stranger(), 401)] {
            let answer = get(client, world.url("/v1/subscribers"), &[("origin", origin)]).await;
            assert_eq!(answer.status(), status);
            let headers = answer.headers();
            assert_eq!(text(headers, "access-control-allow-origin"), allowed);
            let exposed = text(headers, "access-control-expose-headers");
            assert_eq!(exposed, "etag,retry-after,location");
        }
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_compressed_and_say_what_browsers_may_do_with_them() {
    let world = world().await;
    world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let connections = world.url("/v1/workspaces/w/connections");
    for encoding in ["gzip", "zstd"] {
        for url in [&connections, &world.url("/openapi.json")] {
            let accept = [("accept-encoding", encoding)];
            let answer = get(&world.http, url.clone(), &accept).await;
            let headers = answer.headers();
            assert_eq!(text(headers, "content-encoding"), encoding, "{url}");
            assert!(text(headers, "vary").contains("accept-encoding"), "{url}");
            let tag = text(headers, "etag");
            assert!(tag.is_empty() || tag.starts_with("W/"), "{tag}");
            let size = answer.bytes().await.unwrap().len();
            let plain = get(&world.http, url.clone(), &[]).await;
            assert!(!plain.headers().contains_key("content-encoding"));
            assert!(size < plain.bytes().await.unwrap().len(), "{url}");
        }
    }
    for path in [
        "/v1/workspaces/w/connections",
        "/v1/nothing",
        "/livez",
        "/openapi.json",
        "/docs/",
    ] {
        let answer = get(&world.http, world.url(path), &[]).await;
        let headers = answer.headers();
        assert_eq!(text(headers, "x-content-type-options"), "nosniff", "{path}");
        assert_eq!(text(headers, "referrer-policy"), "no-referrer", "{path}");
        let policy = text(headers, "content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
    }
    let answer = get(&world.http, connections, &[]).await;
    assert_eq!(text(answer.headers(), "cache-control"), "private, no-cache");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_bodies_and_metrics_have_their_bounds() {
    let world = world().await;
    world.ready(Service::HealthProjection).await;
    let url = world.url("/v1/workspaces/w/connections");
    let answer = world.http.put(&url).send().await.unwrap();
    assert_eq!(answer.status(), 405);
    let mut allowed: Vec<_> = text(answer.headers(), "allow").split(',').collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "HEAD", "POST"]);
    let problem: Value = answer.json().await.unwrap();
    assert_eq!(problem["type"], "urn:headrace:problem:method-not-allowed");

    let known = || async {
        let head = world.http.head(world.url("/v1/workspaces/w/health"));
        head.send().await.unwrap().status().as_u16()
    };
    eventually(SOON, "a HEAD", known, |status| *status == 200).await;

    let large = json!({"provider": "x".repeat(2 * 1024 * 1024)});
    let answer = world.http.post(&url).json(&large).send().await.unwrap();
    assert_eq!(answer.status(), 413);
    assert_eq!(
        text(answer.headers(), "content-type"),
        "application/problem+json"
    );
    // Frames may be more at once; this is no frame, which only their service can tell.
    let url = world.url("/v1/provider-ingest");
    let answer = world.http.post(url).json(&large).send().await.unwrap();
    assert_ne!(answer.status(), 413);

    let answer = get(&stranger(), world.url("/metrics"), &[]).await;
    assert_eq!(answer.status(), 401);
    let answer = get(&world.http, world.url("/metrics"), &[]).await;
    assert_eq!(answer.status(), 200);
    let answer = get(&stranger(), world.url("/livez"), &[]).await;
    assert_eq!(answer.status(), 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_whom_it_does_not_know_sends_the_gateway_a_body() {
    let world = world().await;
    let nobodys = "hr_0123456789abcdef_".to_owned() + &"0".repeat(64);
    let head = format!(
        "POST /v1/provider-ingest HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {nobodys}\r\n\
         content-type: application/json\r\ncontent-length: 1000000\r\n\r\n{{"
    );
    // The rest never comes, and is not waited for.
    let (status, answer) = raw(&world, head).await;
    assert_eq!(status, 401, "{answer}");
    world.stop().await;
}

/// The gateway's answer to a request for a path that no client library would send.
async fn raw_get(world: &World, path: &str) -> (u16, String) {
    let token = tests::harness::INTERNAL_TOKEN;
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\r\n"
    );
    raw(world, request).await
}

/// What the gateway sends until it closes the connection: its status, and all of it.
async fn raw(world: &World, request: String) -> (u16, String) {
    let url = world.url("");
    let address = url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_path_reaches_another_route_than_the_one_that_it_names() {
    let world = world().await;
    world.ready(Service::IngressConsumer).await;
    for (path, status, kind) in [
        ("/internal/v1/log", 404, "route-not-found"),
        (
            "/v1/workspaces/../../internal/v1/log",
            404,
            "route-not-found",
        ),
        ("/v1/../internal/v1/log", 404, "route-not-found"),
        ("//internal/v1/log", 404, "route-not-found"),
        ("/%69nternal/v1/log", 404, "route-not-found"),
        ("/v1/workspaces/w/vehicles/../polls", 404, "route-not-found"),
        ("/v1/workspaces/w/vehicles/../verdicts", 400, "invalid-path"),
        (
            "/v1/workspaces/w/vehicles/%2e%2e/verdicts",
            400,
            "invalid-path",
        ),
        (
            "/v1/workspaces/w/vehicles/%2E./verdicts",
            400,
            "invalid-path",
        ),
        (
            "/v1/workspaces/w/connections/..\\..\\..\\internal/polls",
            400,
            "invalid-path",
        ),
        // One segment, whatever is in it.
        (
            "/v1/workspaces/w/connections/..%2f..%2f..%2f..%2finternal%2fv1%2flog",
            400,
            "invalid-path",
        ),
        (
            "/v1/workspaces/w/vehicles/a%2F..%2Fb/verdicts",
            404,
            "vehicle-not-found",
        ),
        ("http://elsewhere/internal/v1/log", 404, "route-not-found"),
    ] {
        let (got, answer) = raw_get(&world, path).await;
        assert_eq!(got, status, "{path}: {answer}");
        assert!(answer.contains(kind), "{path}: {answer}");
    }
    world.stop().await;
}
