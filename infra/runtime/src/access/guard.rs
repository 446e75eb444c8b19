//! The guard before every route: 401 without a credential, 403 without the right to the route.

use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::credential::credential;
use super::metrics::{self, Outcome};
use super::{Access, Principal, Refusal, Rule, Rules, Scope};
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
    params: Result<RawPathParams, RawPathParamsRejection>,
    mut request: Request,
    next: Next,
) -> Response {
    let params = match params {
        Ok(params) => params,
        Err(rejection) => {
            return Problem::bad_request("invalid-path", rejection.body_text()).into_response();
        }
    };
    let workspace = params
        .iter()
        .find(|(name, _)| *name == "workspace")
        .map(|(_, value)| value);
    let rule = guarded.rules.find(path.as_str(), request.method());
    let identified = identify(&guarded.access, rule, request.headers()).await;
    let kind = identified.as_ref().ok().map(|principal| principal.kind);
    let admitted = identified.and_then(|principal| {
        guarded.access.count(&principal)?;
        allow(&principal, rule, workspace)?;
        Ok(principal)
    });
    let outcome = admitted
        .as_ref()
        .map_or_else(|refusal| refusal.outcome, |_| Outcome::Allowed);
    metrics::request(outcome, kind);
    match admitted {
        Ok(principal) => {
            tracing::debug!(
                principal = %principal.name.escape_debug(),
                method = %request.method(),
                path = path.as_str(),
                "a request is let through"
            );
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(refusal) => {
            tracing::debug!(
                method = %request.method(),
                path = path.as_str(),
                status = refusal.problem.status,
                reason = refusal.problem.detail,
                "a request is turned away"
            );
            let mut response = refusal.into_response();
            if rule == Rule::NotAllowed
                && let Ok(methods) = guarded.rules.methods(path.as_str()).parse()
            {
                response.headers_mut().insert(header::ALLOW, methods);
            }
            response
        }
    }
}

impl Access {
    /// Whether a request with `headers` comes with a credential that counts, whatever it allows: for those
    /// who pass requests on.
    pub async fn knows(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let known = identify(self, Rule::Anyone, headers).await;
        known.map(drop).map_err(|refusal| refusal.problem)
    }

    /// Whether the sender of a request with `headers` may still use what needs `scope` in `workspace`: for
    /// an answer that goes on long after the guard has let its request through.
    pub async fn still_admits(
        &self,
        headers: &HeaderMap,
        scope: Scope,
        workspace: &str,
    ) -> Result<(), Problem> {
        let rule = Rule::Scope(scope);
        let admitted = match identify(self, rule, headers).await {
            Ok(principal) => allow(&principal, rule, Some(workspace)),
            Err(refusal) => Err(refusal),
        };
        admitted.map_err(|refusal| refusal.problem)
    }
}

async fn identify(access: &Access, rule: Rule, headers: &HeaderMap) -> Result<Principal, Refusal> {
    if rule == Rule::NotAllowed {
        return Err(Refusal::not_allowed());
    }
    access.principal(credential(headers)?).await
}

/// Whether `principal` may use a route with `rule`, in `workspace` if its path names one. What is in a
/// workspace that they do not reach, and whether it exists, the refusal does not tell.
fn allow(principal: &Principal, rule: Rule, workspace: Option<&str>) -> Result<(), Refusal> {
    let scope = match rule {
        Rule::Scope(scope) => scope,
        Rule::Anyone => return Ok(()),
        Rule::Internal if *principal == Principal::internal() => return Ok(()),
        Rule::Internal | Rule::NotAllowed => {
            let detail = "this is for the services among themselves";
            return Err(Refusal::forbidden("internal-only", detail));
        }
    };
    if let Some(workspace) = workspace.filter(|workspace| !principal.reaches(workspace)) {
        let detail = format!("this credential does not reach the workspace {workspace:?}");
        return Err(Refusal::forbidden("workspace-forbidden", detail));
    }
    require(principal, scope)
}

fn require(principal: &Principal, scope: Scope) -> Result<(), Refusal> {
    if principal.has(scope) {
        return Ok(());
    }
    let detail = format!("this needs the scope `{scope}`, which the credential does not have");
    Err(Refusal::forbidden("scope-missing", detail))
}

#[cfg(test)]
mod tests {
    use super::super::{Kind, Workspaces};
    use super::*;

    #[test]
    fn a_route_takes_who_reaches_its_workspace_and_has_its_scope() {
        let reader = Principal {
            name: "key:1".to_owned(),
            kind: Kind::ApiKey,
            workspaces: Workspaces::Of(["ours".to_owned()].into()),
            scopes: [Scope::Read].into(),
            expires_at: None,
        };
        let kind = |rule, workspace| {
            let refused = allow(&reader, rule, workspace).err();
            refused.map(|refusal| refusal.problem.kind.replace("urn:headrace:problem:", ""))
        };
        assert_eq!(kind(Rule::Scope(Scope::Read), Some("ours")), None);
        assert_eq!(kind(Rule::Anyone, None), None);
        for (rule, workspace, name) in [
            (
                Rule::Scope(Scope::Read),
                Some("theirs"),
                "workspace-forbidden",
            ),
            (
                Rule::Scope(Scope::Manage),
                Some("theirs"),
                "workspace-forbidden",
            ),
            (Rule::Scope(Scope::Manage), Some("ours"), "scope-missing"),
            (Rule::Scope(Scope::Operate), None, "scope-missing"),
            (Rule::Internal, None, "internal-only"),
        ] {
            assert_eq!(kind(rule, workspace).as_deref(), Some(name));
        }
        assert!(allow(&Principal::internal(), Rule::Internal, None).is_ok());
        // A name alone makes nobody internal.
        let named = Principal {
            name: "internal".to_owned(),
            ..reader
        };
        assert!(allow(&named, Rule::Internal, None).is_err());
    }
}
