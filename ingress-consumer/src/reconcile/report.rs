//! The report: what adds up, and what does not.

use std::fmt;

use chrono::{DateTime, Utc};
use rangemap::RangeInclusiveSet;
use serde::{Deserialize, Serialize};
use shared_model::ConnectionId;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Account, Gap, ShardAccount};

/// How many ranges of numbers are written out.
const RANGES: usize = 100;

/// Whether something adds up. A whole is as good as its worst part.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
)]
#[serde(rename_all = "snake_case")]
#[schema(as = ReconcileVerdict)]
pub enum Verdict {
    /// It does.
    #[default]
    Ok,
    /// Not yet: what is short may yet come.
    Late,
    /// It does not.
    Missing,
}

impl Verdict {
    /// The verdict's name, as on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Late => "late",
            Self::Missing => "missing",
        }
    }

    const fn of(missing: u64, late: u64) -> Self {
        match (missing, late) {
            (0, 0) => Self::Ok,
            (0, _) => Self::Late,
            _ => Self::Missing,
        }
    }
}

/// What adds up, and what does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ReconcileReport)]
pub struct Report {
    /// The whole.
    pub verdict: Verdict,
    /// In one line.
    pub summary: String,
    /// As of when.
    pub at: DateTime<Utc>,
    /// Each connection.
    pub connections: Vec<ConnectionReport>,
    /// Each shard of the event log; none if only a workspace was asked for.
    pub shards: Vec<ShardReport>,
    /// Publishers with messages on their disks: while there are any, what has not arrived is late.
    pub holding: Vec<String>,
    /// How many messages wait in the ingress queues, which likewise is late; none if the broker does not
    /// say.
    pub queued: Option<u64>,
}

/// A connection's frames: sent = seen + parked + conflated + dead + discarded + late + missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConnectionReport {
    /// The connection.
    pub connection: ConnectionId,
    /// Whose it is.
    pub workspace: String,
    /// Its provider.
    pub provider: String,
    /// Its kind.
    pub kind: String,
    /// Whether it adds up.
    pub verdict: Verdict,
    /// How many were numbered, as far as is known.
    pub sent: u64,
    /// How many have had their effect.
    pub seen: u64,
    /// How many are parked.
    pub parked: u64,
    /// How many newer ones replaced at their source.
    pub conflated: u64,
    /// How many are in dead letters.
    pub dead: u64,
    /// How many were in dead letters that were discarded or are kept no longer.
    pub discarded: u64,
    /// How many have not arrived and may yet come.
    pub late: u64,
    /// How many have not arrived.
    pub missing: u64,
    /// Where; the first hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gaps: Vec<GapReport>,
    /// How many more there are.
    #[serde(default)]
    pub further_gaps: u64,
}

/// Numbers of one session and partition that have not arrived, as ranges such as `3-5`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GapReport {
    /// The session.
    pub session: Uuid,
    /// The partition.
    pub partition: u32,
    /// The publisher that numbered them, if it has said so.
    pub publisher: Option<String>,
    /// The last number that is known to have been given.
    pub sent: u64,
    /// Those that may yet come.
    pub late: Vec<String>,
    /// Those that do not.
    pub missing: Vec<String>,
    #[serde(skip)]
    counts: (u64, u64),
}

/// A shard of the event log: logged = published = applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardReport {
    /// Which.
    pub shard: u32,
    /// Whether it adds up.
    pub verdict: Verdict,
    /// How many events were committed.
    pub logged: u64,
    /// How many of them the broker has.
    pub published: u64,
    /// How many it refused until they were given up on: they are published once they are redriven.
    pub dead: u64,
    /// Since when the first one waits that may yet be published.
    pub waiting_since: Option<DateTime<Utc>>,
    /// How many offsets are not in the log although later ones are.
    pub lost: u64,
    /// Which, as ranges.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holes: Vec<String>,
    /// Each subscriber.
    pub subscribers: Vec<SubscriberReport>,
}

/// A subscriber's progress in a shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SubscriberReport {
    /// Who.
    pub name: String,
    /// Whether it has applied everything.
    pub verdict: Verdict,
    /// Up to here it has applied every event.
    pub applied: u64,
    /// How many it has not.
    pub behind: u64,
    /// Since when the first of them waits.
    pub waiting_since: Option<DateTime<Utc>>,
}

impl GapReport {
    /// `overdue` is the last number that has had its time.
    pub(super) fn new(gap: &Gap, overdue: u64) -> Self {
        let (mut late, mut missing) = (RangeInclusiveSet::new(), RangeInclusiveSet::new());
        for range in gap.missing.iter() {
            let (start, end) = (*range.start(), *range.end());
            if start <= overdue {
                missing.insert(start..=end.min(overdue));
            }
            if end > overdue {
                late.insert(start.max(overdue + 1)..=end);
            }
        }
        Self {
            session: gap.session,
            partition: gap.partition,
            publisher: gap.source.as_ref().map(|source| source.instance.clone()),
            sent: gap.sent,
            counts: (count(&late), count(&missing)),
            late: written(&late),
            missing: written(&missing),
        }
    }
}

impl ConnectionReport {
    pub(super) fn new(account: &Account, gaps: Vec<GapReport>, told: usize) -> Self {
        let late = gaps.iter().map(|gap| gap.counts.0).sum();
        let missing = gaps.iter().map(|gap| gap.counts.1).sum();
        // A parked frame is seen. Where parked frames outlive what is known of their session, there are
        // more of them than are seen.
        let parked = account.parked.min(account.seen);
        let further = gaps.len().saturating_sub(told);
        let mut gaps = gaps;
        // What is missing is told of before what is late.
        gaps.sort_by_key(|gap| gap.counts.1 == 0);
        gaps.truncate(told);
        Self {
            connection: account.connection,
            workspace: account.workspace.clone(),
            provider: account.provider.clone(),
            kind: account.kind.clone(),
            verdict: Verdict::of(missing, late),
            sent: account.sent,
            seen: account.seen - parked,
            parked: parked + account.stray,
            conflated: account.conflated,
            dead: account.dead,
            discarded: account.given_up,
            late,
            missing,
            gaps,
            further_gaps: further as u64,
        }
    }
}

impl ShardReport {
    pub(super) fn new(account: &ShardAccount) -> Self {
        let subscribers = account.subscribers.iter().map(|subscriber| {
            let behind = account.logged.saturating_sub(subscriber.applied);
            SubscriberReport {
                name: subscriber.name.clone(),
                verdict: Verdict::of(0, behind),
                applied: subscriber.applied,
                behind,
                waiting_since: subscriber.waiting_since,
            }
        });
        let subscribers: Vec<_> = subscribers.collect();
        let kept_back = account.blocked + account.dead;
        let published = account.relayed.saturating_sub(kept_back);
        let unpublished = account.logged.saturating_sub(published);
        let of_subscribers = subscribers.iter().map(|subscriber| subscriber.verdict);
        let own = Verdict::of(count(&account.holes) + account.dead, unpublished);
        Self {
            shard: account.shard,
            verdict: of_subscribers.chain([own]).max().unwrap_or_default(),
            logged: account.logged,
            published,
            dead: account.dead,
            waiting_since: account.waiting_since,
            lost: count(&account.holes),
            holes: written(&account.holes),
            subscribers,
        }
    }

    /// How many events the broker does not have and may yet get.
    #[must_use]
    pub fn unpublished(&self) -> u64 {
        self.logged.saturating_sub(self.published + self.dead)
    }
}

impl Report {
    pub(super) fn new(
        at: DateTime<Utc>,
        connections: Vec<ConnectionReport>,
        shards: Vec<ShardReport>,
        holding: Vec<String>,
        queued: Option<u64>,
    ) -> Self {
        let of_connections = connections.iter().map(|connection| connection.verdict);
        let of_shards = shards.iter().map(|shard| shard.verdict);
        let mut report = Self {
            verdict: of_connections.chain(of_shards).max().unwrap_or_default(),
            summary: String::new(),
            at,
            connections,
            shards,
            holding,
            queued,
        };
        report.summary = format!("reconcile: {}", Summary(&report));
        report
    }

    /// Whether something is missing that does not come by itself.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.verdict == Verdict::Missing
    }

    /// The sum over all connections of one of their numbers.
    #[must_use]
    pub fn frames(&self, of: impl Fn(&ConnectionReport) -> u64) -> u64 {
        self.connections.iter().map(of).sum()
    }

    /// The sum over all shards of one of their numbers.
    #[must_use]
    pub fn events(&self, of: impl Fn(&ShardReport) -> u64) -> u64 {
        self.shards.iter().map(of).sum()
    }

    /// How many events are not in the log, or dead.
    #[must_use]
    pub fn missing_events(&self) -> u64 {
        self.events(|shard| shard.lost + shard.dead)
    }

    /// How many events the subscribers have not applied.
    #[must_use]
    pub fn unapplied(&self) -> u64 {
        self.events(|shard| shard.subscribers.iter().map(|s| s.behind).sum())
    }
}

/// A report in one line.
struct Summary<'a>(&'a Report);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(report) = self;
        f.write_str(match report.verdict {
            Verdict::Ok => "ok",
            Verdict::Late => "NOT ok, yet",
            Verdict::Missing => "NOT ok",
        })?;
        write!(
            f,
            ": {} connections, {} shards, {} frames, {} events",
            report.connections.len(),
            report.shards.len(),
            report.frames(|connection| connection.sent),
            report.events(|shard| shard.logged),
        )?;
        for (count, what) in [
            (
                report.frames(|connection| connection.missing),
                "frames missing",
            ),
            (report.frames(|connection| connection.late), "frames late"),
            (
                report.events(|shard| shard.lost),
                "events missing in the log",
            ),
            (report.events(|shard| shard.dead), "events dead"),
            (
                report.events(ShardReport::unpublished),
                "events not published",
            ),
            (report.unapplied(), "events not applied"),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

fn count(numbers: &RangeInclusiveSet<u64>) -> u64 {
    let sizes = numbers.iter().map(|range| range.end() - range.start() + 1);
    sizes.sum()
}

fn written(numbers: &RangeInclusiveSet<u64>) -> Vec<String> {
    let ranges = numbers.iter().take(RANGES);
    ranges
        .map(|range| match (range.start(), range.end()) {
            (start, end) if start == end => start.to_string(),
            (start, end) => format!("{start}-{end}"),
        })
        .collect()
}
