//! Identifiers, each its own type so that one cannot stand in for another.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {text:?} is not valid: {rule}")]
pub struct IdError {
    kind: &'static str,
    text: String,
    rule: &'static str,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $pattern:literal, $longest:tt, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[schema(pattern = $pattern, max_length = $longest)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// Checks `text` and takes it as an identifier; the error says which rule it breaks.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(IdError { kind: $kind, text, rule: $rule })
                }
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A workspace: the tenant. It is part of URLs, headers and metrics, so its alphabet is small.
    WorkspaceId,
    "workspace",
    "1 to 63 of a-z, 0-9, '-' and '_', starting with a letter or digit",
    "^[a-z0-9][a-z0-9_-]{0,62}$",
    63,
    |text| {
        text.len() <= 63
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && text
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
    }
);

text_id!(
    /// A vehicle's id within its workspace: the provider's own id unless the connection maps it.
    VehicleId,
    "vehicle",
    "1 to 128 characters, none of them a control character, no white space at either end",
    r"^[^\s\u0000-\u001f\u007f-\u009f]([^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f])?$",
    128,
    |text| {
        !text.is_empty()
            && text.chars().count() <= 128
            && text.trim() == text
            && !text.chars().any(char::is_control)
    }
);

text_id!(
    /// A telematics vendor's protocol, such as `viriciti`.
    Provider,
    "provider",
    "1 to 32 of a-z, 0-9 and '-', starting with a letter",
    "^[a-z][a-z0-9-]{0,31}$",
    32,
    |text| {
        text.len() <= 32
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
    }
);

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id!(
    /// A connection: one configured account at a provider for one workspace.
    ConnectionId
);

uuid_id!(
    /// One life of a stream's websocket, from connect to close. Frames are numbered within it, for each
    /// partition from 1.
    SessionId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspaces_keep_to_their_alphabet() {
        for good in ["demo", "a", "0-1_b"] {
            assert!(WorkspaceId::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "Demo", "a b", "ä", &"a".repeat(64)] {
            assert!(WorkspaceId::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn vehicles_may_have_any_printable_name() {
        for good in [
            "bus-1",
            "gillig_1430",
            "<script>",
            "Bus №7 / Süd",
            &"x".repeat(128),
        ] {
            assert!(VehicleId::new(good).is_ok(), "{good}");
        }
        for bad in ["", " bus", "bus\n", "a\u{0}b", &"x".repeat(129)] {
            assert!(VehicleId::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_error_names_the_kind_the_text_and_the_rule() {
        let error = Provider::new("Viri Citi").unwrap_err().to_string();
        assert!(error.contains("provider") && error.contains("Viri Citi") && error.contains("a-z"));
    }
}
