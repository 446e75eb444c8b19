//! Secrets and signatures of Standard Webhooks, version 1.
//!
//! A secret is written `whsec_` and base64 of 24 to 64 bytes. A signature is base64 of HMAC-SHA256, with
//! those bytes as the key, over `<webhook-id>.<webhook-timestamp>.<body>`.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};

const PREFIX: &str = "whsec_";
/// How many bytes a secret that is made here has.
const MADE: usize = 32;
const LEAST: usize = 24;
const MOST: usize = 64;

/// The key that an endpoint's calls are signed with. Printed only by [`Secret::reveal`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

/// The text is no secret. It is not shown, since it may be one for something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a secret is `whsec_` and base64 of {LEAST} to {MOST} random bytes; leave it out to have one made"
)]
pub struct NoSecret;

/// The operating system gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the operating system gives no random bytes")]
pub struct NoRandomness;

impl Secret {
    /// Makes a secret of random bytes.
    pub fn make() -> Result<Self, NoRandomness> {
        let mut bytes = vec![0; MADE];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| NoRandomness)?;
        Ok(Self(bytes))
    }

    /// Reads a secret as it is written.
    pub fn parse(text: &str) -> Result<Self, NoSecret> {
        let encoded = text.strip_prefix(PREFIX).ok_or(NoSecret)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| NoSecret)?;
        if (LEAST..=MOST).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(NoSecret)
        }
    }

    /// A secret from its bytes as they are stored.
    #[must_use]
    pub const fn from_bytes(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// The bytes, to store them.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The secret as it is written, for the owner of the endpoint.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    /// Signs a call: `v1,` and the signature. `timestamp` is in seconds since 1970.
    #[must_use]
    pub fn sign(&self, id: &str, timestamp: i64, body: &str) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp}.").as_bytes());
        context.update(body.as_bytes());
        format!("v1,{}", STANDARD.encode(context.sign()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers of the reference libraries.
    #[test]
    fn a_signature_is_the_one_that_receivers_expect() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = secret.sign(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        // A shorter key than is taken today, from the same collection.
        let short = Secret(STANDARD.decode("plJ3nmyCDGBKInavdOK15jsl").unwrap());
        let signature = short.sign(
            "msg_loFOjxBNrRLzqYUf",
            1_731_705_121,
            r#"{"event_type":"ping","data":{"success":true}}"#,
        );
        assert_eq!(signature, "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=");
    }

    #[test]
    fn secrets_are_made_written_and_read() {
        let (one, other) = (Secret::make().unwrap(), Secret::make().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.bytes().len(), MADE);
        assert_eq!(Secret::parse(&one.reveal()).unwrap(), one);
        assert!(!format!("{one:?}").contains(&one.reveal()[PREFIX.len()..]));
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_shown() {
        let of = |length| format!("whsec_{}", STANDARD.encode(vec![7; length]));
        for good in [LEAST, MOST] {
            assert!(Secret::parse(&of(good)).is_ok(), "{good}");
        }
        for bad in [
            "",
            "hunter2",
            "whsec_",
            "whsec_hunter2",
            &of(LEAST - 1),
            &of(MOST + 1),
        ] {
            let error = Secret::parse(bad).unwrap_err().to_string();
            assert!(
                error.contains("24 to 64") && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
