//! The audit log of a service beside the core: in the core, over its internal API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::BoxFuture;
use reqwest::{Client, Response, Url};
use uuid::Uuid;

use super::{AuditLog, Begun, Change, Concluded};
use crate::access::InternalToken;

const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// A change waits for its entry.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// The core's audit log, as another service writes to it. While the core is away, nothing can be changed.
#[derive(Debug, Clone)]
pub struct CoreAudit {
    client: Client,
    url: Url,
}

impl CoreAudit {
    /// The log of the core at `base`.
    pub fn new(base: &str, token: &InternalToken) -> anyhow::Result<Self> {
        let mut url = Url::parse(base).context("core.url is no URL")?;
        url.path_segments_mut()
            .ok()
            .context("core.url cannot have a path")?
            .pop_if_empty()
            .extend(["internal", "v1", "audit"]);
        // The core is a neighbour: a proxy for the way out does not lead to it.
        let client = Client::builder()
            .connect_timeout(CONNECT_LIMIT)
            .timeout(ANSWER_LIMIT)
            .no_proxy()
            .default_headers(token.headers()?)
            .build()?;
        Ok(Self { client, url })
    }
}

impl AuditLog for CoreAudit {
    fn begin<'a>(&'a self, change: &'a Change) -> BoxFuture<'a, anyhow::Result<Uuid>> {
        Box::pin(async move {
            let request = self.client.post(self.url.clone()).json(change);
            let answer = expect(request.send().await?).await?;
            Ok(answer.json::<Begun>().await?.id)
        })
    }

    fn conclude(&self, id: Uuid, status: u16) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(async move {
            let url = format!("{}/{id}", self.url);
            let request = self.client.put(url).json(&Concluded { status });
            expect(request.send().await?).await?;
            Ok(())
        })
    }
}

async fn expect(answer: Response) -> anyhow::Result<Response> {
    let status = answer.status();
    if !status.is_success() {
        let said = answer.text().await.unwrap_or_default();
        bail!("the core answered {status}: {said}");
    }
    Ok(answer)
}
