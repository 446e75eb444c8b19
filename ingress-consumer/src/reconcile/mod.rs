//! Reconciliation: does everything add up?
//!
//! For each connection, sent = seen + parked + conflated + dead (those that were discarded included); for
//! each shard of the event log, logged = published = applied. What is short of that is *late* while it may
//! yet come, and *missing* otherwise. The judgement is a function of what the tables say; nothing is read
//! here.

mod report;
pub mod watch;

use chrono::{DateTime, TimeDelta, Utc};
use rangemap::RangeInclusiveSet;
use shared_model::ConnectionId;
use uuid::Uuid;

pub use report::{ConnectionReport, GapReport, Report, ShardReport, SubscriberReport, Verdict};

/// How many gaps of a connection a report names.
const TOLD: usize = 100;

/// What the tables say.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The sums of each connection.
    pub accounts: Vec<Account>,
    /// Where numbers have not arrived, by connection.
    pub gaps: Vec<Gap>,
    /// Each shard of the event log.
    pub shards: Vec<ShardAccount>,
    /// Publishers with messages on their disks.
    pub holding: Vec<String>,
    /// How many messages wait in the ingress queues; none if the broker does not say.
    pub queued: Option<u64>,
}

/// The sums of a connection, in frames. But for those that are parked and seen, no frame is in two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The connection.
    pub connection: ConnectionId,
    /// Whose it is.
    pub workspace: String,
    /// Its provider.
    pub provider: String,
    /// Its kind.
    pub kind: String,
    /// Numbers that are known to have been given.
    pub sent: u64,
    /// Those that have had their effect, or are parked.
    pub seen: u64,
    /// Those that newer ones replaced at their source.
    pub conflated: u64,
    /// Those in dead letters.
    pub dead: u64,
    /// Those in dead letters that were discarded or are kept no longer.
    pub given_up: u64,
    /// Those that are parked without being seen: their envelopes are nobody's.
    pub stray: u64,
    /// Those that are parked and seen.
    pub parked: u64,
}

/// Numbers of one session and partition that have not arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// The connection.
    pub connection: ConnectionId,
    /// The session.
    pub session: Uuid,
    /// The partition.
    pub partition: u32,
    /// The last number that is known to have been given.
    pub sent: u64,
    /// Which have not arrived.
    pub missing: RangeInclusiveSet<u64>,
    /// What the source says, if it says anything.
    pub source: Option<Source>,
    /// When the last frame that has arrived was received.
    pub last_at: Option<DateTime<Utc>>,
}

/// Since when a source's numbers are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Since when the last number is known.
    pub sent_at: DateTime<Utc>,
    /// A number before, and since when it is known.
    pub mark: u64,
    /// See `mark`.
    pub mark_at: DateTime<Utc>,
    /// A number that was known at least as long before.
    pub due: u64,
    /// The publisher.
    pub instance: String,
}

/// A shard of the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShardAccount {
    /// Which.
    pub shard: u32,
    /// The last offset that was committed.
    pub logged: u64,
    /// Up to here every event is confirmed by the broker, blocked or dead.
    pub relayed: u64,
    /// How many of them the broker has refused, or wait behind one that it has refused.
    pub blocked: u64,
    /// How many of them were given up on, until they are redriven.
    pub dead: u64,
    /// When the first one was committed that may yet be published.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Offsets that are not in the log although later ones are.
    pub holes: RangeInclusiveSet<u64>,
    /// How far each subscriber has come.
    pub subscribers: Vec<SubscriberAccount>,
}

/// How far a subscriber has come in a shard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubscriberAccount {
    /// Who.
    pub name: String,
    /// Up to here it has applied every event.
    pub applied: u64,
    /// When the first one that it has not applied was committed.
    pub waiting_since: Option<DateTime<Utc>>,
}

impl ShardAccount {
    /// The account as of when `end` was the last offset: what was committed since is left out. A reader that
    /// is ahead of the log stays so.
    #[must_use]
    pub fn up_to(self, end: u64) -> Self {
        let (logged, end) = (self.logged, end.min(self.logged));
        let cut = |offset: u64| {
            if offset > logged {
                offset
            } else {
                offset.min(end)
            }
        };
        let subscriber = |of: SubscriberAccount| SubscriberAccount {
            applied: cut(of.applied),
            waiting_since: of.waiting_since.filter(|_| of.applied < end),
            ..of
        };
        Self {
            logged: end,
            relayed: cut(self.relayed),
            waiting_since: self
                .waiting_since
                .filter(|_| self.relayed < end || self.blocked > 0),
            subscribers: self.subscribers.into_iter().map(subscriber).collect(),
            ..self
        }
    }
}

impl Gap {
    /// Up to which number it has had time enough to arrive.
    fn overdue(&self, at: DateTime<Utc>, patience: TimeDelta) -> u64 {
        let is_old = |since: DateTime<Utc>| since + patience <= at;
        match &self.source {
            Some(source) if is_old(source.sent_at) => self.sent,
            Some(source) if is_old(source.mark_at) => source.mark,
            Some(source) => source.due,
            // Numbered here, or by a source that does not say: then at least nothing may come any more.
            None if self.last_at.is_none_or(is_old) => self.sent,
            None => 0,
        }
    }
}

/// Judges what the tables say at the time `at`. What has been expected for less than `patience` is late.
#[must_use]
pub fn reconcile(ledger: &Ledger, at: DateTime<Utc>, patience: TimeDelta) -> Report {
    // What waits somewhere may be what has not arrived. A broker that does not answer has queues too.
    let may_come = !ledger.holding.is_empty() || ledger.queued != Some(0);
    let mut gaps = ledger.gaps.as_slice();
    let mut connections = Vec::new();
    let mut accounts: Vec<_> = ledger.accounts.iter().collect();
    accounts.sort_by_key(|account| account.connection);
    for account in accounts {
        gaps = &gaps[gaps.partition_point(|gap| gap.connection < account.connection)..];
        let count = gaps.partition_point(|gap| gap.connection == account.connection);
        let own = gaps[..count].iter().map(|gap| {
            let overdue = if may_come {
                0
            } else {
                gap.overdue(at, patience)
            };
            GapReport::new(gap, overdue)
        });
        connections.push(ConnectionReport::new(account, own.collect(), TOLD));
    }
    connections.sort_by(|a, b| (&a.workspace, a.connection).cmp(&(&b.workspace, b.connection)));
    let shards = ledger.shards.iter().map(ShardReport::new).collect();
    Report::new(
        at,
        connections,
        shards,
        ledger.holding.clone(),
        ledger.queued,
    )
}

#[cfg(test)]
mod tests;
