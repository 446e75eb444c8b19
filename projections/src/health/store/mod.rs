//! All SQL of the schema `health`, but for that of the table `connection` (see `connection_store`).
//!
//! Decisions are not made here: rows are read and locked, judged by pure functions, and written back.
//!
//! Order of locks, which every transaction keeps, each kind in the order of its keys:
//!
//! 1. connections;
//! 2. incidents that are open, shared by those who judge vehicles, so that none is closed behind the
//!    back of a vehicle that is just found to be behind it;
//! 3. vehicles;
//! 4. the head of what is found ([`finding`]): from there to the commit nobody else finds anything, so
//!    that numbers are in commit order. Only the checkpoint comes after it.

pub(super) mod finding;
pub(super) mod incident;
pub(super) mod retention;
pub(super) mod situation;
pub(super) mod transition;
pub(super) mod vehicle;
pub(super) mod view;

use std::error::Error;

/// A column that does not hold what was written to it.
fn broken<E: Error + Send + Sync + 'static>(column: &'static str) -> impl FnOnce(E) -> sqlx::Error {
    move |error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: Box::new(error),
    }
}

/// A number that is never negative.
fn unsigned(number: i64) -> u64 {
    number.unsigned_abs()
}

#[cfg(test)]
mod tests;
