//! One run: what is due of one connection, page by page, for as long as the claim holds.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use runtime::backoff::up_to;
use runtime::telemetry::chain;
use runtime::{clock, credential, db};
use shared_model::envelope::Attributes;
use shared_model::{ConnectionStatus, SessionId, StatusReport};
use tokio::time::{Instant, sleep, timeout_at};

use super::Polling;
use super::ask::{Asker, Trouble};
use super::client::host;
use super::limit::{self, Reaction};
use super::page::{Advance, chunks, frames};
use crate::interpret::feed::{Failure, Page, RateLimit};
use crate::interpret::provision;
use crate::metrics;
use crate::store::StoreError;
use crate::store::connection::{self, Connection};
use crate::store::poll::{self, Claim, Ending, FeedRow, Progress};

/// From how many failures in a row on a connection counts as disconnected.
const DISCONNECTED_AFTER: u32 = 3;
/// Places in a budget are given out in turns: those who come back for one do not come back together.
const RETURN_SPREAD: Duration = Duration::from_millis(250);

/// What became of a run.
#[derive(Debug, Default)]
struct Outcome {
    feeds: Vec<String>,
    pages: u64,
    limited: bool,
    failures: u32,
    error: Option<String>,
    refused_for: Option<Duration>,
    /// What was wrong with the way to the provider.
    unreachable: Option<String>,
}

/// How reading a feed ended.
enum FeedEnd {
    /// With the feed's next due time noted.
    Noted,
    /// The run is to end: the claim is lost, paused or the service stops.
    Leave,
}

/// Does what `claim` is for, and gives it back; `until` is when it ends unless it is renewed.
pub async fn run(polling: Arc<Polling>, claim: Claim, until: Instant) {
    metrics::poll_late(claim.late);
    let mut outcome = Outcome::default();
    let ended = tokio::select! {
        ended = polling.read(&claim, &mut outcome) => ended,
        () = polling.keep(&claim, until) => Err(StoreError::ClaimLost),
    };
    if let Err(error) = ended
        && !matches!(error, StoreError::ClaimLost)
    {
        tracing::warn!(
            connection = %claim.connection,
            error = %chain(&error),
            "a run ended because the database failed"
        );
        // It is not given back to be tried again at once: its lease ends by itself.
        return;
    }
    if let Err(error) = polling.give_back(&claim, &outcome).await {
        // The lease ends by itself.
        tracing::warn!(
            connection = %claim.connection,
            error = %chain(&error),
            "a claim could not be given back"
        );
    }
}

impl Polling {
    /// Renews the claim for as long as that works; returns once it is lost, paused or too old.
    async fn keep(&self, claim: &Claim, mut until: Instant) {
        let lease = self.config.lease;
        loop {
            sleep(lease / 3).await;
            let asked = Instant::now();
            let renewing = async {
                let mut pg = self.pool.acquire().await?;
                poll::renew(&mut pg, claim, lease).await
            };
            match timeout_at(until, renewing).await {
                Ok(Ok(true)) => until = asked + lease,
                Ok(Err(error)) => {
                    tracing::debug!(error = %chain(&error), "a claim is renewed later");
                }
                Ok(Ok(false)) | Err(_) => return,
            }
        }
    }

    async fn read(&self, claim: &Claim, outcome: &mut Outcome) -> Result<(), StoreError> {
        let mut pg = self.pool.acquire().await?;
        let connection = match connection::find(&mut pg, claim.connection).await {
            Ok(Some(connection)) => connection,
            Ok(None) => return Ok(()),
            Err(error @ StoreError::Inconsistent { .. }) => {
                // Its row is the same the next time: it is looked at again as rarely as what is refused.
                tracing::error!(
                    connection = %claim.connection,
                    error = %chain(&error),
                    "a connection cannot be read"
                );
                outcome.refused_for = Some(self.config.refused_wait);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let provided = provision(&connection.provider, connection.kind, &connection.settings);
        let (feed, settings) = match provided.map(|provision| provision.poll) {
            Ok(Some(poll)) => poll,
            other => {
                // Only a version that knows more or less than the one that took it can say so.
                let error = other.err().map(|error| error.to_string());
                tracing::error!(connection = %connection.id, ?error, "this version cannot poll it");
                outcome.refused_for = Some(self.config.refused_wait);
                return Ok(());
            }
        };
        outcome.feeds = feed.names();
        let known = new_sessions(&outcome.feeds);
        poll::ensure(&mut pg, connection.id, &known).await?;
        let due = poll::due_feeds(&mut pg, claim, &outcome.feeds).await?;
        drop(pg);
        let secret = match &connection.credential {
            None => Ok(None),
            Some(reference) => credential::resolve(reference).await.map(Some),
        };
        let (secret, missing) = match secret {
            Ok(secret) => (secret, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let run = Run {
            claim,
            connection: &connection,
            interval: settings.interval,
            asker: Asker {
                polling: self,
                connection: &connection,
                feed: &*feed,
                secret,
                budget: limit::budget(
                    connection.provider.as_str(),
                    &host(&connection.endpoint),
                    connection.credential.as_deref(),
                ),
            },
        };
        for row in due {
            if let Some(error) = missing.clone().or_else(|| outcome.unreachable.clone()) {
                // The provider is not asked: a file that is being replaced is there the next time, and
                // a server that did not answer for one feed would hold the run's slot for each.
                run.try_again(&row, &error, outcome).await?;
                continue;
            }
            match run.feed(row, outcome).await? {
                FeedEnd::Noted if outcome.refused_for.is_none() => {}
                _ => break,
            }
        }
        Ok(())
    }

    async fn give_back(&self, claim: &Claim, outcome: &Outcome) -> Result<(), StoreError> {
        let told = match self.tell(claim, outcome).await {
            Ok(told) => told,
            Err(error) => {
                tracing::warn!(error = %chain(&error), "how a connection is doing is told later");
                None
            }
        };
        let told = told.as_deref();
        db::in_tx(&self.pool, "release_poll", |mut tx| async move {
            let ending = Ending {
                feeds: &outcome.feeds,
                refused_for: outcome.refused_for,
                answered: outcome.pages > 0 || outcome.failures > 0,
                told,
            };
            poll::release(&mut tx, claim, ending).await?;
            Ok::<_, StoreError>((tx, ()))
        })
        .await?;
        metrics::poll_run(outcome.word());
        Ok(())
    }

    /// Tells others how the connection is doing, if that is news; returns what was told.
    async fn tell(&self, claim: &Claim, outcome: &Outcome) -> Result<Option<String>, StoreError> {
        let Some((status, reason)) = outcome.status() else {
            return Ok(None);
        };
        let told = format!("{} {}", status.name(), reason.unwrap_or_default());
        if claim.told.as_ref() == Some(&told) {
            return Ok(None);
        }
        let mut pg = self.pool.acquire().await?;
        let Some(connection) = connection::find(&mut pg, claim.connection).await? else {
            return Ok(None);
        };
        drop(pg);
        let report = StatusReport {
            version: shared_model::connection_status::VERSION.to_string(),
            connection: connection.id,
            workspace: connection.workspace,
            provider: connection.provider,
            owner: self.owner.clone(),
            epoch: claim.epoch,
            number: 1,
            status,
            since: clock::now(),
            reason: reason.map(str::to_owned),
            error: outcome.error.clone(),
            session: None,
            frames_per_minute: 0,
            reconnects: 0,
        };
        self.acceptance.accept_statuses(&[report]).await?;
        Ok(Some(told))
    }
}

impl Outcome {
    /// The word for the whole of it.
    const fn word(&self) -> &'static str {
        match self {
            Self {
                refused_for: Some(_),
                ..
            } => "refused",
            Self { failures: 1.., .. } => "failed",
            Self { limited: true, .. } => "limited",
            Self { pages: 1.., .. } => "read",
            _ => "nothing",
        }
    }

    /// How the connection is doing, if the run has shown that.
    const fn status(&self) -> Option<(ConnectionStatus, Option<&'static str>)> {
        match self {
            Self {
                refused_for: Some(_),
                ..
            } => Some((ConnectionStatus::Disconnected, Some("refused"))),
            Self {
                failures: DISCONNECTED_AFTER..,
                ..
            } => Some((ConnectionStatus::Disconnected, Some("failing"))),
            Self {
                pages: 1..,
                failures: 0,
                ..
            } => Some((ConnectionStatus::Subscribed, None)),
            _ => None,
        }
    }
}

/// A run of one connection.
struct Run<'a> {
    claim: &'a Claim,
    connection: &'a Connection,
    interval: Duration,
    asker: Asker<'a>,
}

impl Run<'_> {
    /// Reads a feed until it is up to date, has had its turn, or there is trouble.
    async fn feed(&self, mut row: FeedRow, outcome: &mut Outcome) -> Result<FeedEnd, StoreError> {
        let polling = self.asker.polling;
        let mut read = (0, 0);
        loop {
            let asking = self.asker.page(&row.feed, row.cursor.as_ref());
            let Some(asked) = polling.stop.run_until_cancelled(asking).await else {
                return Ok(FeedEnd::Leave);
            };
            let stored = match asked {
                Ok((page, at)) => self.page(&mut row, &mut read, page, at).await,
                Err(Trouble::NoPlace(wait)) => {
                    outcome.limited = true;
                    self.postpone(&row, wait).await?;
                    return Ok(FeedEnd::Noted);
                }
                Err(Trouble::Provider(failure, limit)) => {
                    return self.failed(&row, failure, &limit, outcome).await;
                }
                Err(Trouble::Unreachable(failure)) => {
                    let error = self.asker.redacted(&failure.to_string());
                    self.try_again(&row, &error, outcome).await?;
                    outcome.unreachable = Some(error);
                    return Ok(FeedEnd::Noted);
                }
                Err(Trouble::Store(error)) => Err(error),
            };
            match stored {
                Ok(goes_on) => {
                    outcome.pages += 1;
                    if !goes_on {
                        return Ok(FeedEnd::Noted);
                    }
                }
                Err(StoreError::ClaimLost) => return Ok(FeedEnd::Leave),
                Err(error) => {
                    let error = format!("what was read cannot be stored: {}", chain(&error));
                    self.try_again(&row, &error, outcome).await?;
                    return Ok(FeedEnd::Noted);
                }
            }
            let mut pg = polling.pool.acquire().await?;
            let kept = poll::renew(&mut pg, self.claim, polling.config.lease).await?;
            if !kept || polling.stop.is_cancelled() {
                return Ok(FeedEnd::Leave);
            }
        }
    }

    /// Accepts a page and moves the cursor with it; whether to go on at once.
    async fn page(
        &self,
        row: &mut FeedRow,
        read: &mut (u64, u64),
        page: Page,
        received_at: DateTime<Utc>,
    ) -> Result<bool, StoreError> {
        let polling = self.asker.polling;
        let count = page.frames.len() as u64;
        let attributes = Arc::new(Attributes {
            provider: self.connection.provider.clone(),
            workspace: self.connection.workspace.clone(),
            connection: self.connection.id,
            session: row.session,
            epoch: self.claim.epoch,
            owner: polling.owner.clone(),
        });
        read.0 += 1;
        let frames = frames(&attributes, row.next_number, received_at, page.frames);
        let chunks = chunks(&frames);
        for (index, chunk) in chunks.iter().enumerate() {
            let is_last = index + 1 == chunks.len();
            read.1 += chunk.len() as u64;
            let due_in = match page.wait {
                _ if !is_last => Duration::ZERO,
                None if page.more => Duration::ZERO,
                Some(wait) if page.more => wait,
                wait => jittered(self.interval).max(wait.unwrap_or_default()),
            };
            let progress = Progress {
                feed: &row.feed,
                cursor: page.cursor.as_ref().filter(|_| is_last),
                behind: page.more || !is_last,
                due_in,
                pages: read.0,
                rows: read.1,
                read_until: page.read_until.filter(|_| is_last),
            };
            let advance = Advance {
                claim: self.claim,
                progress,
            };
            polling.acceptance.accept_with(chunk, &advance).await?;
        }
        row.next_number += count;
        row.failures = 0;
        row.cursor = page.cursor.or_else(|| row.cursor.take());
        metrics::poll_page(self.connection.provider.as_str(), count);
        if let Some(skipped) = &page.skipped {
            tracing::warn!(
                connection = %self.connection.id,
                provider = %self.connection.provider,
                feed = %row.feed,
                skipped = %self.asker.redacted(skipped),
                "records may have been passed over"
            );
            metrics::poll_skip(self.connection.provider.as_str());
        }
        if let Some(until) = page.read_until {
            metrics::poll_lag(self.connection.id, &row.feed, received_at - until);
        }
        let pages = u64::from(polling.config.pages_per_run);
        Ok(page.more && page.wait.is_none() && read.0 < pages)
    }

    async fn postpone(&self, row: &FeedRow, wait: Duration) -> Result<(), StoreError> {
        let polling = self.asker.polling;
        let due_in = wait + up_to(RETURN_SPREAD);
        db::in_tx(&polling.pool, "postpone_poll", |mut tx| async move {
            poll::postpone(&mut tx, self.claim, &row.feed, due_in).await?;
            Ok::<_, StoreError>((tx, ()))
        })
        .await
    }

    async fn failed(
        &self,
        row: &FeedRow,
        failure: Failure,
        limit: &RateLimit,
        outcome: &mut Outcome,
    ) -> Result<FeedEnd, StoreError> {
        let error = self.asker.redacted(&failure.to_string());
        match limit::react(&failure, limit) {
            Reaction::Postpone(wait) => {
                outcome.limited = true;
                self.postpone(row, wait).await?;
            }
            Reaction::TryAgain => self.try_again(row, &error, outcome).await?,
            Reaction::Break => self.refused(row, &error, outcome).await?,
            Reaction::BreakFeed => {
                outcome.failures = outcome.failures.max(row.failures.saturating_add(1));
                let wait = self.asker.polling.config.refused_wait;
                self.note(row, &error, wait + up_to(wait / 2), outcome)
                    .await?;
            }
        }
        Ok(FeedEnd::Noted)
    }

    /// Puts a feed off that could not be read, longer after each failure.
    async fn try_again(
        &self,
        row: &FeedRow,
        error: &str,
        outcome: &mut Outcome,
    ) -> Result<(), StoreError> {
        let config = &self.asker.polling.config;
        let cap = limit::cap(row.failures, config.backoff_min, config.backoff_max);
        outcome.failures = outcome.failures.max(row.failures.saturating_add(1));
        self.note(row, error, up_to(cap), outcome).await
    }

    /// Opens the circuit: nothing is asked for the connection for long.
    async fn refused(
        &self,
        row: &FeedRow,
        error: &str,
        outcome: &mut Outcome,
    ) -> Result<(), StoreError> {
        let polling = self.asker.polling;
        // A session that the provider refuses is not asked for with again.
        polling.sessions.forget(self.connection.id);
        let wait = polling.config.refused_wait;
        let wait = wait + up_to(wait / 2);
        outcome.refused_for = Some(wait);
        self.note(row, error, wait, outcome).await
    }

    async fn note(
        &self,
        row: &FeedRow,
        error: &str,
        due_in: Duration,
        outcome: &mut Outcome,
    ) -> Result<(), StoreError> {
        tracing::warn!(
            connection = %self.connection.id,
            provider = %self.connection.provider,
            feed = %row.feed,
            failures = row.failures.saturating_add(1),
            wait = ?due_in,
            error,
            "a feed could not be read"
        );
        outcome.error = Some(error.to_owned());
        let polling = self.asker.polling;
        db::in_tx(&polling.pool, "note_poll_failure", |mut tx| async move {
            poll::fail(&mut tx, self.claim, &row.feed, error, due_in).await?;
            Ok::<_, StoreError>((tx, ()))
        })
        .await
    }
}

/// A new session for each of `feeds`, in case that it has none.
#[must_use]
pub fn new_sessions(feeds: &[String]) -> Vec<(String, SessionId)> {
    let session = |feed: &String| (feed.clone(), SessionId(clock::new_id()));
    feeds.iter().map(session).collect()
}

/// `interval`, give or take a tenth: connections that were added together drift apart.
fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9) + up_to(interval / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_shows_of_a_connection_is_told_once_it_is_clear() {
        let outcome = |pages, failures, refused: bool| Outcome {
            pages,
            failures,
            refused_for: refused.then_some(Duration::from_secs(1)),
            ..Outcome::default()
        };
        let status = |outcome: Outcome| outcome.status().map(|(status, _)| status.name());
        assert_eq!(status(outcome(0, 0, false)), None);
        assert_eq!(status(outcome(2, 0, false)), Some("subscribed"));
        assert_eq!(status(outcome(2, 1, false)), None);
        assert_eq!(status(outcome(0, 3, false)), Some("disconnected"));
        assert_eq!(status(outcome(2, 0, true)), Some("disconnected"));
    }

    #[test]
    fn due_times_are_spread_around_the_interval() {
        let interval = Duration::from_secs(10);
        let waits: Vec<_> = (0..100).map(|_| jittered(interval)).collect();
        assert!(
            waits
                .iter()
                .all(|wait| wait.abs_diff(interval) <= interval / 10)
        );
        assert!(waits.iter().any(|wait| *wait > interval));
        assert!(waits.iter().any(|wait| *wait < interval));
    }
}
