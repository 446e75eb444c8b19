//! The API of webhooks' secrets.

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use runtime::http::{Path, Problem};
use serde::{Deserialize, Serialize};
use shared_model::WorkspaceId;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::endpoint_api::{Source, not_found, unprocessable};
use super::secret::Secret;
use super::store::secrets::{self as store, Secrets};
use crate::api;

/// The routes and what they are described as.
pub(super) fn router() -> OpenApiRouter<Source> {
    OpenApiRouter::new()
        .routes(routes!(secret))
        .routes(routes!(rotate))
}

/// The secret that somebody chose, or a new one.
pub(super) fn chosen(secret: Option<&str>) -> Result<Secret, Problem> {
    match secret {
        Some(text) => Secret::parse(text)
            .map_err(|error| unprocessable("invalid-webhook", format!("secret: {error}"))),
        None => Secret::make().map_err(|error| Problem::internal(&error)),
    }
}

/// What a webhook's calls are signed with.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookSecrets)]
struct SecretsAnswer {
    /// The secret in force, `whsec_…`.
    secret: String,
    /// The one before, while calls are signed with both.
    previous: Option<PreviousSecret>,
}

/// The secret before the one in force.
#[derive(Debug, Serialize, ToSchema)]
struct PreviousSecret {
    /// The secret, `whsec_…`.
    secret: String,
    /// Until when calls are signed with it as well (UTC).
    until: DateTime<Utc>,
}

impl SecretsAnswer {
    fn new(secrets: &Secrets) -> Self {
        let previous = secrets.previous.as_ref();
        Self {
            secret: secrets.current.reveal(),
            previous: previous.map(|(secret, until)| PreviousSecret {
                secret: secret.reveal(),
                until: *until,
            }),
        }
    }
}

/// What a webhook's calls are signed with.
#[utoipa::path(
    get,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}/secret",
    operation_id = "getWebhookSecret",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
    ),
    responses((status = 200, body = SecretsAnswer, description = "Its secrets")),
    security(("credential" = ["manage"])),
)]
async fn secret(
    State(source): State<Source>,
    Path((workspace, id)): Path<(String, Uuid)>,
) -> Result<Json<SecretsAnswer>, Problem> {
    let workspace = api::workspace(workspace)?;
    let found = store::secrets(&mut *source.pool.acquire().await?, &workspace, id).await?;
    let secrets = found.ok_or_else(|| not_found(&workspace, id))?;
    Ok(Json(SecretsAnswer::new(&secrets)))
}

/// What a rotation may say.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SecretRotation)]
struct Rotation {
    /// `whsec_…`; one is made if absent.
    secret: Option<String>,
}

/// Give a webhook a new secret; calls are signed with the old one as well for a while.
#[utoipa::path(
    post,
    path = "/v1/workspaces/{workspace}/webhooks/{webhook}/secret/rotate",
    operation_id = "rotateWebhookSecret",
    tag = "webhooks",
    params(
        ("workspace" = inline(WorkspaceId), Path, description = "The workspace"),
        ("webhook" = Uuid, Path, description = "The webhook"),
    ),
    request_body = Option<Rotation>,
    responses((status = 200, body = SecretsAnswer, description = "Its secrets now")),
    security(("credential" = ["manage"])),
)]
async fn rotate(
    State(source): State<Source>,
    Path((workspace, id)): Path<(String, Uuid)>,
    body: axum::body::Bytes,
) -> Result<Json<SecretsAnswer>, Problem> {
    let workspace = api::workspace(workspace)?;
    // There is nothing that has to be said.
    let rotation = if body.is_empty() {
        Rotation::default()
    } else {
        serde_json::from_slice(&body)
            .map_err(|error| Problem::bad_request("invalid-body", error.to_string()))?
    };
    let secret = chosen(rotation.secret.as_deref())?;
    let mut pg = source.pool.acquire().await?;
    let overlap = source.config.secret_overlap;
    if !store::rotate(&mut pg, &workspace, id, &secret, overlap).await? {
        return Err(not_found(&workspace, id));
    }
    let found = store::secrets(&mut pg, &workspace, id).await?;
    let secrets = found.ok_or_else(|| not_found(&workspace, id))?;
    Ok(Json(SecretsAnswer::new(&secrets)))
}
