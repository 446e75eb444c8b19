//! The core's log API, as a projection asks it; see [`shared_model::log`].

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf, Bytes, BytesMut};
use reqwest::{Client, Response, StatusCode, Url};
use runtime::access::InternalToken;
use serde::de::DeserializeOwned;
use shared_model::event::CONTENT_TYPE;
use shared_model::log::{LogState, Progress, StatePage};

use crate::batch::Message;
use crate::offsets::message_id;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the core may take between two pieces of an answer.
const SILENCE_LIMIT: Duration = Duration::from_secs(20);
/// No event is nearly as large; what is, is no event.
const MOST_LINE_BYTES: usize = 64 * 1024 * 1024;
/// How many vehicles and connections one page holds.
const PAGE: &str = "1000";

/// Why the core has not answered what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoreError {
    /// There is no answer, or it ends before its time.
    #[error("the core does not answer")]
    Away(#[from] reqwest::Error),
    /// The log no longer holds what was asked for.
    #[error("the log no longer holds what follows offset {after} of shard {shard}")]
    Gone {
        /// The shard.
        shard: u32,
        /// The offset.
        after: u64,
    },
    /// The core answered with an error.
    #[error("the core answered {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What the core says about it.
        detail: String,
    },
    /// The log is another than the one that was applied.
    #[error("the log was restored: {0}")]
    Restored(String),
    /// The answer is not what it should be.
    #[error("the core's answer cannot be read")]
    Unreadable(#[from] serde_json::Error),
    /// A line without end.
    #[error("the core's answer holds a line of more than {MOST_LINE_BYTES} bytes")]
    TooLong,
}

/// The core's log API.
#[derive(Debug, Clone)]
pub(crate) struct CoreLog {
    client: Client,
    base: Url,
}

impl CoreLog {
    /// The API of the core at `base`.
    pub(crate) fn new(base: &str, token: &InternalToken) -> anyhow::Result<Self> {
        let mut base = Url::parse(base).context("core.url is no URL")?;
        base.path_segments_mut()
            .ok()
            .context("core.url cannot have a path")?
            .pop_if_empty()
            .extend(["internal", "v1"]);
        // The core is a neighbour: a proxy for the way out does not lead to it.
        let client = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .read_timeout(SILENCE_LIMIT)
            .no_proxy()
            .default_headers(token.headers()?)
            .build()?;
        Ok(Self { client, base })
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path);
        }
        url
    }

    /// Says how far the subscriber called `name` has come, and asks where the log stands.
    pub(crate) async fn report(
        &self,
        name: &str,
        progress: &Progress,
    ) -> Result<LogState, CoreError> {
        let url = self.url(&["subscribers", name]);
        json(self.client.put(url).json(progress).send().await?).await
    }

    /// Says that the subscriber called `name` has begun anew: `progress` is all that it has.
    pub(crate) async fn report_anew(
        &self,
        name: &str,
        progress: &Progress,
    ) -> Result<LogState, CoreError> {
        let mut url = self.url(&["subscribers", name]);
        url.query_pairs_mut().append_pair("reset", "true");
        json(self.client.put(url).json(progress).send().await?).await
    }

    /// Where the log stands.
    pub(crate) async fn state(&self) -> Result<LogState, CoreError> {
        json(self.client.get(self.url(&["log"])).send().await?).await
    }

    /// A page of what the core knows, behind a cursor.
    pub(crate) async fn page(&self, after: Option<&str>) -> Result<StatePage, CoreError> {
        let mut url = self.url(&["state"]);
        url.query_pairs_mut().append_pair("limit", PAGE);
        if let Some(after) = after {
            url.query_pairs_mut().append_pair("after", after);
        }
        json(self.client.get(url).send().await?).await
    }

    /// The events `range` of a shard, as far as they are there.
    pub(crate) async fn read(
        &self,
        shard: u32,
        range: RangeInclusive<u64>,
    ) -> Result<Events, CoreError> {
        let after = range.start().saturating_sub(1);
        let limit = range.end() - after;
        let mut url = self.url(&["log", &shard.to_string()]);
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("limit", &limit.to_string());
        let answer = self.client.get(url).send().await?;
        if answer.status() == StatusCode::GONE {
            return Err(CoreError::Gone { shard, after });
        }
        Ok(Events {
            answer: accepted(answer).await?,
            taken: BytesMut::new(),
            shard,
            next: after + 1,
            left: limit,
        })
    }
}

/// Events of one shard, read from the core piece by piece.
#[derive(Debug)]
pub(crate) struct Events {
    answer: Response,
    taken: BytesMut,
    shard: u32,
    next: u64,
    left: u64,
}

impl Events {
    /// The next events as messages of one event each, up to `most` and about `bytes`; none after the
    /// last. The log is dense, so an event's place in the answer names its offset.
    pub(crate) async fn next(
        &mut self,
        most: usize,
        bytes: usize,
    ) -> Result<Vec<Message>, CoreError> {
        let mut messages = Vec::new();
        let mut held = 0;
        while messages.len() < most && held < bytes && self.left > 0 {
            let Some(line) = self.line().await? else {
                break;
            };
            held += line.len();
            messages.push(Message {
                content_type: CONTENT_TYPE.to_owned(),
                id: message_id(self.shard, self.next, self.next),
                body: line,
            });
            self.next += 1;
            self.left -= 1;
        }
        Ok(messages)
    }

    async fn line(&mut self) -> Result<Option<Bytes>, CoreError> {
        let mut searched = 0;
        loop {
            if let Some(end) = self.taken[searched..]
                .iter()
                .position(|byte| *byte == b'\n')
            {
                let line = self.taken.split_to(searched + end).freeze();
                self.taken.advance(1);
                return Ok(Some(line));
            }
            searched = self.taken.len();
            if searched > MOST_LINE_BYTES {
                return Err(CoreError::TooLong);
            }
            match self.answer.chunk().await? {
                Some(chunk) => self.taken.extend_from_slice(&chunk),
                None if self.taken.is_empty() => return Ok(None),
                None => return Ok(Some(self.taken.split().freeze())),
            }
        }
    }
}

async fn json<T: DeserializeOwned>(answer: Response) -> Result<T, CoreError> {
    let body = accepted(answer).await?.bytes().await?;
    Ok(serde_json::from_slice(&body)?)
}

/// The answer, if it is no error.
async fn accepted(answer: Response) -> Result<Response, CoreError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let detail = match answer.json::<runtime::http::Problem>().await {
        Ok(problem) => problem.detail,
        Err(_) => "without saying why".to_owned(),
    };
    Err(match status {
        StatusCode::CONFLICT => CoreError::Restored(detail),
        status => CoreError::Refused { status, detail },
    })
}
