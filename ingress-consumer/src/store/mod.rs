//! All SQL of the core: one file per family of tables.
//!
//! Functions take a connection, so that the caller owns the transaction. Whoever writes takes locks
//! in this order: vehicles (sorted), parked frames, dead letters (sorted), sessions (sorted), session
//! sources (sorted), session archives, verdicts (sorted), polls with their feeds, ingest keys (sorted),
//! event sources, shard heads (sorted), the event log itself, relays, relay checkpoints (sorted), blocked
//! events, dead events. Then no two transactions can wait for each other. Subscribers are written by
//! transactions that write nothing else. A redrive goes from the dead to the blocked, to rows that are not
//! there yet. Dead letters are kept in the order in which they died, by transactions that write nothing
//! else. API keys and audit entries are written one at a time, outside of any other transaction.

pub mod api_key;
pub mod audit;
pub mod blocked_event;
pub mod connection;
pub mod dead_letter;
pub mod event_log;
pub mod event_source;
pub mod ingest;
pub mod ledger;
pub mod log_days;
pub mod log_view;
pub mod parked;
pub mod pipeline;
pub mod poll;
pub mod poll_budget;
pub mod poll_view;
pub mod relay;
pub mod session;
pub mod session_source;
pub mod setting;
pub mod status;
pub mod stream;
pub mod subscriber;
pub mod vehicle;
pub mod verdict;

use runtime::db::{AsSqlError, Disposition, Migrations, disposition};

/// The core's schema.
pub static MIGRATIONS: Migrations = Migrations {
    schema: "core",
    migrator: || sqlx::migrate!("./migrations"),
};

/// Why the store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// A row holds what this code cannot read.
    #[error("{table}.{column} of row {row} cannot be read")]
    Inconsistent {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// The row's key.
        row: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else wrote the same rows first: load them again and decide again.
    #[error("the rows were written by somebody else in the meantime")]
    Conflict,
    /// What was read under a claim that somebody else has by now has no effect.
    #[error("somebody else has claimed the connection in the meantime")]
    ClaimLost,
    /// What was to be written under a lease that has ended, and that somebody else may have by now, has
    /// no effect.
    #[error("the shard is leased to somebody else")]
    LeaseLost,
    /// Another replica has done the same request: what it was answered can be looked up.
    #[error("another replica has done the same request in the meantime")]
    Done,
    /// What was to be committed with a batch is refused for its content. No frame of the batch is to
    /// blame.
    #[error("what goes with the frames cannot be stored")]
    Companion {
        /// Whether the frames have had their effect nevertheless.
        accepted: bool,
        /// Why.
        source: sqlx::Error,
    },
}

impl StoreError {
    pub(crate) fn inconsistent(
        table: &'static str,
        column: &'static str,
        row: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Inconsistent {
            table,
            column,
            row: row.into(),
            source: source.into(),
        }
    }

    /// The same as an error of a batch's companion, if the content is at fault.
    pub(crate) fn of_companion(self, accepted: bool) -> Self {
        match self {
            Self::Database(source) if disposition(&source) == Disposition::Poison => {
                Self::Companion { accepted, source }
            }
            other => other,
        }
    }

    /// Whether the same may well succeed when it is tried again: others were faster, or the database is
    /// away.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Conflict | Self::ClaimLost | Self::Done)
            || self
                .as_sql_error()
                .is_some_and(|error| disposition(error) == Disposition::Retry)
    }
}

impl AsSqlError for StoreError {
    fn as_sql_error(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) | Self::Companion { source: error, .. } => Some(error),
            Self::Inconsistent { .. }
            | Self::Conflict
            | Self::ClaimLost
            | Self::LeaseLost
            | Self::Done => None,
        }
    }
}

/// PostgreSQL counts in `bigint`; what it counts starts at 0.
pub(crate) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

/// Shards and partitions are few.
pub(crate) fn small(number: i32) -> u32 {
    u32::try_from(number).unwrap_or_default()
}

/// The longest text that is kept of what somebody else wrote, in characters.
const LONGEST_TEXT: usize = 1000;

/// Somebody else's text as PostgreSQL can hold it: without NUL, and bounded.
pub(crate) fn storable(text: &str) -> String {
    text.chars()
        .take(LONGEST_TEXT)
        .map(|c| {
            if c == '\0' {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}
