//! An issuer for tests, which publishes its keys over HTTP as real ones do.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Router, routing::get};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use rsa::RsaPrivateKey;
use rsa::pkcs1::EncodeRsaPrivateKey;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::issuer::Issuer;
use super::{JwtConfig, Tokens};
use crate::clock;

pub(in crate::access) const ISSUER: &str = "https://id.example/realms/fleet";
pub(in crate::access) const NO_WAIT: Duration = Duration::ZERO;
pub(in crate::access) const LONG: Duration = Duration::from_mins(1);

/// What an issuer signs with.
pub(in crate::access) struct Signer {
    pub(in crate::access) kid: Option<&'static str>,
    pub(in crate::access) algorithm: Algorithm,
    pub(in crate::access) key: EncodingKey,
}

pub(in crate::access) static RSA: LazyLock<EncodingKey> = LazyLock::new(rsa_key);

fn rsa_key() -> EncodingKey {
    let key = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2048).unwrap();
    EncodingKey::from_rsa_der(key.to_pkcs1_der().unwrap().as_bytes())
}

impl Signer {
    pub(in crate::access) fn rsa(kid: &'static str) -> Self {
        Self {
            kid: Some(kid),
            algorithm: Algorithm::RS256,
            key: RSA.clone(),
        }
    }

    pub(in crate::access) fn p256(kid: &'static str) -> Self {
        let random = ring::rand::SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        Self {
            kid: Some(kid),
            algorithm: Algorithm::ES256,
            key: EncodingKey::from_ec_der(key.as_ref()),
        }
    }

    pub(in crate::access) fn published(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = self.kid.map(str::to_owned);
        serde_json::to_value(jwk).unwrap()
    }

    pub(in crate::access) fn sign(&self, claims: &Value) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.kid.map(str::to_owned);
        encode(&header, claims, &self.key).unwrap()
    }
}

/// Claims that are good for an hour, with `changed` ones over them.
pub(in crate::access) fn claims(changed: Value) -> Value {
    let now = clock::now().timestamp();
    let mut claims = json!({
        "iss": ISSUER, "aud": "headrace", "sub": "alice", "exp": now + 3600, "nbf": now - 10,
        "workspaces": ["ours"], "scope": "read openid",
    });
    for (name, value) in changed.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub(in crate::access) fn good() -> Value {
    claims(json!({}))
}

/// What the issuer publishes, and how often it was read.
#[derive(Default)]
pub(in crate::access) struct Published {
    keys: Mutex<Vec<Value>>,
    away: Mutex<Option<Response>>,
    hangs: AtomicBool,
    reads: AtomicUsize,
}

impl Published {
    pub(in crate::access) fn set(&self, signers: &[&Signer]) {
        let keys = signers.iter().map(|signer| signer.published());
        *self.keys.lock().unwrap() = keys.collect();
    }

    pub(in crate::access) fn reads(&self) -> usize {
        self.reads.load(Ordering::SeqCst)
    }

    /// Answers nothing from now on.
    pub(in crate::access) fn hang(&self) {
        self.hangs.store(true, Ordering::SeqCst);
    }

    /// Answers so to the next request.
    pub(in crate::access) fn answer_once(&self, answer: impl IntoResponse) {
        *self.away.lock().unwrap() = Some(answer.into_response());
    }
}

async fn answer(State(published): State<Arc<Published>>) -> Response {
    published.reads.fetch_add(1, Ordering::SeqCst);
    if published.hangs.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
    if let Some(answer) = published.away.lock().unwrap().take() {
        return answer;
    }
    let keys = published.keys.lock().unwrap().clone();
    axum::Json(json!({"keys": keys})).into_response()
}

pub(in crate::access) async fn serve() -> (Arc<Published>, String) {
    crate::telemetry::install_tls();
    let published = Arc::new(Published::default());
    let routes = Router::new().route("/keys", get(answer));
    let routes = routes.with_state(Arc::clone(&published));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    tokio::spawn(async { axum::serve(listener, routes).await.unwrap() });
    (published, url)
}

pub(in crate::access) fn config(url: &str, refresh: Duration) -> JwtConfig {
    JwtConfig {
        jwks_url: Some(url.to_owned()),
        issuer: Some(ISSUER.to_owned()),
        audience: Some("headrace".to_owned()),
        allow_http: true,
        refresh,
        ..JwtConfig::default()
    }
}

/// An issuer with `signers`, and who verifies its tokens.
pub(in crate::access) async fn issuer(
    signers: &[&Signer],
    refresh: Duration,
    try_again: Duration,
) -> (Arc<Published>, Tokens) {
    let (published, url) = serve().await;
    published.set(signers);
    let config = config(&url, refresh);
    let issuer = Issuer::of(&config).unwrap().trying_again_after(try_again);
    (published, Tokens::issued_by(issuer, &config))
}
