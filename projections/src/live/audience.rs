//! Who reads a workspace's events, found without asking each reader.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::event::Frame;
use super::filter::Filter;
use super::mailbox::Mailbox;
use super::ring::Entry;

/// A reader, as the hub knows it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    /// What it wants.
    pub(super) filter: Arc<Filter>,
    /// What waits for it.
    pub(super) mailbox: Arc<Mailbox>,
}

type Members = HashMap<u64, Member>;

/// The readers of one workspace.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Those who want all vehicles.
    of_all: Members,
    /// Those who want some, by each of them.
    by_vehicle: HashMap<String, Members>,
}

impl Audience {
    /// Adds a reader.
    pub(super) fn add(&mut self, id: u64, member: &Member) {
        match &member.filter.vehicles {
            None => {
                self.of_all.insert(id, member.clone());
            }
            Some(vehicles) => {
                for vehicle in vehicles {
                    let members = self.by_vehicle.entry(vehicle.clone()).or_default();
                    members.insert(id, member.clone());
                }
            }
        }
    }

    /// Removes a reader.
    pub(super) fn remove(&mut self, id: u64, filter: &Filter) {
        self.of_all.remove(&id);
        for vehicle in filter.vehicles.iter().flatten() {
            if let Some(members) = self.by_vehicle.get_mut(vehicle) {
                members.remove(&id);
                if members.is_empty() {
                    self.by_vehicle.remove(vehicle);
                }
            }
        }
    }

    /// Whether nobody is left.
    pub(super) fn is_empty(&self) -> bool {
        self.of_all.is_empty() && self.by_vehicle.is_empty()
    }

    /// Everybody.
    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        let of_some = self.by_vehicle.values().flat_map(HashMap::values);
        self.of_all.values().chain(of_some)
    }

    /// Hands `entry` to everybody who wants it; returns to how many.
    pub(super) fn tell(&self, entry: &Entry) -> u64 {
        let event = &entry.event;
        let mut told = 0;
        let mut put = |member: &Member, frame: &Frame| {
            if member.filter.wants_type(&event.kind) {
                member.mailbox.put(frame.clone());
                told += 1;
            }
        };
        for member in self.of_all.values() {
            put(member, &entry.frame);
        }
        if self.by_vehicle.is_empty() {
            return told;
        }
        if !event.is_of_several() {
            let vehicle = event.vehicle();
            let members = vehicle.and_then(|vehicle| self.by_vehicle.get(vehicle));
            for member in members.into_iter().flat_map(HashMap::values) {
                put(member, &entry.frame);
            }
            return told;
        }
        // Each reader gets one event with all of its vehicles; the text is made once for all who want the
        // same of them.
        let mut wanted = BTreeMap::<u64, (&Member, BTreeSet<String>)>::new();
        for vehicle in event.vehicles() {
            for (id, member) in self.by_vehicle.get(&vehicle).into_iter().flatten() {
                let (_, vehicles) = wanted.entry(*id).or_insert((member, BTreeSet::new()));
                vehicles.insert(vehicle.clone());
            }
        }
        let mut frames = HashMap::<BTreeSet<String>, Frame>::new();
        for (member, vehicles) in wanted.into_values() {
            if !frames.contains_key(&vehicles) {
                let Some(line) = event.narrowed(&vehicles) else {
                    continue;
                };
                frames.insert(vehicles.clone(), entry.frame.with_line(event, &line));
            }
            if let Some(frame) = frames.get(&vehicles) {
                put(member, frame);
            }
        }
        told
    }
}
