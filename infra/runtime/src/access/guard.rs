//! The guard before every route: 401 without a credential, 403 without the right to the route.

use std::sync::Arc;

use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::{Access, Principal, Rule, Rules, Scope, forbidden, unauthorized};
use crate::http::Problem;

/// What guards a service's routes.
#[derive(Clone)]
pub(crate) struct Guarded {
    pub(crate) access: Access,
    pub(crate) rules: Arc<Rules>,
}

/// Lets a request through to its route if its sender may use it, with the [`Principal`] as an extension.
pub(crate) async fn guard(
    State(guarded): State<Guarded>,
    path: MatchedPath,
    params: RawPathParams,
    mut request: Request,
    next: Next,
) -> Response {
    let workspace = params
        .iter()
        .find(|(name, _)| *name == "workspace")
        .map(|(_, value)| value);
    let rule = guarded.rules.find(path.as_str(), request.method());
    match admit(&guarded.access, rule, request.headers(), workspace).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

async fn admit(
    access: &Access,
    rule: Rule,
    headers: &HeaderMap,
    workspace: Option<&str>,
) -> Result<Principal, Problem> {
    if rule == Rule::NotAllowed {
        let detail = "this path does not take this method";
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Err(Problem::new(status, "method-not-allowed", detail));
    }
    let credential = credential(headers)?;
    let principal = access.principal(credential).await?;
    allow(&principal, rule, workspace)?;
    Ok(principal)
}

impl Access {
    /// Whether the sender of a request with `headers` may still use what needs `scope` in `workspace`: for
    /// an answer that goes on long after the guard has let its request through.
    pub async fn still_admits(
        &self,
        headers: &HeaderMap,
        scope: Scope,
        workspace: &str,
    ) -> Result<(), Problem> {
        let principal = self.principal(credential(headers)?).await?;
        allow(&principal, Rule::Scope(scope), Some(workspace))
    }
}

/// The credential that a request carries: as a bearer token, or as an API key.
fn credential(headers: &HeaderMap) -> Result<&str, Problem> {
    if let Some(key) = headers.get("x-api-key") {
        let key = key.to_str().ok().map(str::trim);
        return key.ok_or_else(|| unauthorized("X-API-Key is no text"));
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(unauthorized(
            "send an API key or a token as `Authorization: Bearer …`",
        ));
    };
    let value = value.to_str().unwrap_or_default();
    let bearer = value
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let credential = bearer.map(|(_, credential)| credential.trim());
    credential.ok_or_else(|| unauthorized("Authorization is no `Bearer …`"))
}

/// Whether `principal` may use a route with `rule`, in `workspace` if its path names one. What is in a
/// workspace that they do not reach, and whether it exists, the refusal does not tell.
fn allow(principal: &Principal, rule: Rule, workspace: Option<&str>) -> Result<(), Problem> {
    let scope = match rule {
        Rule::Scope(scope) => scope,
        Rule::Anyone => return Ok(()),
        Rule::Internal if *principal == Principal::internal() => return Ok(()),
        Rule::Internal | Rule::NotAllowed => {
            let detail = "this is for the services among themselves";
            return Err(forbidden("internal-only", detail));
        }
    };
    if let Some(workspace) = workspace.filter(|workspace| !principal.reaches(workspace)) {
        let detail = format!("this credential does not reach the workspace {workspace:?}");
        return Err(forbidden("workspace-forbidden", detail));
    }
    require(principal, scope)
}

fn require(principal: &Principal, scope: Scope) -> Result<(), Problem> {
    if principal.has(scope) {
        return Ok(());
    }
    let detail = format!("this needs the scope `{scope}`, which the credential does not have");
    Err(forbidden("scope-missing", detail))
}
