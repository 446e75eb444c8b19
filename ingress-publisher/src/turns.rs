//! Turns at a provider's door: how many streams connect to one host at once.
//!
//! A connect that has begun must not be starved by thousands of others until its time is up, or
//! none would ever succeed. Each host has turns of its own, so one that hangs delays nobody else's.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use reqwest::Url;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many streams connect to a host at once.
const AT_ONCE: usize = 256;

/// The turns of every host; clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<Mutex<HashMap<String, Weak<Semaphore>>>>);

impl Turns {
    /// Waits for a turn at `endpoint`'s host, which ends when the answer is dropped.
    pub(crate) async fn take(&self, endpoint: &str) -> Option<OwnedSemaphorePermit> {
        let host = Url::parse(endpoint).ok()?.host_str()?.to_owned();
        // It is never closed.
        self.of(host).acquire_owned().await.ok()
    }

    fn of(&self, host: String) -> Arc<Semaphore> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(turns) = hosts.get(&host).and_then(Weak::upgrade) {
            return turns;
        }
        // Nobody connects to that host at the moment; nor to those that are gone.
        hosts.retain(|_, turns| turns.strong_count() > 0);
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        hosts.insert(host, Arc::downgrade(&turns));
        turns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_that_hangs_delays_no_other_and_is_forgotten() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for _ in 0..AT_ONCE {
            held.push(turns.take("wss://hangs.example/live").await);
        }
        let late = turns.take("wss://hangs.example/live?other");
        tokio::pin!(late);
        assert!(futures_util::poll!(&mut late).is_pending());
        assert!(turns.take("wss://well.example/live").await.is_some());
        held.pop();
        assert!(late.await.is_some());
        assert!(turns.take("nowhere").await.is_none());
        drop(held);
        turns.take("wss://third.example/").await;
        assert_eq!(turns.0.lock().unwrap().len(), 1);
    }
}
