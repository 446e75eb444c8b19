//! One binary for all end-to-end tests, so that they share the servers.

mod delivery;
mod end_to_end;
