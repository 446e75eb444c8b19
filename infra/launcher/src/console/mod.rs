//! The console: a page for people who want to see how the fleet is doing, served at `/`.
//!
//! The files are part of the program. The page is public and holds no data; it asks the APIs behind the
//! gateway with the key that is entered, so it can do what that key can and nothing else. What it may load
//! is bound by its content security policy: its own scripts and styles and the APIs of the same origin.
//!
//! All files but the page are named by the hash of what is in them all, so they never change under their
//! name and are kept by browsers for good; the page names them and is asked for anew each time.

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use runtime::http::Problem;
use xxhash_rust::xxh3::Xxh3;

/// Nothing from elsewhere, nothing inline, and in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const PAGE: &str = include_str!("assets/index.html");
/// Where the page has the hash.
const VERSION: &str = "{version}";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

struct Asset {
    name: &'static str,
    kind: &'static str,
    text: &'static str,
}

macro_rules! assets {
    ($($name:literal: $kind:expr,)*) => {
        [$(Asset { name: $name, kind: $kind, text: include_str!(concat!("assets/", $name)) }),*]
    };
}

const ASSETS: &[Asset] = &assets! {
    "api.js": SCRIPT,
    "app.js": SCRIPT,
    "base.css": STYLE,
    "dom.js": SCRIPT,
    "fleet.js": SCRIPT,
    "format.js": SCRIPT,
    "histogram.js": SCRIPT,
    "icon.svg": "image/svg+xml",
    "live.js": SCRIPT,
    "map.js": SCRIPT,
    "marks.js": SCRIPT,
    "parts.css": STYLE,
    "pipeline.js": SCRIPT,
    "projection.js": SCRIPT,
    "repeat.js": SCRIPT,
    "session.js": SCRIPT,
    "signin.js": SCRIPT,
    "sse.js": SCRIPT,
    "store.js": SCRIPT,
    "strip.js": SCRIPT,
    "theme.js": SCRIPT,
    "vehicle.js": SCRIPT,
    "vehicles.js": SCRIPT,
};

/// The page and its files.
pub fn routes() -> Router {
    let version = version();
    let page = PAGE.replace(VERSION, &version);
    let etag = format!("\"{version}\"");
    Router::new()
        .route(
            "/",
            get(move |headers: HeaderMap| async move { show_page(&page, &etag, &headers) }),
        )
        .route(
            "/console/{version}/{file}",
            get(
                move |Path((asked, file)): Path<(String, String)>| async move {
                    show_asset(&asked, &file, &version)
                },
            ),
        )
}

/// The hash of all that is shown.
fn version() -> String {
    let mut hash = Xxh3::new();
    let page = ("index.html", PAGE);
    let others = ASSETS.iter().map(|asset| (asset.name, asset.text));
    for (name, text) in others.chain([page]) {
        hash.update(name.as_bytes());
        hash.update(&[0]);
        hash.update(text.as_bytes());
        hash.update(&[0]);
    }
    format!("{:032x}", hash.digest128())
}

fn show_page(page: &str, etag: &str, headers: &HeaderMap) -> Response {
    let is_known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        // What was compressed on its way may have come back as a weak one.
        .any(|known| matches!(known.trim().trim_start_matches("W/"), known if known == etag || known == "*"));
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        let kind = (header::CONTENT_TYPE, "text/html; charset=utf-8");
        ([kind], page.to_owned()).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    if let Ok(etag) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, etag);
    }
    guarded(response)
}

fn show_asset(asked: &str, file: &str, version: &str) -> Response {
    let asset = ASSETS.iter().find(|asset| asset.name == file);
    let Some(asset) = asset.filter(|_| asked == version) else {
        let detail =
            "the console has no such file, or has changed since the page was loaded: load it again";
        return Problem::not_found("file-not-found", detail).into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, asset.kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    guarded((headers, asset.text).into_response())
}

/// With the headers that keep the page to itself.
fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        (
            "permissions-policy",
            "camera=(), geolocation=(), microphone=()",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_and_scripts_name_only_files_that_are_there() {
        let known: Vec<_> = ASSETS.iter().map(|asset| asset.name).collect();
        let named = PAGE.split("/console/{version}/").skip(1);
        for file in named.map(|rest| rest.split('"').next().unwrap()) {
            assert!(known.contains(&file), "{file}");
        }
        for asset in ASSETS.iter().filter(|asset| asset.kind == SCRIPT) {
            let imports = asset.text.split("from \"./").skip(1);
            for file in imports.map(|rest| rest.split('"').next().unwrap()) {
                assert!(known.contains(&file), "{} imports {file}", asset.name);
            }
        }
    }

    #[test]
    fn nothing_is_inline_or_from_elsewhere_and_nothing_becomes_markup() {
        assert!(!PAGE.contains("<style") && !PAGE.contains(" style=") && !PAGE.contains(" on"));
        assert!(PAGE.matches("<script").count() == PAGE.matches("<script ").count());
        for asset in ASSETS {
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "new Function",
                "localStorage.setItem(KEY, key",
            ] {
                assert!(
                    !asset.text.contains(forbidden),
                    "{}: {forbidden}",
                    asset.name
                );
            }
            let foreign = asset.text.replace("http://www.w3.org/", "");
            for scheme in ["http://", "https://", "url(", "@import"] {
                assert!(!foreign.contains(scheme), "{}: {scheme}", asset.name);
            }
        }
    }

    #[test]
    fn the_page_is_asked_for_anew_and_the_rest_is_kept_for_good() {
        let (etag, none) = ("\"abc\"", HeaderMap::new());
        let page = show_page("<html>", etag, &none);
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()[header::CACHE_CONTROL], "no-cache");
        assert_eq!(page.headers()[header::ETAG], etag);
        assert_eq!(page.headers()[header::CONTENT_SECURITY_POLICY], POLICY);
        for known in ["\"abc\"", "\"x\", W/\"abc\"", "*"] {
            let headers = HeaderMap::from_iter([(header::IF_NONE_MATCH, known.parse().unwrap())]);
            let again = show_page("<html>", etag, &headers);
            assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{known}");
        }
        let file = show_asset("abc", "app.js", "abc");
        assert_eq!(file.headers()[header::CONTENT_TYPE], SCRIPT);
        let kept = &file.headers()[header::CACHE_CONTROL];
        assert!(kept.to_str().unwrap().contains("immutable"));
        for (version, name) in [("old", "app.js"), ("abc", "app.html"), ("abc", "../mod.rs")] {
            let missing = show_asset(version, name, "abc");
            assert_eq!(missing.status(), StatusCode::NOT_FOUND, "{version}/{name}");
        }
    }
}
