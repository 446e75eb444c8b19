//! Group commit: requests that wait at the same time are committed together.
//!
//! One committer takes all that waits, up to a bound, and accepts it in one transaction; meanwhile
//! the next group gathers. So a hundred senders of single frames cost a few commits, and a sender
//! that is alone waits for nobody.
//!
//! Frames are numbered when they are committed, in a session of this process and the connection. The
//! numbers of a group that failed may or may not have been committed; so a failure ends the session
//! and the next group begins another. Then no session has a gap.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rangemap::RangeInclusiveSet;
use runtime::http::Problem;
use runtime::{Context, clock, telemetry};
use serde_json::{Value, json};
use shared_model::envelope::Attributes;
use shared_model::partition::partition;
use shared_model::{ConnectionId, Frame, FrameKind, FrameOrigin, SessionId};
use sqlx::{PgConnection, PgPool};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::described::{FrameAnswer, IngestAnswer};
use super::idempotency::KeyedRequest;
use super::request::Envelope;
use super::{Waiting, away};
use crate::acceptance::verdict::FrameReport;
use crate::acceptance::{Acceptance, Companion, Received};
use crate::config::IngestConfig;
use crate::metrics;
use crate::store::StoreError;
use crate::store::ingest::{self, DoneRequest, Recipient, RequestKey};

/// No further request joins a group that has so many bytes.
const GROUP_BYTES: usize = 4 * 1024 * 1024;
/// How often a group is tried because other replicas did some of its requests meanwhile.
const ATTEMPTS: usize = 5;

/// A request that waits for its commit.
#[derive(Debug)]
pub struct Submission {
    /// The size of its body.
    pub bytes: usize,
    /// What it holds.
    pub envelopes: Vec<Envelope>,
    /// When it came.
    pub received_at: DateTime<Utc>,
    /// Its key, if it has one.
    pub key: Option<KeyedRequest>,
    /// Its part of what all requests may take.
    pub held: OwnedSemaphorePermit,
    /// Who waits for the answer.
    pub answer: oneshot::Sender<Result<Value, Problem>>,
}

impl Submission {
    fn frames(&self) -> usize {
        self.envelopes.iter().map(|e| e.frames.len()).sum()
    }

    /// Answers it. Nobody may be waiting any more.
    fn answer(self, answer: Result<Value, Problem>) {
        let Self {
            key,
            held,
            answer: to,
            ..
        } = self;
        // Whoever repeats the request once it is answered must not find it in flight.
        drop((key, held));
        drop(to.send(answer));
    }
}

/// Commits what an [`Intake`](super::Intake) takes.
#[derive(Debug)]
pub struct Committer {
    pool: PgPool,
    acceptance: Acceptance,
    partitions: u32,
    config: IngestConfig,
    context: Context,
    queue: mpsc::Receiver<Submission>,
    open: Arc<AtomicBool>,
    numbers: HashMap<ConnectionId, Numbers>,
}

/// A connection's session, and the last number in it.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    session: SessionId,
    last: u64,
}

/// What became of a group: an answer a request, in order.
type Answers = Vec<Result<Value, Problem>>;

impl Committer {
    /// A committer of what waits in `waiting`.
    #[must_use]
    pub fn new(
        context: Context,
        pool: PgPool,
        acceptance: Acceptance,
        partitions: u32,
        config: IngestConfig,
        waiting: Waiting,
    ) -> Self {
        Self {
            pool,
            acceptance,
            partitions,
            config,
            context,
            queue: waiting.queue,
            open: waiting.open,
            numbers: HashMap::new(),
        }
    }

    /// Commits until the service is asked to stop and nothing waits any more.
    pub async fn run(mut self) -> anyhow::Result<()> {
        let stop = self.context.stopping().clone();
        self.open.store(true, Ordering::Relaxed);
        loop {
            let next = tokio::select! {
                biased;
                next = self.queue.recv() => next,
                () = stop.cancelled() => {
                    self.queue.close();
                    self.queue.recv().await
                }
            };
            let Some(first) = next else { return Ok(()) };
            let group = self.gather(first);
            self.commit(group).await;
        }
    }

    /// `first` and what waits behind it.
    fn gather(&mut self, first: Submission) -> Vec<Submission> {
        let (mut frames, mut bytes) = (first.frames(), first.bytes);
        let mut group = vec![first];
        while frames < self.config.group_frames && bytes < GROUP_BYTES {
            let Ok(next) = self.queue.try_recv() else {
                break;
            };
            frames += next.frames();
            bytes += next.bytes;
            group.push(next);
        }
        metrics::ingest_group(group.len(), frames);
        metrics::ingest_waiting(self.queue.len());
        group
    }

    async fn commit(&mut self, group: Vec<Submission>) {
        match self.try_commit(&group).await {
            Ok(answers) => answer(group, answers),
            // It may be the fault of one of them. What has had its effect is not offered again.
            Err(error) if group.len() > 1 && !error.is_passing() && !is_accepted(&error) => {
                for submission in group {
                    let answer = self.commit_alone(&submission).await;
                    submission.answer(answer);
                }
            }
            Err(error) => {
                if error.is_passing() {
                    tracing::warn!(
                        error = %telemetry::chain(&error),
                        requests = group.len(),
                        "requests are refused: the database is away"
                    );
                }
                let problem = Problem::from(error);
                for submission in group {
                    submission.answer(Err(problem.clone()));
                }
            }
        }
    }

    async fn commit_alone(&mut self, submission: &Submission) -> Result<Value, Problem> {
        let mut answers = self.try_commit(std::slice::from_ref(submission)).await?;
        answers
            .pop()
            .unwrap_or_else(|| Err(away("the request was not answered; try again")))
    }

    async fn try_commit(&mut self, group: &[Submission]) -> Result<Answers, StoreError> {
        for _ in 1..ATTEMPTS {
            match self.commit_once(group).await {
                Err(StoreError::Done) => {}
                other => return other,
            }
        }
        self.commit_once(group).await
    }

    async fn commit_once(&mut self, group: &[Submission]) -> Result<Answers, StoreError> {
        let now = clock::now();
        let since = now - self.config.key_retention;
        let ids: BTreeSet<_> = group
            .iter()
            .flat_map(|submission| &submission.envelopes)
            .map(|envelope| envelope.connection)
            .collect();
        let ids: Vec<_> = ids.into_iter().collect();
        let keys = group
            .iter()
            .filter_map(|s| Some(s.key.as_ref()?.key.clone()));
        let keys: Vec<_> = keys.collect();
        let (recipients, done) = {
            let mut pg = self.pool.acquire().await?;
            let recipients = ingest::recipients(&mut pg, &ids).await?;
            let done = match keys.as_slice() {
                [] => HashMap::new(),
                keys => ingest::done(&mut pg, keys, since).await?,
            };
            (recipients, done)
        };
        let mut batch = Batch::new(self, &recipients);
        let outcomes: Vec<_> = group
            .iter()
            .map(|submission| {
                let repeated = submission
                    .key
                    .as_ref()
                    .and_then(|key| Some(key.repeat(done.get(&key.key)?)));
                match repeated {
                    Some(Ok(answer)) => Ok(Outcome::Repeated(answer)),
                    Some(Err(problem)) => Err(problem),
                    None => batch.add(submission).map(Outcome::Added),
                }
            })
            .collect();
        let Batch {
            frames, numbers, ..
        } = batch;
        let reports = if frames.is_empty() {
            Vec::new()
        } else {
            let keys = Keys {
                requests: group
                    .iter()
                    .zip(&outcomes)
                    .filter_map(|(submission, outcome)| match outcome {
                        Ok(Outcome::Added(range)) => {
                            Some((submission.key.as_ref()?, range.clone()))
                        }
                        _ => None,
                    })
                    .collect(),
                now,
                since,
            };
            let accepted = self.acceptance.accept_with(&frames, &keys).await;
            match &accepted {
                Ok(_) => self.numbers.extend(numbers),
                Err(_) => self.numbers.retain(|id, _| !numbers.contains_key(id)),
            }
            accepted?
        };
        metrics::ingest_frames(&reports);
        let answers = outcomes.into_iter().map(|outcome| match outcome? {
            Outcome::Repeated(answer) => Ok(answer),
            Outcome::Added(range) => Ok(to_answer(&reports[range])),
        });
        Ok(answers.collect())
    }
}

fn answer(group: Vec<Submission>, answers: Answers) {
    for (submission, answer) in group.into_iter().zip(answers) {
        submission.answer(answer);
    }
}

/// Whether the frames have had their effect although there was an error.
const fn is_accepted(error: &StoreError) -> bool {
    matches!(error, StoreError::Companion { accepted: true, .. })
}

/// What a group does with one of its requests.
enum Outcome {
    /// It was done before.
    Repeated(Value),
    /// Its frames are these of the batch.
    Added(Range<usize>),
}

/// The frames of a group, numbered.
struct Batch<'a> {
    recipients: &'a HashMap<ConnectionId, Recipient>,
    committed: &'a HashMap<ConnectionId, Numbers>,
    owner: &'a str,
    partitions: u32,
    frames: Vec<Received>,
    numbers: HashMap<ConnectionId, Numbers>,
}

impl<'a> Batch<'a> {
    fn new(committer: &'a Committer, recipients: &'a HashMap<ConnectionId, Recipient>) -> Self {
        Self {
            recipients,
            committed: &committer.numbers,
            owner: committer.context.instance(),
            partitions: committer.partitions,
            frames: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// Adds all of a request's frames or, if one may not be, none.
    fn add(&mut self, submission: &Submission) -> Result<Range<usize>, Problem> {
        let recipients = submission
            .envelopes
            .iter()
            .map(|envelope| recipient(self.recipients, envelope));
        let recipients: Vec<_> = recipients.collect::<Result<_, _>>()?;
        let start = self.frames.len();
        for (envelope, recipient) in submission.envelopes.iter().zip(recipients) {
            self.add_envelope(envelope, recipient, submission.received_at);
        }
        Ok(start..self.frames.len())
    }

    fn add_envelope(&mut self, envelope: &Envelope, to: &Recipient, received_at: DateTime<Utc>) {
        let id = envelope.connection;
        let numbers = self.numbers.entry(id).or_insert_with(|| {
            self.committed.get(&id).copied().unwrap_or_else(|| Numbers {
                session: SessionId(clock::new_id()),
                last: 0,
            })
        });
        let attributes = Arc::new(Attributes {
            provider: to.provider.clone(),
            workspace: to.workspace.clone(),
            connection: id,
            session: numbers.session,
            epoch: 0,
            owner: self.owner.to_owned(),
        });
        // What a device sends is ordered by its times, so nothing is won by looking for the device.
        let partition = partition(&to.workspace, id, "", self.partitions);
        for frame in &envelope.frames {
            numbers.last += 1;
            self.frames.push(Received {
                attributes: Arc::clone(&attributes),
                partition,
                frame: Frame {
                    number: numbers.last,
                    received_at: frame.received_at.unwrap_or(received_at),
                    kind: FrameKind::Text,
                    origin: FrameOrigin::Live,
                    body: frame.body.clone(),
                },
                conflated: RangeInclusiveSet::new(),
            });
        }
    }
}

/// The connection that `envelope` is for.
fn recipient<'a>(
    recipients: &'a HashMap<ConnectionId, Recipient>,
    envelope: &Envelope,
) -> Result<&'a Recipient, Problem> {
    let (workspace, id) = (&envelope.workspace, envelope.connection);
    let recipient = recipients
        .get(&id)
        // A workspace does not learn of another's connections.
        .filter(|recipient| recipient.workspace == *workspace)
        .ok_or_else(|| {
            let detail = format!("workspace {workspace} has no connection {id}");
            Problem::not_found("connection-not-found", detail)
        })?;
    if recipient.kind != shared_model::ConnectionKind::Push {
        let detail = format!(
            "connection {id} is of kind {}; frames are delivered to one of kind push",
            recipient.kind
        );
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "connection-not-push",
            detail,
        ));
    }
    Ok(recipient)
}

/// What a request is answered of whose frames `reports` tell.
fn to_answer(reports: &[FrameReport]) -> Value {
    let frames = reports.iter().map(FrameAnswer::from);
    json!(IngestAnswer {
        frames: frames.collect(),
    })
}

/// What is remembered of a group's requests, in the transaction of their effect.
struct Keys<'a> {
    requests: Vec<(&'a KeyedRequest, Range<usize>)>,
    now: DateTime<Utc>,
    since: DateTime<Utc>,
}

impl Companion for Keys<'_> {
    fn write<'a>(
        &'a self,
        pg: &'a mut PgConnection,
        reports: &'a [FrameReport],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        async move {
            let requests = self.requests.iter().map(|(request, range)| {
                let answer = to_answer(reports.get(range.clone()).unwrap_or_default());
                let done = DoneRequest {
                    fingerprint: request.fingerprint.clone(),
                    answer,
                };
                (request.key.clone(), done)
            });
            let requests: Vec<(RequestKey, DoneRequest)> = requests.collect();
            if requests.is_empty() {
                return Ok(());
            }
            ingest::remember(pg, &requests, self.now, self.since).await
        }
        .boxed()
    }
}
