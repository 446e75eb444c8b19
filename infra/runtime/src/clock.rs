//! The only place that asks for the time or makes up an id. Pure code takes both as arguments.

use chrono::{DateTime, Utc};
use uuid::Uuid;

/// The time now, in the precision that the wire and the database keep.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the clock that all other code asks"
)]
pub fn now() -> DateTime<Utc> {
    shared_model::time::to_micros(Utc::now())
}

/// A new id that sorts by the time of its making.
#[must_use]
#[expect(
    clippy::disallowed_methods,
    reason = "this is the source of ids that all other code asks"
)]
pub fn new_id() -> Uuid {
    Uuid::now_v7()
}
