//! One question to a provider: within the budget, in a session, and what came of it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use runtime::clock;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::Polling;
use super::limit;
use super::page::holds_nul;
use crate::interpret::feed::{Access, Budget, Failure, Feed, Page, RateLimit, Request, Response};
use crate::metrics;
use crate::store::StoreError;
use crate::store::connection::Connection;
use crate::store::poll_budget::{self, BudgetKey, Place};

/// How long a run waits for its place; beyond, the feed is put off and others have their turn.
const PATIENCE: Duration = Duration::from_secs(2);
/// No provider's users authenticate more often than this.
const AUTHENTICATE: RateLimit = RateLimit {
    pool: "authenticate",
    requests: 10,
    period: Duration::from_mins(1),
};

/// How many characters of what a provider says are kept.
const SHOWN: usize = 300;

/// Why there is no page.
#[derive(Debug)]
pub enum Trouble {
    /// The budget has no place for so long.
    NoPlace(Duration),
    /// The provider's answer, and of which budget.
    Provider(Failure, RateLimit),
    /// There was no answer in time, or the connection broke: nothing else on that server would answer.
    Unreachable(Failure),
    /// The core's own database.
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// Asks for one connection.
pub struct Asker<'a> {
    pub polling: &'a Polling,
    pub connection: &'a Connection,
    pub feed: &'a dyn Feed,
    pub secret: Option<SecretString>,
    /// The budgets that the connection shares.
    pub budget: String,
}

impl Asker<'_> {
    /// The next page of the feed called `name`, and when it had arrived.
    pub async fn page(
        &self,
        name: &str,
        cursor: Option<&Value>,
    ) -> Result<(Page, DateTime<Utc>), Trouble> {
        let limit = self.feed.limit(name);
        let mut again = true;
        loop {
            let session = self.session().await?;
            let access = Access {
                credential: self.secret.as_ref().map(ExposeSecret::expose_secret),
                session: session.as_ref(),
            };
            self.place(&limit).await?;
            let request = self.feed.request(name, cursor, &access, clock::now());
            let asked = self
                .exchange(&limit, &request, |answer| {
                    let page = self.feed.read(name, cursor, answer)?;
                    if page.cursor.as_ref().is_some_and(holds_nul) {
                        let detail = "where to read on holds a NUL, which cannot be stored";
                        return Err(Failure::Unreadable(detail.to_owned()));
                    }
                    Ok((page, answer.received_at))
                })
                .await;
            match asked {
                Err(Trouble::Provider(Failure::SessionOver(_), _)) if again => {
                    // Once: of a new session that is over as well, another one is no better.
                    self.polling.sessions.forget(self.connection.id);
                    again = false;
                }
                Ok((page, at)) => {
                    self.heed(&limit, page.budget, at).await?;
                    return Ok((page, at));
                }
                other => return other,
            }
        }
    }

    /// The open session, or a new one, where the provider has sessions.
    async fn session(&self) -> Result<Option<Value>, Trouble> {
        let id = self.connection.id;
        if let Some(open) = self.polling.sessions.get(id) {
            return Ok(Some(open));
        }
        let secret = self.secret.as_ref().map(ExposeSecret::expose_secret);
        let Some(request) = secret.and_then(|secret| self.feed.authenticate(secret)) else {
            return Ok(None);
        };
        self.place(&AUTHENTICATE).await?;
        let session = self
            .exchange(&AUTHENTICATE, &request, |answer| self.feed.session(answer))
            .await?;
        self.polling.sessions.keep(id, session.clone());
        Ok(Some(session))
    }

    /// Waits for a place in the budget.
    async fn place(&self, limit: &RateLimit) -> Result<(), Trouble> {
        let (key, spacing) = (self.key(limit), limit::spacing(limit));
        let mut pg = self.polling.pool.acquire().await?;
        let place = poll_budget::reserve(&mut pg, &key, spacing, PATIENCE.max(spacing)).await?;
        drop(pg);
        match place {
            Place::Reserved(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            Place::TooLate(wait) => Err(Trouble::NoPlace(wait)),
        }
    }

    async fn exchange<T>(
        &self,
        limit: &RateLimit,
        request: &Request,
        read: impl FnOnce(&Response) -> Result<T, Failure>,
    ) -> Result<T, Trouble> {
        let started = Instant::now();
        let client = &self.polling.client;
        let answer = client.ask(&self.connection.endpoint, request).await;
        let unreachable = matches!(answer, Err(Failure::Passing(_)));
        let read = answer.and_then(|answer| read(&answer));
        metrics::polled(
            self.connection.provider.as_str(),
            outcome(read.as_ref().err()),
            started.elapsed(),
        );
        let failure = match read {
            Ok(read) => return Ok(read),
            Err(failure) if unreachable => return Err(Trouble::Unreachable(failure)),
            Err(failure) => failure,
        };
        if let Failure::Limited { retry_after } = &failure {
            self.block(limit, limit::blocked_for(*retry_after, limit))
                .await?;
        }
        Err(Trouble::Provider(failure, limit.clone()))
    }

    /// Leaves a provider alone that says that nothing is left.
    async fn heed(
        &self,
        limit: &RateLimit,
        budget: Option<Budget>,
        at: DateTime<Utc>,
    ) -> Result<(), Trouble> {
        match limit::used_up(budget, at) {
            Some(wait) => self.block(limit, wait).await,
            None => Ok(()),
        }
    }

    async fn block(&self, limit: &RateLimit, wait: Duration) -> Result<(), Trouble> {
        let mut pg = self.polling.pool.acquire().await?;
        Ok(poll_budget::block(&mut pg, &self.key(limit), wait).await?)
    }

    fn key(&self, limit: &RateLimit) -> BudgetKey {
        BudgetKey {
            budget: self.budget.clone(),
            pool: limit.pool,
        }
    }

    /// `text` without the credential, which a provider may have repeated.
    pub fn redacted(&self, text: &str) -> String {
        let secret = self.secret.as_ref().map(ExposeSecret::expose_secret);
        let session = self.polling.sessions.get(self.connection.id);
        without(text, secret, session.as_ref())
    }
}

/// `text` without what is as good as the `secret`, cut to what is worth showing only then.
fn without(text: &str, secret: Option<&str>, session: Option<&Value>) -> String {
    // As basic authentication sends it.
    let encoded = secret.map(|secret| STANDARD.encode(secret));
    let mut hidden: Vec<&str> = secret.into_iter().chain(encoded.as_deref()).collect();
    // The password alone, where the credential is a user and a password.
    hidden.extend(secret.and_then(|secret| Some(secret.split_once(':')?.1)));
    let mut values: Vec<&Value> = session.into_iter().collect();
    while let Some(value) = values.pop() {
        match value {
            Value::String(text) => hidden.push(text),
            Value::Array(inner) => values.extend(inner),
            Value::Object(inner) => values.extend(inner.values()),
            _ => {}
        }
    }
    hidden.retain(|part| !part.is_empty());
    // The longest first: a part of one may be another.
    hidden.sort_by_key(|part| std::cmp::Reverse(part.len()));
    let mut text = text.to_owned();
    for part in hidden {
        text = text.replace(part, "***");
    }
    text.chars().take(SHOWN).collect()
}

/// The word for what came of a request.
const fn outcome(failure: Option<&Failure>) -> &'static str {
    match failure {
        None => "read",
        Some(Failure::Limited { .. }) => "limited",
        Some(Failure::SessionOver(_)) => "session_over",
        Some(Failure::Refused(_)) => "refused",
        Some(Failure::FeedRefused(_)) => "feed_refused",
        Some(Failure::Passing(_)) => "passing",
        Some(Failure::Unreadable(_)) => "unreadable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_part_of_a_credential_is_shown_even_at_the_cut() {
        let session = json!({"credentials": {"sessionId": "s3ss10n"}});
        let said = format!("{}hunter2 db/user:hunter2 s3ss10n", "x".repeat(SHOWN - 20));
        let shown = without(&said, Some("db/user:hunter2"), Some(&session));
        assert!(!shown.contains("hun") && !shown.contains("s3ss"), "{shown}");
        assert!(shown.chars().count() <= SHOWN);
        assert_eq!(without("Basic dTpw", Some("u:p"), None), "Basic ***");
    }
}
