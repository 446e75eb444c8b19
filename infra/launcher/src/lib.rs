//! Headrace on one machine: `cargo run`.
//!
//! Finds or installs PostgreSQL and RabbitMQ, runs private ones, migrates, starts every service (in
//! this process or each in its own), a gateway in front of their APIs and a simulated provider, and
//! shows what is going on. The only crate besides the tests that sees several services.

pub mod cli;
mod connection;
mod counts;
mod dead_events;
mod dead_letters;
mod demo;
mod demo_key;
mod env_file;
pub mod gateway;
mod hosting;
mod ingest;
mod keys;
mod parked;
mod reconcile;
mod screen;
pub mod services;
mod status;
mod subscribers;
mod tail;
mod up;
mod vehicles;
mod view;
mod webhook;
