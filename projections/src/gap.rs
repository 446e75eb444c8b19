//! What is missing of the log, and when it is time to fetch it. Pure.
//!
//! The queue hands out a shard's events in their order. So an event below one that was applied is in
//! somebody's hands, for a moment, or it is in no queue any more. Events behind the last one applied
//! may still wait in the queue: those count as missing only while nothing is delivered.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use rangemap::{RangeInclusiveMap, RangeInclusiveSet};
use shared_model::log::ShardState;

/// What was missing at the last look, and since when.
#[derive(Debug, Default)]
pub(crate) struct Gaps(BTreeMap<u32, RangeInclusiveMap<u64, Instant>>);

/// What to do about one shard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// What to fetch from the log, in order: neighbours that have been missing for long enough.
    pub(crate) fetch: Vec<RangeInclusive<u64>>,
    /// What has been missing for as long but is no longer in the log.
    pub(crate) lost: Vec<RangeInclusive<u64>>,
}

impl Gaps {
    /// Looks at one shard at `now`: what of it has been missing for `after` or longer?
    pub(crate) fn look(
        &mut self,
        applied: Option<&RangeInclusiveSet<u64>>,
        log: &ShardState,
        is_idle: bool,
        now: Instant,
        after: Duration,
    ) -> Due {
        let known = self.0.remove(&log.shard).unwrap_or_default();
        let mut missing = RangeInclusiveMap::new();
        for range in missing_of(applied, log.relayed, is_idle) {
            missing.insert(range.clone(), now);
            for (part, since) in known.overlapping(&range) {
                let (start, end) = (part.start().max(range.start()), part.end().min(range.end()));
                missing.insert(*start..=*end, *since);
            }
        }
        let mut due = RangeInclusiveSet::new();
        for (range, since) in missing.iter() {
            if now.duration_since(*since) >= after {
                due.insert(range.clone());
            }
        }
        self.0.insert(log.shard, missing);
        let mut lost = Vec::new();
        let mut fetch = Vec::new();
        for range in due {
            let (start, end) = range.into_inner();
            if start < log.first {
                lost.push(start..=end.min(log.first - 1));
            }
            if end >= log.first {
                fetch.push(start.max(log.first)..=end);
            }
        }
        Due { fetch, lost }
    }
}

/// What is missing below the last event that was applied and, of an idle projection, below the last
/// that the broker has.
fn missing_of(
    applied: Option<&RangeInclusiveSet<u64>>,
    relayed: u64,
    is_idle: bool,
) -> Vec<RangeInclusive<u64>> {
    let last = applied
        .and_then(RangeInclusiveSet::last)
        .map_or(0, |run| *run.end());
    let end = if is_idle { last.max(relayed) } else { last };
    if end == 0 {
        return Vec::new();
    }
    match applied {
        Some(applied) => applied.gaps(&(1..=end)).collect(),
        None => vec![1..=end],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AFTER: Duration = Duration::from_secs(2);

    fn log(first: u64, relayed: u64) -> ShardState {
        ShardState {
            shard: 0,
            first,
            head: relayed + 10,
            relayed,
            restored: 0,
            waiting_since: None,
        }
    }

    fn set(ranges: &[RangeInclusive<u64>]) -> RangeInclusiveSet<u64> {
        ranges.iter().cloned().collect()
    }

    fn fetch(ranges: &[RangeInclusive<u64>]) -> Due {
        Due {
            fetch: ranges.to_vec(),
            lost: Vec::new(),
        }
    }

    #[test]
    fn a_gap_is_fetched_once_it_has_stayed_open() {
        let (mut gaps, start) = (Gaps::default(), Instant::now());
        let mut look = |applied: &[RangeInclusive<u64>], seconds| {
            let now = start + Duration::from_secs(seconds);
            gaps.look(Some(&set(applied)), &log(1, 500), false, now, AFTER)
        };
        assert_eq!(look(&[1..=100, 201..=300], 0), Due::default());
        assert_eq!(look(&[1..=100, 201..=300, 351..=400], 1), Due::default());
        // The first has closed in part; the second is not old enough.
        let applied = [1..=120, 131..=140, 201..=300, 351..=400];
        assert_eq!(look(&applied, 2), fetch(&[121..=130, 141..=200]));
        assert_eq!(look(&applied, 3), fetch(&[121..=130, 141..=200, 301..=350]));
        // What opens anew waits anew.
        assert_eq!(look(&[1..=400], 4), Due::default());
        assert_eq!(look(&applied, 5), Due::default());
    }

    #[test]
    fn the_tail_is_fetched_only_while_nothing_is_delivered() {
        let (mut gaps, start) = (Gaps::default(), Instant::now());
        let applied = set(&[1..=100]);
        let mut look = |is_idle, seconds| {
            let now = start + Duration::from_secs(seconds);
            gaps.look(Some(&applied), &log(1, 500), is_idle, now, AFTER)
        };
        assert_eq!(look(false, 0), Due::default());
        assert_eq!(look(false, 9), Due::default());
        assert_eq!(look(true, 10), Due::default());
        assert_eq!(look(false, 11), Due::default());
        assert_eq!(look(true, 12), Due::default());
        assert_eq!(look(true, 14), fetch(&[101..=500]));
    }

    #[test]
    fn what_the_log_no_longer_holds_is_lost_and_the_rest_is_fetched() {
        let start = Instant::now();
        let now = start + AFTER;
        let mut gaps = Gaps::default();
        gaps.look(None, &log(51, 100), true, start, AFTER);
        let due = gaps.look(None, &log(51, 100), true, now, AFTER);
        assert_eq!((due.lost, due.fetch), (vec![1..=50], vec![51..=100]));
        let applied = set(&[41..=100]);
        let due = gaps.look(Some(&applied), &log(51, 100), true, now, AFTER);
        assert_eq!((due.lost, due.fetch), (vec![1..=40], Vec::new()));
    }

    #[test]
    fn an_empty_log_misses_nothing() {
        let mut gaps = Gaps::default();
        let due = gaps.look(None, &log(1, 0), true, Instant::now(), Duration::ZERO);
        assert_eq!(due, Due::default());
    }

    proptest! {
        #[test]
        fn exactly_what_is_missing_is_fetched(
            applied in prop::collection::btree_set(1..60_u64, 0..40),
            relayed in 0..70_u64,
            is_idle: bool,
        ) {
            let set: RangeInclusiveSet<u64> = applied.iter().map(|n| *n..=*n).collect();
            let due = Gaps::default().look(
                Some(&set), &log(1, relayed), is_idle, Instant::now(), Duration::ZERO,
            );
            let last = applied.last().copied().unwrap_or(0);
            let end = if is_idle { last.max(relayed) } else { last };
            let expected: Vec<_> = (1..=end).filter(|n| !applied.contains(n)).collect();
            let found: Vec<_> = due.fetch.into_iter().flatten().collect();
            prop_assert_eq!(found, expected);
        }
    }
}
