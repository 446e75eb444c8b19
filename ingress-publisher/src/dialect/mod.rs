//! What differs between providers: how to authenticate, what to ask for on the socket and beside it,
//! and who sent a frame. Pure; what a frame means is the core's business.

mod viriciti;

use std::borrow::Cow;

use bytes::Bytes;
use reqwest::Url;
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

/// One label of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Series {
    /// The provider's own id of the device.
    pub(crate) device: String,
    /// The provider's name of what is measured.
    pub(crate) label: String,
}

/// A request to a provider's REST API: a POST with a JSON body, or a GET without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Question {
    /// Where.
    pub(crate) url: Url,
    /// The body.
    pub(crate) body: Option<String>,
}

/// The bodies of frames, made one by one: all of them need more memory than the answer.
pub(crate) type Bodies<'a> = Box<dyn Iterator<Item = Bytes> + Send + 'a>;

/// An answer that is not what the provider's documentation says.
#[derive(Debug, thiserror::Error)]
#[error("the provider's answer cannot be read: {0}")]
pub(crate) struct UnreadableAnswer(#[from] serde_json::Error);

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

    /// Everything that `settings` subscribe to, the series of a device side by side.
    pub(crate) fn series(self, settings: &Value) -> Vec<Series> {
        match self {
            Self::Viriciti => viriciti::rest::series(settings),
        }
    }

    /// How to ask for the latest values of `series`.
    pub(crate) fn latest(self, base: &Url, series: &[Series]) -> Question {
        match self {
            Self::Viriciti => viriciti::rest::latest(base, series),
        }
    }

    /// The frames that the latest values would have been on the socket.
    pub(crate) fn read_latest(self, answer: &[u8]) -> Result<Bodies<'_>, UnreadableAnswer> {
        match self {
            Self::Viriciti => viriciti::rest::read_latest(answer),
        }
    }

    /// How to ask for what `series` was between two times, in milliseconds since the Unix epoch.
    pub(crate) fn history(self, base: &Url, series: &Series, from: i64, to: i64) -> Question {
        match self {
            Self::Viriciti => viriciti::rest::history(base, series, from, to),
        }
    }

    /// The frames that a history would have been on the socket.
    pub(crate) fn read_history<'a>(
        self,
        series: &'a Series,
        answer: &'a [u8],
    ) -> Result<Bodies<'a>, UnreadableAnswer> {
        match self {
            Self::Viriciti => viriciti::rest::read_history(series, answer),
        }
    }
}
