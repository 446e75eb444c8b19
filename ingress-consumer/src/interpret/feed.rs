//! Feeds: how a polled provider is asked and what its answers mean, as pure functions. The client
//! around them does the I/O, keeps cursors and sessions, and paces.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use shared_model::settings;

/// Settings that every connection of kind `poll` has, whatever its provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollSettings {
    /// How long after a run that found the feed up to date the next one is due; 1 s to 1 day.
    #[serde(default = "minute", with = "humantime_serde")]
    pub interval: Duration,
}

const fn minute() -> Duration {
    Duration::from_mins(1)
}

const KEYS: [&str; 1] = ["interval"];

impl PollSettings {
    /// Takes these settings out of a connection's; what is left is the provider's. The error says
    /// what to write.
    pub fn split(settings: &Value) -> Result<(Self, Value), String> {
        let (own, rest) = settings::take(settings, &KEYS);
        let fix = r#"write "interval": "30s", from 1s to 1day"#;
        let own = Self::deserialize(own).map_err(|error| format!("{error}; {fix}"))?;
        if !(Duration::from_secs(1)..=Duration::from_hours(24)).contains(&own.interval) {
            return Err(format!("interval is {:?}; {fix}", own.interval));
        }
        Ok((own, rest))
    }
}

/// How a polled provider is asked, with a connection's settings.
///
/// A connection has one or more feeds, each with a cursor of its own. A cursor is the provider's: JSON
/// that only its own code reads.
pub trait Feed: fmt::Debug + Send + Sync {
    /// The names of the connection's feeds, at least one. A feed's cursor is kept under its name.
    fn names(&self) -> Vec<String>;

    /// Which budget a request of `feed` is charged to, and how large it is.
    fn limit(&self, feed: &str) -> RateLimit;

    /// What opens a session, where the provider has sessions.
    fn authenticate(&self, _credential: &str) -> Option<Request> {
        None
    }

    /// The session that the answer to [`Feed::authenticate`] opens.
    fn session(&self, _response: &Response) -> Result<Value, Failure> {
        Ok(Value::Null)
    }

    /// What to ask next; `cursor` is `None` at the first time. `now` is by the core's clock.
    fn request(
        &self,
        feed: &str,
        cursor: Option<&Value>,
        access: &Access<'_>,
        now: DateTime<Utc>,
    ) -> Request;

    /// What the answer to a request from `cursor` means.
    fn read(
        &self,
        feed: &str,
        cursor: Option<&Value>,
        response: &Response,
    ) -> Result<Page, Failure>;
}

/// A budget of requests that all connections with the same credential at the same provider share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// The budget's name, such as `positions`.
    pub pool: &'static str,
    /// How many requests there may be in each `period`.
    pub requests: u32,
    /// The period.
    pub period: Duration,
}

/// By what right the provider is asked.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// The credential, where the connection has one.
    pub credential: Option<&'a str>,
    /// The open session, where the provider has sessions.
    pub session: Option<&'a Value>,
}

/// How a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// GET, parameters in the query.
    Get,
    /// POST with a JSON body.
    Post,
}

/// A request.
#[derive(Clone, PartialEq)]
pub struct Request {
    /// GET or POST.
    pub method: Method,
    /// Scheme and host to ask instead of the connection's endpoint.
    pub base: Option<String>,
    /// What follows the endpoint, such as `/vehiclepositions`; may hold a query of its own.
    pub path: String,
    /// Parameters, not encoded yet.
    pub query: Vec<(&'static str, String)>,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// The body of a POST.
    pub body: Option<Value>,
}

impl fmt::Debug for Request {
    /// Headers and body may hold the credential.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path)
            .field("query", &self.query)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// `GET path`, without anything else.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self {
            method: Method::Get,
            base: None,
            path: path.into(),
            query: Vec::new(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// `POST path` with a JSON body.
    #[must_use]
    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self {
            method: Method::Post,
            body: Some(body),
            ..Self::get(path)
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// Headers by name in lower case; those that are text.
    pub headers: Vec<(String, String)>,
    /// The body, whole.
    pub body: Bytes,
    /// When it had arrived, by the core's clock.
    pub received_at: DateTime<Utc>,
}

impl Response {
    /// The header called `name` (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What a page of a feed holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// The records, each byte for byte as it stands in the answer: what the interpreter reads.
    pub frames: Vec<Bytes>,
    /// From where to ask next; `None` leaves the cursor where it is.
    pub cursor: Option<Value>,
    /// Whether there is more already: ask again at once.
    pub more: bool,
    /// How long to wait at the least before the feed is asked again.
    pub wait: Option<Duration>,
    /// Up to when, by the provider's clock, the feed has been read; for the lag behind it.
    pub read_until: Option<DateTime<Utc>>,
    /// What may have been passed over because there is no way to ask for it.
    pub skipped: Option<String>,
    /// What the provider says is left of the budget.
    pub budget: Option<Budget>,
}

/// What is left of a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Requests that are left.
    pub remaining: u32,
    /// When the budget is full again.
    pub reset_at: DateTime<Utc>,
}

/// Why there is no page.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Too many requests.
    #[error("the provider allows no more requests for now")]
    Limited {
        /// For how long, if it says so.
        retry_after: Option<Duration>,
    },
    /// The session is over: open another one and ask again, once.
    #[error("the session is over: {0}")]
    SessionOver(String),
    /// The credential is refused: everything that is asked with it would be too.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// What this feed asks for is refused; other feeds of the connection may be allowed.
    #[error("the provider refuses this feed: {0}")]
    FeedRefused(String),
    /// The provider is in trouble; it may be over it next time.
    #[error("the provider is in trouble: {0}")]
    Passing(String),
    /// The answer is none of the protocol's.
    #[error("the answer cannot be read: {0}")]
    Unreadable(String),
}

/// A record as it stands in an answer, by itself: a page does not stay in memory for one of them.
#[must_use]
pub fn frame(record: &RawValue) -> Bytes {
    Bytes::copy_from_slice(record.get().as_bytes())
}

/// The failure that an HTTP status stands for, whoever the provider is; `None` for a success.
#[must_use]
pub fn failure(response: &Response) -> Option<Failure> {
    let status = response.status;
    let said = || {
        let text: String = String::from_utf8_lossy(&response.body)
            .chars()
            // More than is ever shown: it is cut once the credential is out of it.
            .take(4096)
            .collect();
        format!("HTTP {status}: {text}")
    };
    match status {
        200..=299 => None,
        429 => Some(Failure::Limited {
            retry_after: retry_after(response),
        }),
        // A server that is away for a while may say for how long as well.
        503 if retry_after(response).is_some() => Some(Failure::Limited {
            retry_after: retry_after(response),
        }),
        408 | 500..=599 => Some(Failure::Passing(said())),
        401 => Some(Failure::Refused(said())),
        _ => Some(Failure::FeedRefused(said())),
    }
}

/// `Retry-After`: seconds, whole or with a fraction, or a date.
#[must_use]
pub fn retry_after(response: &Response) -> Option<Duration> {
    const LONGEST: f64 = 86_400.0;
    let text = response.header("retry-after")?.trim();
    let seconds = text.parse::<f64>().ok().or_else(|| {
        let at = DateTime::parse_from_rfc2822(text).ok()?;
        Some((at.to_utc() - response.received_at).as_seconds_f64())
    })?;
    seconds
        .is_finite()
        .then(|| Duration::from_secs_f64(seconds.clamp(0.0, LONGEST)))
}

/// `X-Rate-Limit-Remaining` and `-Reset`; the latter as seconds of the Unix epoch or as a date.
#[must_use]
pub fn budget(response: &Response) -> Option<Budget> {
    let remaining = response.header("x-rate-limit-remaining")?.trim();
    let reset = response.header("x-rate-limit-reset")?.trim();
    let reset_at = match reset.parse::<i64>() {
        Ok(seconds) => DateTime::from_timestamp(seconds, 0)?,
        Err(_) => DateTime::parse_from_rfc3339(reset).ok()?.to_utc(),
    };
    Some(Budget {
        remaining: remaining.parse().ok()?,
        reset_at,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> Response {
        Response {
            status,
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            body: Bytes::from_static(b"said so"),
            received_at: "2026-07-01T12:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_wait_is_whole_seconds_a_fraction_or_a_date() {
        for (text, millis) in [
            ("56", Some(56_000)),
            ("0.40235", Some(402)),
            ("Wed, 01 Jul 2026 12:00:30 GMT", Some(30_000)),
            ("Wed, 01 Jul 2026 11:00:00 GMT", Some(0)),
            ("1e300", Some(86_400_000)),
            ("soon", None),
            ("NaN", None),
        ] {
            let wait = retry_after(&response(429, &[("retry-after", text)]));
            assert_eq!(wait.map(|wait| wait.as_millis()), millis, "{text}");
        }
    }

    #[test]
    fn a_status_says_whether_to_try_again() {
        assert_eq!(failure(&response(200, &[])), None);
        let limited = Failure::Limited { retry_after: None };
        assert_eq!(failure(&response(429, &[])), Some(limited));
        let text = |status| format!("HTTP {status}: said so");
        for status in [500, 408, 503] {
            let found = failure(&response(status, &[]));
            assert_eq!(found, Some(Failure::Passing(text(status))));
        }
        let refused = failure(&response(401, &[]));
        assert_eq!(refused, Some(Failure::Refused(text(401))));
        // No right to one path, or one parameter that is wrong: the others may be well.
        for status in [302, 400, 403, 404] {
            let found = failure(&response(status, &[]));
            assert_eq!(found, Some(Failure::FeedRefused(text(status))));
        }
    }

    #[test]
    fn a_budget_is_reset_at_an_epoch_or_at_a_date() {
        for reset in ["1782907260", "2026-07-01T12:01:00Z"] {
            let answer = response(
                200,
                &[
                    ("x-rate-limit-remaining", "3"),
                    ("x-rate-limit-reset", reset),
                ],
            );
            let budget = budget(&answer).unwrap();
            assert_eq!(budget.remaining, 3);
            assert_eq!(budget.reset_at.timestamp(), 1_782_907_260);
        }
        assert_eq!(budget(&response(200, &[])), None);
    }

    #[test]
    fn the_interval_has_bounds() {
        let (own, rest) = PollSettings::split(&json!({"interval": "30s", "types": []})).unwrap();
        assert_eq!(own.interval.as_secs(), 30);
        assert_eq!(rest, json!({"types": []}));
        for wrong in [
            json!({"interval": "1ms"}),
            json!({"interval": "2days"}),
            json!({"interval": 5}),
        ] {
            let error = PollSettings::split(&wrong).unwrap_err();
            assert!(error.contains("30s"), "{error}");
        }
    }
}
