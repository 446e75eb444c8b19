//! Who is let in with an API key, and who while the core does not answer.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router, routing::post};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::clock;
use crate::http::Problem;

const TOKEN: &str = "the-internal-token-of-these-tests";
const LONG: Duration = Duration::from_mins(5);

/// What stands for the core says of any key.
enum Says {
    Grant(KeyGrant),
    NoKey,
    Away,
    TooOld,
}

/// What stands for the core.
struct Core {
    says: Mutex<Says>,
    asked: AtomicUsize,
    url: String,
}

impl Core {
    async fn start(says: Says) -> Arc<Self> {
        crate::telemetry::install_tls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let core = Arc::new(Self {
            says: Mutex::new(says),
            asked: AtomicUsize::new(0),
            url: format!("http://{}", listener.local_addr().unwrap()),
        });
        let routes = Router::new()
            .route("/internal/v1/api-keys/check", post(check))
            .with_state(Arc::clone(&core));
        tokio::spawn(async { axum::serve(listener, routes).await.unwrap() });
        core
    }

    fn says(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn access(&self, change: impl FnOnce(&mut AccessConfig)) -> Access {
        let mut config = AccessConfig::internal(TOKEN);
        change(&mut config);
        Access::with_core(&config, &self.url).unwrap()
    }
}

async fn check(
    State(core): State<Arc<Core>>,
    headers: HeaderMap,
    Json(check): Json<KeyCheck>,
) -> Response {
    assert_eq!(headers["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!((check.id.len(), check.digest.len()), (16, 64));
    core.asked.fetch_add(1, Ordering::SeqCst);
    let not_found = |name| Problem::not_found(name, "x").into_response();
    match &*core.says.lock().unwrap() {
        Says::Grant(grant) => Json(grant.clone()).into_response(),
        Says::NoKey => not_found("api-key-not-found"),
        Says::TooOld => not_found("route-not-found"),
        Says::Away => StatusCode::BAD_GATEWAY.into_response(),
    }
}

fn grant() -> KeyGrant {
    KeyGrant {
        workspaces: vec!["ours".to_owned()],
        scopes: vec![Scope::Read],
        expires_at: None,
    }
}

fn key() -> String {
    ApiKey::new().unwrap().expose()
}

/// Keeps nothing, so that each request asks.
fn forgetful(config: &mut AccessConfig) {
    config.keys.cache = Duration::ZERO;
}

async fn status(access: &Access, credential: &str) -> u16 {
    let found = access.principal(credential).await;
    found.map_or_else(|refusal| refusal.problem.status, |_| 200)
}

/// Waits until `holds`.
pub(super) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(10), "{what}: not yet");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until `credential` is not taken any more.
async fn refused(access: &Access, credential: &str) {
    let refused = async || status(access, credential).await != 200;
    eventually("the credential is refused", refused).await;
}

#[tokio::test]
async fn an_api_key_is_what_the_core_says_of_it() {
    let core = Core::start(Says::Grant(grant())).await;
    let access = core.access(|_| ());
    let key = key();
    let principal = access.principal(&key).await.unwrap();
    assert_eq!(principal.name, format!("key:{}", &key[3..19]));
    assert_eq!(principal.kind, Kind::ApiKey);
    assert!(principal.reaches("ours") && !principal.reaches("theirs"));
    assert!(principal.has(Scope::Read) && !principal.has(Scope::Manage));
    assert_eq!(
        access.principal(TOKEN).await.unwrap(),
        Principal::internal()
    );
    // What is no key is not asked about.
    for other in ["", "x", "hr_1_2", "a.b.c", &key[1..]] {
        assert_eq!(status(&access, other).await, 401, "{other}");
    }
    assert_eq!(core.asked(), 1);
}

#[tokio::test]
async fn an_answer_counts_for_a_while_and_a_revocation_after_it() {
    let core = Core::start(Says::Grant(grant())).await;
    let access = core.access(|config| config.keys.cache = Duration::from_millis(300));
    let key = key();
    for _ in 0..10 {
        assert_eq!(status(&access, &key).await, 200);
    }
    assert_eq!(core.asked(), 1);
    core.says(Says::NoKey);
    refused(&access, &key).await;
    // So does the answer that there is no such key.
    core.says(Says::Grant(grant()));
    let asked = core.asked();
    assert_eq!(status(&access, &key).await, 401);
    assert_eq!(core.asked(), asked);
}

#[tokio::test]
async fn who_asks_for_one_key_at_the_same_time_asks_once() {
    let core = Core::start(Says::Grant(grant())).await;
    let access = core.access(|_| ());
    let key = key();
    let requests = (0..50).map(|_| status(&access, &key));
    let found = futures_util::future::join_all(requests).await;
    assert!(found.iter().all(|status| *status == 200));
    assert_eq!(core.asked(), 1);
}

#[tokio::test]
async fn a_key_expires_although_it_is_remembered() {
    let core = Core::start(Says::Grant(KeyGrant {
        expires_at: Some(clock::now() + Duration::from_millis(300)),
        ..grant()
    }))
    .await;
    let access = core.access(|config| config.keys.cache = LONG);
    let key = key();
    assert_eq!(status(&access, &key).await, 200);
    refused(&access, &key).await;
    assert_eq!(core.asked(), 1);
}

#[tokio::test]
async fn known_keys_count_on_while_the_core_is_away_and_unknown_ones_must_wait() {
    let core = Core::start(Says::Grant(grant())).await;
    let access = core.access(forgetful);
    let known = key();
    assert_eq!(status(&access, &known).await, 200);
    for says in [Says::Away, Says::TooOld] {
        core.says(says);
        assert_eq!(status(&access, &known).await, 200);
        let refusal = access.principal(&key()).await.unwrap_err();
        assert_eq!(refusal.problem.status, 503);
        assert!(refusal.problem.kind.ends_with(":credentials-unverifiable"));
    }
    // What was revoked is not remembered as known.
    core.says(Says::NoKey);
    refused(&access, &known).await;
    core.says(Says::Away);
    assert_eq!(status(&access, &known).await, 503);
}

#[tokio::test]
async fn grace_ends() {
    let core = Core::start(Says::Grant(grant())).await;
    let access = core.access(|config| {
        config.keys.cache = Duration::ZERO;
        config.keys.grace = Duration::from_millis(200);
    });
    let key = key();
    assert_eq!(status(&access, &key).await, 200);
    core.says(Says::Away);
    refused(&access, &key).await;
    assert_eq!(status(&access, &key).await, 503);
}

#[tokio::test]
async fn guessing_keys_does_not_load_the_core_nor_shut_out_known_ones() {
    let core = Core::start(Says::Grant(grant())).await;
    let access = core.access(|config| {
        forgetful(config);
        config.rate.unknown_keys_per_second = 1;
    });
    let known = key();
    assert_eq!(status(&access, &known).await, 200);
    core.says(Says::NoKey);
    let mut limited = 0;
    for _ in 0..100 {
        limited += usize::from(status(&access, &key()).await == 429);
    }
    assert!(limited > 80, "{limited}");
    assert_eq!(core.asked(), 1 + 100 - limited);
    core.says(Says::Grant(grant()));
    assert_eq!(status(&access, &known).await, 200);
}
