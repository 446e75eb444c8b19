//! The API of webhooks' secrets.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use runtime::http::{Path, Problem};
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::endpoint_api::{Source, not_found, unprocessable};
use super::secret::Secret;
use super::store::secrets::{self as store, Secrets};
use crate::api;

pub(super) fn routes(source: Source) -> Router {
    const SECRET: &str = "/v1/workspaces/{workspace}/webhooks/{webhook}/secret";
    Router::new()
        .route(SECRET, get(secret))
        .route(&format!("{SECRET}/rotate"), post(rotate))
        .with_state(source)
}

/// The secret that somebody chose, or a new one.
pub(super) fn chosen(secret: Option<&str>) -> Result<Secret, Problem> {
    match secret {
        Some(text) => Secret::parse(text)
            .map_err(|error| unprocessable("invalid-webhook", format!("secret: {error}"))),
        None => Secret::make().map_err(|error| Problem::internal(&error)),
    }
}

fn secrets_answer(secrets: &Secrets) -> Json<Value> {
    let previous = secrets
        .previous
        .as_ref()
        .map(|(secret, until)| json!({"secret": secret.reveal(), "until": until}));
    Json(json!({"secret": secrets.current.reveal(), "previous": previous}))
}

async fn secret(
    State(source): State<Source>,
    Path((workspace, id)): Path<(String, Uuid)>,
) -> Result<Json<Value>, Problem> {
    let workspace = api::workspace(workspace)?;
    let found = store::secrets(&mut *source.pool.acquire().await?, &workspace, id).await?;
    let secrets = found.ok_or_else(|| not_found(&workspace, id))?;
    Ok(secrets_answer(&secrets))
}

/// What a rotation may say.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rotation {
    /// `whsec_…`; one is made if absent.
    secret: Option<String>,
}

async fn rotate(
    State(source): State<Source>,
    Path((workspace, id)): Path<(String, Uuid)>,
    body: axum::body::Bytes,
) -> Result<Json<Value>, Problem> {
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
    Ok(secrets_answer(&secrets))
}
