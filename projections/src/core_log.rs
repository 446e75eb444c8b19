//! The core's log API, as a projection asks it; see [`shared_model::log`].

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf, Bytes, BytesMut};
use reqwest::header::HeaderMap;
use reqwest::{Client, Response, StatusCode, Url};
use runtime::access::InternalToken;
use serde::de::DeserializeOwned;
use shared_model::WorkspaceId;
use shared_model::event::CONTENT_TYPE;
use shared_model::log::{LOG_END, LOG_GENERATION, LogState, Progress, StatePage};

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
    /// An answer of an older core.
    #[error("the core's answer does not say up to where it goes")]
    Unlabelled,
    /// An answer ends before its time.
    #[error("the core's answer is cut off")]
    CutOff,
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
        Ok(Events {
            lines: self.lines(url, shard, after).await?.0,
            shard,
            next: after + 1,
            left: limit,
        })
    }

    /// What is behind an offset: as soon as there is something, or else once `wait` is over.
    pub(crate) async fn follow(
        &self,
        shard: u32,
        after: u64,
        wait: Duration,
    ) -> Result<Stretch, CoreError> {
        let mut url = self.url(&["log", &shard.to_string()]);
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("wait", &format!("{}ms", wait.as_millis()));
        self.stretch(url, shard, after).await
    }

    /// The events of `workspace` among those of up to `limit` offsets behind one.
    pub(crate) async fn read_of(
        &self,
        shard: u32,
        after: u64,
        limit: u64,
        workspace: &WorkspaceId,
    ) -> Result<Stretch, CoreError> {
        let mut url = self.url(&["log", &shard.to_string()]);
        url.query_pairs_mut()
            .append_pair("after", &after.to_string())
            .append_pair("limit", &limit.to_string())
            .append_pair("workspace", workspace.as_str());
        self.stretch(url, shard, after).await
    }

    async fn stretch(&self, url: Url, shard: u32, after: u64) -> Result<Stretch, CoreError> {
        let (lines, headers) = self.lines(url, shard, after).await?;
        let number = |name| headers.get(name)?.to_str().ok()?.parse().ok();
        let told = number(LOG_END).zip(number(LOG_GENERATION));
        let (end, generation) = told.ok_or(CoreError::Unlabelled)?;
        Ok(Stretch {
            lines,
            end,
            generation,
        })
    }

    async fn lines(
        &self,
        url: Url,
        shard: u32,
        after: u64,
    ) -> Result<(Lines, HeaderMap), CoreError> {
        let answer = self.client.get(url).send().await?;
        if answer.status() == StatusCode::GONE {
            return Err(CoreError::Gone { shard, after });
        }
        let mut answer = accepted(answer).await?;
        let headers = std::mem::take(answer.headers_mut());
        let taken = BytesMut::new();
        Ok((Lines { answer, taken }, headers))
    }
}

/// A part of a shard's log, as one answer of the core holds it.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// One event each.
    pub(crate) lines: Lines,
    /// Up to this offset everything that was asked for is in the lines.
    pub(crate) end: u64,
    /// The log's generation.
    pub(crate) generation: u64,
}

/// Events of one shard, read from the core piece by piece.
#[derive(Debug)]
pub(crate) struct Events {
    lines: Lines,
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
            let Some(line) = self.lines.next().await? else {
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
}

/// The lines of an answer, read piece by piece.
#[derive(Debug)]
pub(crate) struct Lines {
    answer: Response,
    taken: BytesMut,
}

impl Lines {
    /// The next line; none after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, CoreError> {
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
