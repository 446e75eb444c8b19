//! The way out to the providers: whom to trust, and the client for what is asked beside the sockets.
//!
//! Both the sockets and the client trust the system's authorities and those of
//! `stream.extra_ca_file`. The roots are read once, not for each connect.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::Client;
use runtime::outbound;
use rustls::ClientConfig;
use tokio::sync::Semaphore;

use crate::turns::Turns;

/// How many answers of all streams are in memory at once.
const ANSWERS: usize = 8;

/// What all streams share; clones are handles on the same.
#[derive(Debug, Clone)]
pub(crate) struct Outbound {
    /// For sockets.
    pub(crate) tls: Arc<ClientConfig>,
    /// For requests.
    pub(crate) http: Client,
    /// When a stream may connect.
    pub(crate) turns: Turns,
    /// A permit for each answer that is held in memory.
    pub(crate) answers: Arc<Semaphore>,
}

impl Outbound {
    /// Fails if the further authorities in the file `extra` cannot be read.
    pub(crate) fn new(extra: Option<&PathBuf>) -> anyhow::Result<Self> {
        let tls = outbound::tls(extra.map(PathBuf::as_path), "stream.extra_ca_file")?;
        Ok(Self {
            http: outbound::client(tls.clone())?,
            tls: Arc::new(tls),
            turns: Turns::default(),
            answers: Arc::new(Semaphore::new(ANSWERS)),
        })
    }
}
