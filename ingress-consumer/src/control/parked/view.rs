//! Parked frames as they are shown and ordered about.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use runtime::http::Problem;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::super::input;
use super::super::words::{encoding, frame_verdict};
use crate::acceptance::Replayed;
use crate::metrics;
use crate::store::parked::{Filter, Row};

/// How many frames or letters a request works on, unless it says so.
const USUAL: u64 = 1000;
/// How many frames or letters a request may work on: what is done well before clients give up.
const MOST: u64 = 10_000;
/// How many frames a replay tells of one by one.
const TOLD: usize = 100;

/// Which parked frames: those for which everything holds that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParkedFilter {
    /// The one with this id.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::row_id"
    )]
    #[schema(minimum = 0)]
    pub id: Option<i64>,
    /// Of this provider.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::provider"
    )]
    #[schema(pattern = "^[a-z][a-z0-9-]{0,31}$")]
    pub provider: Option<String>,
    /// Of this connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Uuid>,
    /// Parked for this reason.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::word"
    )]
    #[schema(pattern = "^[a-z0-9_]{0,64}$", example = "invalid_value")]
    pub reason: Option<String>,
    /// Parked then or later.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::moment"
    )]
    pub from: Option<DateTime<Utc>>,
    /// Parked before.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "input::moment"
    )]
    pub to: Option<DateTime<Utc>>,
}

impl From<ParkedFilter> for Filter {
    fn from(filter: ParkedFilter) -> Self {
        Self {
            id: filter.id,
            provider: filter.provider,
            connection: filter.connection,
            reason: filter.reason,
            from: filter.from,
            to: filter.to,
        }
    }
}

/// What to do with which parked frames.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ParkedOrder {
    /// Which.
    pub filter: ParkedFilter,
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

/// How many of what is stored an order may work on.
pub fn order_limit(asked: Option<u64>) -> Result<i64, Problem> {
    let limit = asked.unwrap_or(USUAL);
    i64::try_from(limit)
        .ok()
        .filter(|_| (1..=MOST).contains(&limit))
        .ok_or_else(|| {
            let detail = format!("limit is {limit}; write a number from 1 to {MOST}");
            Problem::bad_request("invalid-limit", detail)
        })
}

/// A body as it is shown, behind the name of its encoding.
pub fn shown(body: Vec<u8>) -> (&'static str, String) {
    match String::from_utf8(body) {
        Ok(text) => ("text", text),
        Err(error) => ("base64", STANDARD.encode(error.as_bytes())),
    }
}

/// What became of parked frames.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ParkedOutcome {
    /// Whether this only says what would be.
    pub dry_run: bool,
    /// How many parked frames were worked on.
    pub frames: u64,
    /// How many they stand for, counted copies included.
    pub copies: u64,
    /// Of a replay: frames by verdict.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub verdicts: BTreeMap<String, u64>,
    /// Of a replay: frames that are parked still, by the reason of now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reasons: BTreeMap<String, u64>,
    /// Of a replay: the first hundred frames.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub items: Vec<ReplayedItem>,
    /// Where to go on, if there may be more.
    pub next: Option<i64>,
}

/// What a replay made of a frame.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ReplayedItem {
    /// The parked frame.
    pub id: i64,
    /// What became of it.
    #[schema(schema_with = frame_verdict)]
    pub verdict: String,
    /// Why, where the verdict does not say it all.
    pub reason: Option<String>,
    /// How many copies it stands for, itself included.
    pub copies: u64,
}

/// A parked frame as shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedFrame {
    /// Its id.
    id: i64,
    /// Whose it is.
    workspace: Option<String>,
    /// By its envelope's own word, which is not its workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_workspace: Option<String>,
    /// Its provider.
    provider: Option<String>,
    /// Its connection.
    connection: Option<Uuid>,
    /// The session that it was received in.
    session: Option<Uuid>,
    /// The partition that it was numbered for.
    partition: Option<i32>,
    /// Its number in the session.
    number: Option<i64>,
    /// When it was received (UTC).
    received_at: Option<DateTime<Utc>>,
    /// When it was parked (UTC).
    parked_at: DateTime<Utc>,
    /// When its last copy came (UTC).
    last_at: DateTime<Utc>,
    /// Why it was parked: the reason's name.
    reason: String,
    /// Why exactly, in words.
    detail: String,
    /// How many bytes its body has.
    size: i32,
    /// How many replays parked it again.
    attempts: i64,
    /// How many further copies came.
    repeats: i64,
}

impl From<Row> for ParkedFrame {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            claimed_workspace: row.claimed_workspace.filter(|_| row.workspace.is_none()),
            workspace: row.workspace,
            provider: row.provider,
            connection: row.connection,
            session: row.session,
            partition: row.frame_partition,
            number: row.frame_number,
            received_at: row.received_at,
            parked_at: row.parked_at,
            last_at: row.last_at,
            reason: row.reason,
            detail: row.detail,
            size: row.size,
            attempts: row.attempts,
            repeats: row.repeats,
        }
    }
}

/// A parked frame with its content.
#[derive(Debug, Serialize, ToSchema)]
pub struct WholeParkedFrame {
    #[serde(flatten)]
    pub(super) view: ParkedFrame,
    /// Of a message that is no envelope: what else it came with.
    #[schema(value_type = Option<Object>)]
    pub(super) headers: Option<Value>,
    /// `text`, or `base64` where it is none.
    #[schema(schema_with = encoding)]
    pub(super) encoding: &'static str,
    /// Its body, byte for byte, as `encoding` says.
    pub(super) body: String,
}

/// Which part of which list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ParkedQuery {
    /// How many at most.
    #[param(minimum = 1, maximum = 1000, default = 100, nullable = false)]
    pub(super) limit: Option<i64>,
    /// The `next` of the page before: the list goes on behind it.
    #[serde(default, deserialize_with = "input::row_id")]
    #[param(minimum = 0, nullable = false)]
    pub(super) after: Option<i64>,
    /// Only of this provider.
    #[serde(default, deserialize_with = "input::provider")]
    #[param(pattern = "^[a-z][a-z0-9-]{0,31}$", nullable = false)]
    provider: Option<String>,
    /// Only of this connection.
    #[param(nullable = false)]
    connection: Option<Uuid>,
    /// Only those parked for this reason, such as `invalid_value`.
    #[serde(default, deserialize_with = "input::word")]
    #[param(pattern = "^[a-z0-9_]{0,64}$", nullable = false)]
    reason: Option<String>,
    /// Only those parked then or later (RFC 3339).
    #[serde(default, deserialize_with = "input::moment")]
    #[param(nullable = false)]
    from: Option<DateTime<Utc>>,
    /// Only those parked before (RFC 3339).
    #[serde(default, deserialize_with = "input::moment")]
    #[param(nullable = false)]
    to: Option<DateTime<Utc>>,
}

impl ParkedQuery {
    pub(super) fn into_filter(self) -> Filter {
        Filter {
            id: None,
            provider: self.provider,
            connection: self.connection,
            reason: self.reason,
            from: self.from,
            to: self.to,
        }
    }
}

/// A page of parked frames.
#[derive(Debug, Serialize, ToSchema)]
pub struct ParkedPage {
    /// The frames, oldest first.
    pub(super) items: Vec<ParkedFrame>,
    /// Where the next page begins, if there may be one.
    pub(super) next: Option<i64>,
}

impl ParkedOutcome {
    pub(super) fn add(&mut self, replayed: Vec<Replayed>) {
        for replayed in replayed {
            self.frames += 1;
            self.copies += replayed.copies;
            if !self.dry_run && !replayed.is_parked() {
                metrics::unparked("replayed", replayed.copies);
            }
            for report in replayed.reports {
                let verdict = report.verdict.name().to_owned();
                *self.verdicts.entry(verdict.clone()).or_default() += 1;
                if let (Some(reason), "parked") = (&report.reason, verdict.as_str()) {
                    let name = reason.split(':').next().unwrap_or(reason);
                    *self.reasons.entry(name.to_owned()).or_default() += 1;
                }
                if self.items.len() < TOLD {
                    self.items.push(ReplayedItem {
                        id: replayed.id,
                        verdict,
                        reason: report.reason,
                        copies: replayed.copies,
                    });
                }
            }
        }
    }
}
