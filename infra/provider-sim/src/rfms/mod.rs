//! rFMS 4, the heavy vehicle makers' standard: requests by time, under `/rfms`.
//!
//! | request | answer |
//! | --- | --- |
//! | `GET /rfms/vehicles?lastVin=` | the fleet |
//! | `GET /rfms/vehiclepositions?…` | positions and speeds |
//! | `GET /rfms/vehiclestatuses?…` | everything; `contentFilter` without `SNAPSHOT` leaves the snapshot out |
//!
//! Of `latestOnly=true` and `starttime` exactly one has to be there; `stoptime`, `vin`, `triggerFilter`, `datetype` and
//! `lastVin` may be. Milliseconds in these times are ignored, and what came in the second that is not over yet is withheld. A
//! page that is not the last says so, with a relative link to the next. Pages may end in the middle of a second.
//!
//! A customer shows a token, or the user `simulator` and a password. Errors are an object with `error` and
//! `error_description`: 400, 401, 406 for a media type that there is not, 429 with `X-Rate-Limit-*` headers, 503.

mod feed;
mod record;

use crate::polled::{Desk, Limit, Quota, Refusal, Refused, Request, time};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::get,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use feed::{Asked, Collection};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

pub(crate) use record::{facts, vehicle_id};

/// Where the API is on the server.
pub(crate) const BASE: &str = "/rfms";

/// The user of those who show a password.
const USER: &str = "simulator";

pub(crate) fn routes(desk: Arc<Desk>) -> Router {
    let collection = |collection: Collection| {
        get(
            async move |State(desk): State<Arc<Desk>>, uri: Uri, headers: HeaderMap| {
                answer(&desk, collection, &uri, &headers).await
            },
        )
    };
    let routes = Router::new()
        .route("/vehicles", collection(Collection::Vehicles))
        .route("/vehiclepositions", collection(Collection::Positions))
        .route("/vehiclestatuses", collection(Collection::Statuses))
        .with_state(desk);
    Router::new().nest(BASE, routes)
}

async fn answer(desk: &Desk, collection: Collection, uri: &Uri, headers: &HeaderMap) -> Response {
    let query = uri.query().unwrap_or_default();
    let request = Request {
        pool: collection.name(),
        usual_limit: Limit::new(collection.usual_requests(), Duration::from_mins(1)),
        target: uri.to_string(),
        customer: customer(desk, headers),
    };
    let served = desk.serve(request, |admitted| {
        let quota = admitted.map_err(refused)?;
        if !accepts_json(headers) {
            return Err(error(
                StatusCode::NOT_ACCEPTABLE,
                "not_acceptable",
                "the media type is not known",
            ));
        }
        let page = page(desk, collection, query)
            .map_err(|reason| error(StatusCode::BAD_REQUEST, "invalid_request", &reason))?;
        let media_type = format!("application/json; rfms={}.v4.0", collection.path());
        let mut response = ([(header::CONTENT_TYPE, media_type)], page.to_string()).into_response();
        add_quota(&mut response, quota);
        Ok(response)
    });
    served.await
}

/// The page that `query` asks for; the error says what is wrong with it.
fn page(desk: &Desk, collection: Collection, query: &str) -> Result<Value, String> {
    let asked = Asked::read(collection, query)?;
    let size = desk.config.page_records();
    let history = desk.history();
    let now_ms = desk.clock.now_ms();
    if collection == Collection::Vehicles {
        let (vehicles, next) = feed::fleet(history.vehicles(), &asked, size);
        let vehicles: Vec<_> = vehicles.map(record::vehicle).collect();
        let page = json!({"vehicleResponse": {"vehicles": vehicles}});
        return Ok(finished(page, collection, query, next));
    }
    let (found, next) = feed::page(&history, &asked, now_ms, size);
    let feed = (!asked.is_latest_only()).then(|| collection.name());
    let served = found.iter().map(|record| {
        let facts = record::facts_in(collection, asked.has_snapshot, record);
        (*record, vehicle_id(record.vehicle), facts)
    });
    desk.note(&history, feed, served);
    let records = found.iter().map(|record| match collection {
        Collection::Statuses => record::status(record, asked.has_snapshot),
        _ => record::position(record),
    });
    let records: Vec<_> = records.collect();
    let mut page = match collection {
        Collection::Statuses => json!({"vehicleStatusResponse": {"vehicleStatuses": records}}),
        _ => json!({"vehiclePositionResponse": {"vehiclePositions": records}}),
    };
    page["requestServerDateTime"] = json!(time::written(now_ms));
    Ok(finished(page, collection, query, next))
}

/// `page` with what it says of the next one.
fn finished(mut page: Value, collection: Collection, query: &str, next: Option<String>) -> Value {
    page["moreDataAvailable"] = json!(next.is_some());
    if let Some(next) = next {
        let kept = feed::without_place(query);
        let kept = if kept.is_empty() {
            kept
        } else {
            format!("{kept}&")
        };
        let link = format!("{BASE}/{}?{kept}{next}", collection.path());
        page["moreDataAvailableLink"] = json!(link);
    }
    page
}

/// Who shows a token, or a password.
fn customer(desk: &Desk, headers: &HeaderMap) -> Option<usize> {
    let shown = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = shown.split_once(' ')?;
    match scheme.to_ascii_lowercase().as_str() {
        "bearer" => desk.customer(secret.trim()),
        "basic" => {
            let pair = String::from_utf8(STANDARD.decode(secret.trim()).ok()?).ok()?;
            let (user, password) = pair.split_once(':')?;
            (user == USER).then(|| desk.customer(password))?
        }
        _ => None,
    }
}

fn accepts_json(headers: &HeaderMap) -> bool {
    let accepted = headers.get(header::ACCEPT).map(HeaderValue::to_str);
    match accepted {
        None => true,
        Some(Ok(accepted)) => accepted.contains("json") || accepted.contains("*/*"),
        Some(Err(_)) => false,
    }
}

fn refused(refusal: Refusal) -> Refused {
    match refusal {
        Refusal::Stranger => error(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "the token or password is not known",
        ),
        Refusal::Limited(wait_ms, quota) => {
            let mut response = error(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limit_exceeded",
                "too many requests",
            );
            match quota {
                Some(quota) => add_quota(&mut response.0, quota),
                None => add(
                    &mut response.0,
                    "retry-after",
                    &wait_ms.div_ceil(1000).to_string(),
                ),
            }
            response
        }
        Refusal::Unavailable => error(
            StatusCode::SERVICE_UNAVAILABLE,
            "service_unavailable",
            "try again later",
        ),
    }
}

fn error(status: StatusCode, error: &str, description: &str) -> Refused {
    let body = json!({"error": error, "error_description": description});
    Refused::new((status, Json(body)))
}

fn add_quota(response: &mut Response, quota: Quota) {
    // Whole seconds of the epoch, not before the period ends.
    let reset = quota.reset_ms / 1000 + i64::from(quota.reset_ms % 1000 > 0);
    for (name, value) in [
        ("x-rate-limit-limit", i64::from(quota.limit.requests)),
        ("x-rate-limit-remaining", i64::from(quota.remaining)),
        ("x-rate-limit-reset", reset),
    ] {
        add(response, name, &value.to_string());
    }
}

fn add(response: &mut Response, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
