//! One binary for all end-to-end tests, so that they share the servers.

mod api;
mod broker;
mod delivery;
mod documentation;
mod dump_restore;
mod end_to_end;
mod event_log;
mod freshness;
mod gaps;
mod health;
mod ingest;
mod log_upkeep;
mod management;
mod ownership;
mod parked;
mod poison;
mod polled_providers;
mod polling;
mod projections;
mod spool;
mod status;
mod stops;
mod verdicts;
mod volume;
