//! `Idempotency-Key`: a request that is sent twice has its effect once.
//!
//! A key stands for one request of one workspace. What the request was answered is written in the
//! transaction of its effect, so there is never one without the other.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, StatusCode};
use runtime::http::Problem;
use xxhash_rust::xxh3::xxh3_128;

use super::request::Envelope;
use crate::store::ingest::{DoneRequest, RequestKey};

const HEADER: &str = "idempotency-key";
const LONGEST: usize = 255;

/// Requests with a key that this replica is doing.
#[derive(Debug, Clone, Default)]
pub struct InFlight(Arc<Mutex<HashSet<RequestKey>>>);

/// A request with a key that is being done. It is over once this is dropped.
#[derive(Debug)]
pub struct KeyedRequest {
    /// Whose it is, and its key.
    pub key: RequestKey,
    /// Hash of its body.
    pub fingerprint: Vec<u8>,
    in_flight: InFlight,
}

/// The request's key, if it has one. It may be written with quotes, as a string of RFC 8941, or
/// without.
pub fn key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let mut values = headers.get_all(HEADER).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let text = value.to_str().unwrap_or_default().trim();
    let text = text
        .strip_prefix('"')
        .and_then(|text| text.strip_suffix('"'))
        .unwrap_or(text);
    let is_key = (1..=LONGEST).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'"');
    if is_key && values.next().is_none() {
        return Ok(Some(text.to_owned()));
    }
    let detail =
        format!("Idempotency-Key is not one text of 1 to {LONGEST} letters, digits and signs");
    Err(Problem::bad_request("invalid-idempotency-key", detail))
}

impl InFlight {
    /// Begins the request with `key` and `body`; refuses it while another with its key is being done.
    pub fn begin(
        &self,
        key: String,
        envelopes: &[Envelope],
        body: &[u8],
    ) -> Result<KeyedRequest, Problem> {
        let mut workspaces = envelopes.iter().map(|envelope| &envelope.workspace);
        let workspace = workspaces.next().cloned();
        let workspace = workspace.filter(|first| workspaces.all(|other| other == first));
        let Some(workspace) = workspace else {
            let detail = "a request with an Idempotency-Key may be of one workspace only";
            return Err(Problem::bad_request("invalid-idempotency-key", detail));
        };
        let key = (workspace, key);
        let is_new = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(key.clone());
        if !is_new {
            let detail = "a request with this Idempotency-Key is being done; try again later";
            return Err(Problem::new(
                StatusCode::CONFLICT,
                "request-in-flight",
                detail,
            ));
        }
        Ok(KeyedRequest {
            key,
            fingerprint: xxh3_128(body).to_be_bytes().to_vec(),
            in_flight: self.clone(),
        })
    }
}

impl Drop for KeyedRequest {
    fn drop(&mut self) {
        let mut in_flight = self
            .in_flight
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        in_flight.remove(&self.key);
    }
}

impl KeyedRequest {
    /// The answer of `done`, which had the same key; another request may not have it.
    pub fn repeat(&self, done: &DoneRequest) -> Result<serde_json::Value, Problem> {
        if done.fingerprint == self.fingerprint {
            return Ok(done.answer.clone());
        }
        let detail = "another request, with another body, was done with this Idempotency-Key";
        Err(Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency-key-reused",
            detail,
        ))
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn envelope(workspace: &str) -> Envelope {
        Envelope {
            workspace: workspace.parse().unwrap(),
            connection: "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap(),
            frames: Vec::new(),
        }
    }

    #[test]
    fn a_key_is_one_text_with_or_without_quotes() {
        let of = |value: &str| {
            let value = HeaderValue::from_str(value).unwrap();
            super::key(&HeaderMap::from_iter([(HEADER.parse().unwrap(), value)]))
        };
        assert_eq!(super::key(&HeaderMap::new()).unwrap(), None);
        for text in ["8e03-97", "\"8e03-97\""] {
            assert_eq!(of(text).unwrap().as_deref(), Some("8e03-97"));
        }
        for text in ["", "\"\"", "a b", "ä", &"k".repeat(256)] {
            assert_eq!(of(text).unwrap_err().status, 400, "{text}");
        }
    }

    #[test]
    fn a_key_is_in_flight_until_its_request_is_over() {
        let in_flight = InFlight::default();
        let begin = |workspace| in_flight.begin("k".to_owned(), &[envelope(workspace)], b"1");
        let first = begin("a").unwrap();
        assert_eq!(begin("a").unwrap_err().status, 409);
        assert!(begin("b").is_ok(), "keys of workspaces are apart");
        drop(first);
        assert!(begin("a").is_ok());
        let two = [envelope("a"), envelope("b")];
        assert_eq!(
            in_flight
                .begin("x".to_owned(), &two, b"1")
                .unwrap_err()
                .status,
            400
        );
    }

    #[test]
    fn a_key_stands_for_one_body() {
        let in_flight = InFlight::default();
        let begin = |body: &[u8]| in_flight.begin("k".to_owned(), &[envelope("a")], body);
        let first = begin(b"1").unwrap();
        let done = DoneRequest {
            fingerprint: first.fingerprint.clone(),
            answer: serde_json::json!({"frames": []}),
        };
        drop(first);
        assert_eq!(begin(b"1").unwrap().repeat(&done), Ok(done.answer.clone()));
        assert_eq!(begin(b"2").unwrap().repeat(&done).unwrap_err().status, 422);
    }
}
