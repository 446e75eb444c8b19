//! Which days of the event log are kept no longer, and who holds those that should be. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};

/// A day of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Day {
    /// Which (UTC).
    pub day: NaiveDate,
    /// The greatest offset on it, by shard; shards without events that day are left out.
    pub ends: BTreeMap<u32, u64>,
}

/// Who the log is kept for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// The outbox relay.
    Relay,
    /// A registered subscriber.
    Subscriber(String),
}

impl Holder {
    /// The kinds' names in metrics.
    pub const KINDS: [&str; 2] = ["relay", "subscriber"];

    /// The holder's kind.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Subscriber(_) => "subscriber",
        }
    }
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Relay => write!(f, "the relay"),
            Self::Subscriber(name) => write!(f, "subscriber {name}"),
        }
    }
}

/// How far a reader has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Who.
    pub holder: Holder,
    /// Up to where it has read each shard; nothing of a shard that is left out.
    pub applied: BTreeMap<u32, u64>,
}

impl Reader {
    fn has_read(&self, shard: u32, end: u64) -> bool {
        self.applied.get(&shard).copied().unwrap_or_default() >= end
    }
}

/// What to do about days that are over for longer than the retention.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to drop, in this order.
    pub drop: Vec<NaiveDate>,
    /// The first day that is kept although its time is over, and for whom.
    pub held: Option<(NaiveDate, Vec<Holder>)>,
    /// How many events of all these days each kind of reader has not read.
    pub kept_back: BTreeMap<&'static str, u64>,
}

/// The days of `days` that have been over for as long as `retention`.
#[must_use]
pub fn overdue(days: &[NaiveDate], now: DateTime<Utc>, retention: Duration) -> Vec<NaiveDate> {
    let is_overdue = |day: &&NaiveDate| {
        let end = day.checked_add_days(Days::new(1));
        end.is_some_and(|end| end.and_time(NaiveTime::MIN).and_utc() + retention <= now)
    };
    days.iter().filter(is_overdue).copied().collect()
}

/// How many days in a row after the day of `now` are in `days`.
#[must_use]
pub fn days_ahead(days: &[NaiveDate], now: DateTime<Utc>) -> usize {
    let following = now.date_naive().iter_days().skip(1);
    following.take_while(|day| days.contains(day)).count()
}

/// What to do about `days`, whose time is over.
///
/// Days go in their order and up to the first that somebody has not read to its end: a day that goes
/// takes all lower offsets with it, also those that a transaction over midnight left on the day after.
#[must_use]
pub fn plan(days: &[Day], readers: &[Reader]) -> Plan {
    let mut plan = Plan::default();
    let mut ends = BTreeMap::<u32, u64>::new();
    for day in days {
        for (shard, end) in &day.ends {
            let known = ends.entry(*shard).or_default();
            *known = (*known).max(*end);
        }
        if plan.held.is_some() {
            continue;
        }
        let holds = |reader: &&Reader| {
            let mut ends = ends.iter();
            ends.any(|(shard, end)| !reader.has_read(*shard, *end))
        };
        let holders: Vec<_> = readers
            .iter()
            .filter(holds)
            .map(|reader| reader.holder.clone())
            .collect();
        if holders.is_empty() {
            plan.drop.push(day.day);
        } else {
            plan.held = Some((day.day, holders));
        }
    }
    plan.kept_back = Holder::KINDS
        .into_iter()
        .map(|kind| (kind, unread(&ends, readers, kind)))
        .collect();
    plan
}

/// How many of the events up to `ends` the slowest reader of a kind has not read, over all shards.
fn unread(ends: &BTreeMap<u32, u64>, readers: &[Reader], kind: &str) -> u64 {
    let of_kind = || readers.iter().filter(|reader| reader.holder.kind() == kind);
    ends.iter()
        .map(|(shard, end)| {
            let applied = |reader: &Reader| reader.applied.get(shard).copied().unwrap_or_default();
            let slowest = of_kind().map(applied).min();
            slowest.map_or(0, |slowest| end.saturating_sub(slowest))
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, day).unwrap()
    }

    fn day(number: u32, ends: &[(u32, u64)]) -> Day {
        Day {
            day: date(number),
            ends: ends.iter().copied().collect(),
        }
    }

    fn reader(holder: Holder, applied: &[(u32, u64)]) -> Reader {
        Reader {
            holder,
            applied: applied.iter().copied().collect(),
        }
    }

    fn subscriber(name: &str, applied: &[(u32, u64)]) -> Reader {
        reader(Holder::Subscriber(name.to_owned()), applied)
    }

    #[test]
    fn a_day_is_overdue_once_its_end_is_as_old_as_the_retention() {
        let days = [date(1), date(2), date(3)];
        let at = |hour| date(3).and_hms_opt(hour, 0, 0).unwrap().and_utc();
        let hours = Duration::from_hours;
        assert_eq!(overdue(&days, at(2), hours(2)), [date(1), date(2)]);
        assert_eq!(overdue(&days, at(1), hours(2)), [date(1)]);
        assert_eq!(overdue(&days, at(1), hours(24 * 30)), []);
    }

    #[test]
    fn only_days_that_follow_without_a_gap_are_ahead() {
        let now = date(1).and_hms_opt(23, 59, 59).unwrap().and_utc();
        assert_eq!(days_ahead(&[date(1), date(2), date(3), date(5)], now), 2);
        assert_eq!(days_ahead(&[date(1)], now), 0);
    }

    #[test]
    fn nothing_goes_before_everybody_has_read_it() {
        let days = [
            day(1, &[(0, 10), (1, 5)]),
            day(2, &[(0, 20)]),
            day(3, &[(0, 30)]),
        ];
        let relay = reader(Holder::Relay, &[(0, 30), (1, 5)]);
        let all = plan(&days, std::slice::from_ref(&relay));
        assert_eq!(all.drop, [date(1), date(2), date(3)]);
        assert_eq!((all.held, all.kept_back["relay"]), (None, 0));

        let slow = subscriber("slow", &[(0, 19), (1, 5)]);
        let some = plan(&days, &[relay.clone(), slow.clone()]);
        assert_eq!(some.drop, [date(1)]);
        assert_eq!(some.held, Some((date(2), vec![slow.holder])));
        assert_eq!(
            (some.kept_back["relay"], some.kept_back["subscriber"]),
            (0, 11)
        );

        // One that has said nothing of a shard has read nothing of it.
        let silent = subscriber("silent", &[(0, 30)]);
        let none = plan(&days, &[silent.clone(), relay]);
        assert_eq!(none.drop, []);
        assert_eq!(none.held, Some((date(1), vec![silent.holder])));
    }

    #[test]
    fn a_day_is_held_by_what_the_days_before_it_held() {
        // Offset 11 of a transaction over midnight lies on the first day, 10 on the second.
        let days = [day(1, &[(0, 11)]), day(2, &[(0, 10)])];
        let relay = reader(Holder::Relay, &[(0, 10)]);
        let plan = plan(&days, &[relay]);
        assert_eq!(plan.drop, []);
        assert_eq!(plan.kept_back["relay"], 1);
    }

    #[test]
    fn empty_days_go_whoever_has_read_what() {
        let plan = plan(&[day(1, &[])], &[reader(Holder::Relay, &[])]);
        assert_eq!(plan.drop, [date(1)]);
    }
}
