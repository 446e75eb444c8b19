//! `GET /internal/v1/log/{shard}`: a shard's events behind an offset, as NDJSON.
//!
//! A reader may wait for the next event, and may leave out all but one workspace's. Either way the
//! offsets that were looked at are checked to be dense: what is gone cuts the answer off and is never
//! passed over.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use runtime::http::{Path, Problem, Query};
use runtime::telemetry::chain;
use serde::Deserialize;
use shared_model::WorkspaceId;
use shared_model::log::{LOG_END, LOG_GENERATION, LONGEST_WAIT};
use sqlx::PgPool;

use super::{LogApi, no_shard};
use crate::store::event_log::Head;
use crate::store::{StoreError, event_log, log_view};

/// How many events are in memory at once for one reader.
const AT_ONCE: u64 = 2000;
/// And how many bytes of them, unless a single event is larger.
const BYTES_AT_ONCE: i64 = 2 * 1024 * 1024;

/// Which events are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    /// Those behind this offset.
    #[serde(default)]
    after: u64,
    /// Those of so many offsets at most; else of all that are there.
    limit: Option<u64>,
    /// For how long the answer may wait for the first event behind the offset.
    #[serde(default, with = "humantime_serde")]
    wait: Duration,
    /// Only this workspace's.
    workspace: Option<WorkspaceId>,
}

pub async fn read(
    State(api): State<LogApi>,
    Path(shard): Path<u32>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    if asked.wait > LONGEST_WAIT {
        let detail = format!("wait is longer than {LONGEST_WAIT:?}; ask again after that");
        return Err(Problem::bad_request("invalid-wait", detail));
    }
    let mut wait = api.watch.begin();
    let mut head = of_shard(&api, shard).await?;
    if head.last <= asked.after && !asked.wait.is_zero() {
        let waited = wait.until_behind(shard, asked.after, asked.wait).await;
        waited.map_err(|_| {
            let detail = "the core stops; ask again, and another core answers or the next one";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", detail)
        })?;
        head = of_shard(&api, shard).await?;
    }
    if asked.after.saturating_add(1) < head.first {
        let detail = format!(
            "what follows offset {} of shard {shard} is kept no longer; the first offset is {}: begin \
             with /internal/v1/state",
            asked.after, head.first
        );
        return Err(Problem::new(StatusCode::GONE, "log-truncated", detail));
    }
    let end = asked
        .limit
        .map_or(head.last, |limit| asked.after.saturating_add(limit))
        .min(head.last);
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson".to_owned()),
        (HeaderName::from_static(LOG_END), end.to_string()),
        (
            HeaderName::from_static(LOG_GENERATION),
            api.generation().await?.to_string(),
        ),
    ];
    let reading = Reading {
        pool: api.pool,
        shard,
        at: asked.after,
        end,
        workspace: asked.workspace,
    };
    let pages = stream::try_unfold(reading, Reading::next);
    Ok((headers, Body::from_stream(pages)).into_response())
}

async fn of_shard(api: &LogApi, shard: u32) -> Result<Head, Problem> {
    let heads = api.heads().await?;
    let head = heads.into_iter().find(|head| head.shard == shard);
    head.ok_or_else(|| no_shard(shard))
}

/// An answer that is under way.
struct Reading {
    pool: PgPool,
    shard: u32,
    at: u64,
    end: u64,
    workspace: Option<WorkspaceId>,
}

/// Why an answer ends before its time: the reader finds it cut off, and asks for the rest.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("an event cannot be written as JSON")]
    Json(#[from] serde_json::Error),
    #[error("offset {0} of shard {1} has gone while it was read")]
    Gone(u64, u32),
}

impl Reading {
    /// The next lines, and what is left. Holds a connection only while it reads.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, Cut> {
        while self.at < self.end {
            let lines = self.page().await.inspect_err(|error| {
                tracing::warn!(shard = self.shard, error = %chain(error), "a reader of the log is cut off");
            })?;
            if !lines.is_empty() {
                return Ok(Some((lines, self)));
            }
        }
        Ok(None)
    }

    async fn page(&mut self) -> Result<Bytes, Cut> {
        let limit = (self.end - self.at).min(AT_ONCE) as i64;
        let before = self.at;
        let mut pg = self.pool.acquire().await.map_err(StoreError::from)?;
        let (shard, most) = (self.shard, BYTES_AT_ONCE);
        let events = match &self.workspace {
            None => {
                let events = event_log::read(&mut pg, shard, before, limit, most).await?;
                let found = events.into_iter().map(|(at, event)| (at, Some(event)));
                found.collect()
            }
            Some(workspace) => {
                log_view::read_of(&mut pg, shard, before, limit, most, workspace).await?
            }
        };
        drop(pg);
        let mut lines = Vec::new();
        for (offset, event) in &events {
            if *offset != self.at + 1 {
                return Err(Cut::Gone(self.at + 1, self.shard));
            }
            if let Some(event) = event {
                serde_json::to_writer(&mut lines, event)?;
                lines.push(b'\n');
            }
            self.at = *offset;
        }
        if self.at == before {
            return Err(Cut::Gone(self.at + 1, self.shard));
        }
        Ok(lines.into())
    }
}
