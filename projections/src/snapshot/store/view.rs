//! SQL that reads lists of vehicles.
//!
//! A list is a range of the primary key, read in its order, and the filters are looked at row by row. Of
//! 20,000 vehicles with all signals, on two cores under a load of 15:
//!
//! ```text
//! Limit (actual time=71.897..71.925 rows=21)                -- soc_min=99.9
//!   Index Scan using vehicle_pkey on vehicle
//!     Index Cond: workspace = $1 AND vehicle > $2
//!     Filter: CASE WHEN jsonb_typeof(signals #> '{state_of_charge,value}') = 'number' …
//!     Rows Removed by Filter: 19979,  Buffers: shared hit=6745
//! Execution Time: no filter 0.05 ms, freshness 53 ms, state of charge 72 ms, box 130 ms
//! ```
//!
//! An index on what is filtered by would be one on what changes: it would end updates within their page
//! (HOT), at the cost of every event, to spare a scan that a workspace of the usual size does not feel.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use shared_model::signal::Provenance;
use shared_model::{Provider, VehicleId, WorkspaceId};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::{Stored, Written};
use crate::snapshot::cutoffs::{Cutoff, Cutoffs};
use crate::snapshot::filter::Filter;
use crate::snapshot::fold::{Quantity, Snapshot};

/// The first `limit` vehicles of a workspace behind `after` that `filter` lets through, in the order of
/// their ids. `cutoffs` say which are how fresh.
///
/// A value of a kind that is not known here, such as a state of charge that is no number, is never within
/// a range. Numbers are compared as they are written, so none is too large.
pub(in crate::snapshot) async fn list(
    connection: &mut PgConnection,
    workspace: &WorkspaceId,
    after: Option<&VehicleId>,
    limit: i64,
    filter: &Filter,
    cutoffs: &Cutoffs,
) -> Result<Vec<(String, Snapshot)>, sqlx::Error> {
    let freshness: Option<Vec<_>> = filter
        .freshness
        .as_ref()
        .map(|all| all.iter().map(|one| one.name()).collect());
    let own = |cutoff: fn(&Cutoff) -> DateTime<Utc>| -> Vec<_> {
        let providers = cutoffs.providers.iter();
        providers.map(|(_, of)| cutoff(of)).collect()
    };
    let providers = cutoffs.providers.iter();
    let providers: Vec<_> = providers.map(|(name, _)| name.as_str()).collect();
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
        WHERE workspace = $1
            AND vehicle > $2
            AND ($4::text IS NULL OR provider = $4)
            AND ($5::timestamptz IS NULL OR observed_at >= $5)
            AND (
                $6::text IS NULL
                -- By the letters of the database's locale; those of ASCII in any.
                OR strpos(lower(vehicle COLLATE "default"), lower($6 COLLATE "default")) > 0
            )
            AND (
                $7::text[] IS NULL
                OR CASE
                    WHEN last_received_at IS NULL THEN 'never_seen'
                    WHEN last_received_at
                        > COALESCE(($11::timestamptz[])[array_position($10::text[], provider)], $8)
                        THEN 'fresh'
                    WHEN last_received_at
                        > COALESCE(($12::timestamptz[])[array_position($10::text[], provider)], $9)
                        THEN 'stale'
                    ELSE 'offline'
                END = ANY ($7)
            )
            AND (
                ($13::float8 IS NULL AND $14::float8 IS NULL)
                OR CASE
                    WHEN jsonb_typeof(signals #> '{state_of_charge,value}') = 'number'
                    THEN (signals #> '{state_of_charge,value}')::numeric
                        BETWEEN COALESCE($13, 0)::numeric AND COALESCE($14, 100)::numeric
                END
            )
            AND (
                $15::float8 IS NULL
                OR CASE
                    WHEN jsonb_typeof(signals #> '{position,value,longitude}') = 'number'
                        AND jsonb_typeof(signals #> '{position,value,latitude}') = 'number'
                    THEN (signals #> '{position,value,latitude}')::numeric
                            BETWEEN $16::float8::numeric AND $18::float8::numeric
                        AND CASE
                            WHEN $15 <= $17::float8
                            THEN (signals #> '{position,value,longitude}')::numeric
                                BETWEEN $15::numeric AND $17::numeric
                            ELSE (signals #> '{position,value,longitude}')::numeric >= $15::numeric
                                OR (signals #> '{position,value,longitude}')::numeric <= $17::numeric
                        END
                END
            )
        ORDER BY vehicle
        LIMIT $3
        "#,
        workspace.as_str(),
        // No vehicle's id is empty.
        after.map_or("", VehicleId::as_str),
        limit,
        filter.provider.as_ref().map(Provider::as_str),
        filter.observed_since,
        filter.search.as_deref(),
        freshness.as_deref() as Option<&[&str]>,
        cutoffs.usual.fresh,
        cutoffs.usual.stale,
        &providers as &[&str],
        &own(|of| of.fresh),
        &own(|of| of.stale),
        filter.soc_min,
        filter.soc_max,
        filter.bbox.map(|of| of.west),
        filter.bbox.map(|of| of.south),
        filter.bbox.map(|of| of.east),
        filter.bbox.map(|of| of.north),
    )
    .fetch_all(connection)
    .await?;
    found.into_iter().map(Stored::read).collect()
}

/// The versions of those of the vehicles that are known, which are named by workspace and id.
pub(in crate::snapshot) async fn versions(
    connection: &mut PgConnection,
    (workspaces, vehicles): (&[String], &[String]),
) -> Result<Vec<Written>, sqlx::Error> {
    sqlx::query_as!(
        Written,
        r#"
        SELECT workspace AS "workspace!", vehicle AS "vehicle!", version
        FROM UNNEST($1::text[], $2::text[]) AS asked (workspace, vehicle)
        JOIN snapshot.vehicle USING (workspace, vehicle)
        "#,
        workspaces,
        vehicles,
    )
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests;
