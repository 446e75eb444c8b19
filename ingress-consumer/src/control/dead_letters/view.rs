//! Dead letters as they are shown and ordered about.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::schema::{
    Array, ArrayBuilder, KnownFormat, ObjectBuilder, SchemaFormat, SchemaType, Type,
};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::super::input;
use super::super::parked::shown;
use super::super::words::encoding;
use super::judge::{Judgement, cause};
use crate::store::dead_letter::{Filter, Row};

/// How many letters an answer tells of one by one.
const TOLD: usize = 100;

/// Which dead letters: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Those with these ids, each 0 or more.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::row_ids"
    )]
    #[schema(schema_with = ids)]
    pub ids: Option<Vec<i64>>,
    /// Of this workspace.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::workspace"
    )]
    #[schema(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$")]
    pub workspace: Option<String>,
    /// Of this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Uuid>,
    /// Given up for this reason.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::word"
    )]
    #[schema(pattern = "^[a-z0-9_]{0,64}$", example = "delivery_limit")]
    pub reason: Option<String>,
    /// Whether they were replayed and have not died since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<bool>,
}

impl From<DeadLetterFilter> for Filter {
    fn from(filter: DeadLetterFilter) -> Self {
        Self {
            ids: filter.ids,
            workspace: filter.workspace,
            connection: filter.connection,
            reason: filter.reason,
            replayed: filter.replayed,
        }
    }
}

/// Which part of which list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    pub(super) limit: Option<i64>,
    /// The `next` of the page before: the list goes on behind it.
    #[serde(default, deserialize_with = "input::row_id")]
    #[param(minimum = 0, nullable = false)]
    pub(super) after: Option<i64>,
    /// Only of this workspace.
    #[serde(default, deserialize_with = "input::workspace")]
    #[param(pattern = "^[a-z0-9][a-z0-9_-]{0,62}$", nullable = false)]
    workspace: Option<String>,
    /// Only of this connection.
    #[param(nullable = false)]
    connection: Option<Uuid>,
    /// Only those given up for this reason, such as `delivery_limit`.
    #[serde(default, deserialize_with = "input::word")]
    #[param(pattern = "^[a-z0-9_]{0,64}$", nullable = false)]
    reason: Option<String>,
    /// Only those that were replayed and have not died since, or only the others.
    #[param(nullable = false)]
    replayed: Option<bool>,
}

impl DeadLetterQuery {
    pub(super) fn into_filter(self) -> Filter {
        Filter {
            ids: None,
            workspace: self.workspace,
            connection: self.connection,
            reason: self.reason,
            replayed: self.replayed,
        }
    }
}

fn ids() -> Array {
    let id = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .minimum(Some(0));
    ArrayBuilder::new()
        .schema_type(
            [Type::Array, Type::Null]
                .into_iter()
                .collect::<SchemaType>(),
        )
        .description(Some("Those with these ids."))
        .items(id)
        .build()
}

/// What to do with which dead letters.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterOrder {
    /// Which.
    pub filter: DeadLetterFilter,
    /// Only say what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Of a replay, only those with greater ids: the `next` of the answer before.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::row_id"
    )]
    #[schema(minimum = 0)]
    pub after: Option<i64>,
    /// At most so many; 1000 unless it is given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 10000)]
    pub limit: Option<u64>,
}

/// What became of dead letters.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterOutcome {
    /// Whether this only says what would be.
    pub dry_run: bool,
    /// How many letters were worked on.
    pub letters: u64,
    /// Of a dry run of a replay: frames by verdict.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, u64>,
    /// Of a replay: the first hundred letters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<DeadLetterItem>,
    /// The letter that could not be replayed, at which the replay has stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<Failure>,
    /// Where to go on, if there may be more.
    pub next: Option<i64>,
}

/// A letter that was replayed, or would be.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadLetterItem {
    /// Its id.
    pub id: i64,
    /// The message's id.
    pub message_id: String,
    /// Of a dry run: what would become of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<Judgement>,
}

/// A letter that could not be replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = DeadLetterFailure)]
pub struct Failure {
    /// Its id.
    pub id: i64,
    /// Why not.
    pub reason: String,
}

impl DeadLetterOutcome {
    pub(super) fn add(&mut self, id: i64, message_id: String, now: Option<Judgement>) {
        self.letters += 1;
        self.next = Some(id);
        for (verdict, count) in now.iter().flat_map(|judgement| &judgement.verdicts) {
            *self.verdicts.entry(verdict.clone()).or_default() += count;
        }
        if self.items.len() < TOLD {
            self.items.push(DeadLetterItem {
                id,
                message_id,
                now,
            });
        }
    }
}

/// A dead letter as shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetter {
    /// Its id.
    id: i64,
    /// The sender's id for the message.
    message_id: String,
    /// The ingress partition that it was sent to.
    partition: String,
    /// Whose it is, if its envelope names a connection of that workspace and provider.
    workspace: Option<String>,
    /// By its envelope's own word, which is not its workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_workspace: Option<String>,
    /// Its connection.
    connection: Option<Uuid>,
    /// Its provider.
    provider: Option<String>,
    /// Its session.
    session: Option<Uuid>,
    /// How many frames it holds, as far as is known.
    frames: i64,
    /// How many bytes its body has.
    size: i32,
    /// Why the broker gave it up, by the broker's word for it.
    reason: String,
    /// In which queue.
    queue: String,
    /// Why it was given up, in words.
    cause: String,
    /// How often it died, as far as is known.
    deaths: i64,
    /// When last (UTC).
    died_at: Option<DateTime<Utc>>,
    /// When it was taken from the queue of dead letters (UTC).
    taken_at: DateTime<Utc>,
    /// Since when it is back in the ingress queue (UTC), if it is.
    replayed_at: Option<DateTime<Utc>>,
    /// How often it was put there.
    replays: i64,
}

impl From<Row> for DeadLetter {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            message_id: row.message_id,
            partition: row.routing_key,
            claimed_workspace: row.claimed_workspace.filter(|_| row.workspace.is_none()),
            workspace: row.workspace,
            connection: row.connection,
            provider: row.provider,
            session: row.session,
            frames: row.frames,
            size: row.size,
            cause: cause(&row.reason, &row.queue),
            reason: row.reason,
            queue: row.queue,
            deaths: row.deaths,
            died_at: row.died_at,
            taken_at: row.taken_at,
            replayed_at: row.replayed_at,
            replays: row.replays,
        }
    }
}

/// A dead letter with its content, and what would become of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct WholeDeadLetter {
    #[serde(flatten)]
    view: DeadLetter,
    /// What would become of it, were it delivered now.
    now: Judgement,
    /// Its body's media type.
    content_type: String,
    /// Its headers, without what the broker added.
    #[schema(value_type = Object)]
    headers: Value,
    /// `text`, or `base64` where it is none.
    #[schema(schema_with = encoding)]
    encoding: &'static str,
    /// Its body, byte for byte, as `encoding` says.
    body: String,
}

impl WholeDeadLetter {
    pub(super) fn new(row: Row, body: Vec<u8>, now: Judgement) -> Self {
        let (encoding, body) = shown(body);
        Self {
            now,
            content_type: row.content_type.clone(),
            headers: row.headers.clone(),
            view: row.into(),
            encoding,
            body,
        }
    }
}

/// A page of dead letters.
#[derive(Debug, Serialize, ToSchema)]
pub struct DeadLetterPage {
    /// The letters, oldest first.
    pub(super) items: Vec<DeadLetter>,
    /// Where the next page begins, if there may be one.
    pub(super) next: Option<i64>,
}
