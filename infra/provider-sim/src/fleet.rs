//! The simulated fleet as its operators see it: who is paused, what was sent.

use crate::{
    clock::Clock,
    hub::{Closing, held},
    protocol::vehicle_name,
    server::Shared,
    silence::Silences,
};
use serde::{Deserialize, Serialize};
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

/// Counts of a simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Sockets open now.
    pub connections: usize,
    /// Sockets accepted since the start.
    pub connections_accepted: u64,
    /// Sockets open now that have sent a subscription.
    pub subscriptions: usize,
    /// Data frames handed to the network since the start, over all sockets; answers to requests do not count.
    pub frames_sent: u64,
    /// Data frames that a socket did not get because its outbox was full.
    pub frames_skipped: u64,
    /// Size of the fleet.
    pub vehicles: usize,
    /// Vehicles that are paused.
    pub paused: usize,
}

/// Vehicles were named that the fleet does not have; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such vehicles: {}", .0.join(", "))]
pub struct UnknownVehicles(pub Vec<String>);

/// The fleet's names and which of them are paused.
#[derive(Debug)]
pub(crate) struct Fleet {
    shared: Arc<Shared>,
    names: Vec<String>,
    paused: Vec<AtomicBool>,
    silences: Vec<Mutex<Silences>>,
    clock: Clock,
}

impl Fleet {
    pub(crate) fn new(shared: Arc<Shared>, size: usize, clock: Clock) -> Self {
        Self {
            shared,
            names: (0..size).map(vehicle_name).collect(),
            paused: (0..size).map(|_| AtomicBool::new(false)).collect(),
            silences: (0..size).map(|_| Mutex::default()).collect(),
            clock,
        }
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    pub(crate) fn is_paused(&self, index: usize) -> bool {
        self.paused[index].load(Ordering::Relaxed)
    }

    /// The vehicle of this name.
    pub(crate) fn index_of(&self, name: &str) -> Option<usize> {
        let number: usize = name.strip_prefix("bus-")?.parse().ok()?;
        let index = number.checked_sub(1)?;
        (self.names.get(index)? == name).then_some(index)
    }

    /// Since when this vehicle had been paused at `time_ms`.
    pub(crate) fn silent_since(&self, index: usize, time_ms: i64) -> Option<i64> {
        held(&self.silences[index]).since(time_ms)
    }

    /// Stops the data of all vehicles; they drive on unseen.
    pub(crate) fn pause_all(&self) {
        self.set_paused(0..self.names.len(), true);
    }

    /// Stops the data of these vehicles.
    pub(crate) fn pause(&self, names: &[String]) -> Result<(), UnknownVehicles> {
        self.set_paused(self.indices_of(names)?, true);
        Ok(())
    }

    /// Lets the data of all vehicles flow again.
    pub(crate) fn resume_all(&self) {
        self.set_paused(0..self.names.len(), false);
    }

    /// Lets the data of these vehicles flow again.
    pub(crate) fn resume(&self, names: &[String]) -> Result<(), UnknownVehicles> {
        self.set_paused(self.indices_of(names)?, false);
        Ok(())
    }

    /// Closes every socket.
    pub(crate) fn disconnect(&self) {
        self.shared.hub.close_all(&Closing::going_away());
    }

    pub(crate) fn stats(&self) -> Stats {
        let hub = &self.shared.hub;
        Stats {
            connections: hub.connections(),
            connections_accepted: hub.accepted(),
            subscriptions: hub.subscriptions(),
            frames_sent: hub.frames_sent(),
            frames_skipped: hub.frames_skipped(),
            vehicles: self.names.len(),
            paused: (0..self.names.len())
                .filter(|index| self.is_paused(*index))
                .count(),
        }
    }

    fn set_paused(&self, indices: impl IntoIterator<Item = usize>, paused: bool) {
        let now = self.clock.now_ms();
        for index in indices {
            self.paused[index].store(paused, Ordering::Relaxed);
            let mut silences = held(&self.silences[index]);
            if paused {
                silences.begin(now);
            } else {
                silences.end(now);
            }
        }
    }

    fn indices_of(&self, names: &[String]) -> Result<Vec<usize>, UnknownVehicles> {
        let mut indices = Vec::with_capacity(names.len());
        let mut unknown = Vec::new();
        for name in names {
            match self.index_of(name) {
                Some(index) => indices.push(index),
                None => unknown.push(name.clone()),
            }
        }
        if unknown.is_empty() {
            Ok(indices)
        } else {
            Err(UnknownVehicles(unknown))
        }
    }
}
