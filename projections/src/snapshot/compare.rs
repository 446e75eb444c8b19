//! SQL that compares two sets of the snapshots' tables.
//!
//! The second set exists only during a rebuild, so this is not checked when it is compiled.

use sqlx::{PgConnection, Row};

use crate::comparison::{Comparison, MOST_NAMED, Rows};

const COMPARE: &str = "
    WITH compared AS (
        SELECT workspace, vehicle,
            live IS NOT DISTINCT FROM second AS is_equal,
            live.version IS NULL AS is_added,
            second.version IS NULL AS is_missing,
            live.version > second.version
                OR live.revision > second.revision
                OR COALESCE(
                    live.last_received_at > second.last_received_at,
                    live.last_received_at IS NOT NULL
                ) AS is_older,
            live.version = second.version
                AND live.revision = second.revision
                AND live.last_received_at IS NOT DISTINCT FROM second.last_received_at AS is_as_new
        FROM snapshot.vehicle AS live
        FULL JOIN snapshot_rebuild.vehicle AS second USING (workspace, vehicle)
        WHERE $1::text[] IS NULL
            OR (workspace, vehicle) IN (SELECT * FROM UNNEST($1::text[], $2::text[]))
    ),
    judged AS (
        SELECT workspace, vehicle,
            CASE
                WHEN is_added THEN 'added'
                WHEN is_missing THEN 'missing'
                WHEN is_equal THEN 'equal'
                WHEN is_older THEN 'older'
                WHEN is_as_new THEN 'other'
                ELSE 'newer'
            END AS judgement
        FROM compared
    ),
    behind AS (
        SELECT workspace, vehicle
        FROM judged
        WHERE judgement IN ('missing', 'older')
        ORDER BY workspace, vehicle
        LIMIT $3
    )
    SELECT count(*) FILTER (WHERE judgement = 'equal'),
        count(*) FILTER (WHERE judgement = 'newer'),
        count(*) FILTER (WHERE judgement = 'added'),
        count(*) FILTER (WHERE judgement = 'other'),
        count(*) FILTER (WHERE judgement = 'older'),
        count(*) FILTER (WHERE judgement = 'missing'),
        ARRAY(SELECT workspace FROM behind ORDER BY workspace, vehicle),
        ARRAY(SELECT vehicle FROM behind ORDER BY workspace, vehicle)
    FROM judged
";

/// Compares `snapshot_rebuild` with `snapshot`. It reads every row, so it may take as long as it takes.
pub(super) async fn compare(
    connection: &mut PgConnection,
    rows: Rows<'_>,
) -> Result<Comparison, sqlx::Error> {
    let (workspaces, vehicles) = match rows {
        Rows::All => (None, None),
        Rows::Named(workspaces, vehicles) => (Some(workspaces), Some(vehicles)),
    };
    let row = sqlx::query(COMPARE)
        .bind(workspaces)
        .bind(vehicles)
        .bind(MOST_NAMED as i64 + 1)
        .fetch_one(connection)
        .await?;
    Ok(Comparison {
        equal: row.try_get(0)?,
        newer: row.try_get(1)?,
        added: row.try_get(2)?,
        other: row.try_get(3)?,
        older: row.try_get(4)?,
        missing: row.try_get(5)?,
        named: (row.try_get(6)?, row.try_get(7)?),
    })
}
