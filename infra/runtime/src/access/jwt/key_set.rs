//! The keys that an issuer publishes (a JWK set, RFC 7517), as far as they are of use here. Pure.
//!
//! A key says by itself what it is for: RSA for RS256, P-256 for ES256. What a token's header says of the
//! algorithm only ever has to agree with that, so a public key is never taken for a shared secret.

use std::sync::Arc;

use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;

/// No issuer has nearly as many.
const MOST: usize = 100;
/// Lengths of RSA moduli that are taken, in base64 digits: from 2048 to 4096 bits, give or take a byte.
const RSA_DIGITS: std::ops::RangeInclusive<usize> = 341..=684;

/// A key that verifies signatures.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// What a token's header says of its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeyName<'a> {
    pub(super) kid: Option<&'a str>,
    pub(super) algorithm: Algorithm,
}

/// The keys of an issuer.
#[derive(Debug, Clone, Default)]
pub(super) struct KeySet(Vec<(Option<String>, Arc<Key>)>);

/// An answer that holds no key to verify signatures with.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoKeySet {
    #[error("what jwks_url answers is no JWK set")]
    Unreadable(#[from] serde_json::Error),
    #[error(
        "the set at jwks_url has no RSA key of 2048 to 4096 bits and no P-256 key for signatures"
    )]
    Empty,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl KeySet {
    /// Reads a JWK set. Keys that are of no use here are left out, as the RFC asks.
    pub(super) fn read(text: &[u8]) -> Result<Self, NoKeySet> {
        let document: Document = serde_json::from_slice(text)?;
        let keys = document.keys.into_iter().take(MOST);
        let keys: Vec<_> = keys.filter_map(usable).collect();
        if keys.is_empty() {
            return Err(NoKeySet::Empty);
        }
        Ok(Self(keys))
    }

    /// The key that a token's header names. It may name none where there is but one. Keys of different kinds
    /// may have one `kid`; what they are for stays theirs to say.
    pub(super) fn find(&self, name: KeyName<'_>) -> Option<&Arc<Key>> {
        match (name.kid, self.0.as_slice()) {
            (Some(kid), keys) => {
                let named = keys.iter().filter(|(id, _)| id.as_deref() == Some(kid));
                let named = named.map(|(_, key)| key);
                // That of another algorithm tells what is wrong with the token.
                let fitting = named.clone().find(|key| key.algorithm == name.algorithm);
                fitting.or_else(|| named.clone().next())
            }
            (None, [(_, only)]) => Some(only),
            (None, _) => None,
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

fn usable(key: Value) -> Option<(Option<String>, Arc<Key>)> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    let common = &jwk.common;
    let signs = matches!(&common.public_key_use, None | Some(PublicKeyUse::Signature));
    let verifies = common
        .key_operations
        .as_ref()
        .is_none_or(|operations| operations.contains(&KeyOperations::Verify));
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if RSA_DIGITS.contains(&rsa.n.len()) => {
            (Algorithm::RS256, KeyAlgorithm::RS256)
        }
        AlgorithmParameters::EllipticCurve(curve) if curve.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        _ => return None,
    };
    let agrees = common.key_algorithm.is_none_or(|alg| alg == named);
    if !signs || !verifies || !agrees {
        return None;
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    Some((jwk.common.key_id, Arc::new(Key { algorithm, key })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(keys: &Value) -> Option<KeySet> {
        KeySet::read(json!({"keys": keys}).to_string().as_bytes()).ok()
    }

    fn rsa(bits: usize) -> Value {
        json!({"kty": "RSA", "kid": "one", "n": "A".repeat((bits / 8 * 4).div_ceil(3)), "e": "AQAB"})
    }

    fn with(mut key: Value, name: &str, value: &Value) -> Value {
        key[name] = value.clone();
        key
    }

    #[test]
    fn a_key_is_for_the_algorithm_of_its_kind() {
        let point = "A".repeat(43);
        let p256 = json!({"kty": "EC", "crv": "P-256", "kid": "two", "x": point, "y": point});
        let keys = read(&json!([rsa(2048), p256])).unwrap();
        assert_eq!(keys.len(), 2);
        let found = |keys: &KeySet, kid, algorithm| {
            let key = keys.find(KeyName { kid, algorithm });
            key.map(|key| key.algorithm)
        };
        let (rs256, es256) = (Algorithm::RS256, Algorithm::ES256);
        for asked in [rs256, es256, Algorithm::HS256] {
            assert_eq!(found(&keys, Some("one"), asked), Some(rs256));
            assert_eq!(found(&keys, Some("two"), asked), Some(es256));
            assert_eq!(found(&keys, Some("three"), asked), None);
            assert_eq!(found(&keys, None, asked), None);
            let only = read(&json!([p256])).unwrap();
            assert_eq!(found(&only, None, asked), Some(es256));
        }
        let namesakes = read(&json!([rsa(2048), with(p256, "kid", &json!("one"))])).unwrap();
        for algorithm in [rs256, es256] {
            let key = found(&namesakes, Some("one"), algorithm);
            assert_eq!(key, Some(algorithm));
        }
    }

    #[test]
    fn keys_of_no_use_are_left_out() {
        let point = "A".repeat(43);
        for key in [
            json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"}),
            json!({"kty": "EC", "crv": "P-384", "x": point, "y": point}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": point}),
            json!({"kty": "unheard", "x": 1}),
            json!("text"),
            rsa(1024),
            rsa(8192),
            with(rsa(2048), "use", &json!("enc")),
            with(rsa(2048), "key_ops", &json!(["encrypt"])),
            with(rsa(2048), "alg", &json!("RSA-OAEP")),
            with(rsa(2048), "alg", &json!("PS256")),
            with(rsa(2048), "alg", &json!("HS256")),
            with(rsa(2048), "n", &json!("!".repeat(342))),
        ] {
            assert!(read(&json!([key])).is_none(), "{key}");
            assert_eq!(read(&json!([key, rsa(4096)])).unwrap().len(), 1, "{key}");
        }
        for key in [
            with(rsa(2048), "use", &json!("sig")),
            with(rsa(2048), "alg", &json!("RS256")),
            with(rsa(2048), "key_ops", &json!(["verify"])),
        ] {
            assert!(read(&json!([key])).is_some(), "{key}");
        }
    }

    #[test]
    fn what_is_no_set_is_refused() {
        for text in ["", "[]", "{}", "{\"keys\":7}", "{\"keys\":[]}", "<html>"] {
            assert!(KeySet::read(text.as_bytes()).is_err(), "{text}");
        }
    }
}
