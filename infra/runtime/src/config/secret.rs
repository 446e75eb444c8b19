//! Secrets, and URLs that may hold one.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// A URL whose password is never printed: not by `Debug`, `Display` or serialisation.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct SecretUrl(String);

impl SecretUrl {
    /// Takes `url`, password and all.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password, for the client that connects to it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What has no scheme may be anything, a bare password included.
        let Some((scheme, rest)) = self.0.split_once("://") else {
            return f.write_str("***");
        };
        // Some clients take a password as a parameter, and a password that should have been escaped
        // may hold any character, so what stands before the last @ goes first.
        let (user_info, host) = match rest.rsplit_once('@') {
            Some((user_info, host)) => (Some(user_info), host),
            None => (None, rest),
        };
        let host = host.split(['?', '#']).next().unwrap_or_default();
        match user_info.map(|user_info| user_info.split_once(':').ok_or(user_info)) {
            None => write!(f, "{scheme}://{host}"),
            Some(Ok((user, _))) => write!(f, "{scheme}://{user}:***@{host}"),
            Some(Err(user)) => write!(f, "{scheme}://{user}@{host}"),
        }
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for SecretUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A secret, which is never printed: not by `Debug` or serialisation.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes `secret`.
    #[must_use]
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret, for who needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        for (url, printed) in [
            (
                "amqp://user:se:c@ret@host:5672/%2f",
                "amqp://user:***@host:5672/%2f",
            ),
            ("postgres://user@host/db", "postgres://user@host/db"),
            ("postgres://host/db?password=secret", "postgres://host/db"),
            (
                "amqp://user:pa#ss@word@host/%2f",
                "amqp://user:***@host/%2f",
            ),
            ("amqp://user:pa?ss@host/%2f", "amqp://user:***@host/%2f"),
            ("secret", "***"),
        ] {
            let url = SecretUrl::new(url);
            assert_eq!(url.to_string(), printed);
            assert_eq!(format!("{url:?}"), printed);
            assert_eq!(serde_json::to_value(&url).unwrap(), printed);
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hush");
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(serde_json::to_value(&secret).unwrap(), "***");
        assert_eq!(secret.expose(), "hush");
    }
}
