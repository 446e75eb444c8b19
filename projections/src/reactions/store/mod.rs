//! SQL of the schema `reactions`.
//!
//! The database's clock is the only one here, so that replicas agree on what is due. Rows are locked in
//! one order: the endpoint, then its deliveries (those of several endpoints sorted by endpoint and
//! event), then attempts. What only looks for work skips rows that somebody else has locked.

pub(super) mod delivery;
pub(super) mod endpoint;
pub(super) mod secrets;
pub(super) mod sending;
pub(super) mod upkeep;

/// How many rows a statement changes at most, so that none takes long.
pub(super) const CHUNK: i64 = 2000;
