//! The issuer's keys: read from its JWKS URL, kept, and read anew in time.
//!
//! They are read anew every `access.jwt.refresh`, and at once for a key that is not known, but not more
//! often than every ten seconds, whatever comes. A key that the issuer has taken back counts until then.
//! While the URL is away, the keys that were read last count on for a day. All who wait, wait for one
//! fetch.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::BytesMut;
use reqwest::Client;
use tokio::sync::{Mutex, OnceCell};
use tokio::time::Instant;

use super::JwtConfig;
use super::key_set::{Key, KeyName, KeySet};
use crate::access::metrics;
use crate::outbound;

/// No fetch begins sooner after the end of the one before.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// How long keys count on while the URL is away.
const KEEP: Duration = Duration::from_hours(24);
const FETCH_LIMIT: Duration = Duration::from_secs(5);
/// How long a token whose key is known waits for a fetch that may take it back.
const IF_KNOWN: Duration = Duration::from_millis(500);
/// Sets have a few thousand bytes.
const MOST_BYTES: usize = 512 * 1024;

/// Why there is no key for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoKey {
    /// The issuer has no such key.
    Unknown,
    /// The issuer's keys have never been read, or not for too long a time.
    Away,
}

/// The keys of the issuer.
#[derive(Debug)]
pub(super) struct Issuer {
    url: String,
    config: JwtConfig,
    try_again: Duration,
    client: OnceCell<Client>,
    known: RwLock<Known>,
    /// Held by who fetches.
    fetching: Mutex<()>,
}

/// What is known of the keys.
#[derive(Debug, Clone, Default)]
struct Known {
    /// The keys, and when they were read.
    keys: Option<(Arc<KeySet>, Instant)>,
    /// When the last attempt to read them ended.
    tried_at: Option<Instant>,
}

/// What to do about a token's key.
#[derive(Debug)]
enum Step {
    Use(Arc<Key>),
    Fetch,
    Refuse(NoKey),
}

impl Known {
    /// What to do at `now` for the key `name`.
    fn step(
        &self,
        name: KeyName<'_>,
        refresh: Duration,
        try_again: Duration,
        now: Instant,
    ) -> Step {
        let due = |at: Instant, after| now.saturating_duration_since(at) >= after;
        let may_fetch = self.tried_at.is_none_or(|at| due(at, try_again));
        let fresh = self.keys.as_ref().is_some_and(|(_, at)| !due(*at, refresh));
        match self.find(name, now) {
            Ok(key) if fresh || !may_fetch => Step::Use(key),
            _ if may_fetch => Step::Fetch,
            Ok(key) => Step::Use(key),
            Err(error) => Step::Refuse(error),
        }
    }

    /// The key `name`, as it was read last.
    fn find(&self, name: KeyName<'_>, now: Instant) -> Result<Arc<Key>, NoKey> {
        let (keys, at) = self.keys.as_ref().ok_or(NoKey::Away)?;
        if now.saturating_duration_since(*at) >= KEEP {
            return Err(NoKey::Away);
        }
        keys.find(name).cloned().ok_or(NoKey::Unknown)
    }
}

impl Issuer {
    /// The issuer that `config` names, if it does.
    pub(super) fn of(config: &JwtConfig) -> Option<Self> {
        Some(Self {
            url: config.jwks_url.clone()?,
            config: config.clone(),
            try_again: TRY_AGAIN,
            client: OnceCell::new(),
            known: RwLock::default(),
            fetching: Mutex::default(),
        })
    }

    #[cfg(test)]
    pub(super) fn trying_again_after(self, try_again: Duration) -> Self {
        Self { try_again, ..self }
    }

    /// The key that a token is signed with whose header says `name`.
    pub(super) async fn key(self: &Arc<Self>, name: KeyName<'_>) -> Result<Arc<Key>, NoKey> {
        let known = || self.known().find(name, Instant::now());
        match self.step(name) {
            Step::Use(key) => return Ok(key),
            Step::Refuse(error) => {
                // The fetch that is under way may bring it.
                if self.fetching.try_lock().is_ok() {
                    return Err(error);
                }
            }
            Step::Fetch => {
                // Who can go on with what is known need not wait for a fetch that is under way.
                if self.fetching.try_lock().is_err()
                    && let Ok(key) = known()
                {
                    return Ok(key);
                }
            }
        }
        // A task of its own: the fetch must not end because who asked first goes away.
        let fetch = tokio::spawn(Arc::clone(self).fetch_if_due());
        let patience = known().map_or(Duration::MAX, |_| IF_KNOWN);
        // A fetch that panicked has changed nothing; one that takes longer goes on.
        drop(tokio::time::timeout(patience, fetch).await);
        known()
    }

    fn step(&self, name: KeyName<'_>) -> Step {
        let (refresh, now) = (self.config.refresh, Instant::now());
        self.known().step(name, refresh, self.try_again, now)
    }

    fn known(&self) -> Known {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.clone()
    }

    async fn fetch_if_due(self: Arc<Self>) {
        let _only_one = self.fetching.lock().await;
        let tried_at = self.known().tried_at;
        if tried_at.is_some_and(|at| at.elapsed() < self.try_again) {
            return;
        }
        let fetched = self.fetch().await;
        metrics::jwks_fetch(fetched.is_ok());
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        known.tried_at = Some(now);
        match fetched {
            Ok(keys) => {
                tracing::debug!(keys = keys.len(), "the issuer's keys were read");
                known.keys = Some((Arc::new(keys), now));
            }
            Err(error) => tracing::warn!(
                error = format!("{error:#}"),
                "the issuer's keys cannot be read from access.jwt.jwks_url"
            ),
        }
    }

    async fn fetch(&self) -> anyhow::Result<KeySet> {
        let client = self.client.get_or_try_init(async || self.client());
        let answer = client.await?.get(&self.url).timeout(FETCH_LIMIT).send();
        // The URL may hold a password.
        let mut answer = answer.await.map_err(reqwest::Error::without_url)?;
        if !answer.status().is_success() {
            bail!("it answers {}", answer.status());
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > MOST_BYTES {
                bail!("it answers more than {MOST_BYTES} bytes");
            }
            body.extend_from_slice(&chunk);
        }
        Ok(KeySet::read(&body)?)
    }

    /// A client that follows no redirect: keys come from where they were configured to, or not at all.
    fn client(&self) -> anyhow::Result<Client> {
        let extra = self.config.extra_ca_file.as_deref();
        let tls = outbound::tls(extra, "access.jwt.extra_ca_file")?;
        outbound::client(tls).context("the client for access.jwt.jwks_url")
    }
}
