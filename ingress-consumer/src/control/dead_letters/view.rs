//! Dead letters as they are shown and ordered about.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::super::parked::shown;
use super::judge::{Judgement, cause};
use crate::store::dead_letter::{Filter, Row};

/// How many letters an answer tells of one by one.
const TOLD: usize = 100;

/// Which dead letters: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterFilter {
    /// Those with these ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids: Option<Vec<i64>>,
    /// Of this workspace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Of this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Uuid>,
    /// Given up for this reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
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
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterQuery {
    pub(super) limit: Option<i64>,
    pub(super) after: Option<i64>,
    workspace: Option<String>,
    connection: Option<Uuid>,
    reason: Option<String>,
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

/// What to do with which dead letters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetterOrder {
    /// Which.
    pub filter: DeadLetterFilter,
    /// Only say what would be.
    #[serde(default)]
    pub dry_run: bool,
    /// Only those with greater ids: the `next` of the answer before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<i64>,
    /// At most so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
}

/// What became of dead letters.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Serialize)]
pub(super) struct View {
    id: i64,
    message_id: String,
    partition: String,
    workspace: Option<String>,
    /// By its envelope's own word, which is not its workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_workspace: Option<String>,
    connection: Option<Uuid>,
    provider: Option<String>,
    session: Option<Uuid>,
    frames: i64,
    size: i32,
    reason: String,
    queue: String,
    /// Why it was given up, in words.
    cause: String,
    deaths: i64,
    died_at: Option<DateTime<Utc>>,
    taken_at: DateTime<Utc>,
    replayed_at: Option<DateTime<Utc>>,
    replays: i64,
}

impl From<Row> for View {
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
#[derive(Debug, Serialize)]
pub(super) struct WholeView {
    #[serde(flatten)]
    view: View,
    now: Judgement,
    content_type: String,
    headers: Value,
    /// `text`, or `base64` where it is none.
    encoding: &'static str,
    body: String,
}

impl WholeView {
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

#[derive(Debug, Serialize)]
pub(super) struct Listed {
    pub(super) items: Vec<View>,
    pub(super) next: Option<i64>,
}
