//! Where the log's tails and the readers meet.
//!
//! The tails bring what the log has, each shard in its order. What is brought is put into the ring and
//! handed to the readers that want it, under one lock: so a reader that joins misses nothing between what
//! it takes from the ring and what it is handed. Nobody waits for a reader: what does not fit into its
//! mailbox ends its stream.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use runtime::access::Shares;
use runtime::http::Problem;
use shared_model::WorkspaceId;
use shared_model::log::LogState;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::audience::{Audience, Member};
use super::config::LiveSettings;
use super::end::End;
use super::event::LogEvent;
use super::filter::Filter;
use super::mailbox::Mailbox;
use super::position::Position;
use super::ring::{Entry, Ring};
use super::several::Several;
use crate::metrics;

/// Hands events to readers.
#[derive(Debug)]
pub(super) struct Hub {
    settings: LiveSettings,
    inner: Mutex<Inner>,
    /// How many readers each principal may have.
    own: Shares,
    /// Told when a reader has gone.
    left: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    /// None until the core has said where the log stands.
    ring: Option<Ring>,
    audiences: HashMap<WorkspaceId, Audience>,
    next_id: u64,
    readers: usize,
    is_stopping: bool,
}

/// A reader's place among those that there may be; it is free again once this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    hub: Arc<Hub>,
    _own: OwnedSemaphorePermit,
    /// Different for each.
    pub(super) number: u64,
}

/// A reader that is handed what comes.
#[derive(Debug)]
pub(super) struct Joined {
    hub: Arc<Hub>,
    id: u64,
    member: Member,
    /// What it has to be sent first, as far as it wants any of it.
    pub(super) backlog: VecDeque<Arc<Entry>>,
}

/// What came of joining.
#[derive(Debug)]
pub(super) enum Join {
    /// The reader is handed what comes.
    Joined(Joined),
    /// What follows the reader's position is not all in memory, or is more than may wait for one reader; but
    /// it is in the log, up to here.
    Behind(Position),
    /// The log is another meanwhile.
    Restored,
}

impl Hub {
    /// A hub without readers, which does not know the log yet.
    pub(super) fn new(settings: LiveSettings) -> Self {
        Self {
            own: Shares::of_size(settings.max_readers_per_principal),
            settings,
            inner: Mutex::default(),
            left: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log stands so. What is in memory is kept if it is of this log; else every stream ends.
    /// Returns from where to read on.
    pub(super) fn begin(&self, log: &LogState) -> Position {
        let mut inner = self.lock();
        if let Some(ring) = &mut inner.ring {
            match ring.head().clone().usable_in(log) {
                Ok(head) => {
                    ring.go_on_in(head.generation);
                    return head;
                }
                Err(why) => {
                    tracing::warn!(?why, "the log cannot be read on, so all streams end");
                    inner.end_all(&End::Unusable(why));
                }
            }
        }
        let start = Position::end_of(log);
        inner.ring = Some(Ring::new(
            start.clone(),
            self.settings.buffer_events,
            self.settings.buffer_bytes,
        ));
        start
    }

    /// The next events of `shard`, up to the offset `end`.
    pub(super) fn publish(&self, shard: u32, events: Vec<LogEvent>, end: u64) {
        // What takes long is done before anybody waits for the lock.
        let taken_apart = events.into_iter().map(|event| (Several::of(&event), event));
        let events: Vec<_> = taken_apart.collect();
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(ring) = &mut inner.ring else {
            return;
        };
        let mut told = 0;
        for (several, event) in events {
            let entry = ring.push(shard, event);
            if let Some(audience) = inner.audiences.get(&entry.event.workspace) {
                told += audience.tell(&entry, several.as_ref());
            }
        }
        ring.skip(shard, end);
        metrics::live_sent(told);
        metrics::live_buffered(ring.size());
    }

    /// Behind the newest event; none until the log is known.
    pub(super) fn head(&self) -> Option<Position> {
        self.lock().ring.as_ref().map(|ring| ring.head().clone())
    }

    /// Whether everything behind `position` is in memory.
    pub(super) fn reaches_back_to(&self, position: &Position) -> bool {
        let inner = self.lock();
        let ring = inner.ring.as_ref();
        ring.is_some_and(|ring| {
            position.shards() == ring.head().shards() && ring.reaches_back_to(position)
        })
    }

    /// A place for one more reader, if there is one.
    pub(super) fn seat(self: &Arc<Self>, principal: &str) -> Result<Seat, Problem> {
        let mut inner = self.lock();
        let taken = if inner.is_stopping {
            Err(("stopping", End::Stopping.problem()))
        } else if inner.readers >= self.settings.max_readers {
            let detail = "as many readers as this service takes are connected; try again later";
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let problem = Problem::new(status, "too-many-readers", detail);
            Err(("max_readers", problem))
        } else {
            self.own.of(principal).try_acquire_owned().map_err(|_| {
                let most = self.settings.max_readers_per_principal;
                let detail = format!(
                    "this credential has {most} streams open, which is as many as one may have; close some"
                );
                let status = StatusCode::TOO_MANY_REQUESTS;
                let problem = Problem::new(status, "too-many-streams", detail);
                ("max_readers_per_principal", problem)
            })
        };
        let own = taken.map_err(|(reason, problem)| {
            metrics::live_refused(reason);
            problem
        })?;
        inner.readers += 1;
        inner.next_id += 1;
        metrics::live_readers(inner.readers);
        Ok(Seat {
            hub: Arc::clone(self),
            _own: own,
            number: inner.next_id,
        })
    }

    /// Lets a reader that has had everything up to `position` take part, if what it has missed is here.
    pub(super) fn join(
        self: &Arc<Self>,
        seat: &Seat,
        position: &Position,
        filter: &Arc<Filter>,
    ) -> Join {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let Some(ring) = &inner.ring else {
            return Join::Behind(position.clone());
        };
        if position.generation != ring.head().generation {
            return Join::Restored;
        }
        if !ring.reaches_back_to(position) {
            return Join::Behind(ring.head().clone());
        }
        let Some(backlog) = self.missed(ring, position, filter) else {
            return Join::Behind(ring.head().clone());
        };
        let member = Member {
            filter: Arc::clone(filter),
            mailbox: Arc::new(Mailbox::new(
                self.settings.reader_events,
                self.settings.reader_bytes,
            )),
        };
        let audience = inner.audiences.entry(filter.workspace.clone()).or_default();
        audience.add(seat.number, &member);
        if inner.is_stopping {
            member.mailbox.end(End::Stopping);
        }
        Join::Joined(Joined {
            hub: Arc::clone(self),
            id: seat.number,
            member,
            backlog,
        })
    }

    /// What `ring` has for a reader at `position`; none if it is more than may wait for one. It is not looked
    /// into what is told of several vehicles, since everybody waits meanwhile.
    fn missed(
        &self,
        ring: &Ring,
        position: &Position,
        filter: &Filter,
    ) -> Option<VecDeque<Arc<Entry>>> {
        let mut backlog = VecDeque::new();
        let mut bytes = 0;
        for entry in ring.behind(position) {
            if entry.event.workspace != filter.workspace || !filter.may_want(&entry.event) {
                continue;
            }
            bytes += entry.frame.len();
            let has_room = backlog.len() < self.settings.reader_events
                && (backlog.is_empty() || bytes <= self.settings.reader_bytes);
            if !has_room {
                return None;
            }
            backlog.push_back(Arc::clone(entry));
        }
        Some(backlog)
    }

    /// Ends all streams, and begins no more.
    pub(super) fn stop(&self) {
        let mut inner = self.lock();
        inner.is_stopping = true;
        inner.end_all(&End::Stopping);
    }

    /// Returns once no reader is left.
    pub(super) async fn emptied(&self) {
        loop {
            let left = self.left.notified();
            if self.lock().readers == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Inner {
    fn end_all(&self, end: &End) {
        let members = self.audiences.values().flat_map(Audience::members);
        for member in members {
            member.mailbox.end(end.clone());
        }
    }
}

impl Joined {
    /// What waits for the reader.
    pub(super) fn mailbox(&self) -> &Mailbox {
        &self.member.mailbox
    }

    /// Where a reader is to which nothing is left to be sent; none if something is.
    pub(super) fn caught_up(&self) -> Option<Position> {
        // Nothing is put into a mailbox without the lock.
        let inner = self.hub.lock();
        let is_caught_up = self.backlog.is_empty() && self.member.mailbox.is_empty();
        let head = inner.ring.as_ref().filter(|_| is_caught_up)?.head();
        Some(head.clone())
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        let workspace = &self.member.filter.workspace;
        if let Some(audience) = inner.audiences.get_mut(workspace) {
            audience.remove(self.id, &self.member.filter);
            if audience.is_empty() {
                inner.audiences.remove(workspace);
            }
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.hub.lock();
        inner.readers -= 1;
        metrics::live_readers(inner.readers);
        drop(inner);
        self.hub.left.notify_waiters();
    }
}
