//! The read side: projections fold the core's events into tables of their own and answer from them.
//!
//! Each projection is a service that owns its queue, its database schema and its read API:
//!
//! * [`snapshot`]: the latest published value of every signal of a vehicle, with its times;
//! * [`health`]: how recently a vehicle was heard from, acting on the passing of time as well.
//!
//! Beside them the [`reactions`] tell others of what happened, by webhooks, and [`live`] tells those who are
//! connected.
//!
//! Events carry absolute state, so a projection that sees them twice, late or out of order ends up
//! with the same tables. It acknowledges a message only after the commit that holds its effect and
//! says which events of the log it holds; what does not arrive is fetched from the core's log.
//! While the database is away it holds what it has unacknowledged and the queue grows; while the
//! broker is away it answers from what it has.

mod activity;
mod api;
mod applier;
mod batch;
mod checkpoint;
mod comparison;
mod core_config;
mod core_log;
#[cfg(test)]
mod core_stand_in;
mod fill;
#[cfg(test)]
mod fixture;
mod gap;
#[cfg(test)]
mod gap_tests;
mod gaps_config;
pub mod health;
mod heard_through;
mod keeper;
pub mod live;
mod metrics;
mod offsets;
mod part;
mod projection;
pub mod reactions;
mod rebuild;
#[cfg(test)]
mod rebuild_tests;
#[cfg(test)]
mod running;
mod schema;
#[cfg(test)]
mod service_tests;
pub mod snapshot;
mod table_set;
#[cfg(test)]
mod throughput_tests;

use std::net::SocketAddr;

pub use batch::{Change, ConnectionChange, OutOfRange, VehicleChange, VehicleKey};
pub use core_config::CoreConfig;
pub use gaps_config::GapsConfig;
pub use rebuild::RebuildArguments;

/// A service of this crate that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Started {
    /// Where its API listens.
    pub http: SocketAddr,
}
