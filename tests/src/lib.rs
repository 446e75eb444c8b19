//! End-to-end tests of Headrace, against real PostgreSQL and RabbitMQ.
//!
//! The harness starts private servers once per run; each test gets a database and a virtual host of
//! its own. The [`model`] is the independent checker: it knows the providers' protocol and the rule
//! "the newest observation wins", and shares no code with what it checks.

pub mod bus;
pub mod described;
pub mod frames;
pub mod harness;
pub mod issuer;
mod log;
pub mod model;
pub mod polled;
pub mod sessions;
pub mod stream;

pub use log::EventLog;
