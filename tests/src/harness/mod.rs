//! What tests stand on: private servers, a world of services per test, and ways to wait.

mod core_process;
mod log;
mod process;
mod publisher;
mod servers;
mod wait;
mod world;

pub use core_process::CoreProcess;
pub use publisher::PublisherProcess;
pub use servers::Servers;
pub use wait::{eventually, settled};
pub use world::{INTERNAL_TOKEN, Options, World, envelopes, internal_headers, provider};
