//! What API keys are worth, remembered for a while.
//!
//! An answer counts for `access.keys.cache`, so a revocation acts within that time. While the source is
//! away, what it said last counts on for `access.keys.grace`: reading does not end because the core is
//! being replaced. A key that was never seen before cannot be told from a guess then, and is answered
//! "try again". That a key expires is seen here, whatever was remembered.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use tokio::time::Instant;

use super::limits::GuessLimit;
use super::metrics::{self, KeyCheckOutcome};
use super::{AccessConfig, KeyCheck, KeyGrant, KeySource, Refusal};
use crate::clock;

/// How many keys are remembered. Guesses are few beside it: they are limited, and soon forgotten.
const MOST: u64 = 100_000;
/// A source that was away just now is not asked about keys that are remembered: where it takes its time
/// to say nothing, each would wait for that.
const AWAY_FOR: Duration = Duration::from_secs(1);

/// What a key allows, if it is one.
type Answer = Option<Arc<KeyGrant>>;

/// A [`KeySource`] and what it said.
pub(super) struct KeyCache {
    source: Arc<dyn KeySource>,
    guesses: GuessLimit,
    /// What counts without asking.
    answers: Cache<KeyCheck, Answer>,
    /// What counts if asking is in vain.
    granted: Cache<KeyCheck, Arc<KeyGrant>>,
    away_since: Mutex<Option<Instant>>,
}

impl KeyCache {
    pub(super) fn new(config: &AccessConfig, source: Arc<dyn KeySource>) -> Self {
        let (cache, grace) = (config.keys.cache, config.keys.grace);
        Self {
            source,
            guesses: GuessLimit::new(&config.rate),
            answers: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(cache)
                .build(),
            granted: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(grace)
                .build(),
            away_since: Mutex::default(),
        }
    }

    /// What a key allows now; none if it is none. Those who ask for the same key at the same time wait
    /// for one answer.
    pub(super) async fn check(&self, check: &KeyCheck) -> Result<Answer, Refusal> {
        let entry = self.answers.entry_by_ref(check);
        let entry = entry.or_try_insert_with(self.ask(check)).await;
        let entry = entry.map_err(|refusal| Refusal::clone(&refusal))?;
        if !entry.is_fresh() {
            metrics::key_check(KeyCheckOutcome::Hit);
        }
        let now = clock::now();
        let grant = entry.into_value();
        Ok(grant.filter(|grant| grant.expires_at.is_none_or(|end| now < end)))
    }

    async fn ask(&self, check: &KeyCheck) -> Result<Answer, Refusal> {
        let before = self.granted.get(check).await;
        if let Some(grant) = before.as_ref().filter(|_| self.is_away()) {
            metrics::key_check(KeyCheckOutcome::Grace);
            return Ok(Some(Arc::clone(grant)));
        }
        if before.is_none()
            && let Err(refusal) = self.guesses.count()
        {
            metrics::key_check(KeyCheckOutcome::Limited);
            return Err(refusal);
        }
        let answer = self.source.check(check).await;
        let away = answer.as_ref().is_err_and(|problem| problem.status >= 500);
        self.note_away(away);
        match (answer, before) {
            (Ok(Some(grant)), _) => {
                metrics::key_check(KeyCheckOutcome::Miss);
                let grant = Arc::new(grant);
                self.granted.insert(check.clone(), Arc::clone(&grant)).await;
                Ok(Some(grant))
            }
            (Ok(None), _) => {
                metrics::key_check(KeyCheckOutcome::Miss);
                self.granted.invalidate(check).await;
                Ok(None)
            }
            (Err(_), Some(grant)) => {
                metrics::key_check(KeyCheckOutcome::Grace);
                Ok(Some(grant))
            }
            (Err(_), None) => {
                metrics::key_check(KeyCheckOutcome::Failed);
                Err(Refusal::unverifiable("the core"))
            }
        }
    }

    fn is_away(&self) -> bool {
        let since = self.away_since.lock();
        let since = *since.unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() < AWAY_FOR)
    }

    fn note_away(&self, away: bool) {
        let mut since = self
            .away_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *since = away.then(Instant::now);
    }
}
