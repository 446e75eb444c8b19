use std::sync::{Mutex, PoisonError};

use anyhow::bail;
use axum::routing::post;
use axum::{Extension, Json};
use futures_util::future::ready;
use serde_json::json;
use utoipa::openapi::OpenApi;

use super::*;
use crate::access::Workspaces;

/// Keeps what it is told, in words.
#[derive(Debug, Default)]
struct Memory {
    is_away: bool,
    told: Mutex<Vec<String>>,
}

impl Memory {
    fn tell(&self, what: String) -> anyhow::Result<()> {
        if self.is_away {
            bail!("away");
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.push(what);
        Ok(())
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

impl AuditLog for Memory {
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, anyhow::Result<Uuid>> {
        let what = format!("{} {}", change.method, change.path);
        let workspace = change.workspace.as_deref().unwrap_or_default();
        let trace = change.trace_id.as_deref().unwrap_or_default();
        let told = self.tell(format!("{what} {} {workspace} {trace}", change.principal));
        Box::pin(ready(told.map(|()| Uuid::nil())))
    }

    fn conclude(&self, _: Uuid, status: u16) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(ready(self.tell(status.to_string())))
    }
}

fn description() -> OpenApi {
    let operation = |scope| json!({"responses": {}, "security": [{"credential": [scope]}]});
    let document = json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": {
        "/v1/workspaces/{workspace}/things": {"get": operation("manage"), "post": operation("manage")},
        "/v1/frames": {"post": operation("ingest")},
    }});
    serde_json::from_value(document).unwrap()
}

/// The answer to a request of `key:1`, whose handler answers 202.
async fn ask(memory: &Arc<Memory>, method: Method, path: &str) -> u16 {
    let principal = Principal {
        name: "key:1".to_owned(),
        workspaces: Workspaces::All,
        ..Principal::internal()
    };
    let handler = || async { (StatusCode::ACCEPTED, Json(())) };
    let routes = OpenApiRouter::with_openapi(description())
        .route(
            "/v1/workspaces/{workspace}/things",
            post(handler).get(handler),
        )
        .route("/v1/frames", post(handler));
    let log = Arc::clone(memory) as Arc<dyn AuditLog>;
    let routes = audited(routes, log).unwrap().layer(Extension(principal));
    let (routes, _) = routes.split_for_parts();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}{path}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, routes).await });
    telemetry::install_tls();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = client
        .request(method, url)
        .header(
            TRACEPARENT,
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        )
        .header("authorization", "Bearer secret");
    let answer = request.send().await.unwrap();
    server.abort();
    answer.status().as_u16()
}

#[tokio::test]
async fn a_change_leaves_an_entry_and_its_status_and_nothing_else_does() {
    let memory = Arc::new(Memory::default());
    let things = "/v1/workspaces/w/things";
    assert_eq!(ask(&memory, Method::GET, things).await, 202);
    assert_eq!(ask(&memory, Method::POST, "/v1/frames").await, 202);
    assert!(memory.told().is_empty(), "{:?}", memory.told());
    let asked = format!("{things}?secret=1");
    assert_eq!(ask(&memory, Method::POST, &asked).await, 202);
    let entry = "POST /v1/workspaces/w/things key:1 w 0af7651916cd43dd8448eb211c80319c";
    assert_eq!(memory.told(), [entry, "202"]);
}

#[tokio::test]
async fn what_cannot_be_written_down_is_refused() {
    let memory = Arc::new(Memory {
        is_away: true,
        ..Memory::default()
    });
    let things = "/v1/workspaces/w/things";
    assert_eq!(ask(&memory, Method::POST, things).await, 503);
    assert_eq!(ask(&memory, Method::GET, things).await, 202);
}
