//! JSON web tokens of one identity provider: who bears a token, and what it lets them do.
//!
//! A token counts if one of its issuer's published keys has signed it (RS256 or ES256), if it is from that
//! issuer and for this installation, and between `nbf` and `exp`. While the issuer is away, tokens are
//! verified with the keys that were read last.

mod claims;
mod config;
mod issuer;
mod key_set;
#[cfg(test)]
pub(super) mod test_issuer;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::errors::{Error, ErrorKind};
use jsonwebtoken::{Validation, decode, decode_header};
use moka::future::Cache;
use ring::digest;
use serde_json::Value;

pub use config::JwtConfig;

use super::{Principal, Refusal};
use crate::clock;
use claims::Claims;
use issuer::{Issuer, NoKey};
use key_set::{Key, KeyName};

/// How many verified tokens are remembered, and for how long.
const MOST: u64 = 10_000;
const REMEMBER: Duration = Duration::from_mins(5);

/// Verifies the tokens of one issuer.
#[derive(Debug)]
pub(super) struct Tokens {
    issuer: Arc<Issuer>,
    /// What a token has to say, whatever it is signed with.
    validation: Validation,
    claims: Claims,
    /// By digest, tokens whose signature need not be computed again: clients send theirs many times.
    verified: Cache<[u8; 32], Arc<Verified>>,
}

/// A token that counts, as long as its key is the issuer's and until it expires.
#[derive(Debug)]
struct Verified {
    kid: Option<String>,
    key: Arc<Key>,
    /// In seconds since 1970.
    expires_at: f64,
    principal: Principal,
}

impl Verified {
    fn key_name(&self) -> KeyName<'_> {
        KeyName {
            kid: self.kid.as_deref(),
            algorithm: self.key.algorithm,
        }
    }
}

/// Whether a credential has the three parts of a signed token.
pub(super) fn looks_like_one(credential: &str) -> bool {
    credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

impl Tokens {
    /// The tokens of the issuer that `config` names, if it does.
    pub(super) fn of(config: &JwtConfig) -> Option<Self> {
        Issuer::of(config).map(|issuer| Self::issued_by(issuer, config))
    }

    fn issued_by(issuer: Issuer, config: &JwtConfig) -> Self {
        let mut validation = Validation {
            leeway: config.leeway.as_secs(),
            validate_nbf: true,
            ..Validation::default()
        };
        validation.set_issuer(config.issuer.as_slice());
        validation.set_audience(config.audience.as_slice());
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self {
            issuer: Arc::new(issuer),
            validation,
            claims: Claims::of(config),
            verified: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(REMEMBER)
                .build(),
        }
    }

    /// Who bears `token`.
    pub(super) async fn principal(&self, token: &str) -> Result<Principal, Refusal> {
        let digest = digest(token);
        if let Some(known) = self.verified.get(&digest).await {
            // Keys that were read anew are other ones, and the token is verified anew.
            let key = self.key(known.key_name()).await?;
            if Arc::ptr_eq(&key, &known.key) && !self.has_expired(known.expires_at) {
                return Ok(known.principal.clone());
            }
        }
        let verified = self.verify(token).await?;
        let principal = verified.principal.clone();
        self.verified.insert(digest, Arc::new(verified)).await;
        Ok(principal)
    }

    async fn verify(&self, token: &str) -> Result<Verified, Refusal> {
        let header = decode_header(token).map_err(|error| refusal(&error))?;
        if header.crit.is_some() {
            // RFC 7515: who does not understand what is critical must not take the token.
            return Err(invalid(
                "its header asks for extensions that are not understood here",
            ));
        }
        let name = KeyName {
            kid: header.kid.as_deref(),
            algorithm: header.alg,
        };
        let key = self.key(name).await?;
        let validation = Validation {
            algorithms: vec![key.algorithm],
            ..self.validation.clone()
        };
        let decoded = decode::<Value>(token, &key.key, &validation);
        let claims = decoded.map_err(|error| refusal(&error))?.claims;
        let principal = self.claims.principal(&claims);
        Ok(Verified {
            kid: header.kid,
            key,
            expires_at: claims["exp"].as_f64().unwrap_or_default(),
            principal: principal.ok_or_else(|| invalid("it has no usable claim `sub`"))?,
        })
    }

    async fn key(&self, name: KeyName<'_>) -> Result<Arc<Key>, Refusal> {
        self.issuer.key(name).await.map_err(|error| match error {
            NoKey::Away => Refusal::unverifiable("the issuer of tokens"),
            NoKey::Unknown if name.kid.is_none() => {
                invalid("its header names no key (`kid`), and its issuer has several")
            }
            NoKey::Unknown => invalid("it is signed with a key that its issuer does not publish"),
        })
    }

    fn has_expired(&self, expires_at: f64) -> bool {
        let now = clock::now().timestamp() as f64;
        expires_at < now - self.validation.leeway as f64
    }
}

fn digest(token: &str) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, token.as_bytes());
    // It has 32 bytes.
    digest.as_ref().try_into().unwrap_or_default()
}

/// Why a token does not count, without saying what would.
fn refusal(error: &Error) -> Refusal {
    match error.kind() {
        ErrorKind::ExpiredSignature => {
            Refusal::invalid("token-expired", "the token has expired; get a new one")
        }
        ErrorKind::ImmatureSignature => invalid("it is not valid yet (`nbf`)"),
        ErrorKind::InvalidIssuer => invalid("it is from another issuer (`iss`)"),
        ErrorKind::InvalidAudience => invalid("it is for another audience (`aud`)"),
        ErrorKind::InvalidSignature => invalid("its signature is not that of its issuer's key"),
        ErrorKind::InvalidAlgorithm => {
            invalid("its algorithm (`alg`) is not that of its issuer's key")
        }
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            invalid(&format!("it has no usable claim `{claim}`"))
        }
        _ => invalid("it cannot be read as a JSON web token that is signed with RS256 or ES256"),
    }
}

fn invalid(reason: &str) -> Refusal {
    Refusal::invalid("token-invalid", format!("the token is refused: {reason}"))
}
