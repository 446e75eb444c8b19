//! What the gateway puts around every answer: compression, and what browsers are told.

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request;
use axum::http::{
    Extensions, HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, header,
};
use axum::middleware::{self, Next};
use axum::response::Response;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::CorsConfig;

/// For whatever says nothing of that itself: an answer that a browser shows may load and run nothing.
const SECURITY: [(HeaderName, &str); 3] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

/// Which pages of others may use the APIs; none unless they are configured. Browsers send no cookies or
/// passwords by themselves either way.
pub(super) fn cors(config: &CorsConfig) -> anyhow::Result<Option<CorsLayer>> {
    if config.origins.is_empty() {
        return Ok(None);
    }
    let origins = if config.origins.iter().any(|origin| origin == "*") {
        AllowOrigin::any()
    } else {
        let origins = config.origins.iter().map(HeaderValue::try_from);
        let origins: Result<Vec<_>, _> = origins.collect();
        AllowOrigin::list(origins.context("cors.origins holds what is no origin")?)
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([
            Method::GET,
            Method::HEAD,
            Method::POST,
            Method::PUT,
            Method::PATCH,
            Method::DELETE,
        ])
        .allow_headers([
            header::AUTHORIZATION,
            HeaderName::from_static("x-api-key"),
            header::CONTENT_TYPE,
            header::IF_NONE_MATCH,
            HeaderName::from_static("idempotency-key"),
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([header::ETAG, header::RETRY_AFTER, header::LOCATION])
        .max_age(config.max_age);
    Ok(Some(layer))
}

/// Puts all of it around `app`.
pub(super) fn around(app: Router, cors: Option<CorsLayer>) -> Router {
    let app = app
        .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(has_body)))
        .layer(middleware::from_fn(finish));
    match cors {
        Some(cors) => app.layer(cors),
        None => app,
    }
}

/// Whether there is something to compress.
fn has_body(status: StatusCode, _: Version, _: &HeaderMap, _: &Extensions) -> bool {
    status != StatusCode::NOT_MODIFIED && status != StatusCode::NO_CONTENT
}

/// Whether the header names an encoding that answers can have. What names none is answered as it is: an
/// answer of 406 would come when the request has had its effect.
fn is_usable(accept_encoding: &HeaderValue) -> bool {
    let names = accept_encoding.to_str().unwrap_or_default();
    names.split(',').any(|name| {
        let name = name.split(';').next().unwrap_or_default().trim();
        ["gzip", "zstd"]
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known))
    })
}

async fn finish(mut request: Request, next: Next) -> Response {
    let accepted = request.headers().get(header::ACCEPT_ENCODING);
    if accepted.is_some_and(|accepted| !is_usable(accepted)) {
        request.headers_mut().remove(header::ACCEPT_ENCODING);
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in SECURITY {
        headers
            .entry(name)
            .or_insert(HeaderValue::from_static(value));
    }
    weaken_tag(headers);
    response
}

/// A strong tag stands for the answer's bytes, which are others once it is compressed.
fn weaken_tag(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONTENT_ENCODING) {
        return;
    }
    let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok());
    let weak = tag
        .filter(|tag| !tag.starts_with("W/"))
        .and_then(|tag| HeaderValue::try_from(format!("W/{tag}")).ok());
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_that_no_answer_has_is_as_good_as_none() {
        for (accepted, usable) in [
            ("gzip", true),
            ("br, ZSTD;q=0.5", true),
            ("br, identity;q=0", false),
            ("identity;q=0", false),
            ("*;q=0", false),
        ] {
            assert_eq!(
                is_usable(&HeaderValue::from_static(accepted)),
                usable,
                "{accepted}"
            );
        }
    }

    #[test]
    fn only_what_is_compressed_loses_its_strong_tag() {
        for (encoding, tag, expected) in [
            (None, "\"7\"", "\"7\""),
            (Some("gzip"), "\"7\"", "W/\"7\""),
            (Some("zstd"), "W/\"7\"", "W/\"7\""),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, HeaderValue::from_static(tag));
            if let Some(encoding) = encoding {
                let encoding = HeaderValue::from_static(encoding);
                headers.insert(header::CONTENT_ENCODING, encoding);
            }
            weaken_tag(&mut headers);
            assert_eq!(headers[header::ETAG], expected);
        }
    }
}
