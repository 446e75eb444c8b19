//! Waiting for conditions, never for time to pass.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_millis(50);

/// Asks for the state until `wanted` holds.
///
/// # Panics
/// After `limit`, with the last answer.
#[track_caller]
pub fn eventually<T, A, F, W>(
    limit: Duration,
    what: &str,
    ask: A,
    wanted: W,
) -> impl Future<Output = T>
where
    T: Debug,
    A: Fn() -> F,
    F: Future<Output = T>,
    W: Fn(&T) -> bool,
{
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        loop {
            let state = ask().await;
            if wanted(&state) {
                return state;
            }
            assert!(
                Instant::now() < deadline,
                "{caller}: after {limit:?} still not so: {what}; last seen: {state:?}"
            );
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Asks for the state until it has stayed the same for `calm`; returns it.
///
/// # Panics
/// After `limit`, with the last answer.
pub async fn settled<T, A, F>(calm: Duration, limit: Duration, ask: A) -> T
where
    T: Debug + PartialEq,
    A: Fn() -> F,
    F: Future<Output = T>,
{
    let deadline = Instant::now() + limit;
    let mut last = ask().await;
    let mut since = Instant::now();
    while since.elapsed() < calm {
        assert!(
            Instant::now() < deadline,
            "after {limit:?} still moving; last seen: {last:?}"
        );
        tokio::time::sleep(PAUSE).await;
        let now = ask().await;
        if now != last {
            last = now;
            since = Instant::now();
        }
    }
    last
}
