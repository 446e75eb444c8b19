//! The broker, as services see it.
//!
//! A [`Link`] owns one connection. A supervisor connects, declares the topology, and hands out the
//! session; when anything about it fails (the socket, a channel, a consumer that the broker
//! cancelled) it drops connection, channels and consumers and builds them all again, with jittered
//! backoff, for as long as the service lives. lapin's own recovery stays off. While the broker is
//! away, publishers and consumers wait; nothing is lost, because a message counts as published only
//! once it is confirmed and routed, and as consumed only once it is acknowledged.

mod consumer;
mod lane;
mod link;
mod metrics;
mod publisher;
mod topology;

pub use consumer::{Acknowledger, Batch, Consumer, Death, Delivery, SessionLost};
pub use lane::{Answer, Lane, Pending};
pub use link::{Depth, Link, LinkState, Session};
pub use publisher::{Message, Outcome, Publisher};
