//! The event log as an auditor reads it.

use std::collections::BTreeMap;

use sqlx::{PgPool, Row};

/// The log's offsets per shard and its versions per vehicle, in the order of the offsets.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct EventLog {
    /// Offsets by shard.
    pub offsets: BTreeMap<i32, Vec<i64>>,
    /// Versions of `vehicle.snapshot.changed` by workspace and vehicle.
    pub versions: BTreeMap<(String, String), Vec<i64>>,
    /// How many events of each type.
    pub types: BTreeMap<String, usize>,
}

impl EventLog {
    /// Reads all of it.
    ///
    /// # Panics
    /// If the database does not answer.
    pub async fn read(pool: &PgPool) -> Self {
        let rows = sqlx::query(
            "SELECT shard, log_offset, workspace, event_type, subject,
                    (data->>'version')::bigint AS version
             FROM core.event_log ORDER BY shard, log_offset",
        )
        .fetch_all(pool)
        .await
        .expect("the log can be read");
        let mut log = Self::default();
        for row in rows {
            let kind: String = row.get("event_type");
            log.offsets
                .entry(row.get("shard"))
                .or_default()
                .push(row.get("log_offset"));
            if kind == "vehicle.snapshot.changed" {
                let vehicle = (row.get("workspace"), row.get("subject"));
                log.versions
                    .entry(vehicle)
                    .or_default()
                    .push(row.get("version"));
            }
            *log.types.entry(kind).or_default() += 1;
        }
        log
    }

    /// Checks that offsets are dense per shard and versions dense per vehicle, both from 1.
    ///
    /// # Panics
    /// If they are not.
    pub fn assert_dense(&self) {
        for (shard, offsets) in &self.offsets {
            assert!(
                offsets.iter().copied().eq(1..=offsets.len() as i64),
                "shard {shard}: {offsets:?}"
            );
        }
        for (vehicle, versions) in &self.versions {
            assert!(
                versions.iter().copied().eq(1..=versions.len() as i64),
                "{vehicle:?}: {versions:?}"
            );
        }
    }
}
