//! The providers as a client sees them: over real sockets.

mod client;
mod polled;
mod program;
mod rest;
mod scripted;
mod simulator;
