//! What is fixed at an installation's first start, and whether its database is still the same.
//!
//! The number of partitions decides where a device's frames and a vehicle's events go, and the
//! queues' bound is part of their declaration; neither can change under a running system. So the
//! first start writes them down, and a core that is configured otherwise refuses to start.
//!
//! It also writes down by what the database can be told from one that was restored: a dump makes its
//! tables anew, and going back in time or to a replica begins a new timeline. Either may have lost the
//! end of the event log, so its offsets may come to stand for other events: the log begins a new
//! *generation*, and subscribers have to confirm what they share with it.

use sqlx::{PgConnection, PgPool};

use crate::config::IngressConfig;
use crate::store::{StoreError, event_log, setting, small, unsigned};

const PARTITIONS: &str = "ingress.partitions";
const PARTITION_MAX_BYTES: &str = "ingress.partition_max_bytes";

/// The generation of a log that was never restored.
pub const FIRST_GENERATION: i64 = 1;

const LOG_GENERATION: &str = "log.generation";
const LOG_RELATION: &str = "log.relation";
const LOG_TIMELINE: &str = "log.timeline";

/// The fixed settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Installation {
    /// Ingress partitions, and as many shards of the event log.
    pub partitions: u32,
    /// The bound of each partition's queue, in bytes.
    pub partition_max_bytes: u64,
}

/// Why the core cannot start on this installation.
#[derive(Debug, thiserror::Error)]
pub enum InstallationError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The configuration asks for something else than the installation has.
    #[error(
        "{key} is configured as {configured}, but this installation was made with {fixed}: \
         remove the setting or set it to {fixed}"
    )]
    Differs {
        /// The setting.
        key: &'static str,
        /// What is configured.
        configured: u64,
        /// What was fixed at the first start.
        fixed: u64,
    },
}

impl InstallationError {
    /// Whether it may pass by itself.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Store(StoreError::Database(error))
            if runtime::db::disposition(error) == runtime::db::Disposition::Retry)
    }
}

impl Installation {
    /// Reads the fixed settings; `None` before the first start.
    pub async fn read(pg: &mut PgConnection) -> Result<Option<Self>, StoreError> {
        let partitions = setting::get(pg, PARTITIONS).await?;
        let max_bytes = setting::get(pg, PARTITION_MAX_BYTES).await?;
        Ok(partitions
            .zip(max_bytes)
            .map(|(partitions, max_bytes)| Self {
                partitions: small(i32::try_from(partitions).unwrap_or_default()),
                partition_max_bytes: unsigned(max_bytes),
            }))
    }

    /// Fixes the settings if this is the first start, and compares them to `config` if not. Makes
    /// the event log's shards and its partitions for today and the `days_ahead`, and looks whether the
    /// database was restored.
    pub async fn prepare(
        pool: &PgPool,
        config: &IngressConfig,
        days_ahead: u16,
        moment: Moment,
    ) -> Result<Self, InstallationError> {
        let mut tx = pool.begin().await.map_err(StoreError::from)?;
        let partitions = i64::from(config.initial_partitions());
        let max_bytes = config.initial_partition_max_bytes() as i64;
        setting::fix(&mut tx, PARTITIONS, partitions)
            .await
            .map_err(StoreError::from)?;
        setting::fix(&mut tx, PARTITION_MAX_BYTES, max_bytes)
            .await
            .map_err(StoreError::from)?;
        let fixed = Self::read(&mut tx).await?;
        let fixed = fixed.ok_or(StoreError::Database(sqlx::Error::RowNotFound))?;
        differs(
            PARTITIONS,
            config.partitions.map(u64::from),
            fixed.partitions.into(),
        )?;
        differs(
            PARTITION_MAX_BYTES,
            config.partition_max_bytes,
            fixed.partition_max_bytes,
        )?;
        event_log::create_shards(&mut tx, fixed.partitions)
            .await
            .map_err(StoreError::from)?;
        notice_restore(&mut tx, moment)
            .await
            .map_err(StoreError::from)?;
        event_log::create_partitions(&mut tx, days_ahead)
            .await
            .map_err(StoreError::from)?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(fixed)
    }
}

/// The generation of the event log: how often its database was found restored, and one.
pub async fn log_generation(pg: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let stored = setting::get(pg, LOG_GENERATION).await?;
    Ok(stored.unwrap_or(FIRST_GENERATION))
}

/// When it is looked whether the database was restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// At the core's start, when nothing was appended since.
    Start,
    /// Later, when events may have been appended that no other history has.
    Running,
}

/// Begins a new generation of the log if the database is another than at the last look. What both
/// histories share is what the log holds at the `moment` of the start; later, nothing can be said to be.
async fn notice_restore(pg: &mut PgConnection, moment: Moment) -> Result<(), sqlx::Error> {
    let identity = setting::identity(pg).await?;
    let (relation, timeline) = (i64::from(identity.relation), i64::from(identity.timeline));
    setting::fix(pg, LOG_RELATION, relation).await?;
    setting::fix(pg, LOG_TIMELINE, timeline).await?;
    let known = (
        setting::lock(pg, LOG_RELATION).await?,
        setting::lock(pg, LOG_TIMELINE).await?,
    );
    if known == (relation, timeline) {
        return Ok(());
    }
    let generation = log_generation(pg).await? + 1;
    tracing::warn!(
        generation,
        "the database was restored, or another server has taken over: subscribers of the event log \
         confirm what they have applied, or begin anew"
    );
    setting::set(pg, LOG_GENERATION, generation).await?;
    setting::set(pg, LOG_RELATION, relation).await?;
    setting::set(pg, LOG_TIMELINE, timeline).await?;
    event_log::mark_restored(pg, moment == Moment::Start).await
}

fn differs(
    key: &'static str,
    configured: Option<u64>,
    fixed: u64,
) -> Result<(), InstallationError> {
    match configured {
        Some(configured) if configured != fixed => Err(InstallationError::Differs {
            key,
            configured,
            fixed,
        }),
        _ => Ok(()),
    }
}
