//! All SQL of the schema `snapshot`.
//!
//! The page of vehicles is a range of the primary key, read in its order:
//! `Limit -> Index Scan using vehicle_pkey (workspace = $1 AND vehicle > $2)`.

use std::collections::BTreeMap;

use shared_model::signal::Provenance;
use shared_model::{VehicleId, WorkspaceId};
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use super::fold::{Quantity, Snapshot};
use crate::schema::Schema;
use crate::{VehicleChange, VehicleKey};

/// Merges `changes`, at most one per vehicle, into the table. Returns workspace and vehicle of the
/// rows that changed; a row that holds nothing older than its change is not written.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    schema: Schema,
    changes: &[VehicleChange<Snapshot>],
) -> Result<Vec<(String, String)>, sqlx::Error> {
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
    let query = sqlx::query!(
        r#"
        INSERT INTO snapshot.vehicle AS stored
            (workspace, vehicle, version, signals, revision, times, last_received_at)
        SELECT change.*
        FROM UNNEST(
            $1::text[], $2::text[], $3::bigint[], $4::jsonb[], $5::bigint[], $6::jsonb[],
            $7::timestamptz[]
        ) AS change (workspace, vehicle, version, signals, revision, times, last_received_at)
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
            last_received_at = GREATEST(stored.last_received_at, excluded.last_received_at)
        WHERE excluded.version > stored.version
            OR excluded.revision > stored.revision
            OR GREATEST(stored.last_received_at, excluded.last_received_at)
                IS DISTINCT FROM stored.last_received_at
        RETURNING stored.workspace, stored.vehicle
        "#,
        &workspaces as &[&str],
        &vehicles as &[&str],
        &column(|of| of.version),
        &signals as &[Json<&BTreeMap<String, Quantity>>],
        &column(|of| of.revision),
        &times as &[Json<&BTreeMap<String, Provenance>>],
        &receipts as &[Option<chrono::DateTime<chrono::Utc>>],
    );
    let rows = schema.fetch_all(connection, query).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// The stored snapshot of one vehicle, if there is one.
pub(super) async fn find(
    connection: &mut PgConnection,
    key: &VehicleKey,
) -> Result<Option<Snapshot>, sqlx::Error> {
    sqlx::query!(
        r#"
        SELECT version,
            signals AS "signals: Json<BTreeMap<String, Quantity>>",
            revision,
            times AS "times: Json<BTreeMap<String, Provenance>>",
            last_received_at
        FROM snapshot.vehicle
        WHERE workspace = $1 AND vehicle = $2
        "#,
        key.workspace.as_str(),
        key.vehicle.as_str(),
    )
    .map(|row| Snapshot {
        version: row.version,
        signals: row.signals.0,
        revision: row.revision,
        times: row.times.0,
        last_received_at: row.last_received_at,
    })
    .fetch_optional(connection)
    .await
}

/// The first `limit` vehicles of a workspace behind `after`, in the order of their ids.
pub(super) async fn list(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    after: Option<&VehicleId>,
    limit: i64,
) -> Result<Vec<(String, Snapshot)>, sqlx::Error> {
    sqlx::query!(
        r#"
        SELECT vehicle,
            version,
            signals AS "signals: Json<BTreeMap<String, Quantity>>",
            revision,
            times AS "times: Json<BTreeMap<String, Provenance>>",
            last_received_at
        FROM snapshot.vehicle
        WHERE workspace = $1 AND vehicle > $2
        ORDER BY vehicle
        LIMIT $3
        "#,
        workspace.as_str(),
        // No vehicle's id is empty.
        after.map_or("", VehicleId::as_str),
        limit,
    )
    .map(|row| {
        let snapshot = Snapshot {
            version: row.version,
            signals: row.signals.0,
            revision: row.revision,
            times: row.times.0,
            last_received_at: row.last_received_at,
        };
        (row.vehicle, snapshot)
    })
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use shared_model::event::Fact;

    use super::*;
    use crate::Change;
    use crate::fixture;
    use crate::snapshot::fold::tests::{any_fact, changed, registered, seen};
    use crate::snapshot::{LIVE, MIGRATIONS};

    type State = BTreeMap<VehicleKey, Snapshot>;

    fn changes(workspace: &WorkspaceId, facts: &[Fact]) -> Vec<VehicleChange<Snapshot>> {
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

    fn workspace(name: &str) -> WorkspaceId {
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
                        news.push((key.workspace.to_string(), key.vehicle.to_string()));
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

    #[tokio::test]
    async fn pages_follow_the_bytes_of_the_ids_within_one_workspace() {
        let pool = fixture::pool(&MIGRATIONS).await;
        let mut connection = pool.acquire().await.unwrap();
        let (ours, theirs) = (workspace("ours"), workspace("theirs"));
        let facts = [registered(1), changed(0, 3), seen(&[(2, 4)])];
        for workspace in [&ours, &theirs] {
            let changes = changes(workspace, &facts);
            upsert(&mut connection, LIVE, &changes).await.unwrap();
        }
        let mut odd = changes(&ours, &facts[..1]);
        odd[0].key.vehicle = VehicleId::new("Bus №7 / Süd").unwrap();
        upsert(&mut connection, LIVE, &odd).await.unwrap();

        let names = |page: Vec<(String, Snapshot)>| -> Vec<String> {
            page.into_iter().map(|(vehicle, _)| vehicle).collect()
        };
        let page = list(&mut connection, &ours, None, 3).await.unwrap();
        assert_eq!(names(page), ["Bus №7 / Süd", "bus-0", "bus-1"]);
        let after = VehicleId::new("bus-1").unwrap();
        let page = list(&mut connection, &ours, Some(&after), 3).await.unwrap();
        assert_eq!(names(page), ["bus-2"]);
        let page = list(&mut connection, &workspace("empty"), None, 3).await;
        assert!(page.unwrap().is_empty());
    }
}
