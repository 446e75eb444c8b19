//! The core's control API, from the publisher's side.
//!
//! "I am here", answered with the streams to read, and "I have stopped". If the core is away or
//! refuses, the caller gets an error that says so and asks again later.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, Response, StatusCode, Url};
use runtime::access::InternalToken;
use runtime::http::Problem;
use shared_model::control::{Assignment, Heartbeat};
use uuid::Uuid;

/// How long an answer may take.
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The core.
#[derive(Debug)]
pub(crate) struct Core {
    client: Client,
    address: Url,
}

/// Why there is no answer to a heartbeat.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CoreError {
    /// The core is away, or what it says is no assignment.
    #[error("no answer from the core")]
    NoAnswer(#[from] reqwest::Error),
    /// The core answered with an error.
    #[error("the core answered {status}: {detail}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// What the core says about it.
        detail: String,
    },
}

impl CoreError {
    /// Whether another process goes by this one's name and was heard of later.
    pub(crate) fn is_supersession(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::CONFLICT)
    }
}

impl Core {
    /// The core whose API is at `base`, as seen by the publisher called `instance`.
    pub(crate) fn new(base: &str, instance: &str, token: &InternalToken) -> anyhow::Result<Self> {
        let mut address = Url::parse(base).context("core.url is no URL")?;
        address
            .path_segments_mut()
            .ok()
            .context("core.url cannot have a path")?
            .pop_if_empty()
            .extend(["internal", "v1", "publishers", instance]);
        // The core is a neighbour: a proxy for the way out does not lead to it.
        let client = Client::builder()
            .timeout(ANSWER_LIMIT)
            .no_proxy()
            .default_headers(token.headers()?)
            .build()?;
        Ok(Self { client, address })
    }

    /// Says that the publisher is there; the answer says what to read.
    pub(crate) async fn beat(&self, heartbeat: &Heartbeat) -> Result<Assignment, CoreError> {
        let request = self.client.put(self.address.clone()).json(heartbeat);
        let answer = request.send().await?;
        Ok(accepted(answer).await?.json().await?)
    }

    /// Says that the publisher started as `incarnation` has stopped: what it read is free.
    pub(crate) async fn leave(&self, incarnation: Uuid) -> Result<(), CoreError> {
        let mut address = self.address.clone();
        let incarnation = incarnation.to_string();
        address
            .query_pairs_mut()
            .append_pair("incarnation", &incarnation);
        let answer = self.client.delete(address).send().await?;
        accepted(answer).await.map(drop)
    }
}

/// The answer, if it is no error.
async fn accepted(answer: Response) -> Result<Response, CoreError> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let detail = match answer.json::<Problem>().await {
        Ok(problem) => problem.detail,
        Err(_) => "without saying why".to_owned(),
    };
    Err(CoreError::Refused { status, detail })
}

#[cfg(test)]
mod tests {
    use runtime::access::AccessConfig;

    use super::*;

    #[test]
    fn the_instance_is_one_segment_of_the_path() {
        crate::testing::telemetry();
        for base in ["http://core:8081", "http://core:8081/"] {
            let core =
                Core::new(base, "host/1", &InternalToken::of(&AccessConfig::default())).unwrap();
            assert_eq!(
                core.address.as_str(),
                "http://core:8081/internal/v1/publishers/host%2F1"
            );
        }
    }
}
