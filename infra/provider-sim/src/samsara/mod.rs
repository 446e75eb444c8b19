//! Samsara: a feed of readings by cursor.
//!
//! `GET /fleet/vehicles/stats/feed?types=…&after=…`, with at most three types. Without `after` the answer holds the last known
//! values; with it, all readings since, many of one vehicle, late ones among them. `limit` bounds the vehicles of a page. A
//! page names the cursor to go on from, and whether there is more already.
//!
//! A customer shows a token. Errors are an object with `message` and `requestId`: 400, 401, 429 with a fractional
//! `Retry-After`. What is 5xx is plain text. Successes do not say what is left of the limit.

mod feed;
mod record;

use crate::polled::{Desk, Limit, Refusal, Refused, Request};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use feed::Asked;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub(crate) use record::{facts, vehicle_id};

const PATH: &str = "/fleet/vehicles/stats/feed";

/// One of the tiers that the provider has.
const USUAL_LIMIT: Limit = Limit::new(25, Duration::from_secs(1));

pub(crate) fn routes(desk: Arc<Desk>) -> Router {
    Router::new().route(PATH, get(stats)).with_state(desk)
}

async fn stats(State(desk): State<Arc<Desk>>, uri: Uri, headers: HeaderMap) -> Response {
    let request = Request {
        pool: "stats",
        usual_limit: USUAL_LIMIT,
        target: uri.to_string(),
        customer: customer(&desk, &headers),
    };
    let served = desk.serve(request, |admitted| {
        admitted.map_err(|refusal| refused(&desk, refusal))?;
        let page = Asked::read(&uri).map(|asked| page(&desk, &asked));
        let page = page.map_err(|reason| error(&desk, StatusCode::BAD_REQUEST, &reason))?;
        Ok(Json(page).into_response())
    });
    served.await
}

fn page(desk: &Desk, asked: &Asked) -> Value {
    let history = desk.history();
    let page = feed::page(&history, asked, desk.config.page_records());
    let feed = (!page.is_last_known).then(|| asked.name());
    let served = page.records.iter().map(|record| {
        let facts = record::facts_of(&asked.types, record);
        (*record, vehicle_id(record.vehicle), facts)
    });
    desk.note(&history, feed.as_deref(), served);
    let is_cursor_given = page.has_more || !desk.has_empty_end_cursor();
    let end_cursor = if is_cursor_given {
        page.end.written()
    } else {
        String::new()
    };
    json!({
        "data": record::by_vehicle(&asked.types, &page.records),
        "pagination": {"endCursor": end_cursor, "hasNextPage": page.has_more},
    })
}

fn customer(desk: &Desk, headers: &HeaderMap) -> Option<usize> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = shown.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| desk.customer(secret.trim()))?
}

fn refused(desk: &Desk, refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Stranger => error(desk, StatusCode::UNAUTHORIZED, "invalid token"),
        Refusal::Limited(wait_ms, _) => {
            let mut response = error(desk, StatusCode::TOO_MANY_REQUESTS, "too many requests");
            // Seconds with a fraction, as the provider has them.
            let wait = format!("{}.{:03}01", wait_ms / 1000, wait_ms % 1000);
            if let Ok(wait) = wait.parse() {
                response.0.headers_mut().insert(header::RETRY_AFTER, wait);
            }
            response
        }
        Refusal::Unavailable => {
            let text = "Service Temporarily Unavailable";
            Refused::new((StatusCode::SERVICE_UNAVAILABLE, text))
        }
    }
}

fn error(desk: &Desk, status: StatusCode, message: &str) -> Refused {
    let request_id = format!("simulated-{:08x}", desk.visits.count());
    let body = json!({"message": message, "requestId": request_id});
    Refused::new((status, Json(body)))
}
