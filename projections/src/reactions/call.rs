//! One call of a webhook: the request, signed, and what came back.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use reqwest::header::{CONTENT_TYPE, USER_AGENT};
use reqwest::{Client, Response};
use runtime::outbound::{self, NotAllowed};
use runtime::telemetry;
use tokio::time::timeout;

use super::address;
use super::config::WebhooksConfig;
use super::schedule::Outcome;
use super::store::sending::Claimed;

/// How long to wait for the part of an answer that is kept. Its status is known by then.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const AGENT: &str = concat!("Headrace/", env!("CARGO_PKG_VERSION"));

/// The way out, and its limits.
#[derive(Debug)]
pub(super) struct Caller {
    /// Connects only to addresses that may be called.
    pub(super) client: Client,
    pub(super) config: Arc<WebhooksConfig>,
}

/// What came of a call.
#[derive(Debug)]
pub(super) struct Called {
    pub(super) outcome: Outcome,
    pub(super) error: Option<String>,
    /// The beginning of the answer.
    pub(super) response: Option<String>,
}

/// What an endpoint knows the event by: the same at each attempt, so that it can tell a repetition.
pub(super) fn webhook_id(endpoint: uuid::Uuid, event: &str) -> String {
    format!("{endpoint}:{event}")
}

/// One signature for each secret that is in force, separated by spaces.
fn signatures(claimed: &Claimed, id: &str, timestamp: i64) -> String {
    let sign = |secret: &super::secret::Secret| secret.sign(id, timestamp, &claimed.body);
    let mut signatures = sign(&claimed.secret);
    if let Some(previous) = &claimed.previous {
        signatures.push(' ');
        signatures.push_str(&sign(previous));
    }
    signatures
}

impl Caller {
    /// Calls the endpoint of `claimed`.
    pub(super) async fn call(&self, claimed: &Claimed, now: DateTime<Utc>) -> Called {
        let failed = |outcome, error: String| Called {
            outcome,
            error: Some(error),
            response: None,
        };
        // The rules may have become stricter since the URL was taken.
        if let Some(complaint) = address::complaint(&claimed.url, &self.config) {
            return failed(Outcome::NotAllowed, complaint);
        }
        let id = webhook_id(claimed.endpoint, &claimed.event);
        let timestamp = now.timestamp();
        let request = self
            .client
            .post(&claimed.url)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, AGENT)
            .header("webhook-id", &id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signatures(claimed, &id, timestamp))
            .body(claimed.body.clone());
        match timeout(self.config.timeout, request.send()).await {
            Err(_) => failed(
                Outcome::TimedOut,
                format!("no answer within {:?}", self.config.timeout),
            ),
            Ok(Err(error)) => {
                let outcome = if NotAllowed::is_behind(&error) {
                    Outcome::NotAllowed
                } else if error.is_timeout() {
                    Outcome::TimedOut
                } else {
                    Outcome::Unreachable
                };
                // The URL may hold what is nobody's business, and is known anyway.
                failed(outcome, telemetry::chain(&error.without_url()).to_string())
            }
            Ok(Ok(response)) => {
                let outcome = Outcome::Answered {
                    status: response.status().as_u16(),
                    retry_after: outbound::retry_after(response.headers(), now),
                };
                let error = (!outcome.is_success())
                    .then(|| format!("the receiver answered {}", response.status()));
                Called {
                    outcome,
                    error,
                    response: Some(self.beginning(response).await),
                }
            }
        }
    }

    /// The beginning of the answer's body; the rest is not read.
    async fn beginning(&self, mut response: Response) -> String {
        let mut bytes = Vec::new();
        let reading = async {
            while bytes.len() < self.config.answer_bytes {
                // What breaks off has said all that it will.
                let Ok(Some(chunk)) = response.chunk().await else {
                    break;
                };
                bytes.extend_from_slice(&chunk);
            }
        };
        // An answer without end is cut off like a long one.
        if timeout(ANSWER_LIMIT, reading).await.is_err() {
            tracing::debug!("an answer's body did not end in time");
        }
        bytes.truncate(self.config.answer_bytes);
        // PostgreSQL's text holds no NUL.
        String::from_utf8_lossy(&bytes).replace('\0', "\u{fffd}")
    }
}
