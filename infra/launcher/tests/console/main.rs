//! The console in a browser: before a made-up fleet, and before the whole system.

mod away;
mod driven;
mod fake;
mod fleet;
mod live;
mod looks;
mod paths;
mod shapes;
mod system;
