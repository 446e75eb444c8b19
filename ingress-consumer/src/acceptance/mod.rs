//! Acceptance: the one path by which observations enter.
//!
//! A batch of frames is interpreted, folded per vehicle in memory with [`decide`], and committed in
//! one transaction: states, parked frames, seen frame numbers, events. If somebody else wrote one of
//! the vehicles in the meantime, the batch is loaded and folded again. If the database refuses the
//! batch for its content, the batch is halved until the frame that it refuses stands alone, and that
//! frame is parked. A stored row that cannot be read, such as one that a newer version has written,
//! is no fault of the frame's: the batch waits. While the database is away, nothing happens: the caller keeps the batch.
//!
//! [`decide`]: crate::decide::decide

mod fold;
mod reading;
mod registry;
mod replay;
pub mod status;
pub mod verdict;

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use rangemap::RangeInclusiveSet;
use runtime::db::{self, Disposition};
use shared_model::Frame;
use shared_model::envelope::Attributes;
use sqlx::{PgConnection, PgPool};

use crate::config::{AcceptanceConfig, ParkedConfig};
use crate::decide::Policy;
use crate::interpret::{Reason, Unreadable};
use crate::metrics;
use crate::store::parked::{Copies, ParkedFrame};
use crate::store::{StoreError, event_log, parked, session, vehicle, verdict as verdict_store};

use fold::{Done, Effect, Work};
pub use fold::{Tally, registered};
use reading::{ReadFrame, Reader};
pub use registry::Registry;
pub use replay::{Replayed, Replaying};
use verdict::FrameReport;

/// How often a batch is folded anew because others wrote its vehicles, before it is handed back.
const CONFLICT_LIMIT: usize = 20;

/// A frame and what its envelope says about it.
#[derive(Debug, Clone)]
pub struct Received {
    /// The envelope's attributes.
    pub attributes: Arc<Attributes>,
    /// The partition that the frame was numbered for.
    pub partition: u32,
    /// The frame.
    pub frame: Frame,
    /// Numbers of frames that newer ones replaced before they were sent. What an envelope says of
    /// them goes with its first frame.
    pub conflated: RangeInclusiveSet<u64>,
}

/// The acceptance path, with the connections it knows.
#[derive(Debug, Clone)]
pub struct Acceptance {
    pool: PgPool,
    registry: Registry,
    policy: Policy,
    shards: u32,
    verdicts_kept: u16,
    copies: Copies,
}

/// How frames come to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offering {
    /// They came from a source.
    Delivered,
    /// They had been parked, so they have had no effect although their numbers were seen.
    Replayed,
}

impl Acceptance {
    /// Accepts into `pool`'s database, whose event log has `shards` shards.
    #[must_use]
    pub fn new(pool: PgPool, config: &AcceptanceConfig, shards: u32) -> Self {
        let policy = Policy {
            clock_skew: config.clock_skew,
        };
        Self {
            registry: Registry::new(pool.clone()),
            pool,
            policy,
            shards,
            verdicts_kept: config.verdicts_kept,
            copies: copies(&ParkedConfig::default()),
        }
    }

    /// The same, storing so many copies of a parked frame as `config` says.
    #[must_use]
    pub fn keeping(self, config: &ParkedConfig) -> Self {
        let copies = copies(config);
        Self { copies, ..self }
    }

    /// Gives every frame its effect, and tells what became of each, in order. On an error, none or
    /// some have had it, and all may be offered again.
    pub async fn accept(&self, frames: &[Received]) -> Result<Vec<FrameReport>, StoreError> {
        self.accept_with(frames, &Alone).await
    }

    /// The same; what `companion` writes is committed with the frames' effect, or after it, never
    /// before.
    pub async fn accept_with(
        &self,
        frames: &[Received],
        companion: &dyn Companion,
    ) -> Result<Vec<FrameReport>, StoreError> {
        self.offer(frames, companion, Offering::Delivered).await
    }

    async fn offer(
        &self,
        frames: &[Received],
        companion: &dyn Companion,
        offering: Offering,
    ) -> Result<Vec<FrameReport>, StoreError> {
        let read = self.read(frames).await?;
        let done = match self.commit(&read, companion, offering).await {
            Err(error) if is_poison(&error) && !read.is_empty() => {
                let done = self.commit_or_halve(&read, offering).await?;
                let after = After(companion, &done.reports);
                self.commit(&[], &after, offering).await?;
                done
            }
            other => other?,
        };
        metrics::accepted(&done.tally);
        Ok(done.reports)
    }

    /// What would become of `frames`, were they accepted now. Changes nothing.
    pub async fn preview(&self, frames: &[Received]) -> Result<Vec<FrameReport>, StoreError> {
        self.foresee(frames, Offering::Delivered).await
    }

    async fn foresee(
        &self,
        frames: &[Received],
        offering: Offering,
    ) -> Result<Vec<FrameReport>, StoreError> {
        let read = self.read(frames).await?;
        let mut tx = self.pool.begin().await?;
        let effect = self.fold(&mut tx, &read, offering).await?;
        tx.rollback().await?;
        Ok(effect.reports)
    }

    async fn read(&self, frames: &[Received]) -> Result<Vec<ReadFrame>, StoreError> {
        let reader = Reader {
            registry: &self.registry,
            shards: self.shards,
            clock_skew: self.policy.clock_skew,
        };
        reader.read(frames, runtime::clock::now()).await
    }

    /// Parks a whole message that is no envelope.
    pub async fn park_message(&self, message: ParkedFrame) -> Result<(), StoreError> {
        let reason = message.reason;
        let message = std::slice::from_ref(&message);
        let parked = db::in_tx(&self.pool, "park_message", |mut tx| async move {
            let now = runtime::clock::now();
            let parked = parked::insert(&mut tx, message, self.copies, now).await?;
            Ok::<_, StoreError>((tx, parked))
        })
        .await?;
        metrics::parked("unknown", None, reason, parked.len() as u64);
        Ok(())
    }

    fn commit_or_halve<'a>(
        &'a self,
        frames: &'a [ReadFrame],
        offering: Offering,
    ) -> BoxFuture<'a, Result<Done, StoreError>> {
        async move {
            match self.commit(frames, &Alone, offering).await {
                Err(error) if is_poison(&error) => {
                    let (left, right) = frames.split_at(frames.len() / 2);
                    if left.is_empty() {
                        return self.park_poison(right, &error, offering).await;
                    }
                    let mut done = self.commit_or_halve(left, offering).await?;
                    done.merge(self.commit_or_halve(right, offering).await?);
                    Ok(done)
                }
                other => other,
            }
        }
        .boxed()
    }

    async fn park_poison(
        &self,
        frames: &[ReadFrame],
        error: &StoreError,
        offering: Offering,
    ) -> Result<Done, StoreError> {
        tracing::error!(
            error = %runtime::telemetry::chain(error),
            "the database refuses the content of a frame; the frame is parked"
        );
        let refused: Vec<_> = frames
            .iter()
            .map(|frame| ReadFrame {
                outcome: Err(Unreadable::new(Reason::RejectedByStore, error.to_string())),
                ..frame.clone()
            })
            .collect();
        self.commit(&refused, &Alone, offering).await
    }

    async fn commit(
        &self,
        frames: &[ReadFrame],
        companion: &dyn Companion,
        offering: Offering,
    ) -> Result<Done, StoreError> {
        for _ in 0..CONFLICT_LIMIT {
            let committed = db::in_tx(&self.pool, "accept_batch", |tx| {
                self.commit_once(tx, frames, companion, offering)
            });
            match committed.await {
                Err(StoreError::Conflict) => metrics::conflict(),
                other => return other,
            }
        }
        Err(StoreError::Conflict)
    }

    async fn commit_once(
        &self,
        mut tx: sqlx::Transaction<'static, sqlx::Postgres>,
        frames: &[ReadFrame],
        companion: &dyn Companion,
        offering: Offering,
    ) -> Result<(sqlx::Transaction<'static, sqlx::Postgres>, Done), StoreError> {
        let effect = self.fold(&mut tx, frames, offering).await?;
        vehicle::upsert(&mut tx, &effect.vehicles).await?;
        let parked = match offering {
            Offering::Delivered => {
                let now = runtime::clock::now();
                parked::insert(&mut tx, &effect.parked, self.copies, now).await?
            }
            Offering::Replayed => {
                let replayed = frames.iter().map(|frame| fold::identity(&frame.received));
                let replayed: Vec<_> = replayed.collect();
                parked::settle(&mut tx, &replayed, &effect.parked).await?;
                Vec::new()
            }
        };
        session::add(&mut tx, &fold::seen_frames(frames)).await?;
        verdict_store::record(&mut tx, &effect.rejected(frames), self.verdicts_kept).await?;
        companion
            .write(&mut tx, &effect.reports)
            .await
            .map_err(|error| error.of_companion(false))?;
        let traceparent = runtime::telemetry::traceparent();
        event_log::append(&mut tx, &effect.events, traceparent.as_deref()).await?;
        Ok((tx, effect.done(&parked)))
    }

    /// What `frames` do to what is stored.
    async fn fold(
        &self,
        tx: &mut PgConnection,
        frames: &[ReadFrame],
        offering: Offering,
    ) -> Result<Effect, StoreError> {
        let keys: BTreeSet<_> = frames.iter().flat_map(ReadFrame::vehicles).collect();
        let keys: Vec<_> = keys.into_iter().collect();
        let vehicles = vehicle::load(tx, &keys).await?;
        let numbers = fold::seen_frames(frames);
        let repeated = match offering {
            Offering::Delivered => session::seen(tx, &numbers).await?,
            Offering::Replayed => HashSet::new(),
        };
        let work = Work {
            frames,
            vehicles: &vehicles,
            repeated: &repeated,
        };
        Ok(work.fold(self.policy, runtime::clock::now()))
    }
}

/// What is committed together with a batch: a cursor, a key that says that it was done.
pub trait Companion: Send + Sync {
    /// Writes it; `reports` tells what became of the batch's frames, in order. Called again for each
    /// attempt; an error undoes the batch.
    fn write<'a>(
        &'a self,
        pg: &'a mut PgConnection,
        reports: &'a [FrameReport],
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}

/// Nothing is committed with the batch.
struct Alone;

impl Companion for Alone {
    fn write<'a>(
        &'a self,
        _pg: &'a mut PgConnection,
        _reports: &'a [FrameReport],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        std::future::ready(Ok(())).boxed()
    }
}

/// A companion of frames that were committed before it, in parts.
struct After<'a>(&'a dyn Companion, &'a [FrameReport]);

impl Companion for After<'_> {
    fn write<'a>(
        &'a self,
        pg: &'a mut PgConnection,
        _reports: &'a [FrameReport],
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        let written = self.0.write(pg, self.1);
        written
            .map(|done| done.map_err(|error| error.of_companion(true)))
            .boxed()
    }
}

fn copies(config: &ParkedConfig) -> Copies {
    Copies {
        stored: config.copies,
        window: config.window,
    }
}

/// Whether the content is at fault: it will fail again, now or later.
fn is_poison(error: &StoreError) -> bool {
    matches!(error, StoreError::Database(error) if db::disposition(error) == Disposition::Poison)
}
