//! Tells the core what was found, so that it becomes events.
//!
//! Findings are sent in the order of their numbers, and count as told once the core has answered. The
//! core appends each number once, so it does no harm to send some again, nor that several replicas do.
//! While the core is away findings wait, however many. A core that has fewer than it was told, because it
//! was restored from an older dump, is told again from there; that is looked for every so often.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use reqwest::{Client, StatusCode, Url};
use runtime::backoff::Backoff;
use runtime::http::Problem;
use runtime::{Context, db, telemetry};
use shared_model::log::{SourceEvents, SourceState};
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::store::finding;
use crate::applier::is_passing;
use crate::metrics;
use crate::projection::Settings;

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How many findings go together.
const AT_ONCE: i64 = 500;
/// How often to look for findings of other replicas.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often to ask the core what it has.
const ASK_EVERY: Duration = Duration::from_secs(30);

/// Tells until the service stops; `found` wakes it.
pub(super) async fn run(
    pool: &PgPool,
    settings: &Settings,
    found: Arc<Notify>,
    context: &Context,
) -> anyhow::Result<()> {
    let mut teller = Teller {
        pool,
        core: Core::new(settings)?,
        asked_at: None,
    };
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
    let stop = context.stopping();
    loop {
        match stop.run_until_cancelled(teller.tell_all()).await {
            None => return Ok(()),
            Some(Ok(())) => {
                backoff.reset();
                let next = tokio::time::timeout(LOOK_EVERY, found.notified());
                // Either of the two is a reason to look.
                if stop.run_until_cancelled(next).await.is_none() {
                    return Ok(());
                }
            }
            Some(Err(TellError::Database(error))) if !is_passing(&error) => {
                return Err(error.into());
            }
            Some(Err(error)) => {
                metrics::health_telling_failed(error.reason());
                tracing::warn!(
                    error = %telemetry::chain(&error),
                    "the core is not told of what was found; it waits"
                );
                if backoff.wait(stop).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Why findings were not told.
#[derive(Debug, thiserror::Error)]
enum TellError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("no answer from the core")]
    NoAnswer(#[from] reqwest::Error),
    #[error("the core answered {status}: {detail}")]
    Refused { status: StatusCode, detail: String },
    #[error(
        "the core wants number {wanted} next, and the first that is still here is {found}: what lies \
         between is older than history.retention"
    )]
    Forgotten { wanted: u64, found: u64 },
}

impl TellError {
    const fn reason(&self) -> &'static str {
        match self {
            Self::Database(_) => "database_away",
            Self::NoAnswer(_) => "no_answer",
            Self::Refused { .. } => "refused",
            Self::Forgotten { .. } => "forgotten",
        }
    }
}

struct Teller<'a> {
    pool: &'a PgPool,
    core: Core,
    asked_at: Option<Instant>,
}

impl Teller<'_> {
    /// Tells all that there is to tell.
    async fn tell_all(&mut self) -> Result<(), TellError> {
        if self
            .asked_at
            .is_none_or(|asked_at| asked_at.elapsed() >= ASK_EVERY)
        {
            self.ask().await?;
        }
        loop {
            let mut pg = self.pool.acquire().await?;
            let head = finding::head(&mut pg).await?;
            metrics::health_untold(head.found.saturating_sub(head.told));
            if head.told >= head.found {
                return Ok(());
            }
            let events = finding::read(&mut pg, head.told, AT_ONCE).await?;
            drop(pg);
            let Some(first) = events.first().map(|event| event.number) else {
                return Ok(());
            };
            if first != head.told + 1 {
                return Err(TellError::Forgotten {
                    wanted: head.told + 1,
                    found: first,
                });
            }
            let count = events.len() as u64;
            match self.core.tell(&SourceEvents { events }).await? {
                Some(state) => {
                    self.note(state).await?;
                    metrics::health_told(count);
                }
                None => self.ask().await?,
            }
        }
    }

    /// Asks the core what it has.
    async fn ask(&mut self) -> Result<(), TellError> {
        let nothing = SourceEvents { events: Vec::new() };
        if let Some(state) = self.core.tell(&nothing).await? {
            self.note(state).await?;
            self.asked_at = Some(Instant::now());
        }
        Ok(())
    }

    async fn note(&self, SourceState { appended }: SourceState) -> Result<(), sqlx::Error> {
        db::in_tx(self.pool, "health_note_told", |mut tx| async move {
            finding::note_told(&mut tx, appended).await?;
            Ok::<_, sqlx::Error>((tx, ()))
        })
        .await
    }
}

/// The core's log API.
struct Core {
    client: Client,
    address: Url,
}

impl Core {
    fn new(settings: &Settings) -> anyhow::Result<Self> {
        let mut address = Url::parse(&settings.core.url).context("core.url is no URL")?;
        address
            .path_segments_mut()
            .ok()
            .context("core.url cannot have a path")?
            .pop_if_empty()
            .extend(["internal", "v1", "sources", "health", "events"]);
        // The core is a neighbour: a proxy for the way out does not lead to it.
        let client = Client::builder()
            .timeout(ANSWER_LIMIT)
            .no_proxy()
            .default_headers(settings.token.headers()?)
            .build()?;
        Ok(Self { client, address })
    }

    /// Hands `events` over; none if the core wants others first.
    async fn tell(&self, events: &SourceEvents) -> Result<Option<SourceState>, TellError> {
        let request = self.client.post(self.address.clone()).json(events);
        let answer = request.send().await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(Some(answer.json().await?));
        }
        if status == StatusCode::CONFLICT && !events.events.is_empty() {
            return Ok(None);
        }
        let detail = match answer.json::<Problem>().await {
            Ok(problem) => problem.detail,
            Err(_) => "without saying why".to_owned(),
        };
        Err(TellError::Refused { status, detail })
    }
}
