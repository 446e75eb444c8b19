//! Simulated telematics providers with real protocols.
//!
//! For whoever develops, demonstrates or tests against a provider and has no account there. The first two speak the
//! ViriCiti live protocol on a real port: an API key by header `x-api-key` or query `apiKey`, a subscription frame that is
//! echoed as confirmation, then one JSON frame per datum. Beside it, the provider's REST API gives the last known values and
//! the history of each label.
//!
//! - [`Simulator`]: a fleet of buses that drive, stop and charge at their depot, as one would see them from outside, with
//!   the provider's silences, disconnects and flawed data. The binary `provider-sim` runs it.
//! - [`ScriptedProvider`]: the same protocol, but it sends exactly the frames that a test hands it.
//! - [`PolledSimulator`]: such a fleet behind an HTTP API that is polled, as rFMS 4, Samsara or Geotab have it, with their
//!   limits, errors and late data. It keeps account of what it served and who asked.
//!
//! Guarantees: memory is bounded per socket, whatever a client does; a frame is written at most once to a socket and is never
//! replayed, as with the real provider; everything that shapes the data is a function of the seed and the time.
//! When the client is away its data are not sent later, but the REST API has them; nobody else notices.

mod archive;
mod clock;
mod control;
pub mod drive;
mod feed;
mod flaw;
mod fleet;
mod geotab;
mod hub;
mod memory;
mod polled;
mod protocol;
mod record;
mod rest;
mod rfms;
mod samsara;
mod scripted;
mod server;
mod session;
mod silence;
mod simulator;

pub use archive::Sample;
pub use axum::http::{HeaderMap, StatusCode};
pub use flaw::Flaws;
pub use fleet::{Stats, UnknownVehicles};
pub use hub::Closing;
pub use polled::{
    Fold, Limit, PolledConfig, PolledFault, PolledProvider, PolledRequest, PolledSimulator,
    PolledStats, Secret, Told, Value,
};
pub use protocol::LIVE_PATH;
pub use record::{Handshake, RestRequest, Subscription};
pub use rest::RestFault;
pub use scripted::{ScriptedConfig, ScriptedProvider};
pub use server::StartError;
pub use simulator::{Simulator, SimulatorConfig};

/// The API key that is accepted unless others are configured.
pub const DEFAULT_API_KEY: &str = "simulator-key";
