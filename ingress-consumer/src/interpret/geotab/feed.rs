//! How Geotab is asked: a session, and records by version.
//!
//! Every call is a POST to one address, and errors come as HTTP 200 with a type in them, which alone
//! decides what they mean. A session belongs to a server, which the provider names when it is opened.
//! Versions grow with what the server receives, not with when it was observed.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::{FeedName, Settings};
use crate::interpret::feed::{self, Access, Failure, Feed, Page, RateLimit, Request, Response};

const PATH: &str = "/apiv1";

/// How long to wait after a page that was not full, but not nearly empty either.
const SETTLE: Duration = Duration::from_secs(1);

impl FeedName {
    const fn name(self) -> &'static str {
        match self {
            Self::LogRecord => "LogRecord",
            Self::StatusData => "StatusData",
        }
    }
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    credentials: Value,
    /// Where it is, if not where it was opened.
    base: Option<String>,
}

#[derive(Deserialize)]
struct Reply<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    error: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Records<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    to_version: Option<String>,
}

#[derive(Deserialize)]
struct Opened {
    credentials: Map<String, Value>,
    path: Option<String>,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Authenticate,
    Data,
}

/// The parts of `database/user:password`; a password may hold either sign.
fn parts(credential: &str) -> Option<(&str, &str, &str)> {
    let (database, rest) = credential.split_once('/')?;
    let (user, password) = rest.split_once(':')?;
    Some((database, user, password))
}

/// The result in an answer to `call`.
fn result(response: &Response, call: Call) -> Result<&RawValue, Failure> {
    if let Some(failure) = feed::failure(response) {
        return Err(failure);
    }
    if response.body.trim_ascii_start().starts_with(b"<") {
        // A load balancer that has no server to pass the call to.
        return Err(Failure::Passing("a page instead of an answer".to_owned()));
    }
    let reply: Reply<'_> = serde_json::from_slice(&response.body)
        .map_err(|error| Failure::Unreadable(error.to_string()))?;
    if let Some(error) = &reply.error {
        return Err(failure(error, response, call));
    }
    reply
        .result
        .ok_or_else(|| Failure::Unreadable("it holds neither a result nor an error".to_owned()))
}

/// What an error means, by its type.
fn failure(error: &Value, response: &Response, call: Call) -> Failure {
    let first = error.pointer("/errors/0/name");
    let kind = error.pointer("/data/type").or(first);
    let kind = kind.and_then(Value::as_str).unwrap_or("an untyped error");
    let message = error.get("message").and_then(Value::as_str);
    let said: String = format!("{kind}: {}", message.unwrap_or_default())
        .chars()
        .take(200)
        .collect();
    match kind {
        "OverLimitException" => Failure::Limited {
            retry_after: feed::retry_after(response),
        },
        "InvalidUserException" if call == Call::Data => Failure::SessionOver(said),
        "InvalidUserException" => Failure::Refused(format!(
            "{said}; the credential is written database/user:password"
        )),
        "ArgumentException"
        | "ArgumentNullException"
        | "InvalidCastException"
        | "InvalidPermissionsException"
        | "JsonSerializerException"
        | "MissingMemberException"
        | "MissingMethodException" => Failure::FeedRefused(said),
        // The database that is away is one of many troubles of the server's own.
        _ => Failure::Passing(said),
    }
}

/// Where the session's server is, by the name that the provider gives for it.
fn base(path: Option<&str>) -> Result<Option<String>, Failure> {
    match path {
        None | Some("" | "ThisServer") => Ok(None),
        Some(host) => {
            let is_host = host
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b".-:".contains(&byte));
            if !is_host {
                let detail = "the session's path is no server's name";
                return Err(Failure::Unreadable(detail.to_owned()));
            }
            Ok(Some(format!("https://{host}")))
        }
    }
}

impl Feed for Settings {
    fn names(&self) -> Vec<String> {
        let names = self.feeds.iter().map(|feed| feed.name().to_owned());
        names.collect()
    }

    fn limit(&self, feed: &str) -> RateLimit {
        let pool = match feed {
            "LogRecord" => "GetFeed LogRecord",
            _ => "GetFeed StatusData",
        };
        RateLimit {
            pool,
            requests: self.requests_per_minute,
            period: Duration::from_mins(1),
        }
    }

    fn authenticate(&self, credential: &str) -> Option<Request> {
        // What cannot be taken apart is not sent at all: it is refused, and the refusal tells the form.
        let (database, user, password) = parts(credential).unwrap_or_default();
        let body = json!({
            "method": "Authenticate",
            "params": {"database": database, "userName": user, "password": password},
        });
        Some(Request::post(PATH, body))
    }

    fn session(&self, response: &Response) -> Result<Value, Failure> {
        let opened: Opened = serde_json::from_str(result(response, Call::Authenticate)?.get())
            // Without the text itself: the session's id is in it.
            .map_err(|_| Failure::Unreadable("it holds no session".to_owned()))?;
        if !opened.credentials.contains_key("sessionId") {
            return Err(Failure::Unreadable("it holds no session".to_owned()));
        }
        let session = Session {
            credentials: Value::Object(opened.credentials),
            base: base(opened.path.as_deref())?,
        };
        serde_json::to_value(session).map_err(|error| Failure::Unreadable(error.to_string()))
    }

    fn request(
        &self,
        feed: &str,
        cursor: Option<&Value>,
        access: &Access<'_>,
        _now: DateTime<Utc>,
    ) -> Request {
        let mut params = json!({"typeName": feed, "resultsLimit": self.results_limit});
        match (version(cursor), self.from_date) {
            (Some(version), _) => params["fromVersion"] = json!(version),
            // Without a date, the first answer is empty and says where now is.
            (None, Some(date)) => {
                let date = date.to_rfc3339_opts(SecondsFormat::Millis, true);
                params["search"] = json!({ "fromDate": date });
            }
            (None, None) => {}
        }
        let session = access
            .session
            .and_then(|session| Session::deserialize(session).ok());
        let mut base = None;
        if let Some(session) = session {
            params["credentials"] = session.credentials;
            base = session.base;
        }
        Request {
            base,
            ..Request::post(PATH, json!({"method": "GetFeed", "params": params}))
        }
    }

    fn read(
        &self,
        _feed: &str,
        cursor: Option<&Value>,
        response: &Response,
    ) -> Result<Page, Failure> {
        let records: Records<'_> = serde_json::from_str(result(response, Call::Data)?.get())
            .map_err(|error| Failure::Unreadable(error.to_string()))?;
        let reached = records.to_version.filter(|version| !version.is_empty());
        let (held, limit) = (records.data.len() as u64, u64::from(self.results_limit));
        let moves = reached.is_some() && reached.as_deref() != version(cursor);
        // A page that is half full may be all that the provider puts into one.
        let more = moves && held * 2 >= limit;
        let wait = (more && held < limit).then_some(SETTLE);
        let read_until = if more {
            records.data.iter().filter_map(|record| time(record)).max()
        } else {
            Some(response.received_at)
        };
        Ok(Page {
            frames: records
                .data
                .iter()
                .map(|record| feed::frame(record))
                .collect(),
            cursor: reached.map(Value::from),
            more,
            wait,
            read_until,
            skipped: None,
            budget: feed::budget(response),
        })
    }
}

fn version(cursor: Option<&Value>) -> Option<&str> {
    cursor
        .and_then(Value::as_str)
        .filter(|version| !version.is_empty())
}

/// When a record was observed, if it says so.
fn time(record: &RawValue) -> Option<DateTime<Utc>> {
    let record: Map<String, Value> = serde_json::from_str(record.get()).ok()?;
    super::observed_at(&record).ok().flatten()
}
