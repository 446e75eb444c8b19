//! Where observations come from. Every source ends in [`crate::acceptance`].

pub mod polling;
pub mod queue;
