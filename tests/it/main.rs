//! One binary for all end-to-end tests, so that they share the servers.

mod api;
mod broker;
mod delivery;
mod documentation;
mod end_to_end;
mod freshness;
mod gaps;
mod ingest;
mod management;
mod ownership;
mod parked;
mod poison;
mod polled_providers;
mod polling;
mod spool;
mod status;
mod stops;
mod verdicts;
mod volume;
mod webhooks;
