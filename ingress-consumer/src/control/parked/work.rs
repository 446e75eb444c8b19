//! What works on parked frames. What works on many does so in chunks, each a transaction, up to a bound:
//! the answer says where to go on.

use std::collections::BTreeMap;

use runtime::db;
use runtime::http::{PageSize, Problem};

use super::super::installation;
use super::ParkedControl;
use super::view::{
    ParkedOrder, ParkedOutcome, ParkedPage, ParkedQuery, WholeParkedFrame, order_limit, shown,
};
use crate::acceptance::{Acceptance, Replaying};
use crate::metrics;
use crate::store::StoreError;
use crate::store::parked::{self, Filter, Row, Scope, Sum};

/// How many rows one transaction works on.
const CHUNK: i64 = 200;
/// And how many bytes of bodies, unless one frame alone has more.
const CHUNK_BYTES: i64 = 4 * 1024 * 1024;

impl ParkedControl {
    pub(super) async fn list(
        &self,
        scope: &Scope,
        query: ParkedQuery,
    ) -> Result<axum::Json<ParkedPage>, Problem> {
        let size = PageSize::asked(query.limit)?;
        let after = query.after;
        let filter = query.into_filter();
        let mut pg = self.pool.acquire().await?;
        let found = parked::page(&mut pg, scope, &filter, after, size.to_look_for()).await?;
        let (found, next) = size.cut(found, |row| row.id);
        Ok(axum::Json(ParkedPage {
            items: found.into_iter().map(Into::into).collect(),
            next,
        }))
    }

    pub(super) async fn show(
        &self,
        scope: &Scope,
        id: i64,
    ) -> Result<axum::Json<WholeParkedFrame>, Problem> {
        let filter = Filter {
            id: Some(id),
            ..Filter::default()
        };
        let mut pg = self.pool.acquire().await?;
        let row = parked::page(&mut pg, scope, &filter, None, 1).await?.pop();
        let body = parked::bodies(&mut pg, &[id]).await?.pop();
        let Some((row, body)) = row.zip(body) else {
            let detail = format!("there is no parked frame {id} here");
            return Err(Problem::not_found("parked-frame-not-found", detail));
        };
        let (encoding, body) = shown(body.body);
        Ok(axum::Json(WholeParkedFrame {
            headers: row.headers.clone(),
            view: row.into(),
            encoding,
            body,
        }))
    }

    pub(super) async fn discard(
        &self,
        scope: &Scope,
        order: ParkedOrder,
    ) -> Result<axum::Json<ParkedOutcome>, Problem> {
        let limit = order_limit(order.limit)?;
        let filter = Filter::from(order.filter);
        if order.dry_run {
            let mut pg = self.pool.acquire().await?;
            let Sum { frames, copies, .. } = parked::sum(&mut pg, scope, &filter).await?;
            return Ok(axum::Json(ParkedOutcome {
                dry_run: true,
                frames,
                copies,
                ..ParkedOutcome::default()
            }));
        }
        let mut outcome = ParkedOutcome::default();
        let mut left = limit;
        while left > 0 {
            let (at_once, filter) = (left.min(CHUNK), &filter);
            let sum = db::in_tx(&self.pool, "discard_parked", |mut tx| async move {
                let sum = parked::discard(&mut tx, scope, filter, at_once).await?;
                Ok::<_, StoreError>((tx, sum))
            })
            .await?;
            metrics::unparked("discarded", sum.copies);
            outcome.frames += sum.frames;
            outcome.copies += sum.copies;
            outcome.next = sum.last;
            let discarded = i64::try_from(sum.frames).unwrap_or(left);
            if discarded < at_once {
                outcome.next = None;
                break;
            }
            left -= discarded;
        }
        tracing::info!(
            ?scope,
            frames = outcome.frames,
            copies = outcome.copies,
            "parked frames were discarded"
        );
        Ok(axum::Json(outcome))
    }

    pub(super) async fn replay(
        &self,
        scope: &Scope,
        order: ParkedOrder,
    ) -> Result<axum::Json<ParkedOutcome>, Problem> {
        let mut left = order_limit(order.limit)?;
        let filter = Filter::from(order.filter);
        let shards = installation(&mut *self.pool.acquire().await?)
            .await?
            .partitions;
        // Made anew, so that it knows connections as they are now.
        let acceptance =
            Acceptance::new(self.pool.clone(), &self.acceptance, shards).keeping(&self.parked);
        let mut outcome = ParkedOutcome {
            dry_run: order.dry_run,
            next: order.after,
            ..ParkedOutcome::default()
        };
        while left > 0 {
            let at_once = left.min(CHUNK);
            let Chunk { rows, last, is_end } =
                self.chunk(scope, &filter, outcome.next, at_once).await?;
            let replayed = if order.dry_run {
                acceptance.preview_replay(&rows).await?
            } else {
                acceptance.replay(&rows).await?
            };
            left -= i64::try_from(rows.len()).unwrap_or(left);
            outcome.next = last.or(outcome.next);
            outcome.add(replayed);
            if is_end {
                outcome.next = None;
                break;
            }
        }
        if !order.dry_run {
            tracing::info!(
                ?scope,
                frames = outcome.frames,
                verdicts = ?outcome.verdicts,
                "parked frames were replayed"
            );
        }
        Ok(axum::Json(outcome))
    }

    /// The next rows with their bodies, up to a number and size.
    async fn chunk(
        &self,
        scope: &Scope,
        filter: &Filter,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Chunk, Problem> {
        let mut pg = self.pool.acquire().await?;
        let found = parked::page(&mut pg, scope, filter, after, limit + 1).await?;
        let count = fitting(&found, limit);
        let is_end = count == found.len();
        let rows: BTreeMap<_, _> = found
            .into_iter()
            .take(count)
            .map(|row| (row.id, row))
            .collect();
        let last = rows.keys().last().copied();
        let ids: Vec<_> = rows.keys().copied().collect();
        let bodies = parked::bodies(&mut pg, &ids).await?;
        let rows = bodies.into_iter().filter_map(|body| {
            Some(Replaying {
                row: rows.get(&body.id)?.clone(),
                body: body.body,
            })
        });
        Ok(Chunk {
            rows: rows.collect(),
            last,
            is_end,
        })
    }
}

/// Rows that are worked on together.
struct Chunk {
    rows: Vec<Replaying>,
    last: Option<i64>,
    is_end: bool,
}

/// How many of `rows`, from the first, may be worked on together.
fn fitting(rows: &[Row], limit: i64) -> usize {
    let mut bytes = 0;
    let most = usize::try_from(limit).unwrap_or(1);
    rows.iter()
        .take(most)
        .enumerate()
        .take_while(|(index, row)| {
            bytes += i64::from(row.size);
            *index == 0 || bytes <= CHUNK_BYTES
        })
        .count()
}
