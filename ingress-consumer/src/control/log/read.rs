//! `GET /internal/v1/log/{shard}`: a shard's events behind an offset, as NDJSON.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use runtime::http::{Path, Problem, Query};
use runtime::telemetry::chain;
use serde::Deserialize;
use sqlx::PgPool;

use super::{LogApi, no_shard};
use crate::store::{StoreError, event_log};

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
    /// At most so many; else all that are there.
    limit: Option<u64>,
}

pub async fn read(
    State(api): State<LogApi>,
    Path(shard): Path<u32>,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let heads = event_log::heads(&mut *api.pool.acquire().await?).await?;
    let head = heads.into_iter().find(|head| head.shard == shard);
    let head = head.ok_or_else(|| no_shard(shard))?;
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
        .map_or(head.last, |limit| asked.after.saturating_add(limit));
    let reading = Reading {
        pool: api.pool,
        shard,
        at: asked.after,
        end: end.min(head.last),
    };
    let pages = stream::try_unfold(reading, Reading::next);
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    Ok((kind, Body::from_stream(pages)).into_response())
}

/// An answer that is under way.
struct Reading {
    pool: PgPool,
    shard: u32,
    at: u64,
    end: u64,
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
        if self.at >= self.end {
            return Ok(None);
        }
        let lines = self.page().await.inspect_err(|error| {
            tracing::warn!(shard = self.shard, error = %chain(error), "a reader of the log is cut off");
        })?;
        Ok(Some((lines, self)))
    }

    async fn page(&mut self) -> Result<Bytes, Cut> {
        let limit = (self.end - self.at).min(AT_ONCE) as i64;
        let mut pg = self.pool.acquire().await.map_err(StoreError::from)?;
        let events = event_log::read(&mut pg, self.shard, self.at, limit, BYTES_AT_ONCE).await?;
        drop(pg);
        let mut lines = Vec::new();
        for (offset, event) in &events {
            if *offset != self.at + 1 {
                return Err(Cut::Gone(self.at + 1, self.shard));
            }
            serde_json::to_writer(&mut lines, event)?;
            lines.push(b'\n');
            self.at = *offset;
        }
        if lines.is_empty() {
            return Err(Cut::Gone(self.at + 1, self.shard));
        }
        Ok(lines.into())
    }
}
