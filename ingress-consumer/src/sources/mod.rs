//! Where observations come from. Every source ends in [`crate::acceptance`].

pub mod dead_letters;
pub mod http;
pub mod polling;
pub mod queue;
