//! API keys, as a service looks them up.
//!
//! A key reads `hr_<id>_<secret>`: 16 hexadecimal digits that name it and 64 that only its holder knows.
//! Nobody else keeps the secret, only its digest.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use futures_util::future::{BoxFuture, ready};
use ring::digest;
use serde::{Deserialize, Serialize};

use super::Scope;
use crate::config::Secret;
use crate::http::Problem;

const PREFIX: &str = "hr_";
const ID_DIGITS: usize = 16;
const SECRET_DIGITS: usize = 64;

/// An API key, as its holder sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What names it, in lists and logs.
    pub id: String,
    secret: Secret,
}

/// A text that is no API key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an API key reads hr_<16 hexadecimal digits>_<64 hexadecimal digits>")]
pub struct NoApiKey;

impl ApiKey {
    /// A new key that nobody guesses.
    pub fn new() -> anyhow::Result<Self> {
        let random = super::new_secret()?;
        Ok(Self {
            id: random.expose()[..ID_DIGITS].to_owned(),
            secret: super::new_secret()?,
        })
    }

    /// The key as its holder sends it.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret.expose())
    }

    /// SHA-256 of the secret, in hexadecimal digits. The secret is random, so a slow hash adds nothing.
    #[must_use]
    pub fn digest(&self) -> String {
        let digest = digest::digest(&digest::SHA256, self.secret.expose().as_bytes());
        digest
            .as_ref()
            .iter()
            .fold(String::new(), |mut digits, byte| {
                for half in [byte >> 4, byte & 15] {
                    digits.push(char::from_digit(half.into(), 16).unwrap_or_default());
                }
                digits
            })
    }
}

impl FromStr for ApiKey {
    type Err = NoApiKey;

    fn from_str(text: &str) -> Result<Self, NoApiKey> {
        let digits = |text: &str, count| {
            text.len() == count && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        text.strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('_'))
            .filter(|(id, secret)| digits(id, ID_DIGITS) && digits(secret, SECRET_DIGITS))
            .map(|(id, secret)| Self {
                id: id.to_owned(),
                secret: Secret::new(secret),
            })
            .ok_or(NoApiKey)
    }
}

/// What `POST /internal/v1/api-keys/check` is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyCheck {
    /// The key's id.
    pub id: String,
    /// [`ApiKey::digest`].
    pub digest: String,
}

/// What an API key allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyGrant {
    /// The workspaces that its holder may touch.
    pub workspaces: Vec<String>,
    /// What they may do.
    pub scopes: Vec<Scope>,
    /// When it ends (UTC), if it does.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Where API keys are known.
pub trait KeySource: Send + Sync + fmt::Debug {
    /// What a key allows now; none if there is none with this id and digest, or if it was revoked or has
    /// expired. Notes that the key was used.
    fn check<'a>(&'a self, check: &'a KeyCheck)
    -> BoxFuture<'a, Result<Option<KeyGrant>, Problem>>;
}

/// No API key is known.
#[derive(Debug, Clone, Copy)]
pub struct NoKeys;

impl KeySource for NoKeys {
    fn check<'a>(&'a self, _: &'a KeyCheck) -> BoxFuture<'a, Result<Option<KeyGrant>, Problem>> {
        Box::pin(ready(Ok(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_written() {
        let key = ApiKey::new().unwrap();
        assert_eq!(key.expose().parse(), Ok(key.clone()));
        assert_eq!(key.digest().len(), 64);
        assert_ne!(ApiKey::new().unwrap().expose(), key.expose());
        assert!(!format!("{key:?}").contains(key.secret.expose()));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let key = ApiKey::new().unwrap().expose();
        let upper = key.to_uppercase();
        for bad in [
            "",
            "hr_",
            "hr_1_2",
            &key[1..],
            &upper,
            &key[..key.len() - 1],
        ] {
            assert_eq!(bad.parse::<ApiKey>(), Err(NoApiKey), "{bad}");
        }
    }
}
