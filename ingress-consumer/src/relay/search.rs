//! Finding the events that the broker refuses. Pure.
//!
//! Messages are sent one at a time, and one that is refused is split in half until it is a lone event.
//! What is refused with a nack may be fine, and the queue full: so it is held against an event only once
//! the broker has taken something else since. Where it refuses several vehicles in a row and takes
//! nothing, it is the broker that is full, or does not take what it should, and no event is to blame.

use std::collections::{HashSet, VecDeque};

use crate::store::blocked_event::{NewBlocked, subject_key};
use crate::store::event_log::LoggedEvent;

/// So many different vehicles are refused in a row before the broker is to blame.
const FULL_AFTER: usize = 3;
/// The same, if the broker says of each that it never takes such a message.
const USELESS_AFTER: usize = 16;

/// What the broker said of the messages sent alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It has it.
    Confirmed,
    /// It did not take it, which may be no fault of the message.
    Refused(String),
    /// It takes no such message.
    Unacceptable(String),
}

/// Whether to go on looking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// There may be more to send.
    GoOn,
    /// The broker takes nothing.
    Full,
}

/// A part of the log that is sent one message at a time.
#[derive(Debug)]
pub struct Search {
    last: u64,
    todo: VecDeque<Vec<(u64, LoggedEvent)>>,
    blocked: HashSet<String>,
    waiting: Vec<NewBlocked>,
    condemned: Vec<NewBlocked>,
    /// What was refused since the broker last took something.
    suspects: Vec<Suspect>,
}

#[derive(Debug)]
struct Suspect {
    refused: NewBlocked,
    /// The broker never takes it, or so it says.
    is_certain: bool,
}

/// What a search has found.
#[derive(Debug)]
pub struct Found {
    /// Up to here, all is confirmed or to be blocked.
    pub to: u64,
    /// What is to be blocked.
    pub blocked: Vec<NewBlocked>,
    /// Whether the broker is to blame for what is behind.
    pub is_full: bool,
}

impl Search {
    /// Searches `groups`, each the events of one message, up to offset `last`; the subjects whose keys
    /// are `blocked` are not sent.
    #[must_use]
    pub fn of(groups: Vec<Vec<(u64, LoggedEvent)>>, last: u64, blocked: HashSet<String>) -> Self {
        Self {
            last,
            todo: groups.into(),
            blocked,
            waiting: Vec::new(),
            condemned: Vec::new(),
            suspects: Vec::new(),
        }
    }

    /// What to send next, and alone; none once all was sent.
    pub fn next(&mut self) -> Option<&[(u64, LoggedEvent)]> {
        while let Some(group) = self.todo.front_mut() {
            let waits =
                |(_, event): &mut (u64, LoggedEvent)| self.blocked.contains(&subject_key(event));
            let waiting = group
                .extract_if(.., waits)
                .map(|(offset, event)| NewBlocked {
                    offset,
                    event,
                    reason: None,
                });
            self.waiting.extend(waiting);
            if !group.is_empty() {
                break;
            }
            self.todo.pop_front();
        }
        self.todo.front().map(Vec::as_slice)
    }

    /// The broker has said so of what [`Self::next`] gave.
    pub fn answered(&mut self, verdict: Verdict) -> Next {
        let Some(mut group) = self.todo.pop_front() else {
            return Next::GoOn;
        };
        let (reason, is_certain) = match verdict {
            Verdict::Confirmed => {
                // Something is taken, so what was not is itself to blame.
                self.condemn(usize::MAX);
                return Next::GoOn;
            }
            Verdict::Refused(reason) => (reason, false),
            Verdict::Unacceptable(reason) => (reason, true),
        };
        if group.len() > 1 {
            let half = group.split_off(group.len() / 2);
            self.todo.push_front(half);
            self.todo.push_front(group);
            return Next::GoOn;
        }
        for (offset, event) in group {
            self.blocked.insert(subject_key(&event));
            let refused = NewBlocked {
                offset,
                event,
                reason: Some(reason.clone()),
            };
            self.suspects.push(Suspect {
                refused,
                is_certain,
            });
        }
        if self.broker_is_to_blame() {
            Next::Full
        } else {
            Next::GoOn
        }
    }

    fn broker_is_to_blame(&self) -> bool {
        let doubtful = self.suspects.iter().any(|suspect| !suspect.is_certain);
        let most = if doubtful { FULL_AFTER } else { USELESS_AFTER };
        self.suspects.len() >= most
    }

    /// Holds the refusal against the first so many suspects.
    fn condemn(&mut self, count: usize) {
        let count = count.min(self.suspects.len());
        let condemned = self.suspects.drain(..count).map(|suspect| suspect.refused);
        self.condemned.extend(condemned);
    }

    /// Whether something was refused since the broker last took something.
    #[must_use]
    pub fn has_suspects(&self) -> bool {
        !self.suspects.is_empty()
    }

    /// What was found, given whether the broker has taken something of others since the first suspect.
    #[must_use]
    pub fn end(mut self, others_are_taken: bool) -> Found {
        if others_are_taken {
            self.condemn(usize::MAX);
        } else if !self.broker_is_to_blame() {
            let certain = self
                .suspects
                .iter()
                .take_while(|suspect| suspect.is_certain);
            self.condemn(certain.count());
        }
        let unsent = self.todo.front().and_then(|group| group.first());
        let to = match (self.suspects.first(), unsent) {
            (Some(suspect), _) => suspect.refused.offset - 1,
            (None, Some((next, _))) => next - 1,
            (None, None) => self.last,
        };
        let mut blocked = self.condemned;
        blocked.append(&mut self.waiting);
        blocked.retain(|blocked| blocked.offset <= to);
        blocked.sort_by_key(|blocked| blocked.offset);
        Found {
            to,
            blocked,
            is_full: !self.suspects.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests;
