//! What goes on around the vehicles, from the tables `incident` and `connection`.

use chrono::{DateTime, Utc};
use shared_model::{ConnectionId, Provider, WorkspaceId};
use sqlx::PgConnection;

use super::broken;
use crate::health::judgement::Outage;
use crate::health::situation::Situation;
use crate::health::vehicle::Vehicle;

/// The incidents that are open, which stay so until the transaction ends, and the connections beside
/// theirs.
pub(super) async fn load(
    pg: &mut PgConnection,
    proven_until: DateTime<Utc>,
) -> Result<Situation, sqlx::Error> {
    let mut situation = Situation::calm(proven_until);
    let open = sqlx::query!(
        "SELECT incident, workspace, connection, opened_at FROM health.incident
         WHERE closed_at IS NULL
         ORDER BY workspace, connection
         FOR SHARE",
    )
    .fetch_all(&mut *pg)
    .await?;
    if open.is_empty() {
        return Ok(situation);
    }
    let workspaces: Vec<_> = open.iter().map(|row| row.workspace.clone()).collect();
    let connections = sqlx::query!(
        "SELECT workspace, connection, provider FROM health.connection
         WHERE workspace = ANY($1) AND NOT removed
         ORDER BY workspace, connection",
        &workspaces,
    )
    .fetch_all(pg)
    .await?;
    let outage = |row: &_| {
        let open = open.iter().find(|open| open.connection == *row)?;
        Some(Outage {
            incident: open.incident,
            began: open.opened_at,
            ended: None,
        })
    };
    for row in connections {
        let outage = outage(&row.connection);
        situation.add_connection(
            WorkspaceId::new(row.workspace).map_err(broken("workspace"))?,
            Provider::try_from(row.provider).map_err(broken("provider"))?,
            ConnectionId(row.connection),
            outage,
        );
    }
    for row in open {
        situation.add_outage(Outage {
            incident: row.incident,
            began: row.opened_at,
            ended: None,
        });
    }
    Ok(situation)
}

/// Adds the incidents that explained why `vehicles` are not fresh.
pub(super) async fn load_past<'a>(
    pg: &mut PgConnection,
    situation: &mut Situation,
    vehicles: impl Iterator<Item = &'a Vehicle>,
) -> Result<(), sqlx::Error> {
    let mut incidents: Vec<_> = vehicles.filter_map(|vehicle| vehicle.incident).collect();
    incidents.sort_unstable();
    incidents.dedup();
    if incidents.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query!(
        "SELECT incident, opened_at, closed_at FROM health.incident WHERE incident = ANY($1)",
        &incidents,
    )
    .fetch_all(pg)
    .await?;
    for row in rows {
        situation.add_outage(Outage {
            incident: row.incident,
            began: row.opened_at,
            ended: row.closed_at,
        });
    }
    Ok(())
}
