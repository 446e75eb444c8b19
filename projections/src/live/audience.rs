//! Who reads a workspace's events, found without asking each reader.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::event::Frame;
use super::filter::Filter;
use super::mailbox::Mailbox;
use super::ring::Entry;
use super::several::Several;

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

    /// Hands `entry` to everybody who wants it; returns to how many. `several` are its vehicles, if it is of
    /// several: they are found beforehand, since everybody waits meanwhile.
    pub(super) fn tell(&self, entry: &Entry, several: Option<&Several>) -> u64 {
        let event = &entry.event;
        let mut told = 0;
        let mut put = |member: &Member, frame: &Frame| {
            member.mailbox.put(frame.clone());
            told += 1;
        };
        let wants = |member: &&Member| member.filter.wants_type(&event.kind);
        for member in self.of_all.values().filter(wants) {
            put(member, &entry.frame);
        }
        let of = |vehicle: &str| self.by_vehicle.get(vehicle).into_iter().flatten();
        if let Some(vehicle) = event.vehicle() {
            for member in of(vehicle).map(|(_, member)| member).filter(wants) {
                put(member, &entry.frame);
            }
        }
        let Some(several) = several.filter(|_| !self.by_vehicle.is_empty()) else {
            return told;
        };
        // Each reader gets one event with all of its vehicles; the text is made once for all who want the
        // same of them.
        let mut wanted = BTreeMap::<u64, (&Member, Vec<usize>)>::new();
        for (at, vehicle) in several.vehicles().enumerate() {
            for (id, member) in of(vehicle).filter(|(_, member)| wants(member)) {
                let (_, kept) = wanted.entry(*id).or_insert((member, Vec::new()));
                kept.push(at);
            }
        }
        let mut frames = HashMap::<Vec<usize>, Frame>::new();
        for (member, kept) in wanted.into_values() {
            if let Some(frame) = frames.get(&kept) {
                put(member, frame);
            } else if let Some(line) = several.narrowed(&event.line, &kept) {
                let frame = entry.frame.with_line(event, &line);
                put(member, &frame);
                frames.insert(kept, frame);
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared_model::WorkspaceId;

    use super::*;
    use crate::live::event::LogEvent;
    use crate::live::event::tests::line;
    use crate::live::mailbox::Mail;
    use crate::live::position::Position;

    async fn vehicles_for(member: &Member) -> Value {
        let Mail::Frame(frame) = member.mailbox.next().await else {
            panic!("an event");
        };
        assert!(member.mailbox.is_empty(), "one is enough");
        let event: Value = serde_json::from_slice(&frame.line()).unwrap();
        event["data"]["vehicles"].clone()
    }

    #[tokio::test]
    async fn each_reader_is_told_of_its_vehicles_at_once() {
        let mut audience = Audience::default();
        let wanted: [(&[&str], &[&str]); 6] = [
            (&[], &["a", "c", "z"]),
            (&[], &["c", "a"]),
            (&[], &["b"]),
            (&[], &[]),
            (&[], &["z"]),
            (&["vehicle.registered"], &["a"]),
        ];
        let members = wanted.map(|(types, vehicles)| {
            let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
            let names: [Vec<String>; 2] = [types, vehicles].map(names);
            let filter = Filter::asked(WorkspaceId::new("demo").unwrap(), &names[0], &names[1]);
            Member {
                filter: Arc::new(filter.unwrap()),
                mailbox: Arc::new(Mailbox::new(9, usize::MAX)),
            }
        });
        for (id, member) in (0..).zip(&members) {
            audience.add(id, member);
        }
        let said = ["a", "b", "c"].map(|vehicle| json!({"vehicle": vehicle}));
        let data = json!({"vehicles": said});
        let event = LogEvent::read(line(1, "demo", "vehicles.seen", data)).unwrap();
        let several = Several::of(&event);
        let behind = Arc::new(Position::new(1, vec![1]));
        let frame = Frame::new(0, &event, &event.line, behind);
        let told = audience.tell(&Entry { event, frame }, several.as_ref());
        assert_eq!(told, 4);
        for (member, expected) in
            members
                .iter()
                .zip([&["a", "c"][..], &["a", "c"], &["b"], &["a", "b", "c"]])
        {
            let expected: Vec<_> = expected
                .iter()
                .map(|vehicle| json!({"vehicle": vehicle}))
                .collect();
            assert_eq!(vehicles_for(member).await, json!(expected));
        }
        assert!(members[4].mailbox.is_empty() && members[5].mailbox.is_empty());
    }
}
