//! API keys as the core knows them, asked over HTTP.

use std::time::Duration;

use anyhow::Context as _;
use axum::http::StatusCode;
use futures_util::future::BoxFuture;
use reqwest::{Client, Url};

use super::{InternalToken, KeyCheck, KeyGrant, KeySource};
use crate::http::Problem;
use crate::telemetry;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Somebody waits for it.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// The core's API keys. While the core is away no key can be checked; see
/// [`Access::with_core`](super::Access::with_core), which remembers what it said.
#[derive(Debug, Clone)]
pub struct CoreKeys {
    client: Client,
    url: Url,
}

impl CoreKeys {
    /// Asks the core at `base`, as the service that `token` makes this one.
    pub fn new(base: &str, token: &InternalToken) -> anyhow::Result<Self> {
        let mut url = Url::parse(base).context("core.url is no URL")?;
        url.path_segments_mut()
            .ok()
            .context("core.url cannot have a path")?
            .pop_if_empty()
            .extend(["internal", "v1", "api-keys", "check"]);
        // The core is a neighbour: a proxy for the way out does not lead to it.
        let client = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            .no_proxy()
            .default_headers(token.headers()?)
            .build()?;
        Ok(Self { client, url })
    }

    async fn ask(&self, check: &KeyCheck) -> Result<Option<KeyGrant>, Problem> {
        let answer = self.client.post(self.url.clone()).json(check).send().await;
        let answer = answer.map_err(|error| away(&error))?;
        match answer.status() {
            StatusCode::OK => answer.json().await.map(Some).map_err(|error| away(&error)),
            StatusCode::NOT_FOUND => {
                let problem: Problem = answer.json().await.map_err(|error| away(&error))?;
                // A core that has no such route yet says nothing about the key.
                if problem.kind.ends_with(":route-not-found") {
                    tracing::warn!("the core is too old to check API keys");
                    return Err(unavailable());
                }
                Ok(None)
            }
            status => {
                tracing::warn!(%status, "the core does not check API keys");
                Err(unavailable())
            }
        }
    }
}

impl KeySource for CoreKeys {
    fn check<'a>(
        &'a self,
        check: &'a KeyCheck,
    ) -> BoxFuture<'a, Result<Option<KeyGrant>, Problem>> {
        Box::pin(self.ask(check))
    }
}

fn away(error: &reqwest::Error) -> Problem {
    tracing::warn!(error = %telemetry::chain(error), "an API key cannot be checked");
    unavailable()
}

fn unavailable() -> Problem {
    let detail = "the core does not check API keys for the moment; try again";
    Problem::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "credentials-unverifiable",
        detail,
    )
}
