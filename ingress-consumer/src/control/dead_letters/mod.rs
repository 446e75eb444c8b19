//! Dead letters: listed, explained, replayed and discarded.
//!
//! A replay publishes the message once more to its ingress partition, as it was. It does not accept it
//! here: what ended the core a hundred times would end it once more, with all who ask it.

mod judge;
mod view;

use std::sync::{Arc, OnceLock};

use axum::extract::State;
use runtime::amqp::{Message, Outcome, Publisher};
use runtime::http::{Json, PageSize, Path, Problem, Query};
use runtime::{clock, db};
use shared_model::topology;
use sqlx::PgPool;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::params::AtDeadLetter;
use super::parked::order_limit;
use super::{installation, starting};
use crate::acceptance::Acceptance;
use crate::config::AcceptanceConfig;
use crate::metrics;
use crate::store::StoreError;
use crate::store::dead_letter::{self, Filter, Row};

pub use judge::Judgement;
use view::{DeadLetter, DeadLetterPage, WholeDeadLetter};
pub use view::{
    DeadLetterFilter, DeadLetterItem, DeadLetterOrder, DeadLetterOutcome, DeadLetterQuery, Failure,
};

/// How many letters one transaction works on, and how many bodies are in memory at once.
const CHUNK: i64 = 20;

/// The way back to the ingress queue, once the service has one.
pub type WayBack = Arc<OnceLock<Publisher>>;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct DeadLetterControl {
    pool: PgPool,
    acceptance: AcceptanceConfig,
    way_back: WayBack,
}

/// The routes of dead letters.
#[must_use]
pub fn routes(pool: PgPool, acceptance: AcceptanceConfig, way_back: WayBack) -> OpenApiRouter {
    router().with_state(DeadLetterControl {
        pool,
        acceptance,
        way_back,
    })
}

/// The same without what their handlers share.
pub fn router() -> OpenApiRouter<DeadLetterControl> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(show))
        .routes(routes!(replay))
        .routes(routes!(discard))
}

/// List dead letters
///
/// Messages that the broker gave up, of every workspace.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    operation_id = "listDeadLetters",
    tag = "pipeline",
    params(DeadLetterQuery),
    responses((status = 200, description = "A page of dead letters, oldest first.", body = DeadLetterPage)),
    security(("credential" = ["operate"]))
)]
async fn list(
    State(control): State<DeadLetterControl>,
    Query(query): Query<DeadLetterQuery>,
) -> Result<axum::Json<DeadLetterPage>, Problem> {
    let size = PageSize::asked(query.limit)?;
    let after = query.after;
    let filter = query.into_filter();
    let mut pg = control.pool.acquire().await?;
    let found = dead_letter::page(&mut pg, &filter, after, size.to_look_for()).await?;
    let (found, next) = size.cut(found, |row| row.id);
    Ok(axum::Json(DeadLetterPage {
        items: found.into_iter().map(DeadLetter::from).collect(),
        next,
    }))
}

/// Show a dead letter with its content, and what would become of it now
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}",
    operation_id = "showDeadLetter",
    tag = "pipeline",
    params(AtDeadLetter),
    responses((status = 200, description = "The letter.", body = WholeDeadLetter)),
    security(("credential" = ["operate"]))
)]
async fn show(
    State(control): State<DeadLetterControl>,
    Path(AtDeadLetter { id }): Path<AtDeadLetter>,
) -> Result<axum::Json<WholeDeadLetter>, Problem> {
    let filter = Filter {
        ids: Some(vec![id]),
        ..Filter::default()
    };
    let found = control.chunk(&filter, None, 1).await?.pop();
    let (row, body) = found.ok_or_else(|| {
        let detail = format!("there is no dead letter {id}");
        Problem::not_found("dead-letter-not-found", detail)
    })?;
    let acceptance = control.acceptance().await?;
    let now = judge::judge(&acceptance, &row, &body).await?;
    Ok(axum::Json(WholeDeadLetter::new(row, body, now)))
}

/// Discard the dead letters that a filter names
#[utoipa::path(
    post,
    path = "/v1/dead-letters/discard",
    operation_id = "discardDeadLetters",
    tag = "pipeline",
    request_body = DeadLetterOrder,
    responses((status = 200, description = "How many were, or would be.", body = DeadLetterOutcome)),
    security(("credential" = ["operate"]))
)]
async fn discard(
    State(control): State<DeadLetterControl>,
    Json(order): Json<DeadLetterOrder>,
) -> Result<axum::Json<DeadLetterOutcome>, Problem> {
    let mut left = order_limit(order.limit)?;
    let filter = Filter::from(order.filter);
    let mut outcome = DeadLetterOutcome {
        dry_run: order.dry_run,
        ..DeadLetterOutcome::default()
    };
    if order.dry_run {
        let mut pg = control.pool.acquire().await?;
        outcome.letters = dead_letter::sum(&mut pg, &filter).await?;
        return Ok(axum::Json(outcome));
    }
    while left > 0 {
        let (at_once, filter) = (left.min(CHUNK), &filter);
        let removed = db::in_tx(&control.pool, "discard_dead_letters", |mut tx| async move {
            let removed = dead_letter::discard(&mut tx, filter, at_once).await?;
            Ok::<_, StoreError>((tx, removed))
        })
        .await?;
        metrics::dead_letters_removed("discarded", removed.letters);
        outcome.letters += removed.letters;
        outcome.next = removed.last;
        let count = i64::try_from(removed.letters).unwrap_or(left);
        if count < at_once {
            outcome.next = None;
            break;
        }
        left -= count;
    }
    tracing::info!(letters = outcome.letters, "dead letters were discarded");
    Ok(axum::Json(outcome))
}

/// Put the dead letters that a filter names back into the ingress queue
///
/// Each as it was. It stops at the first that the broker does not take.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/replay",
    operation_id = "replayDeadLetters",
    tag = "pipeline",
    request_body = DeadLetterOrder,
    responses((status = 200, description = "What became, or would become, of them.", body = DeadLetterOutcome)),
    security(("credential" = ["operate"]))
)]
async fn replay(
    State(control): State<DeadLetterControl>,
    Json(order): Json<DeadLetterOrder>,
) -> Result<axum::Json<DeadLetterOutcome>, Problem> {
    let mut left = order_limit(order.limit)?;
    let mut filter = Filter::from(order.filter);
    // Those that were replayed are in the ingress queue, unless they are asked for by their ids.
    if filter.ids.is_none() && filter.replayed.is_none() {
        filter.replayed = Some(false);
    }
    let acceptance = control.acceptance().await?;
    let way_back = match control.way_back.get() {
        None if !order.dry_run => return Err(starting()),
        way_back => way_back,
    };
    let mut outcome = DeadLetterOutcome {
        dry_run: order.dry_run,
        next: order.after,
        ..DeadLetterOutcome::default()
    };
    while left > 0 {
        let at_once = left.min(CHUNK);
        let rows = control.chunk(&filter, outcome.next, at_once).await?;
        let is_end = rows.len() < usize::try_from(at_once).unwrap_or(usize::MAX);
        for (row, body) in rows {
            let (id, message_id) = (row.id, row.message_id.clone());
            let judgement = match way_back {
                Some(publisher) if !order.dry_run => {
                    if let Some(reason) = control.put_back(publisher, &row, body).await? {
                        outcome.failed = Some(Failure { id, reason });
                        return Ok(axum::Json(outcome));
                    }
                    None
                }
                _ => Some(judge::judge(&acceptance, &row, &body).await?),
            };
            outcome.add(id, message_id, judgement);
            left -= 1;
        }
        if is_end {
            outcome.next = None;
            break;
        }
    }
    if !order.dry_run {
        tracing::info!(letters = outcome.letters, "dead letters were replayed");
    }
    Ok(axum::Json(outcome))
}

impl DeadLetterControl {
    /// Acceptance as of now, so that it knows connections as they are.
    async fn acceptance(&self) -> Result<Acceptance, Problem> {
        let installation = installation(&mut *self.pool.acquire().await?).await?;
        let shards = installation.partitions;
        Ok(Acceptance::new(self.pool.clone(), &self.acceptance, shards))
    }

    async fn chunk(
        &self,
        filter: &Filter,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<(Row, Vec<u8>)>, Problem> {
        let mut pg = self.pool.acquire().await?;
        let rows = dead_letter::page(&mut pg, filter, after, limit).await?;
        Ok(dead_letter::with_bodies(&mut pg, rows).await?)
    }

    /// Publishes the message as it was, and notes that once the broker has it; or says why not.
    async fn put_back(
        &self,
        publisher: &Publisher,
        row: &Row,
        body: Vec<u8>,
    ) -> Result<Option<String>, Problem> {
        let headers = row.headers.as_object().into_iter().flatten();
        let message = Message {
            exchange: topology::INGRESS_EXCHANGE,
            routing_key: row.routing_key.clone(),
            message_id: row.message_id.clone(),
            content_type: row.content_type.clone().into(),
            headers: headers
                .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
                .collect(),
            body: body.into(),
        };
        let refused = match publisher.publish_now(&message).await {
            Outcome::Confirmed => None,
            Outcome::Unroutable => Some(format!("there is no partition {}", row.routing_key)),
            Outcome::Refused => Some(format!("partition {} is full", row.routing_key)),
            Outcome::Unknown => Some("the broker is away".to_owned()),
        };
        if refused.is_none() {
            let (id, deaths) = (row.id, row.deaths);
            // If this fails, the letter can be replayed again: the same frames have the same effect.
            db::in_tx(&self.pool, "dead_letter_replayed", |mut tx| async move {
                dead_letter::replayed(&mut tx, id, deaths, clock::now()).await?;
                Ok::<_, StoreError>((tx, ()))
            })
            .await?;
            metrics::dead_letter_replayed();
        }
        Ok(refused)
    }
}
