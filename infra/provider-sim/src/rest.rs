//! The provider's REST API: the last known values, and what vehicles observed while nobody listened.
//!
//! | request | answer |
//! | --- | --- |
//! | `POST /api/v2/state`, body `{"<vid>":["soc"]}` | `{"<vid>":{"soc":{"time","value"}}}`; `null` for a label that never had a value |
//! | `GET /api/v1/time/<vid>?label=&start=&end=&step=` | `[{"time","value"}]` |
//! | `GET /api/v1/time/<vid>,<vid>?…` | the same by vehicle, `{"<vid>":[…]}` |
//!
//! Times are milliseconds since the Unix epoch. With a step above 1, the last value of each stretch of that length is given, and
//! stretches without one are left out. `bordered` is taken and has no effect. More than 31 days or 5 vehicles at a time are
//! refused with 400, and so is what is missing or unreadable.

use crate::{
    archive::{Archive, Sample},
    record::RestRequest,
    server::Shared,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, Query, State, rejection::QueryRejection},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
};

const LONGEST_MS: i64 = 31 * 24 * 3_600_000;
const MOST_VEHICLES: usize = 5;
const MAX_REQUEST_BYTES: usize = 4 * 1024 * 1024;

/// What the routes need.
#[derive(Debug, Clone)]
pub(crate) struct Rest {
    pub(crate) shared: Arc<Shared>,
    pub(crate) archive: Arc<dyn Archive>,
    /// Answers to give in place of the next ones.
    pub(crate) scripted: Arc<Mutex<VecDeque<RestFault>>>,
}

/// An answer in place of data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestFault {
    /// The status.
    pub status: StatusCode,
    /// The header `Retry-After`, if there is one.
    pub retry_after: Option<String>,
}

impl Rest {
    pub(crate) fn new(shared: Arc<Shared>, archive: Arc<dyn Archive>) -> Self {
        Self {
            shared,
            archive,
            scripted: Arc::default(),
        }
    }

    pub(crate) fn routes(self) -> Router {
        Router::new()
            .route("/api/v2/state", post(state))
            .route("/api/v1/time/{vids}", get(time))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(self)
    }

    /// The answer that was scripted, or the one to a key that is not known.
    fn refusal(&self, headers: &HeaderMap, key: Option<&str>) -> Option<Response> {
        if let Some(fault) = crate::hub::held(&self.scripted).pop_front() {
            let after = fault
                .retry_after
                .map(|after| [(header::RETRY_AFTER, after)]);
            return Some(
                (fault.status, after.map_or_else(HeaderMap::new, headers_of)).into_response(),
            );
        }
        let header = headers
            .get("x-api-key")
            .map(|key| key.to_str().unwrap_or_default());
        let known = self.shared.knows(header.or(key));
        (!known).then(|| refuse(StatusCode::UNAUTHORIZED, "the key is not known"))
    }

    fn record(&self, method: &Method, uri: &Uri, body: &[u8], response: Response) -> Response {
        if let Some(record) = &self.shared.record {
            record.add_rest_request(RestRequest {
                method: method.to_string(),
                target: uri.to_string(),
                body: String::from_utf8_lossy(body).into_owned(),
                status: response.status(),
            });
        }
        response
    }
}

fn headers_of<const N: usize>(all: [(header::HeaderName, String); N]) -> HeaderMap {
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

fn refuse(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({"error": reason}))).into_response()
}

#[derive(Debug, Deserialize)]
struct KeyQuery {
    #[serde(rename = "apiKey")]
    api_key: Option<String>,
}

async fn state(
    State(rest): State<Rest>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Query(key): Query<KeyQuery>,
    body: Bytes,
) -> Response {
    let response = match rest.refusal(&headers, key.api_key.as_deref()) {
        Some(refusal) => refusal,
        None => match serde_json::from_slice::<BTreeMap<String, Vec<String>>>(&body) {
            Ok(asked) => Json(latest(&*rest.archive, &asked)).into_response(),
            Err(error) => refuse(StatusCode::BAD_REQUEST, &format!("unreadable: {error}")),
        },
    };
    rest.record(&method, &uri, &body, response)
}

fn latest(archive: &dyn Archive, asked: &BTreeMap<String, Vec<String>>) -> Value {
    let vehicles = asked.iter().map(|(vid, labels)| {
        let labels = labels
            .iter()
            .map(|label| (label.clone(), json!(archive.latest(vid, label))));
        (vid.clone(), Value::Object(labels.collect()))
    });
    Value::Object(vehicles.collect())
}

#[derive(Debug, Deserialize)]
struct TimeQuery {
    label: String,
    start: i64,
    end: i64,
    step: Option<i64>,
    #[serde(rename = "apiKey")]
    api_key: Option<String>,
}

async fn time(
    State(rest): State<Rest>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    Path(vids): Path<String>,
    query: Result<Query<TimeQuery>, QueryRejection>,
) -> Response {
    let key = query.as_ref().ok().and_then(|query| query.api_key.clone());
    let response = match rest.refusal(&headers, key.as_deref()) {
        Some(refusal) => refusal,
        None => match query {
            Ok(Query(query)) => history(&*rest.archive, &vids, &query)
                .unwrap_or_else(|reason| refuse(StatusCode::BAD_REQUEST, reason)),
            Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
        },
    };
    rest.record(&method, &uri, &[], response)
}

fn history(archive: &dyn Archive, vids: &str, query: &TimeQuery) -> Result<Response, &'static str> {
    let vids: Vec<_> = vids.split(',').collect();
    if vids.len() > MOST_VEHICLES {
        return Err("at most 5 vehicles at a time");
    }
    match query.end.checked_sub(query.start) {
        Some(0..=LONGEST_MS) => {}
        Some(..0) => return Err("start is after end"),
        _ => return Err("at most 31 days at a time"),
    }
    let step = query.step.unwrap_or(1);
    if step < 1 {
        return Err("step is at least 1");
    }
    let of = |vid: &str| {
        let samples = archive.within(vid, &query.label, query.start..=query.end);
        stretches(samples, step)
    };
    if let [vid] = vids[..] {
        return Ok(Json(of(vid)).into_response());
    }
    let by_vehicle: BTreeMap<_, _> = vids.iter().map(|vid| (*vid, of(vid))).collect();
    Ok(Json(by_vehicle).into_response())
}

/// The last sample of each stretch of `step` milliseconds.
fn stretches(samples: Vec<Sample>, step: i64) -> Vec<Sample> {
    if step == 1 {
        return samples;
    }
    let last: BTreeMap<_, _> = samples
        .into_iter()
        .map(|sample| (sample.time.div_euclid(step), sample))
        .collect();
    last.into_values().collect()
}
