//! How Samsara is asked: by a cursor for each three types.
//!
//! The first answer holds the last known values. A cursor that is empty is none: where the provider
//! has nothing more to give, some of its endpoints answer so, and keeping it would start all over.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::{GPS_ODOMETER, OBD_ODOMETER, Settings};
use crate::interpret::feed::{self, Access, Failure, Feed, Page, RateLimit, Request, Response};
use crate::interpret::json;

/// How many types the provider takes at once.
const TYPES: usize = 3;

/// How long to wait where nothing more is there.
const SETTLE: Duration = Duration::from_secs(5);

/// What joins a feed's types in its name.
const JOINT: &str = "+";

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    data: Vec<&'a RawValue>,
    pagination: Option<Pagination>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    end_cursor: Option<String>,
    has_next_page: Option<bool>,
}

impl Settings {
    /// The types, three by three, in the order in which they are written. The two odometers stay
    /// together: which of them counts is decided within a record.
    fn feeds(&self) -> Vec<Vec<&str>> {
        let mut feeds = Vec::<Vec<&str>>::new();
        let mut placed = Vec::new();
        for kind in self.types.iter().map(String::as_str) {
            if placed.contains(&kind) {
                continue;
            }
            let other = match kind {
                OBD_ODOMETER => Some(GPS_ODOMETER),
                GPS_ODOMETER => Some(OBD_ODOMETER),
                _ => None,
            };
            let other = other.filter(|other| self.types.iter().any(|kind| kind == other));
            let unit: Vec<_> = std::iter::once(kind).chain(other).collect();
            placed.extend(&unit);
            match feeds.last_mut() {
                Some(feed) if feed.len() + unit.len() <= TYPES => feed.extend(unit),
                _ => feeds.push(unit),
            }
        }
        feeds
    }
}

fn stored(cursor: Option<&Value>) -> Option<&str> {
    cursor
        .and_then(Value::as_str)
        .filter(|cursor| !cursor.is_empty())
}

impl Feed for Settings {
    fn names(&self) -> Vec<String> {
        let names = self.feeds().into_iter().map(|mut types| {
            types.sort_unstable();
            types.join(JOINT)
        });
        names.collect()
    }

    fn limit(&self, _feed: &str) -> RateLimit {
        RateLimit {
            pool: "stats",
            requests: self.requests_per_second,
            period: Duration::from_secs(1),
        }
    }

    fn request(
        &self,
        feed: &str,
        cursor: Option<&Value>,
        access: &Access<'_>,
        _now: DateTime<Utc>,
    ) -> Request {
        let mut request = Request::get("/fleet/vehicles/stats/feed");
        request.query.push(("types", feed.replace(JOINT, ",")));
        if !self.tag_ids.is_empty() {
            request.query.push(("tagIds", self.tag_ids.join(",")));
        }
        if let Some(limit) = self.limit {
            request.query.push(("limit", limit.to_string()));
        }
        if let Some(cursor) = stored(cursor) {
            request.query.push(("after", cursor.to_owned()));
        }
        request
            .headers
            .push(("accept", "application/json".to_owned()));
        if let Some(credential) = access.credential {
            let shown = format!("Bearer {credential}");
            request.headers.push(("authorization", shown));
        }
        request
    }

    fn read(
        &self,
        _feed: &str,
        cursor: Option<&Value>,
        response: &Response,
    ) -> Result<Page, Failure> {
        if let Some(failure) = feed::failure(response) {
            return Err(failure);
        }
        let answer: Answer<'_> = serde_json::from_slice(&response.body)
            .map_err(|error| Failure::Unreadable(error.to_string()))?;
        let (end, has_next) = answer.pagination.map_or((None, false), |found| {
            (found.end_cursor, found.has_next_page == Some(true))
        });
        let end = end.filter(|end| !end.is_empty());
        // Who says "more" and stays where they are is asked again, but not at once.
        let more = has_next && end.is_some() && end.as_deref() != stored(cursor);
        let read_until = if more {
            answer.data.last().and_then(|record| newest(record))
        } else {
            Some(response.received_at)
        };
        Ok(Page {
            frames: answer
                .data
                .iter()
                .map(|record| feed::frame(record))
                .collect(),
            cursor: end.map(Value::from),
            more,
            wait: (!more).then_some(SETTLE),
            read_until,
            skipped: None,
            budget: feed::budget(response),
        })
    }
}

/// When the latest of a record's readings was observed.
fn newest(record: &RawValue) -> Option<DateTime<Utc>> {
    let record: Value = serde_json::from_str(record.get()).ok()?;
    let readings = record.as_object()?.values().flat_map(super::readings);
    readings
        .filter_map(|reading| json::rfc3339("time", reading.get("time")).ok())
        .max()
}
