//! A page on its way into acceptance: records become frames, and the last of them takes the cursor along.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, FutureExt};
use rangemap::RangeInclusiveSet;
use serde_json::Value;
use shared_model::envelope::Attributes;
use shared_model::{Frame, FrameKind, FrameOrigin};
use sqlx::PgConnection;

use crate::acceptance::verdict::FrameReport;
use crate::acceptance::{Companion, Received};
use crate::store::StoreError;
use crate::store::poll::{self, Claim, Progress};

/// The most records that are committed together, and their bytes.
const CHUNK: (usize, usize) = (500, 1024 * 1024);

/// Numbers a page's records from `first` on.
pub fn frames(
    attributes: &Arc<Attributes>,
    first: u64,
    received_at: DateTime<Utc>,
    records: Vec<Bytes>,
) -> Vec<Received> {
    let received = |(number, body)| Received {
        attributes: Arc::clone(attributes),
        partition: 0,
        frame: Frame {
            number,
            received_at,
            kind: FrameKind::Text,
            // That a provider still has a value is no sign of life: it counts from when it was observed.
            origin: FrameOrigin::State,
            body,
        },
        conflated: RangeInclusiveSet::new(),
    };
    (first..).zip(records).map(received).collect()
}

/// Cuts a page into what is committed together; at least one, if empty.
pub fn chunks(mut frames: &[Received]) -> Vec<&[Received]> {
    let mut chunks = Vec::new();
    loop {
        let mut bytes = 0;
        let fits = |received: &&Received| {
            bytes += received.frame.body.len();
            bytes <= CHUNK.1
        };
        let count = frames.iter().take(CHUNK.0).take_while(fits).count();
        // One that is too large by itself goes alone.
        let (chunk, rest) = frames.split_at(count.max(1).min(frames.len()));
        chunks.push(chunk);
        if rest.is_empty() {
            return chunks;
        }
        frames = rest;
    }
}

/// Whether a text in `value` holds a NUL, which PostgreSQL cannot store.
pub fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(holds_nul),
        Value::Object(fields) => fields
            .iter()
            .any(|(key, value)| key.contains('\0') || holds_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Where to read on, committed with what was read.
pub struct Advance<'a> {
    pub claim: &'a Claim,
    pub progress: Progress<'a>,
}

impl Companion for Advance<'_> {
    fn write<'a>(
        &'a self,
        pg: &'a mut PgConnection,
        _reports: &'a [FrameReport],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        poll::advance(pg, self.claim, &self.progress).boxed()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared_model::{ConnectionId, Provider, SessionId, WorkspaceId};
    use uuid::Uuid;

    use super::*;

    fn page(sizes: &[usize]) -> Vec<Received> {
        let attributes = Arc::new(Attributes {
            provider: Provider::new("rfms").unwrap(),
            workspace: WorkspaceId::new("w").unwrap(),
            connection: ConnectionId(Uuid::nil()),
            session: SessionId(Uuid::nil()),
            epoch: 1,
            owner: "core".to_owned(),
        });
        let at = "2026-07-01T12:00:00Z".parse().unwrap();
        let records = sizes.iter().map(|size| Bytes::from(vec![b' '; *size]));
        frames(&attributes, 7, at, records.collect())
    }

    fn cut(sizes: &[usize]) -> Vec<usize> {
        chunks(&page(sizes)).iter().map(|c| c.len()).collect()
    }

    #[test]
    fn records_are_numbered_on_and_tell_of_life_only_when_they_were_observed() {
        let page = page(&[1, 2]);
        let numbers: Vec<_> = page.iter().map(|received| received.frame.number).collect();
        assert_eq!(numbers, [7, 8]);
        assert!(page.iter().all(|r| r.frame.origin == FrameOrigin::State));
    }

    #[test]
    fn a_nul_is_found_wherever_it_is() {
        for value in [json!("a\0"), json!([{"a": "\0"}]), json!({"\0": 1})] {
            assert!(holds_nul(&value), "{value}");
        }
        assert!(!holds_nul(&json!({"a": ["\\u0000", 0, null]})));
    }

    #[test]
    fn a_page_is_cut_by_count_and_bytes_and_an_empty_one_is_committed_too() {
        assert_eq!(cut(&[]), [0]);
        assert_eq!(cut(&[1; 500]), [500]);
        assert_eq!(cut(&[1; 1201]), [500, 500, 201]);
        let large = CHUNK.1 + 1;
        assert_eq!(cut(&[large, 1, large, large]), [1, 1, 1, 1]);
        assert_eq!(cut(&[CHUNK.1 / 2, CHUNK.1 / 2, 1]), [2, 1]);
    }
}
