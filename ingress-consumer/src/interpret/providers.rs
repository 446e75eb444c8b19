//! The providers that the core knows: a line each.

use std::sync::Arc;

use serde_json::Value;
use shared_model::{ConnectionKind, Provider, StreamSettings};

use super::feed::{Feed, PollSettings};
use super::{Interpret, Vehicles, canonical, geotab, rfms, samsara, viriciti};

/// What a provider's code makes of a connection's settings.
type Builder = fn(&Value) -> Result<Build, String>;

/// Name and code of each provider.
const PROVIDERS: &[(&str, Builder)] = &[
    ("viriciti", viriciti::build),
    ("rfms", rfms::build),
    ("samsara", samsara::build),
    ("geotab", geotab::build),
    ("canonical", canonical::build),
];

/// A provider's part of a connection.
#[derive(Debug, Clone)]
pub struct Build {
    interpreter: Arc<dyn Interpret>,
    feed: Option<Arc<dyn Feed>>,
    streams: bool,
}

impl Build {
    /// A provider that streams, or whose frames are pushed.
    #[must_use]
    pub fn interpreter(interpreter: impl Interpret + 'static) -> Self {
        Self {
            interpreter: Arc::new(interpreter),
            feed: None,
            streams: true,
        }
    }

    /// A provider that is polled, or whose records are pushed.
    #[must_use]
    pub fn polled(interpreter: impl Interpret + 'static, feed: impl Feed + 'static) -> Self {
        Self {
            interpreter: Arc::new(interpreter),
            feed: Some(Arc::new(feed)),
            streams: false,
        }
    }

    /// A format that is only ever pushed.
    #[must_use]
    pub fn pushed(interpreter: impl Interpret + 'static) -> Self {
        Self {
            interpreter: Arc::new(interpreter),
            feed: None,
            streams: false,
        }
    }

    fn allows(&self, kind: ConnectionKind) -> bool {
        match kind {
            ConnectionKind::Stream => self.streams,
            ConnectionKind::Poll => self.feed.is_some(),
            ConnectionKind::Push => true,
        }
    }
}

/// All that a connection's provider and settings say about how it is read.
#[derive(Debug, Clone)]
pub struct Provision {
    /// How its frames are read.
    pub interpreter: Arc<dyn Interpret>,
    /// Which vehicles its devices are.
    pub vehicles: Vehicles,
    /// Of a connection of kind `poll`: what is asked, and how often.
    pub poll: Option<(Arc<dyn Feed>, PollSettings)>,
}

/// Why a connection cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConnection {
    /// There is no code for the provider.
    #[error("provider {0} is not known; known: {known}", known = names())]
    UnknownProvider(Provider),
    /// The provider has no such connections.
    #[error("{provider} has no connections of kind {kind}; write one of: {allowed}")]
    UnknownKind {
        /// The provider.
        provider: Provider,
        /// The kind asked for.
        kind: ConnectionKind,
        /// The kinds that there are.
        allowed: String,
    },
    /// The settings are not the provider's.
    #[error("settings are not valid: {0}")]
    InvalidSettings(String),
}

/// The providers' names.
pub fn known() -> impl Iterator<Item = &'static str> {
    PROVIDERS.iter().map(|(name, _)| *name)
}

fn names() -> String {
    known().collect::<Vec<_>>().join(", ")
}

/// How a connection of `kind` to `provider` with `settings` is read.
pub fn provision(
    provider: &Provider,
    kind: ConnectionKind,
    settings: &Value,
) -> Result<Provision, InvalidConnection> {
    let builder = PROVIDERS
        .iter()
        .find(|(name, _)| *name == provider.as_str())
        .map(|(_, builder)| builder)
        .ok_or_else(|| InvalidConnection::UnknownProvider(provider.clone()))?;
    let invalid = InvalidConnection::InvalidSettings;
    let (vehicles, settings) = Vehicles::split(settings).map_err(invalid)?;
    let (poll_settings, settings) = match kind {
        // A stream's own settings are its publisher's.
        ConnectionKind::Stream => {
            let (_, settings) = StreamSettings::split(&settings).map_err(invalid)?;
            (None, settings)
        }
        ConnectionKind::Poll => {
            let (poll, settings) = PollSettings::split(&settings).map_err(invalid)?;
            (Some(poll), settings)
        }
        ConnectionKind::Push => (None, settings),
    };
    let build = builder(&settings).map_err(invalid)?;
    if !build.allows(kind) {
        let allowed: Vec<_> = ConnectionKind::ALL
            .into_iter()
            .filter(|kind| build.allows(*kind))
            .map(ConnectionKind::name)
            .collect();
        return Err(InvalidConnection::UnknownKind {
            provider: provider.clone(),
            kind,
            allowed: allowed.join(", "),
        });
    }
    Ok(Provision {
        interpreter: build.interpreter,
        vehicles,
        poll: build.feed.zip(poll_settings),
    })
}
