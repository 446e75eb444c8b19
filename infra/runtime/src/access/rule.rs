//! What each route asks of a principal, read from the API's description, so that what is documented is
//! what is enforced. Pure.

use std::collections::{BTreeSet, HashMap};

use axum::http::Method;
use serde_json::Value;
use utoipa::openapi::OpenApi;

use super::Scope;

/// The name of the security scheme that each operation names.
pub const SCHEME: &str = "credential";

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// A principal with the scope; where the path names a workspace, one that reaches it.
    Scope(Scope),
    /// Any principal.
    Anyone,
    /// The installation's own credential.
    Internal,
    /// Nothing: the path is described without this method, and no one may use it.
    NotAllowed,
}

/// The rules of a service's routes: by path as it is declared, and method.
#[derive(Debug, Clone, Default)]
pub struct Rules(HashMap<String, HashMap<Method, Option<Scope>>>);

/// A description that does not say who may use a route.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{method} {path} names no scope: give its description security((\"credential\" = [\"<scope>\"]))"
)]
pub struct NoScope {
    method: Method,
    path: String,
}

impl Rules {
    /// The rules that `description` tells of: each operation names one scope as its security.
    pub fn of(description: &OpenApi) -> Result<Self, NoScope> {
        let document = serde_json::to_value(description).unwrap_or_default();
        let mut rules = Self::default();
        let paths = document["paths"].as_object().into_iter().flatten();
        for (path, item) in paths {
            for (name, operation) in item.as_object().into_iter().flatten() {
                let Ok(method) = name.to_uppercase().parse::<Method>() else {
                    continue;
                };
                if !operation.is_object() {
                    continue;
                }
                let scope = match scopes_of(operation).as_deref() {
                    // What anyone may see belongs to no workspace.
                    Some([]) if !path.contains("{workspace}") => Some(None),
                    Some([scope]) => scope.parse().ok().map(Some),
                    _ => None,
                };
                let Some(scope) = scope else {
                    let path = path.clone();
                    return Err(NoScope { method, path });
                };
                let of_path = rules.0.entry(path.clone()).or_default();
                of_path.insert(method, scope);
            }
        }
        Ok(rules)
    }

    /// What the route at `path` (as it is declared) asks for. A path that is not described is internal.
    #[must_use]
    pub fn find(&self, path: &str, method: &Method) -> Rule {
        // A GET answers HEAD too.
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let Some(methods) = self.0.get(path) else {
            return Rule::Internal;
        };
        methods.get(method).map_or(Rule::NotAllowed, |scope| {
            scope.map_or(Rule::Anyone, Rule::Scope)
        })
    }

    /// The methods that the route at `path` (as it is declared) takes, as the header `Allow` has them.
    #[must_use]
    pub fn methods(&self, path: &str) -> String {
        let described = self.0.get(path).into_iter().flat_map(HashMap::keys);
        let mut names: BTreeSet<_> = described.map(Method::as_str).collect();
        if names.contains("GET") {
            names.insert("HEAD");
        }
        names.into_iter().collect::<Vec<_>>().join(", ")
    }
}

/// The scopes that an operation's `security` names.
fn scopes_of(operation: &Value) -> Option<Vec<&str>> {
    let [requirement] = operation["security"].as_array()?.as_slice() else {
        return None;
    };
    let scopes = requirement[SCHEME].as_array()?;
    scopes.iter().map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document(operation: Value) -> OpenApi {
        let document = json!({"openapi": "3.1.0", "info": {"title": "t", "version": "1"},
            "paths": {"/v1/workspaces/{workspace}/things": {"get": operation}}});
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn a_route_asks_for_what_its_description_names() {
        let path = "/v1/workspaces/{workspace}/things";
        let described = json!({"responses": {}, "security": [{"credential": ["read"]}]});
        let rules = Rules::of(&document(described)).unwrap();
        assert_eq!(rules.find(path, &Method::GET), Rule::Scope(Scope::Read));
        assert_eq!(rules.find(path, &Method::HEAD), Rule::Scope(Scope::Read));
        assert_eq!(rules.find(path, &Method::DELETE), Rule::NotAllowed);
        assert_eq!(rules.find("/internal/v1/x", &Method::GET), Rule::Internal);
        assert_eq!(rules.methods(path), "GET, HEAD");
    }

    #[test]
    fn a_route_without_a_scope_is_refused() {
        for security in [
            json!([]),
            json!([{"credential": []}]),
            json!([{"credential": ["read", "manage"]}]),
            json!([{"credential": ["admin"]}]),
            json!([{"other": ["read"]}]),
        ] {
            let described = json!({"responses": {}, "security": security});
            let error = Rules::of(&document(described)).unwrap_err();
            assert!(error.to_string().contains("GET"), "{error}");
        }
    }
}
