//! The guard over HTTP, before the routes of a service.

use std::sync::Arc;

use axum::Extension;
use axum::http::{HeaderMap, StatusCode};
use futures_util::future::{BoxFuture, ready};
use reqwest::{Client, Response};
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::jwt::test_issuer::{self, Signer};
use super::*;
use crate::config::HttpConfig;
use crate::http::{self, Problem};
use crate::{Context, telemetry};

const TOKEN: &str = "the-internal-token-of-these-tests";

/// Every key reads the workspace `ours`.
#[derive(Debug)]
struct OneGrant;

impl KeySource for OneGrant {
    fn check<'a>(&'a self, _: &'a KeyCheck) -> BoxFuture<'a, Result<Option<KeyGrant>, Problem>> {
        Box::pin(ready(Ok(Some(KeyGrant {
            workspaces: vec!["ours".to_owned()],
            scopes: vec![Scope::Read],
            expires_at: None,
        }))))
    }
}

/// List things
#[utoipa::path(get, path = "/v1/workspaces/{workspace}/things", operation_id = "listThings",
    responses((status = 200, description = "the things")), security(("credential" = ["read"])))]
async fn list_things(Extension(principal): Extension<Principal>) -> String {
    principal.name
}

/// Say who asks
#[utoipa::path(get, path = "/v1/me", operation_id = "me",
    responses((status = 200, description = "who")), security(("credential" = [])))]
async fn me(Extension(principal): Extension<Principal>) -> String {
    principal.name
}

/// A service that listens at the URL, until it is stopped.
async fn service(change: impl FnOnce(&mut AccessConfig)) -> (Context, String) {
    telemetry::install_tls();
    telemetry::metrics_registry();
    let context = Context::new("test", "0");
    let mut config = AccessConfig::internal(TOKEN);
    change(&mut config);
    let access = Access::new(&config, Arc::new(OneGrant));
    let routes = OpenApiRouter::new()
        .routes(routes!(list_things))
        .routes(routes!(me));
    let http = HttpConfig::local(0);
    let address = http::serve(&context, &http, &access, routes).await;
    let address = address.unwrap();
    (context, format!("http://{address}"))
}

async fn get(url: &str, headers: &[(&'static str, &str)]) -> Response {
    let mut sent = HeaderMap::new();
    for (name, value) in headers {
        sent.append(*name, value.parse().unwrap());
    }
    let client = Client::builder().no_proxy().build().unwrap();
    client.get(url).headers(sent).send().await.unwrap()
}

async fn kind(answer: Response) -> String {
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    let problem: Value = answer.json().await.unwrap();
    let kind = problem["type"].as_str().unwrap();
    kind.replace("urn:headrace:problem:", "")
}

#[tokio::test]
async fn a_request_gets_to_its_route_with_one_good_credential() {
    let (context, url) = service(|_| ()).await;
    let key = ApiKey::new().unwrap();
    let (name, key) = (format!("key:{}", key.id), key.expose());
    let bearer = format!("Bearer {key}");
    let ours = format!("{url}/v1/workspaces/ours/things");
    for headers in [
        [("authorization", &*bearer)].as_slice(),
        &[("x-api-key", &key)],
        &[("x-api-key", &key), ("authorization", &bearer)],
    ] {
        let answer = get(&ours, headers).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().await.unwrap(), name);
    }
    for (path, headers, status, problem) in [
        (
            "/v1/workspaces/ours/things",
            [].as_slice(),
            401,
            "unauthorized",
        ),
        ("/v1/me", &[], 401, "unauthorized"),
        ("/v1/me", &[("x-api-key", "guess")], 401, "unauthorized"),
        (
            "/v1/me",
            &[("x-api-key", "guess"), ("authorization", &bearer)],
            400,
            "unreadable-credential",
        ),
        (
            "/v1/me",
            &[("authorization", &bearer), ("authorization", &bearer)],
            400,
            "unreadable-credential",
        ),
        (
            "/v1/workspaces/theirs/things",
            &[("x-api-key", &key)],
            403,
            "workspace-forbidden",
        ),
    ] {
        let answer = get(&format!("{url}{path}"), headers).await;
        assert_eq!(answer.status().as_u16(), status, "{path}");
        let challenge = answer.headers().get("www-authenticate").cloned();
        let expected = match (status, headers.is_empty()) {
            (401, true) => Some("Bearer"),
            (401, false) => Some("Bearer error=\"invalid_token\""),
            _ => None,
        };
        assert_eq!(challenge.as_ref().map(|v| v.to_str().unwrap()), expected);
        assert_eq!(kind(answer).await, problem, "{path}");
    }
    // What probes and Prometheus ask needs no credential.
    for open in ["livez", "readyz", "metrics"] {
        let answer = get(&format!("{url}/{open}"), &[]).await;
        assert!(answer.status().is_success(), "{open}");
    }
    context.stop().await.unwrap();
}

#[tokio::test]
async fn a_token_of_the_identity_provider_is_a_credential_like_others() {
    let signer = Signer::p256("one");
    let (published, jwks_url) = test_issuer::serve().await;
    published.set(&[&signer]);
    let jwt = test_issuer::config(&jwks_url, test_issuer::LONG);
    let (context, url) = service(|config| config.jwt = jwt).await;
    let token = format!("Bearer {}", signer.sign(&test_issuer::good()));
    let answer = get(&format!("{url}/v1/me"), &[("authorization", &token)]).await;
    assert_eq!(answer.text().await.unwrap(), "jwt:alice");
    for (workspace, status) in [("ours", 200), ("theirs", 403)] {
        let url = format!("{url}/v1/workspaces/{workspace}/things");
        let answer = get(&url, &[("authorization", &token)]).await;
        assert_eq!(answer.status().as_u16(), status, "{workspace}");
    }
    let expired = signer.sign(&test_issuer::claims(json!({"exp": 1})));
    let answer = get(&format!("{url}/v1/me"), &[("x-api-key", &expired)]).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(kind(answer).await, "token-expired");
    context.stop().await.unwrap();
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again() {
    let (context, url) = service(|config| {
        config.rate.requests_per_second = 1;
        config.rate.burst = 2;
    })
    .await;
    let url = format!("{url}/v1/me");
    let key = ApiKey::new().unwrap().expose();
    let mut limited = None;
    for _ in 0..10 {
        let answer = get(&url, &[("x-api-key", &key)]).await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("ten requests in a few milliseconds are too many");
    assert_eq!(limited.headers()["retry-after"], "1");
    assert_eq!(kind(limited).await, "rate-limited");
    // Others go on.
    let other = ApiKey::new().unwrap().expose();
    for headers in [("x-api-key", &*other), ("x-api-key", TOKEN)] {
        let answer = get(&url, &[headers]).await;
        assert_eq!(answer.status(), StatusCode::OK);
    }
    let page = telemetry::metrics_page().unwrap();
    for line in [
        r#"headrace_access_requests_total{kind="api_key",outcome="rate_limited""#,
        r#"headrace_access_requests_total{kind="internal",outcome="allowed""#,
        r#"headrace_access_key_checks_total{outcome="miss""#,
        r#"headrace_access_key_checks_total{outcome="hit""#,
    ] {
        assert!(page.contains(line), "{line} is not in {page}");
    }
    context.stop().await.unwrap();
}
