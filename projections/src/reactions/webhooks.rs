//! The reaction that tells webhooks: each event becomes a delivery for every endpoint that wants it.

use std::collections::BTreeSet;
use std::sync::Arc;

use runtime::clock;
use shared_model::CloudEvent;
use shared_model::topology::Subscriber;
use sqlx::PgConnection;
use tokio::sync::Notify;

use super::reaction::Reaction;
use super::store::delivery::{self, NewDelivery, Status};
use super::store::endpoint;
use crate::metrics;

/// How many deliveries one statement makes.
const CHUNK: usize = 1000;

pub(super) struct Webhooks {
    /// The most deliveries that may wait for one endpoint.
    pub(super) max_pending: u32,
    /// Wakes the sender.
    pub(super) wake: Arc<Notify>,
}

impl Reaction for Webhooks {
    const NAME: &'static str = "webhooks";
    const TRANSACTION: &'static str = "make_deliveries";
    const SUBSCRIBER: Subscriber = Subscriber::Reactions;

    /// Any event may be one that some endpoint wants; only the endpoints know.
    fn wants(&self, _: &CloudEvent) -> bool {
        true
    }

    async fn react(
        &self,
        connection: &mut PgConnection,
        events: &[CloudEvent],
    ) -> Result<u64, sqlx::Error> {
        let workspaces: BTreeSet<_> = events
            .iter()
            .map(|event| event.workspace.as_str())
            .collect();
        let workspaces: Vec<_> = workspaces.into_iter().map(str::to_owned).collect();
        let endpoints = endpoint::of_workspaces(connection, &workspaces, self.max_pending).await?;
        let mut deliveries = Vec::new();
        for endpoint in &endpoints {
            let own = events
                .iter()
                .filter(|event| event.workspace.as_str() == endpoint.workspace);
            for event in own {
                let Some(body) = endpoint.interest.body(event) else {
                    continue;
                };
                deliveries.push(NewDelivery {
                    id: clock::new_id(),
                    endpoint: endpoint.id,
                    event: event.id.clone(),
                    event_type: event.kind.clone(),
                    subject: event.subject.clone(),
                    body,
                    status: if endpoint.takes {
                        Status::Pending
                    } else {
                        Status::Skipped
                    },
                });
            }
        }
        // One order over all statements, as within each.
        deliveries.sort_by(|a, b| (a.endpoint, &a.event).cmp(&(b.endpoint, &b.event)));
        let mut made = 0;
        for chunk in deliveries.chunks(CHUNK) {
            made += delivery::insert(connection, chunk).await?;
        }
        Ok(made)
    }

    fn committed(&self, rows: u64) {
        metrics::webhook_made(rows);
        if rows > 0 {
            self.wake.notify_one();
        }
    }
}
