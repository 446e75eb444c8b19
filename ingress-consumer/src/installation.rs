//! What is fixed at an installation's first start.
//!
//! The number of partitions decides where a device's frames and a vehicle's events go, and the
//! queues' bound is part of their declaration; neither can change under a running system. So the
//! first start writes them down, and a core that is configured otherwise refuses to start.

use sqlx::{PgConnection, PgPool};

use crate::config::IngressConfig;
use crate::store::{StoreError, event_log, setting, small, unsigned};

const PARTITIONS: &str = "ingress.partitions";
const PARTITION_MAX_BYTES: &str = "ingress.partition_max_bytes";

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
    /// the event log's shards and its partitions for today and the `days_ahead`.
    pub async fn prepare(
        pool: &PgPool,
        config: &IngressConfig,
        days_ahead: u16,
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
        event_log::create_partitions(&mut tx, days_ahead)
            .await
            .map_err(StoreError::from)?;
        tx.commit().await.map_err(StoreError::from)?;
        Ok(fixed)
    }
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
