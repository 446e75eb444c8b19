//! Tables `finding` and `finding_head`: what the core is told, each under a number.
//!
//! Numbers are given from the head's row, which stays locked until the commit: so they are dense and in
//! the order of the commits, and whoever reads on from a number misses nothing.

use chrono::{DateTime, Utc};
use serde_json::Value;
use shared_model::WorkspaceId;
use shared_model::event::Fact;
use shared_model::log::SourceEvent;
use sqlx::PgConnection;

use super::{broken, unsigned};

/// A fact that was found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Finding {
    workspace: WorkspaceId,
    kind: &'static str,
    data: Value,
}

impl Finding {
    pub(super) fn new(workspace: WorkspaceId, fact: &Fact) -> Self {
        Self {
            workspace,
            kind: fact.event_type().name(),
            data: fact.to_data(),
        }
    }
}

/// Gives `findings`, made at `now`, the next numbers.
pub(super) async fn append(
    pg: &mut PgConnection,
    findings: &[Finding],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if findings.is_empty() {
        return Ok(());
    }
    let before = sqlx::query_scalar!(
        r#"UPDATE health.finding_head SET found = found + $1
           RETURNING found - $1 AS "before!""#,
        findings.len() as i64,
    )
    .fetch_one(&mut *pg)
    .await?;
    let workspaces: Vec<_> = findings.iter().map(|of| of.workspace.as_str()).collect();
    let kinds: Vec<_> = findings.iter().map(|of| of.kind).collect();
    let data: Vec<_> = findings.iter().map(|of| of.data.clone()).collect();
    sqlx::query!(
        "INSERT INTO health.finding (number, found_at, workspace, event_type, data)
         SELECT $1 + new.position, $2, new.workspace, new.event_type, new.data
         FROM UNNEST($3::text[], $4::text[], $5::jsonb[]) WITH ORDINALITY
              AS new (workspace, event_type, data, position)",
        before,
        now,
        &workspaces as &[&str],
        &kinds as &[&str],
        &data,
    )
    .execute(pg)
    .await?;
    Ok(())
}

/// How far finding and telling have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::health) struct Head {
    /// The last number that was given.
    pub(in crate::health) found: u64,
    /// Everything up to this number is in the core's event log.
    pub(in crate::health) told: u64,
}

/// How far finding and telling have come.
pub(in crate::health) async fn head(pg: &mut PgConnection) -> Result<Head, sqlx::Error> {
    let row = sqlx::query!("SELECT found, told FROM health.finding_head")
        .fetch_one(pg)
        .await?;
    Ok(Head {
        found: unsigned(row.found),
        told: unsigned(row.told),
    })
}

/// What was found behind number `after`, at most `limit`.
pub(in crate::health) async fn read(
    pg: &mut PgConnection,
    after: u64,
    limit: i64,
) -> Result<Vec<SourceEvent>, sqlx::Error> {
    let rows = sqlx::query!(
        "SELECT number, workspace, event_type, data FROM health.finding
         WHERE number > $1 ORDER BY number LIMIT $2",
        after as i64,
        limit,
    )
    .fetch_all(pg)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(SourceEvent {
                number: unsigned(row.number),
                workspace: WorkspaceId::new(row.workspace).map_err(broken("workspace"))?,
                kind: row.event_type,
                data: row.data,
            })
        })
        .collect()
}

/// Notes that the core has everything up to `appended` and nothing more.
///
/// A core that has more than was ever found here knows what this database has lost: what is still to be
/// told gets numbers behind that.
pub(in crate::health) async fn note_told(
    pg: &mut PgConnection,
    appended: u64,
) -> Result<(), sqlx::Error> {
    let head = sqlx::query!("SELECT found, told FROM health.finding_head FOR UPDATE")
        .fetch_one(&mut *pg)
        .await?;
    let appended = appended as i64;
    let shift = if appended > head.found {
        appended - head.told
    } else {
        0
    };
    if shift > 0 {
        sqlx::query!(
            "WITH moved AS (
                 DELETE FROM health.finding WHERE number > $1
                 RETURNING number, found_at, workspace, event_type, data
             )
             INSERT INTO health.finding (number, found_at, workspace, event_type, data)
             SELECT number + $2, found_at, workspace, event_type, data FROM moved",
            head.told,
            shift,
        )
        .execute(&mut *pg)
        .await?;
    }
    sqlx::query!(
        "UPDATE health.finding_head SET told = $1, found = found + $2",
        appended,
        shift,
    )
    .execute(pg)
    .await?;
    Ok(())
}
