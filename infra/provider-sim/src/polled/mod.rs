//! Providers that are polled: an HTTP API in front of what vehicles reported, each in its own protocol.
//!
//! What they share is here: the [`history`] of reports, the [`limits`] of requests, the [`ledger`] of what was served, the
//! [`visits`] of customers, and the [`desk`] where these meet. The protocols are in `rfms`, `samsara` and `geotab`, each a
//! pure feed and the thin routes in front of it.

mod config;
mod control;
mod desk;
pub(crate) mod history;
mod ledger;
mod limits;
mod simulator;
pub(crate) mod time;
mod visits;

pub use config::{PolledConfig, PolledProvider, Secret};
pub use desk::PolledFault;
pub use ledger::{Fold, Told, Value};
pub use limits::Limit;
pub use simulator::{PolledSimulator, PolledStats};
pub use visits::PolledRequest;

pub(crate) use desk::{Desk, Refusal, Refused, Request};
pub(crate) use history::{History, Record};
pub(crate) use ledger::{Fact, Ledger};
pub(crate) use limits::{Limits, Quota};
pub(crate) use visits::Visits;
