//! SQL that writes the vehicles' table of the schema `snapshot`, and finds one vehicle.

pub(super) mod view;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use shared_model::Provider;
use shared_model::signal::Provenance;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use super::fold::{Quantity, Snapshot};
use crate::schema::Schema;
use crate::{VehicleChange, VehicleKey};

/// A row that was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Written {
    /// Whose vehicle it is.
    pub(super) workspace: String,
    /// The vehicle.
    pub(super) vehicle: String,
    /// The version of its values now.
    pub(super) version: i64,
}

/// Merges `changes`, at most one per vehicle, into the table. Returns workspace and vehicle of the
/// rows that changed, with their versions now; a row that holds nothing older than its change is not
/// written.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    schema: Schema,
    changes: &[VehicleChange<Snapshot>],
) -> Result<Vec<Written>, sqlx::Error> {
    let column = |value: fn(&Snapshot) -> i64| -> Vec<i64> {
        changes.iter().map(|of| value(&of.change)).collect()
    };
    let workspaces: Vec<_> = changes.iter().map(|of| of.key.workspace.as_str()).collect();
    let vehicles: Vec<_> = changes.iter().map(|of| of.key.vehicle.as_str()).collect();
    let signals: Vec<_> = changes.iter().map(|of| Json(&of.change.signals)).collect();
    let times: Vec<_> = changes.iter().map(|of| Json(&of.change.times)).collect();
    let receipts: Vec<_> = changes
        .iter()
        .map(|of| of.change.last_received_at)
        .collect();
    let providers: Vec<_> = changes
        .iter()
        .map(|of| of.change.provider.as_ref().map(Provider::as_str))
        .collect();
    let observations: Vec<_> = changes.iter().map(|of| of.change.observed_at).collect();
    let query = sqlx::query!(
        r#"
        INSERT INTO snapshot.vehicle AS stored
            (workspace, vehicle, version, signals, revision, times, last_received_at, provider, observed_at)
        SELECT change.*
        FROM UNNEST(
            $1::text[], $2::text[], $3::bigint[], $4::jsonb[], $5::bigint[], $6::jsonb[],
            $7::timestamptz[], $8::text[], $9::timestamptz[]
        ) AS change
            (workspace, vehicle, version, signals, revision, times, last_received_at, provider, observed_at)
        -- Everybody locks rows in the same order, so nobody waits in a circle.
        ORDER BY change.workspace COLLATE "C", change.vehicle COLLATE "C"
        ON CONFLICT (workspace, vehicle) DO UPDATE
        SET version = GREATEST(stored.version, excluded.version),
            signals = CASE
                WHEN excluded.version > stored.version THEN excluded.signals
                ELSE stored.signals
            END,
            revision = GREATEST(stored.revision, excluded.revision),
            times = CASE
                WHEN excluded.revision > stored.revision THEN excluded.times
                ELSE stored.times
            END,
            provider = CASE
                WHEN excluded.revision > stored.revision THEN excluded.provider
                WHEN excluded.revision = stored.revision THEN LEAST(stored.provider, excluded.provider)
                ELSE stored.provider
            END,
            observed_at = CASE
                WHEN excluded.revision > stored.revision THEN excluded.observed_at
                ELSE stored.observed_at
            END,
            last_received_at = GREATEST(stored.last_received_at, excluded.last_received_at)
        WHERE excluded.version > stored.version
            OR excluded.revision > stored.revision
            OR GREATEST(stored.last_received_at, excluded.last_received_at)
                IS DISTINCT FROM stored.last_received_at
            OR excluded.revision = stored.revision
                AND LEAST(stored.provider, excluded.provider) IS DISTINCT FROM stored.provider
        RETURNING stored.workspace, stored.vehicle, stored.version
        "#,
        &workspaces as &[&str],
        &vehicles as &[&str],
        &column(|of| of.version),
        &signals as &[Json<&BTreeMap<String, Quantity>>],
        &column(|of| of.revision),
        &times as &[Json<&BTreeMap<String, Provenance>>],
        &receipts as &[Option<DateTime<Utc>>],
        &providers as &[Option<&str>],
        &observations as &[Option<DateTime<Utc>>],
    );
    let rows = schema.fetch_all(connection, query).await?;
    rows.iter()
        .map(|row| {
            Ok(Written {
                workspace: row.try_get(0)?,
                vehicle: row.try_get(1)?,
                version: row.try_get(2)?,
            })
        })
        .collect()
}

/// A vehicle's row.
struct Stored {
    vehicle: String,
    version: i64,
    signals: Json<BTreeMap<String, Quantity>>,
    revision: i64,
    times: Json<BTreeMap<String, Provenance>>,
    last_received_at: Option<DateTime<Utc>>,
    provider: Option<String>,
    observed_at: Option<DateTime<Utc>>,
}

impl Stored {
    fn read(self) -> Result<(String, Snapshot), sqlx::Error> {
        let provider = self.provider.map(Provider::new).transpose();
        let provider = provider.map_err(|error| {
            let row = &self.vehicle;
            let error = format!("snapshot.vehicle.provider of {row:?}: {error}");
            sqlx::Error::Decode(error.into())
        })?;
        let snapshot = Snapshot {
            version: self.version,
            signals: self.signals.0,
            revision: self.revision,
            times: self.times.0,
            provider,
            observed_at: self.observed_at,
            last_received_at: self.last_received_at,
        };
        Ok((self.vehicle, snapshot))
    }
}

/// The stored snapshot of one vehicle, if there is one.
pub(super) async fn find(
    connection: &mut PgConnection,
    key: &VehicleKey,
) -> Result<Option<Snapshot>, sqlx::Error> {
    let found = sqlx::query_as!(
        Stored,
        r#"
        SELECT vehicle,
            version,
            signals AS "signals: Json<BTreeMap<String, Quantity>>",
            revision,
            times AS "times: Json<BTreeMap<String, Provenance>>",
            last_received_at,
            provider,
            observed_at
        FROM snapshot.vehicle
        WHERE workspace = $1 AND vehicle = $2
        "#,
        key.workspace.as_str(),
        key.vehicle.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    let read = |stored: Stored| stored.read().map(|(_, snapshot)| snapshot);
    found.map(read).transpose()
}

/// The stored snapshots of many vehicles, each in its key's place.
pub(super) async fn find_all(
    connection: &mut PgConnection,
    keys: &[VehicleKey],
) -> Result<Vec<Option<Snapshot>>, sqlx::Error> {
    let workspaces: Vec<_> = keys.iter().map(|key| key.workspace.as_str()).collect();
    let vehicles: Vec<_> = keys.iter().map(|key| key.vehicle.as_str()).collect();
    let found = sqlx::query!(
        r#"
        SELECT place AS "place!",
            vehicle AS "vehicle!",
            version,
            signals AS "signals: Json<BTreeMap<String, Quantity>>",
            revision,
            times AS "times: Json<BTreeMap<String, Provenance>>",
            last_received_at,
            provider,
            observed_at
        FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS wanted (workspace, vehicle, place)
        JOIN snapshot.vehicle USING (workspace, vehicle)
        "#,
        &workspaces as &[&str],
        &vehicles as &[&str],
    )
    .fetch_all(connection)
    .await?;
    let mut snapshots = vec![None; keys.len()];
    for row in found {
        let stored = Stored {
            vehicle: row.vehicle,
            version: row.version,
            signals: row.signals,
            revision: row.revision,
            times: row.times,
            last_received_at: row.last_received_at,
            provider: row.provider,
            observed_at: row.observed_at,
        };
        let (_, snapshot) = stored.read()?;
        // Places are counted from 1.
        if let Some(place) = usize::try_from(row.place - 1)
            .ok()
            .and_then(|at| snapshots.get_mut(at))
        {
            *place = Some(snapshot);
        }
    }
    Ok(snapshots)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use shared_model::WorkspaceId;
    use shared_model::event::Fact;

    use super::*;
    use crate::Change;
    use crate::fixture;
    use crate::snapshot::fold::tests::any_fact;
    use crate::snapshot::{LIVE, MIGRATIONS};

    type State = BTreeMap<VehicleKey, Snapshot>;

    pub(super) fn changes(workspace: &WorkspaceId, facts: &[Fact]) -> Vec<VehicleChange<Snapshot>> {
        let mut merged = State::new();
        for fact in facts {
            for (vehicle, change) in Snapshot::of(fact.clone()).unwrap() {
                let workspace = workspace.clone();
                let of = merged.entry(VehicleKey { workspace, vehicle }).or_default();
                *of = std::mem::take(of).merge(change);
            }
        }
        let change = |(key, change)| VehicleChange {
            key,
            change,
            events: Vec::new(),
        };
        merged.into_iter().map(change).collect()
    }

    pub(super) fn workspace(name: &str) -> WorkspaceId {
        WorkspaceId::new(name).unwrap()
    }

    #[tokio::test]
    async fn the_upsert_is_the_pure_merge_and_writes_only_what_is_new() {
        let pool = fixture::pool(&MIGRATIONS).await;
        let mut connection = pool.acquire().await.unwrap();
        let mut runner = TestRunner::deterministic();
        let batches = prop::collection::vec(prop::collection::vec(any_fact(), 1..6), 1..8);
        for case in 0..40 {
            let workspace = workspace(&format!("w{case}"));
            let mut expected = State::new();
            for batch in batches.new_tree(&mut runner).unwrap().current() {
                let changes = changes(&workspace, &batch);
                let mut news = Vec::new();
                for VehicleChange { key, change, .. } in &changes {
                    let before = expected.get(key).cloned();
                    let after = before.clone().unwrap_or_default().merge(change.clone());
                    if before.as_ref() != Some(&after) {
                        news.push(Written {
                            workspace: key.workspace.to_string(),
                            vehicle: key.vehicle.to_string(),
                            version: after.version,
                        });
                    }
                    expected.insert(key.clone(), after);
                }
                let mut written = upsert(&mut connection, LIVE, &changes).await.unwrap();
                written.sort();
                assert_eq!(written, news, "{batch:#?}");
            }
            for (key, snapshot) in expected {
                let found = find(&mut connection, &key).await.unwrap();
                assert_eq!(found, Some(snapshot));
            }
        }
    }
}
