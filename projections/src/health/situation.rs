//! What goes on around the vehicles: outages, and how far the projection has come. Pure.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use shared_model::{ConnectionId, Provider, WorkspaceId};
use uuid::Uuid;

use super::judgement::Outage;
use super::vehicle::Vehicle;

/// What goes on around the vehicles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Situation {
    /// Until when everything that was said has been applied (UTC).
    pub proven_until: DateTime<Utc>,
    outages: HashMap<Uuid, Outage>,
    /// All connections of workspaces in which one is out.
    connections: HashMap<WorkspaceId, HashMap<Provider, Vec<Connection>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Connection {
    id: ConnectionId,
    outage: Option<Outage>,
}

impl Situation {
    /// No provider is out.
    #[must_use]
    pub fn calm(proven_until: DateTime<Utc>) -> Self {
        Self {
            proven_until,
            outages: HashMap::new(),
            connections: HashMap::new(),
        }
    }

    /// Adds an incident, over or not.
    pub fn add_outage(&mut self, outage: Outage) {
        self.outages.insert(outage.incident, outage);
    }

    /// Adds a connection that was not removed, with its open incident if it has one. In a workspace where
    /// one is out all must be added.
    pub fn add_connection(
        &mut self,
        workspace: WorkspaceId,
        provider: Provider,
        id: ConnectionId,
        outage: Option<Outage>,
    ) {
        self.connections
            .entry(workspace)
            .or_default()
            .entry(provider)
            .or_default()
            .push(Connection { id, outage });
    }

    /// The incident `id`. One that is not known was over long ago.
    #[must_use]
    pub fn outage(&self, id: Uuid) -> Outage {
        self.outages.get(&id).copied().unwrap_or(Outage {
            incident: id,
            began: DateTime::<Utc>::MIN_UTC,
            ended: Some(DateTime::<Utc>::MIN_UTC),
        })
    }

    /// The outage that `vehicle` is behind.
    ///
    /// A vehicle is heard from through the connection that registered it, if that is of the provider that
    /// it was last heard from through; otherwise through any of that provider's, and then it is behind an
    /// outage if all of them are out.
    #[must_use]
    pub fn outage_of(&self, vehicle: &Vehicle) -> Option<Outage> {
        let of_workspace = self.connections.get(&vehicle.key.workspace)?;
        let connections = of_workspace.get(vehicle.provider.as_ref()?)?;
        let own = connections
            .iter()
            .find(|connection| Some(connection.id) == vehicle.connection);
        if let Some(own) = own {
            return own.outage;
        }
        let outages = connections.iter().map(|connection| connection.outage);
        let outages = outages.collect::<Option<Vec<_>>>()?;
        outages
            .into_iter()
            .min_by_key(|outage| (outage.began, outage.incident))
    }
}
