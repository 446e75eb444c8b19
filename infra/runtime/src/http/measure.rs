//! How long requests take, by route.

use std::sync::LazyLock;
use std::time::Instant;

use axum::extract::{MatchedPath, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::metrics::Histogram;
use opentelemetry::{KeyValue, global};

static REQUEST_SECONDS: LazyLock<Histogram<f64>> = LazyLock::new(|| {
    global::meter("headrace")
        .f64_histogram("headrace_http_request_seconds")
        .with_description("From a request to the head of its answer, by route, method and status")
        .with_boundaries(vec![
            0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0,
        ])
        .build()
});

/// Measures a request. What was asked for never becomes a label: only the route that it matched does, and
/// a method that HTTP defines.
pub(super) async fn measure(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = method(request.method());
    let started = Instant::now();
    let response = next.run(request).await;
    let labels = [
        KeyValue::new("route", route),
        KeyValue::new("method", method),
        KeyValue::new("status", i64::from(response.status().as_u16())),
    ];
    REQUEST_SECONDS.record(started.elapsed().as_secs_f64(), &labels);
    response
}

fn method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_method_that_somebody_makes_up_is_no_label_of_its_own() {
        assert_eq!(method(&Method::GET), "GET");
        assert_eq!(method(&Method::from_bytes(b"BREW").unwrap()), "other");
    }
}
