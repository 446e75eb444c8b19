//! Table `relay_checkpoint`: how far each shard has been relayed.

use sqlx::PgConnection;

use super::{small, unsigned};

/// A shard's place in the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The shard.
    pub shard: u32,
    /// Everything up to this offset is confirmed by the broker.
    pub relayed: u64,
    /// The shard's last offset.
    pub head: u64,
}

/// Every shard's checkpoint.
pub async fn checkpoints(pg: &mut PgConnection) -> Result<Vec<Checkpoint>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT shard, log_offset, last_offset
         FROM core.relay_checkpoint
         JOIN core.shard_head USING (shard)
         ORDER BY shard",
    )
    .fetch_all(pg)
    .await?;
    let checkpoints = rows.into_iter().map(|row| Checkpoint {
        shard: small(row.shard),
        relayed: unsigned(row.log_offset),
        head: unsigned(row.last_offset),
    });
    Ok(checkpoints.collect())
}

/// Moves a shard's checkpoint forward to `offset`; never back, whoever else relays the shard.
pub async fn advance(pg: &mut PgConnection, shard: u32, offset: u64) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE core.relay_checkpoint
         SET log_offset = GREATEST(log_offset, $2), updated_at = now()
         WHERE shard = $1",
        shard as i32,
        offset as i64,
    )
    .execute(pg)
    .await?;
    Ok(())
}
