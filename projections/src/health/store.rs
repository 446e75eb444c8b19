//! All SQL of the schema `health`.
//!
//! A sweep reads the partial index on `deadline` from its start to now, so it costs what has run out
//! and not what there is: `Index Scan using vehicle_deadline (deadline <= $1)`.

use chrono::{DateTime, TimeDelta, Utc};
use shared_model::WorkspaceId;
use sqlx::PgConnection;
use sqlx::postgres::types::PgInterval;

use super::fold::Heard;
use super::freshness::{Freshness, Limits};
use crate::{VehicleChange, VehicleKey};

/// A row that was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The workspace.
    pub(super) workspace: String,
    /// The vehicle.
    pub(super) vehicle: String,
    /// The freshness before; none if the vehicle was not known.
    pub(super) before: Option<Freshness>,
    /// The freshness now.
    pub(super) after: Freshness,
}

/// Merges `changes`, at most one per vehicle, into the table, judged at `now`. A row that was heard
/// from as late as its change says, or later, is not written.
pub(super) async fn upsert(
    connection: &mut PgConnection,
    changes: &[VehicleChange<Heard>],
    now: DateTime<Utc>,
    limits: Limits,
) -> Result<Vec<Written>, sqlx::Error> {
    let workspaces: Vec<_> = changes.iter().map(|of| of.key.workspace.as_str()).collect();
    let vehicles: Vec<_> = changes.iter().map(|of| of.key.vehicle.as_str()).collect();
    let (runs, judgements): (Vec<_>, Vec<_>) = changes
        .iter()
        .map(|of| of.change.judge(now, limits))
        .unzip();
    let heard_since: Vec<_> = runs.iter().map(|run| run.map(|run| run.since)).collect();
    let last: Vec<_> = runs.iter().map(|run| run.map(|run| run.last)).collect();
    let freshness: Vec<_> = judgements.iter().map(|of| of.freshness.name()).collect();
    let since: Vec<_> = judgements.iter().map(|of| of.since).collect();
    let deadlines: Vec<_> = judgements.iter().map(|of| of.deadline).collect();
    sqlx::query_as!(
        Written,
        r#"
        WITH change AS (
            SELECT change.*
            FROM UNNEST(
                $1::text[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::text[],
                $6::timestamptz[], $7::timestamptz[]
            ) AS change
                (workspace, vehicle, heard_since, last_received_at, freshness, since, deadline)
        ),
        -- For the count of transitions alone, so it may be a moment old.
        before AS (
            SELECT stored.workspace, stored.vehicle, stored.freshness
            FROM health.vehicle AS stored
            JOIN change USING (workspace, vehicle)
        ),
        written AS (
            INSERT INTO health.vehicle AS stored
                (workspace, vehicle, heard_since, last_received_at, freshness, since, deadline)
            SELECT change.*
            FROM change
            -- Everybody locks rows in the same order, so nobody waits in a circle.
            ORDER BY change.workspace COLLATE "C", change.vehicle COLLATE "C"
            ON CONFLICT (workspace, vehicle) DO UPDATE
            -- Receipts that follow before the vehicle would have been stale go on with its run.
            SET heard_since = CASE
                    WHEN excluded.heard_since < stored.last_received_at + $8::interval
                        THEN LEAST(stored.heard_since, excluded.heard_since)
                    ELSE excluded.heard_since
                END,
                last_received_at = excluded.last_received_at,
                freshness = excluded.freshness,
                since = CASE
                    WHEN excluded.freshness = 'fresh'
                        AND excluded.heard_since < stored.last_received_at + $8::interval
                        THEN LEAST(stored.heard_since, excluded.heard_since)
                    ELSE excluded.since
                END,
                deadline = excluded.deadline
            WHERE excluded.last_received_at IS NOT NULL
                AND (
                    stored.last_received_at IS NULL
                    OR excluded.last_received_at > stored.last_received_at
                )
            RETURNING stored.workspace, stored.vehicle, stored.freshness
        )
        SELECT written.workspace AS "workspace!",
            written.vehicle AS "vehicle!",
            before.freshness AS "before?: Freshness",
            written.freshness AS "after!: Freshness"
        FROM written
        LEFT JOIN before USING (workspace, vehicle)
        "#,
        &workspaces as &[&str],
        &vehicles as &[&str],
        &heard_since as &[Option<DateTime<Utc>>],
        &last as &[Option<DateTime<Utc>>],
        &freshness as &[&str],
        &since,
        &deadlines as &[Option<DateTime<Utc>>],
        interval(limits.stale_after),
    )
    .fetch_all(connection)
    .await
}

/// Has the next sweep judge again what was judged by other limits. Returns how many vehicles.
pub(super) async fn expire_other_limits(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    limits: Limits,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        r#"
        UPDATE health.vehicle
        SET deadline = $1
        WHERE last_received_at IS NOT NULL
            AND CASE freshness
                WHEN 'fresh' THEN deadline <> last_received_at + $2::interval
                WHEN 'stale' THEN since <> last_received_at + $2::interval
                    OR deadline <> last_received_at + $3::interval
                ELSE since <> last_received_at + $3::interval
            END
        "#,
        now,
        interval(limits.stale_after),
        interval(limits.offline_after),
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// Vehicles that went from one freshness to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transition {
    /// The freshness before.
    pub(super) from: Freshness,
    /// The freshness now.
    pub(super) to: Freshness,
    /// How many vehicles.
    pub(super) vehicles: i64,
}

/// Judges again, at `now`, every vehicle whose deadline has passed: `freshness_at` in SQL.
pub(super) async fn sweep(
    connection: &mut PgConnection,
    now: DateTime<Utc>,
    limits: Limits,
) -> Result<Vec<Transition>, sqlx::Error> {
    sqlx::query_as!(
        Transition,
        r#"
        WITH due AS (
            SELECT workspace, vehicle, freshness
            FROM health.vehicle
            WHERE deadline <= $1
            ORDER BY workspace, vehicle
            -- A vehicle that is heard from meanwhile has a new deadline and drops out.
            FOR UPDATE
        ),
        judged AS (
            UPDATE health.vehicle AS stored
            SET freshness = CASE
                    WHEN $1 < stored.last_received_at + $2::interval THEN 'fresh'
                    WHEN $1 < stored.last_received_at + $3::interval THEN 'stale'
                    ELSE 'offline'
                END,
                since = CASE
                    WHEN $1 < stored.last_received_at + $2::interval THEN stored.heard_since
                    WHEN $1 < stored.last_received_at + $3::interval
                        THEN stored.last_received_at + $2::interval
                    ELSE stored.last_received_at + $3::interval
                END,
                deadline = CASE
                    WHEN $1 < stored.last_received_at + $2::interval
                        THEN stored.last_received_at + $2::interval
                    WHEN $1 < stored.last_received_at + $3::interval
                        THEN stored.last_received_at + $3::interval
                END
            FROM due
            WHERE stored.workspace = due.workspace AND stored.vehicle = due.vehicle
            RETURNING due.freshness AS before, stored.freshness AS after
        )
        SELECT before AS "from!: Freshness",
            after AS "to!: Freshness",
            count(*) AS "vehicles!"
        FROM judged
        WHERE before <> after
        GROUP BY before, after
        "#,
        now,
        interval(limits.stale_after),
        interval(limits.offline_after),
    )
    .fetch_all(connection)
    .await
}

/// A vehicle's health as stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Health {
    /// When the vehicle was last heard from.
    pub(super) last_received_at: Option<DateTime<Utc>>,
    /// The freshness.
    pub(super) freshness: Freshness,
    /// When it began.
    pub(super) since: DateTime<Utc>,
}

/// The health of one vehicle, if it is known.
pub(super) async fn find(
    connection: &mut PgConnection,
    key: &VehicleKey,
) -> Result<Option<Health>, sqlx::Error> {
    sqlx::query_as!(
        Health,
        r#"
        SELECT last_received_at, freshness AS "freshness: Freshness", since
        FROM health.vehicle
        WHERE workspace = $1 AND vehicle = $2
        "#,
        key.workspace.as_str(),
        key.vehicle.as_str(),
    )
    .fetch_optional(connection)
    .await
}

/// How many vehicles have a freshness.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Count {
    /// The freshness.
    pub(super) freshness: Freshness,
    /// How many vehicles.
    pub(super) vehicles: i64,
}

/// All vehicles by freshness.
pub(super) async fn count_all(connection: &mut PgConnection) -> Result<Vec<Count>, sqlx::Error> {
    sqlx::query_as!(
        Count,
        r#"
        SELECT freshness AS "freshness: Freshness", count(*) AS "vehicles!"
        FROM health.vehicle
        GROUP BY freshness
        "#,
    )
    .fetch_all(connection)
    .await
}

/// The vehicles of one workspace by freshness.
pub(super) async fn count(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
) -> Result<Vec<Count>, sqlx::Error> {
    sqlx::query_as!(
        Count,
        r#"
        SELECT freshness AS "freshness: Freshness", count(*) AS "vehicles!"
        FROM health.vehicle
        WHERE workspace = $1
        GROUP BY freshness
        "#,
        workspace.as_str(),
    )
    .fetch_all(connection)
    .await
}

fn interval(delta: TimeDelta) -> PgInterval {
    PgInterval {
        months: 0,
        days: 0,
        microseconds: delta.num_microseconds().unwrap_or(i64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use shared_model::VehicleId;
    use shared_model::time::from_unix_millis;

    use super::*;
    use crate::fixture;
    use crate::health::MIGRATIONS;
    use crate::health::freshness::{Judgement, Run, freshness_at};

    const LIMITS: Limits = Limits {
        stale_after: TimeDelta::seconds(5),
        offline_after: TimeDelta::seconds(20),
    };

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    fn key(workspace: &str) -> VehicleKey {
        VehicleKey {
            workspace: WorkspaceId::new(workspace).unwrap(),
            vehicle: VehicleId::new("bus-1").unwrap(),
        }
    }

    fn heard(key: &VehicleKey, receipts: &[i64]) -> [VehicleChange<Heard>; 1] {
        [VehicleChange {
            key: key.clone(),
            change: Heard {
                registered_at: None,
                receipts: receipts.iter().map(|&second| at(second)).collect(),
            },
            events: Vec::new(),
        }]
    }

    fn registered(key: &VehicleKey, second: i64) -> [VehicleChange<Heard>; 1] {
        let mut changes = heard(key, &[]);
        changes[0].change.registered_at = Some(at(second));
        changes
    }

    async fn stored(connection: &mut PgConnection, key: &VehicleKey) -> Judgement {
        let health = find(connection, key).await.unwrap().unwrap();
        let deadline =
            sqlx::query_scalar("SELECT deadline FROM health.vehicle WHERE workspace = $1")
                .bind(key.workspace.as_str())
                .fetch_one(connection)
                .await;
        Judgement {
            freshness: health.freshness,
            since: health.since,
            deadline: deadline.unwrap(),
        }
    }

    #[tokio::test]
    async fn the_table_agrees_with_the_pure_judgement_at_any_time() {
        let pool = fixture::pool(&MIGRATIONS).await;
        let mut connection = pool.acquire().await.unwrap();
        let mut runner = TestRunner::deterministic();
        // Batches of seconds that passed since the receipt before, with the delay until each batch
        // arrives and the time from there to the next sweep.
        let pause = prop_oneof![3 => 0..4_i64, 1 => 0..30_i64];
        let batch = (prop::collection::vec(0..8_i64, 1..4), 0..4_i64, pause);
        let batches = prop::collection::vec(batch, 1..8);
        let mut went_on_fresh = 0;
        for case in 0..60 {
            let key = key(&format!("w{case}"));
            let mut all = BTreeSet::new();
            let (mut last, mut now) = (0, 0);
            for (gaps, delay, pause) in batches.new_tree(&mut runner).unwrap().current() {
                let receipts: Vec<_> = gaps
                    .into_iter()
                    .map(|gap| {
                        last += gap;
                        last
                    })
                    .collect();
                all.extend(receipts.iter().map(|&second| at(second)));
                let run = Run::latest(all.iter().copied(), LIMITS).unwrap();
                let changes = heard(&key, &receipts);
                now = now.max(last) + delay;
                upsert(&mut connection, &changes, at(now), LIMITS)
                    .await
                    .unwrap();
                // Again: nothing is new.
                let again = upsert(&mut connection, &changes, at(now), LIMITS).await;
                assert_eq!(again.unwrap(), []);
                for now in [now, now + pause] {
                    // A receipt that is no news leaves it to the sweep to judge anew.
                    sweep(&mut connection, at(now), LIMITS).await.unwrap();
                    let judgement = stored(&mut connection, &key).await;
                    assert_eq!(judgement, freshness_at(run, at(now), LIMITS));
                    if judgement.freshness == Freshness::Fresh && run.since < at(receipts[0]) {
                        went_on_fresh += 1;
                    }
                }
                now += pause;
            }
        }
        assert!(went_on_fresh > 20, "only {went_on_fresh} runs went on");
    }

    #[tokio::test]
    async fn silence_moves_a_vehicle_on_and_a_registration_alone_does_not() {
        let pool = fixture::pool(&MIGRATIONS).await;
        let mut connection = pool.acquire().await.unwrap();
        let (silent, unseen) = (key("silent"), key("unseen"));
        for changes in [registered(&silent, 0), registered(&unseen, 0)] {
            let written = upsert(&mut connection, &changes, at(0), LIMITS)
                .await
                .unwrap();
            assert_eq!(written[0].after, Freshness::NeverSeen);
            assert_eq!(written[0].before, None);
        }
        let changes = heard(&silent, &[1]);
        let written = upsert(&mut connection, &changes, at(1), LIMITS)
            .await
            .unwrap();
        assert_eq!(written[0].before, Some(Freshness::NeverSeen));
        assert_eq!(written[0].after, Freshness::Fresh);
        // A registration that comes late takes nothing back.
        let late = upsert(&mut connection, &registered(&silent, 0), at(1), LIMITS).await;
        assert_eq!(late.unwrap(), []);

        let transition = |from, to| Transition {
            from,
            to,
            vehicles: 1,
        };
        assert_eq!(sweep(&mut connection, at(5), LIMITS).await.unwrap(), []);
        assert_eq!(
            sweep(&mut connection, at(6), LIMITS).await.unwrap(),
            [transition(Freshness::Fresh, Freshness::Stale)]
        );
        assert_eq!(sweep(&mut connection, at(20), LIMITS).await.unwrap(), []);
        assert_eq!(
            sweep(&mut connection, at(99), LIMITS).await.unwrap(),
            [transition(Freshness::Stale, Freshness::Offline)]
        );
        assert_eq!(stored(&mut connection, &silent).await.since, at(21));
        assert_eq!(
            stored(&mut connection, &unseen).await,
            Judgement::never_seen(at(0))
        );

        let counts = count_all(&mut connection).await.unwrap();
        assert_eq!(counts.iter().map(|count| count.vehicles).sum::<i64>(), 2);
        let counts = count(&mut connection, &unseen.workspace).await.unwrap();
        assert_eq!(
            counts,
            [Count {
                freshness: Freshness::NeverSeen,
                vehicles: 1
            }]
        );
    }

    #[tokio::test]
    async fn other_limits_judge_anew() {
        let pool = fixture::pool(&MIGRATIONS).await;
        let mut connection = pool.acquire().await.unwrap();
        let key = key("demo");
        let now = at(30);
        upsert(&mut connection, &heard(&key, &[0, 4]), now, LIMITS)
            .await
            .unwrap();
        assert_eq!(
            expire_other_limits(&mut connection, now, LIMITS)
                .await
                .unwrap(),
            0
        );
        for (stale_after, offline_after) in [(60, 90), (10, 90), (10, 20), (5, 50), (29, 31)] {
            let limits = Limits {
                stale_after: TimeDelta::seconds(stale_after),
                offline_after: TimeDelta::seconds(offline_after),
            };
            let expired = expire_other_limits(&mut connection, now, limits).await;
            assert_eq!(expired.unwrap(), 1);
            sweep(&mut connection, now, limits).await.unwrap();
            let run = Run {
                since: at(0),
                last: at(4),
            };
            assert_eq!(
                stored(&mut connection, &key).await,
                freshness_at(run, now, limits)
            );
            let again = expire_other_limits(&mut connection, now, limits).await;
            assert_eq!(again.unwrap(), 0);
        }
    }
}
