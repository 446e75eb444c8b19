//! Questions to a provider's REST API: paced, bounded in bytes, tried again where that helps.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Response, StatusCode};
use runtime::backoff::Backoff;
use runtime::clock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::dialect::Question;
use crate::metrics;
use crate::outbound::Outbound;
use runtime::outbound::retry_after;

/// How long an answer may take to begin, and how long from then to its last byte.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// The largest answer that is taken.
pub(crate) const ANSWER_BYTES: usize = 2 * 1024 * 1024;
/// How often a question is asked that gets no answer.
const TRIES: u32 = 12;
/// A provider that asks for more than this has a broken header, or is asked again in between.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// Asks on behalf of one stream.
#[derive(Debug)]
pub(crate) struct Asker {
    outbound: Outbound,
    credential: Option<(&'static str, HeaderValue)>,
    waits: (Duration, Duration),
    pace: Interval,
}

/// An answer, with its place among those that are in memory at once.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The body.
    pub(crate) body: Vec<u8>,
    _place: OwnedSemaphorePermit,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Trouble {
    /// The credential is not good for this.
    #[error("the provider refused the credentials: {0}")]
    Refused(StatusCode),
    /// The question is not to the provider's liking, now or later.
    #[error("the provider rejected the request: {0}")]
    Rejected(StatusCode),
    /// The answer is too large.
    #[error("the answer is larger than {ANSWER_BYTES} bytes")]
    TooLarge,
    /// All tries are used up.
    #[error("no answer after {TRIES} tries, at last: {0}")]
    Away(String),
}

/// Why one try has failed.
enum Failed {
    For(Trouble),
    Now {
        reason: String,
        retry_after: Option<Duration>,
    },
}

impl Asker {
    /// Asks at most `per_second` questions a second; the waits before trying again are drawn
    /// between the bounds `waits`.
    pub(crate) fn new(
        outbound: Outbound,
        credential: Option<(&'static str, HeaderValue)>,
        waits: (Duration, Duration),
        per_second: u32,
    ) -> Self {
        let mut pace = interval(Duration::from_secs(1) / per_second.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            outbound,
            credential,
            waits,
            pace,
        }
    }

    /// The answer to `question`.
    pub(crate) async fn ask(&mut self, question: &Question) -> Result<Answer, Trouble> {
        let mut backoff = Backoff::new(self.waits.0, self.waits.1);
        let mut tries = 1;
        loop {
            let (reason, retry_after) = match self.once(question).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::For(trouble)) => return Err(trouble),
                Err(Failed::Now {
                    reason,
                    retry_after,
                }) => (reason, retry_after),
            };
            if tries == TRIES {
                return Err(Trouble::Away(reason));
            }
            tries += 1;
            let asked = retry_after.unwrap_or_default().min(LONGEST_WAIT);
            tokio::time::sleep(asked + backoff.next_wait()).await;
        }
    }

    async fn once(&mut self, question: &Question) -> Result<Answer, Failed> {
        self.pace.tick().await;
        let answer = self.answer(question).await;
        metrics::backfill_request(match &answer {
            Ok(_) => "ok",
            Err(Failed::For(Trouble::TooLarge)) => "too_large",
            Err(Failed::For(_)) => "rejected",
            Err(Failed::Now { .. }) => "retried",
        });
        answer
    }

    async fn answer(&self, question: &Question) -> Result<Answer, Failed> {
        let response = in_time(self.send(question)).await?;
        // Taken when there is something to hold: a provider that does not answer keeps no other
        // stream from asking.
        let place = place(Arc::clone(&self.outbound.answers)).await;
        let body = in_time(read(response)).await?;
        Ok(Answer {
            body,
            _place: place,
        })
    }

    async fn send(&self, question: &Question) -> Result<Response, Failed> {
        let mut request = match &question.body {
            Some(body) => {
                let request = self.outbound.http.post(question.url.clone());
                let request = request.header("content-type", "application/json");
                request.body(body.clone())
            }
            None => self.outbound.http.get(question.url.clone()),
        };
        if let Some((name, value)) = &self.credential {
            request = request.header(*name, value.clone());
        }
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Failed::For(Trouble::Refused(status))
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => later(&response),
            _ if status.is_server_error() => later(&response),
            _ => Failed::For(Trouble::Rejected(status)),
        })
    }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let asked = timeout(ANSWER_LIMIT, asking).await;
    asked.unwrap_or_else(|_| Err(away("no answer in time".to_owned(), None)))
}

async fn place(answers: Arc<Semaphore>) -> OwnedSemaphorePermit {
    match answers.acquire_owned().await {
        Ok(place) => place,
        // The semaphore is never closed.
        Err(_) => std::future::pending().await,
    }
}

fn later(response: &Response) -> Failed {
    let asked = retry_after(response.headers(), clock::now());
    away(
        format!("the provider answered {}", response.status()),
        asked,
    )
}

fn away(reason: String, retry_after: Option<Duration>) -> Failed {
    Failed::Now {
        reason,
        retry_after,
    }
}

/// The URL is left out: a vehicle's id is the customer's business.
fn broken(error: reqwest::Error) -> Failed {
    let error = error.without_url();
    away(runtime::telemetry::chain(&error).to_string(), None)
}

async fn read(mut response: Response) -> Result<Vec<u8>, Failed> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if body.len() + chunk.len() > ANSWER_BYTES {
            return Err(Failed::For(Trouble::TooLarge));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
