//! An identity provider: it publishes its key and signs tokens with it.

use axum::{Json, Router, routing::get};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use runtime::access::Scope;
use runtime::clock;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const ALGORITHM: Algorithm = Algorithm::ES256;
const KEY_ID: &str = "of-the-tests";
const ISSUER: &str = "https://id.example/realms/fleet";
const AUDIENCE: &str = "headrace";

/// Publishes its key for as long as the test runs.
pub struct Issuer {
    key: EncodingKey,
    keys_url: &'static str,
}

impl Issuer {
    /// Publishes a new key.
    ///
    /// # Panics
    /// If it cannot be made, or there is no free port.
    pub async fn start() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let key = EncodingKey::from_ec_der(key.expect("a key").as_ref());
        let mut published = Jwk::from_encoding_key(&key, ALGORITHM).expect("a public key");
        published.common.key_id = Some(KEY_ID.to_owned());
        let published = json!({ "keys": [published] });
        let routes = Router::new().route("/keys", get(|| async { Json(published) }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.expect("there is a free port");
        let address = listener.local_addr().expect("it listens");
        tokio::spawn(async { axum::serve(listener, routes).await });
        // A world's settings live as long as the tests do.
        let keys_url = format!("http://{address}/keys").leak();
        Self { key, keys_url }
    }

    /// By which services take its tokens.
    #[must_use]
    pub const fn settings(&self) -> [(&'static str, &'static str); 4] {
        [
            ("access.jwt.jwks_url", self.keys_url),
            ("access.jwt.allow_http", "true"),
            ("access.jwt.issuer", ISSUER),
            ("access.jwt.audience", AUDIENCE),
        ]
    }

    /// A token for `workspaces` with `scopes`, good for an hour.
    #[must_use]
    pub fn token(&self, workspaces: &[&str], scopes: &[Scope]) -> String {
        self.token_with(workspaces, scopes, &json!({}))
    }

    /// The same, with `claims` over its own.
    ///
    /// # Panics
    /// If `claims` is no object.
    #[must_use]
    pub fn token_with(&self, workspaces: &[&str], scopes: &[Scope], claims: &Value) -> String {
        let scopes: Vec<_> = scopes.iter().map(Scope::to_string).collect();
        let now = clock::now().timestamp();
        let mut all = json!({
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "somebody",
            "exp": now + 3600,
            "workspaces": workspaces,
            "scope": scopes.join(" "),
        });
        for (name, value) in claims.as_object().expect("claims") {
            all[name] = value.clone();
        }
        let mut header = Header::new(ALGORITHM);
        header.kid = Some(KEY_ID.to_owned());
        encode(&header, &all, &self.key).expect("a token")
    }
}
