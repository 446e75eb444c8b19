//! `/docs/`: a page to read the description by, and to try it.
//!
//! It is Swagger UI, which is part of the program: nothing is loaded from elsewhere, and no script stands
//! in the page itself. What somebody enters as a credential stays in the page and is gone with it.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use runtime::http::Problem;
use utoipa_swagger_ui::Config;

use super::document;

/// The page's own scripts and styles, pictures that stand in those, and questions to this address.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router {
    let config = Config::from(document::PATH)
        // It would ask somebody else whether the document is valid.
        .validator_url("none")
        .deep_linking(true)
        .display_operation_id(true)
        .filter(true);
    Router::new()
        .route("/docs", get(|| async { Redirect::permanent("/docs/") }))
        .route("/docs/", get(index))
        .route("/docs/{*file}", get(file))
        .with_state(Arc::new(config))
}

type Settings = State<Arc<Config<'static>>>;

async fn index(settings: Settings) -> Result<Response, Problem> {
    file(settings, Path("index.html".to_owned())).await
}

async fn file(State(config): Settings, Path(path): Path<String>) -> Result<Response, Problem> {
    let found =
        utoipa_swagger_ui::serve(&path, config).map_err(|error| Problem::internal(&*error))?;
    let Some(file) = found else {
        let detail = "there is nothing at this path";
        return Err(Problem::not_found("route-not-found", detail));
    };
    let mut response = (StatusCode::OK, Body::from(file.bytes.into_owned())).into_response();
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::try_from(file.content_type) {
        headers.insert(header::CONTENT_TYPE, kind);
    }
    if file.gzpipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    let policy = HeaderValue::from_static(POLICY);
    headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    Ok(response)
}
