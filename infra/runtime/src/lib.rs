//! What every Headrace service shares, and nothing of the domain: the one `main`, configuration,
//! telemetry, shutdown, the AMQP connection, the PostgreSQL pool and the HTTP server.
//!
//! The only thing it takes from `shared-model` is the description of the broker's topology.

pub mod access;
pub mod amqp;
pub mod backoff;
pub mod clock;
pub mod config;
pub mod credential;
pub mod db;
pub mod http;
pub mod lifecycle;
pub mod limits;
pub mod notifications;
pub mod outbound;
pub mod service;
pub mod telemetry;

pub use lifecycle::Context;
