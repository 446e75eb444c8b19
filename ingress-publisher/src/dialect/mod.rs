//! What differs between providers' websockets: how to authenticate, what to ask for, and who sent a
//! frame. Pure; what a frame means is the core's business.

mod viriciti;

use std::borrow::Cow;

use serde_json::Value;
use shared_model::Provider;

/// A provider's way of speaking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// ViriCiti's live API, versions 1 and 2.
    Viriciti,
}

/// Why a connection's settings say nothing that the provider could be asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the connection's settings are not usable: {rule}")]
pub(crate) struct SettingsError {
    rule: &'static str,
}

impl Dialect {
    /// The dialect of `provider`, if it is known here.
    pub(crate) fn of(provider: &Provider) -> Option<Self> {
        match provider.as_str() {
            "viriciti" => Some(Self::Viriciti),
            _ => None,
        }
    }

    /// The provider's tag, for labels.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Viriciti => "viriciti",
        }
    }

    /// The header that carries the credential.
    pub(crate) const fn credential_header(self) -> &'static str {
        match self {
            Self::Viriciti => viriciti::CREDENTIAL_HEADER,
        }
    }

    /// The message that asks for the data that `settings` name.
    pub(crate) fn subscription(self, settings: &Value) -> Result<String, SettingsError> {
        match self {
            Self::Viriciti => viriciti::subscription(settings),
        }
    }

    /// The device that sent a frame, where the frame shows it.
    pub(crate) fn device(self, body: &[u8]) -> Option<Cow<'_, str>> {
        match self {
            Self::Viriciti => viriciti::device(body),
        }
    }

    /// What of its device a frame tells, where the frame shows it: of two frames of one device with
    /// the same label, the newer makes the older one worthless.
    pub(crate) fn label(self, body: &[u8]) -> Option<Cow<'_, str>> {
        match self {
            Self::Viriciti => viriciti::label(body),
        }
    }
}
