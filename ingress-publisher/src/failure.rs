//! What can go wrong with a stream, and how long to leave the provider in peace after it.

use std::time::Duration;

use runtime::credential::CredentialError;
use tokio_tungstenite::tungstenite;
use tungstenite::http::StatusCode;

use crate::dialect::SettingsError;
use shared_model::control::StreamState;

/// A provider that asks for more than this has a broken header, or is asked again in between.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// Why a stream has no socket, or has it no more. No text of it holds a secret.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Nothing to ask the provider for.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The endpoint is shown nowhere: a URL may hold a key.
    #[error("the endpoint is not a usable ws:// or wss:// URL")]
    Endpoint,
    /// The credential is not there.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The provider does not accept the credential.
    #[error("the provider refused the credentials: {status}")]
    Refused {
        /// The HTTP status, 401 or 403.
        status: StatusCode,
    },
    /// The provider wants to be asked later.
    #[error("the provider wants to be asked later: {status}")]
    Later {
        /// The HTTP status, 429 or 503.
        status: StatusCode,
        /// How much later.
        retry_after: Option<Duration>,
    },
    /// The provider answered, but not with a websocket.
    #[error("the provider answered {status} instead of opening a websocket")]
    NoSocket {
        /// The HTTP status.
        status: StatusCode,
    },
    /// The provider does not answer.
    #[error("the provider did not answer within {0:?}")]
    NoAnswer(Duration),
    /// There is no way to the provider.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(#[source] tungstenite::Error),
    /// The provider closed the socket.
    #[error("the provider closed the socket{0}")]
    Closed(String),
    /// The provider sent a message beyond `stream.max_frame_bytes`.
    #[error("the provider sent a message that is too large: {0}")]
    Oversized(#[source] tungstenite::Error),
    /// The socket broke.
    #[error("the socket broke: {0}")]
    Broken(#[source] tungstenite::Error),
    /// Nothing came, not even the answer to a ping.
    #[error("the provider did not even answer a ping within {0:?}")]
    Silent(Duration),
}

impl Failure {
    /// A short name, from a closed set.
    pub(crate) const fn reason(&self) -> &'static str {
        match self {
            Self::Settings(_) | Self::Endpoint => "settings",
            Self::Credential(_) => "credential",
            Self::Refused { .. } => "refused",
            Self::Later { .. } => "later",
            Self::NoSocket { .. } | Self::NoAnswer(_) | Self::Unreachable(_) => "unreachable",
            Self::Closed(_) => "closed",
            Self::Oversized(_) => "oversized",
            Self::Broken(_) => "broken",
            Self::Silent(_) => "silent",
        }
    }

    /// What the stream is in because of it.
    pub(crate) const fn state(&self) -> StreamState {
        match self {
            Self::Refused { .. } => StreamState::Refused,
            _ => StreamState::BackingOff,
        }
    }

    /// Whether another credential could help, so that it is worth while to look for one.
    pub(crate) const fn is_about_the_credential(&self) -> bool {
        matches!(self, Self::Refused { .. } | Self::Credential(_))
    }

    /// How long to wait, where it would be `usual`ly that long, and `long` where only people can
    /// help: until then, asking again only annoys.
    pub(crate) fn wait(&self, usual: Duration, long: Duration) -> Duration {
        match self {
            Self::Refused { .. } | Self::Settings(_) | Self::Endpoint => usual.max(long),
            // Never earlier than asked, and not all at once.
            Self::Later {
                retry_after: Some(asked),
                ..
            } => usual + (*asked).min(LONGEST_WAIT),
            _ => usual,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn later(seconds: u64) -> Failure {
        Failure::Later {
            status: StatusCode::TOO_MANY_REQUESTS,
            retry_after: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn a_provider_is_left_in_peace_as_long_as_it_asks() {
        let (usual, long) = (Duration::from_secs(2), Duration::from_secs(70));
        let status = StatusCode::UNAUTHORIZED;
        assert_eq!(Failure::Refused { status }.wait(usual, long), long);
        assert_eq!(later(90).wait(usual, long), Duration::from_secs(92));
        assert_eq!(later(u64::MAX).wait(usual, long), LONGEST_WAIT + usual);
        assert_eq!(Failure::Closed(String::new()).wait(usual, long), usual);
    }
}
