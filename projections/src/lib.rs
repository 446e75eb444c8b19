//! The read side: projections fold the core's events into tables of their own and answer from them.
//!
//! Each projection is a service that owns its queue, its database schema and its read API:
//!
//! * [`snapshot`]: the latest published value of every signal of a vehicle, with its times;
//! * [`health`]: how recently a vehicle was heard from, acting on the passing of time as well.
//!
//! Beside them the [`reactions`] tell others of what happened, by webhooks.
//!
//! Events carry absolute state, so a projection that sees them twice, late or out of order ends up
//! with the same tables. It acknowledges a message only after the commit that holds its effect.
//! While the database is away it holds what it has unacknowledged and the queue grows; while the
//! broker is away it answers from what it has.

mod api;
mod batch;
#[cfg(test)]
mod fixture;
pub mod health;
mod metrics;
mod projection;
pub mod reactions;
#[cfg(test)]
mod service_tests;
pub mod snapshot;

use std::net::SocketAddr;

pub use batch::{Change, ConnectionChange, OutOfRange, VehicleChange, VehicleKey};

/// A service of this crate that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where its API listens.
    pub http: SocketAddr,
}
