//! The installation's own credential: how services know one another.

use anyhow::Context as _;
use axum::http::{HeaderMap, HeaderValue, header};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};

use super::AccessConfig;
use crate::config::Secret;

/// The credential of the services among themselves.
#[derive(Debug, Clone)]
pub struct InternalToken {
    sent: Option<Secret>,
    /// Taken from others beside the one that is sent.
    second: Option<Secret>,
}

impl InternalToken {
    /// What is configured. Where nothing is, nobody passes for internal.
    #[must_use]
    pub fn of(config: &AccessConfig) -> Self {
        Self {
            sent: config.internal_token.clone(),
            second: config.second_internal_token.clone(),
        }
    }

    /// The headers to ask another service with.
    pub fn headers(&self) -> anyhow::Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &self.sent {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .context("access.internal_token holds what a header cannot")?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        Ok(headers)
    }

    /// Whether `credential` is this one; how long that takes tells nothing of it.
    pub(super) fn is(&self, credential: &str) -> bool {
        let digest = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
        // Digests may be compared in any time: how much of them is equal tells nothing of the texts.
        let sent = digest(credential);
        let taken = [&self.sent, &self.second].into_iter().flatten();
        let mut tokens = taken.map(|token| digest(token.expose()));
        tokens.any(|token| token.as_ref() == sent.as_ref())
    }
}

/// A secret that nobody guesses: 256 bits, in hexadecimal digits.
pub fn new_secret() -> anyhow::Result<Secret> {
    let mut bytes = [0_u8; 32];
    SystemRandom::new()
        .fill(&mut bytes)
        .ok()
        .context("the system gives no random numbers")?;
    let (high, low) = bytes.split_at(16);
    let [high, low] = [high, low].map(|half| half.try_into().map_or(0, u128::from_be_bytes));
    Ok(Secret::new(format!("{high:032x}{low:032x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_tokens_are_taken_while_one_is_replaced_and_one_is_sent() {
        let mut config = AccessConfig::internal("the-one-that-is-sent");
        config.second_internal_token = Some(Secret::new("the-one-that-is-to-come"));
        let token = InternalToken::of(&config);
        assert!(token.is("the-one-that-is-sent") && token.is("the-one-that-is-to-come"));
        assert!(!token.is("") && !token.is("the-one-that-is-sent "));
        let headers = token.headers().unwrap();
        let sent = &headers[header::AUTHORIZATION];
        assert_eq!(sent, "Bearer the-one-that-is-sent");
        assert!(sent.is_sensitive());
        let none = InternalToken::of(&AccessConfig::default());
        assert!(!none.is("") && none.headers().unwrap().is_empty());
    }
}
