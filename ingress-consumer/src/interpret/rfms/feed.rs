//! How rFMS is asked: first for the latest record of each vehicle, then for all that the server
//! received since.
//!
//! The server's clock is the cursor: `requestServerDateTime` is where the next run starts. A run of
//! several pages follows the server's link. Where there is none it goes on from the second that the
//! page ended in, so that no record of that second is missed; some come twice, which does no harm.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Auth, FeedName, Settings};
use crate::interpret::feed::{self, Access, Failure, Feed, Page, RateLimit, Request, Response};
use crate::interpret::json;

impl FeedName {
    const ALL: [Self; 2] = [Self::Statuses, Self::Positions];

    const fn name(self) -> &'static str {
        match self {
            Self::Statuses => "statuses",
            Self::Positions => "positions",
        }
    }

    /// The feed called `name`; nobody asks for another one than those in [`Feed::names`].
    fn of(name: &str) -> Self {
        let found = Self::ALL.into_iter().find(|feed| feed.name() == name);
        found.unwrap_or(Self::Statuses)
    }

    const fn resource(self) -> &'static str {
        match self {
            Self::Statuses => "/vehiclestatuses",
            Self::Positions => "/vehiclepositions",
        }
    }

    const fn media_type(self) -> &'static str {
        match self {
            Self::Statuses => "application/json; rfms=vehiclestatuses.v4.0",
            Self::Positions => "application/json; rfms=vehiclepositions.v4.0",
        }
    }

    /// The example of the standard.
    const fn usual_requests(self) -> u32 {
        match self {
            Self::Statuses => 30,
            Self::Positions => 60,
        }
    }
}

/// Where a feed is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    /// What is read.
    run: Run,
    /// The query of the server's link to the next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<String>,
}

/// A run of pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Run {
    /// The latest record of each vehicle.
    Latest {
        /// The vehicle that the page before ended with.
        after: Option<String>,
        /// The server's time at the first page: vehicles of that page may have reported since.
        begun: Option<DateTime<Utc>>,
    },
    /// All records that the server received since.
    Since(DateTime<Utc>),
}

impl Default for Run {
    fn default() -> Self {
        Self::Latest {
            after: None,
            begun: None,
        }
    }
}

/// What of an answer matters for asking on.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    vehicle_status_response: Option<Records<'a>>,
    #[serde(borrow)]
    vehicle_position_response: Option<Records<'a>>,
    more_data_available: Option<bool>,
    more_data_available_link: Option<String>,
    request_server_date_time: Option<String>,
}

#[derive(Deserialize)]
struct Records<'a> {
    #[serde(borrow, default, alias = "vehicleStatuses", alias = "vehiclePositions")]
    records: Option<Vec<&'a RawValue>>,
}

/// What of a record matters for asking on.
#[derive(Default)]
struct Mark {
    vin: Option<String>,
    received: Option<DateTime<Utc>>,
}

impl Mark {
    fn of(record: &RawValue) -> Self {
        let record = serde_json::from_str::<Value>(record.get()).unwrap_or_default();
        let text = |key| record.get(key).and_then(Value::as_str);
        Self {
            vin: text("vin").map(str::to_owned),
            received: text("receivedDateTime").and_then(time),
        }
    }
}

fn time(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text.trim()).ok()?;
    json::plausible_time(Some(at.to_utc()))
}

impl Cursor {
    /// A cursor that cannot be read is as good as none: the latest records are asked for.
    fn of(stored: Option<&Value>) -> Self {
        let read = stored.and_then(|stored| Self::deserialize(stored).ok());
        read.unwrap_or_default()
    }

    fn store(&self) -> Option<Value> {
        serde_json::to_value(self).ok()
    }

    /// The page after the one that ended with `last`, unless the server gives no way to get there.
    fn next_page(&self, answer: &Answer<'_>, last: &Mark) -> Option<Self> {
        let link = answer.more_data_available_link.as_deref().and_then(query);
        // A link to the page that it stands on leads nowhere.
        let link = link.filter(|link| self.link.as_ref() != Some(link));
        let run = match &self.run {
            Run::Latest { after, begun } => {
                let vin = last.vin.clone().filter(|vin| Some(vin) != after.as_ref());
                if link.is_none() && vin.is_none() {
                    return None;
                }
                Run::Latest {
                    after: vin.or_else(|| after.clone()),
                    begun: begun.or_else(|| answer.server_time()),
                }
            }
            Run::Since(start) => match last.received {
                Some(received) if received.timestamp() > start.timestamp() => Run::Since(received),
                // The whole page lies within the second that was asked for, or before it.
                Some(_) if link.is_none() => {
                    Run::Since(start.checked_add_signed(TimeDelta::seconds(1))?)
                }
                None if link.is_none() => return None,
                _ => Run::Since(*start),
            },
        };
        Some(Self { run, link })
    }

    /// What going on to `next` may pass over: of a second that fills a page, there is no way to the
    /// rest without a link.
    fn skipped(&self, next: &Self, last: &Mark) -> Option<String> {
        let (Run::Since(start), None, Some(received)) = (&self.run, &next.link, last.received)
        else {
            return None;
        };
        (received.timestamp() <= start.timestamp()).then(|| {
            let second = start.to_rfc3339_opts(SecondsFormat::Secs, true);
            format!("what else was received in the second from {second}")
        })
    }

    /// The run after this one, which ended with `last`.
    fn next_run(&self, answer: &Answer<'_>, last: &Mark) -> Option<Self> {
        let begun = match &self.run {
            Run::Latest { begun, .. } => *begun,
            Run::Since(_) => None,
        };
        let start = begun.or_else(|| answer.server_time()).or(last.received)?;
        Some(Self {
            run: Run::Since(start),
            link: None,
        })
    }
}

impl Answer<'_> {
    fn server_time(&self) -> Option<DateTime<Utc>> {
        self.request_server_date_time.as_deref().and_then(time)
    }
}

/// The query of a link. The rest of it is known, and a server's word shall not send the credential
/// to another place.
fn query(link: &str) -> Option<String> {
    let (_, query) = link.split_once('?')?;
    let query = query.split('#').next()?;
    let is_query = !query.is_empty() && query.bytes().all(|byte| byte.is_ascii_graphic());
    is_query.then(|| query.to_owned())
}

/// A refusal for too many requests says when there may be more by one header or by another.
fn until_reset(failure: Failure, response: &Response) -> Failure {
    match failure {
        Failure::Limited { retry_after: None } => {
            let reset = feed::budget(response).map(|budget| budget.reset_at);
            let wait = reset.and_then(|at| (at - response.received_at).to_std().ok());
            Failure::Limited { retry_after: wait }
        }
        other => other,
    }
}

impl Feed for Settings {
    fn names(&self) -> Vec<String> {
        let names = self.feeds.iter().map(|feed| feed.name().to_owned());
        names.collect()
    }

    fn limit(&self, feed: &str) -> RateLimit {
        let feed = FeedName::of(feed);
        let own = self.requests_per_minute.get(&feed).copied();
        RateLimit {
            pool: feed.name(),
            requests: own.unwrap_or_else(|| feed.usual_requests()),
            period: Duration::from_mins(1),
        }
    }

    fn request(
        &self,
        feed: &str,
        cursor: Option<&Value>,
        access: &Access<'_>,
        _now: DateTime<Utc>,
    ) -> Request {
        let feed = FeedName::of(feed);
        let path = format!("{}{}", self.path_prefix, feed.resource());
        let cursor = Cursor::of(cursor);
        let mut request = match &cursor.link {
            Some(query) => Request::get(format!("{path}?{query}")),
            None => Request {
                query: self.query(feed, &cursor.run),
                ..Request::get(path)
            },
        };
        let own = self.media_type.get(&feed).cloned();
        let accept = own.unwrap_or_else(|| feed.media_type().to_owned());
        request.headers.push(("accept", accept));
        if let Some(credential) = access.credential {
            let shown = match self.auth {
                Auth::Bearer => format!("Bearer {credential}"),
                Auth::Basic => format!("Basic {}", STANDARD.encode(credential)),
            };
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
            return Err(until_reset(failure, response));
        }
        let answer: Answer<'_> = serde_json::from_slice(&response.body)
            .map_err(|error| Failure::Unreadable(error.to_string()))?;
        let records = (answer.vehicle_status_response.as_ref())
            .or(answer.vehicle_position_response.as_ref())
            .ok_or_else(|| Failure::Unreadable("it holds no records".to_owned()))?;
        let records = records.records.as_deref().unwrap_or_default();
        let cursor = Cursor::of(cursor);
        let mut last = records.last().map_or_else(Mark::default, |r| Mark::of(r));
        let claims_more = answer.more_data_available == Some(true);
        if claims_more && last.received.is_none() {
            last.received = records.iter().filter_map(|r| Mark::of(r).received).max();
        }
        let next_page = claims_more
            .then(|| cursor.next_page(&answer, &last))
            .flatten();
        let more = next_page.is_some();
        let skipped = next_page
            .as_ref()
            .and_then(|next| cursor.skipped(next, &last));
        // What the server has, and gives no way to, is asked for again; it is not passed over.
        if claims_more && !more && matches!(cursor.run, Run::Since(_)) {
            let detail = "moreDataAvailable is true, but neither a link nor a receivedDateTime \
                          leads to what follows";
            return Err(Failure::Unreadable(detail.to_owned()));
        }
        let read_until = if more {
            last.received
        } else {
            answer.server_time()
        };
        Ok(Page {
            frames: records.iter().map(|record| feed::frame(record)).collect(),
            cursor: next_page
                .or_else(|| cursor.next_run(&answer, &last))
                .and_then(|cursor| cursor.store()),
            more,
            wait: None,
            read_until,
            skipped,
            budget: feed::budget(response),
        })
    }
}

impl Settings {
    /// What is asked for: either the latest records or those since, never both.
    fn query(&self, feed: FeedName, run: &Run) -> Vec<(&'static str, String)> {
        let mut query = match run {
            Run::Latest { after, .. } => {
                let mut query = vec![("latestOnly", "true".to_owned())];
                query.extend(after.clone().map(|vin| ("lastVin", vin)));
                query
            }
            // Fractions of a second are ignored.
            Run::Since(start) => vec![(
                "starttime",
                start.to_rfc3339_opts(SecondsFormat::Secs, true),
            )],
        };
        if feed == FeedName::Statuses {
            query.extend(self.content_filter.clone().map(|it| ("contentFilter", it)));
        }
        query.extend(
            self.additional_content
                .clone()
                .map(|it| ("additionalContent", it)),
        );
        query
    }
}
