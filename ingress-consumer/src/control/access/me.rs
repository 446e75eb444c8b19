//! `GET /v1/me`: who the caller is to Headrace.

use axum::Extension;
use runtime::access::{Kind, Principal, Scope, Workspaces};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Who asks, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Me {
    /// The name that the audit log knows them by: `key:<id>`, `jwt:<subject>` or `internal`.
    #[schema(example = "key:9f86d081884c7d65")]
    pub principal: String,
    /// How they said who they are: `api_key`, `token` or `internal`.
    #[schema(example = "api_key")]
    pub kind: String,
    /// The workspaces that they reach; null for every one.
    #[schema(example = json!(["depot"]))]
    pub workspaces: Option<Vec<String>>,
    /// What they may do there.
    pub scopes: Vec<Scope>,
}

impl From<Principal> for Me {
    fn from(principal: Principal) -> Self {
        let kind = match principal.kind {
            Kind::Internal => "internal",
            Kind::ApiKey => "api_key",
            Kind::Token => "token",
        };
        Self {
            principal: principal.name,
            kind: kind.to_owned(),
            workspaces: match principal.workspaces {
                Workspaces::All => None,
                Workspaces::Of(names) => Some(names.into_iter().collect()),
            },
            scopes: principal.scopes.into_iter().collect(),
        }
    }
}

/// Tell whose credential this is, and what it allows
#[utoipa::path(
    get,
    path = "/v1/me",
    operation_id = "getMe",
    tag = "access",
    responses((status = 200, body = Me, description = "Whose credential it is, and what it allows")),
    security(("credential" = []))
)]
pub(super) async fn me(Extension(principal): Extension<Principal>) -> axum::Json<Me> {
    axum::Json(principal.into())
}
