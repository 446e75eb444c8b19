//! Who has changed what: an entry in the core's audit log for each change that somebody asks for.
//!
//! The entry is written before the change is tried, and a change whose entry cannot be written is
//! refused; so nothing is changed that the log does not tell of. How it ended is added afterwards. Where
//! that cannot be written, or whoever asked hung up, the entry stays without a status: the change may or
//! may not have happened. Bodies, queries and credentials never get into the log.

mod core;

use std::fmt;
use std::sync::{Arc, LazyLock};

use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};
use serde::{Deserialize, Serialize};
use shared_model::headers::TRACEPARENT;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

pub use self::core::CoreAudit;
use super::{NoScope, Principal, Rule, Rules, Scope};
use crate::http::Problem;
use crate::telemetry;

static ENTRIES: LazyLock<Counter<u64>> = LazyLock::new(|| {
    global::meter("headrace")
        .u64_counter("headrace_access_audit_entries")
        .with_description("Changes that were asked for, by what became of their audit entry")
        .build()
});

/// A change that somebody asks for; what `POST /internal/v1/audit` is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Who asks.
    pub principal: String,
    /// In which workspace, if the path names one.
    pub workspace: Option<String>,
    /// The HTTP method.
    pub method: String,
    /// The path as the API declares it.
    pub route: String,
    /// The path as it was asked, without its query.
    pub path: String,
    /// The request's trace, if it is traced.
    pub trace_id: Option<String>,
}

/// What `POST /internal/v1/audit` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// The entry's id.
    pub id: Uuid,
}

/// What `PUT /internal/v1/audit/{id}` is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concluded {
    /// The answer's HTTP status.
    pub status: u16,
}

/// Where the entries are kept.
pub trait AuditLog: Send + Sync + fmt::Debug {
    /// Writes the entry of a change that is about to be tried; returns its id.
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, anyhow::Result<Uuid>>;

    /// Adds to the entry how the change was answered.
    fn conclude(&self, id: Uuid, status: u16) -> BoxFuture<'_, anyhow::Result<()>>;
}

#[derive(Clone)]
struct Audited {
    log: Arc<dyn AuditLog>,
    rules: Arc<Rules>,
}

/// `routes`, of which each change leaves an entry in `log`: whatever is no GET and needs the scope
/// `manage` or `operate`. To be served by [`crate::http::serve`], whose guard says who asks.
pub fn audited(routes: OpenApiRouter, log: Arc<dyn AuditLog>) -> Result<OpenApiRouter, NoScope> {
    let rules = Arc::new(Rules::of(routes.get_openapi())?);
    Ok(routes.layer(middleware::from_fn_with_state(
        Audited { log, rules },
        audit,
    )))
}

async fn audit(
    State(audited): State<Audited>,
    route: MatchedPath,
    params: RawPathParams,
    request: Request,
    next: Next,
) -> Response {
    let rule = audited.rules.find(route.as_str(), request.method());
    if !is_change(rule, request.method()) {
        return next.run(request).await;
    }
    let Some(change) = change(&route, &params, &request) else {
        let detail = "who asks is not known here";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Problem::new(status, "internal", detail).into_response();
    };
    let id = match audited.log.begin(&change).await {
        Ok(id) => id,
        Err(error) => {
            tracing::warn!("an audit entry cannot be written: {error:#}");
            count("refused");
            return away().into_response();
        }
    };
    let response = next.run(request).await;
    let concluded = audited.log.conclude(id, response.status().as_u16()).await;
    if let Err(error) = &concluded {
        tracing::warn!(entry = %id, "an audit entry stays without its status: {error:#}");
    }
    count(concluded.map_or("unfinished", |()| "written"));
    response
}

fn is_change(rule: Rule, method: &Method) -> bool {
    matches!(rule, Rule::Scope(Scope::Manage | Scope::Operate)) && !method.is_safe()
}

fn change(route: &MatchedPath, params: &RawPathParams, request: &Request) -> Option<Change> {
    let principal = request.extensions().get::<Principal>()?;
    let workspace = params.iter().find(|(name, _)| *name == "workspace");
    Some(Change {
        principal: principal.name.clone(),
        workspace: workspace.map(|(_, value)| value.to_owned()),
        method: request.method().to_string(),
        route: route.as_str().to_owned(),
        path: request.uri().path().to_owned(),
        trace_id: trace_id(request.headers()),
    })
}

/// The trace that the request is part of: ours, or that of whoever asks.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let theirs = || Some(headers.get(TRACEPARENT)?.to_str().ok()?.to_owned());
    let parent = telemetry::traceparent().or_else(theirs)?;
    let id = parent.split('-').nth(1)?;
    let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| id.to_owned())
}

fn away() -> Problem {
    let detail =
        "nothing was changed, because the audit log cannot be written for the moment; try again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "audit-away", detail)
}

fn count(outcome: &'static str) {
    ENTRIES.add(1, &[KeyValue::new("outcome", outcome)]);
}

#[cfg(test)]
mod tests;
