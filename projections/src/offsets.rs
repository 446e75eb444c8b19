//! Which events of the log, by shard and offset. Pure.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use rangemap::RangeInclusiveSet;

/// The greatest offset that a checkpoint can hold: PostgreSQL writes the end of a range, which is one
/// more.
const GREATEST: u64 = i64::MAX as u64 - 1;
/// The greatest shard that a checkpoint can hold.
const GREATEST_SHARD: u32 = i32::MAX as u32;

/// One event's place in the log. What is beyond any table is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    shard: u32,
    offset: u64,
}

impl Position {
    /// The place, unless it is none: offsets begin with 1.
    pub(crate) fn new(shard: u32, offset: u64) -> Option<Self> {
        let is_one = shard <= GREATEST_SHARD && (1..=GREATEST).contains(&offset);
        is_one.then_some(Self { shard, offset })
    }
}

/// The id of a message that carries the offsets `first` to `last` of a shard.
pub(crate) fn message_id(shard: u32, first: u64, last: u64) -> String {
    format!("{shard}:{first}-{last}")
}

/// The place of the event that stands at `index` of `count` in the message called `id`, as far as the
/// name tells.
pub(crate) fn named(id: &str, index: usize, count: usize) -> Option<Position> {
    let (shard, offsets) = id.split_once(':')?;
    let (first, last) = offsets.split_once('-')?;
    let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
    // Where the numbers do not agree, something between first and last is not in the message.
    let held = last.checked_sub(first)?.checked_add(1)?;
    if held != count as u64 {
        return None;
    }
    Position::new(shard.parse().ok()?, first + index as u64)
}

/// A set of events. The default is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Offsets(BTreeMap<u32, RangeInclusiveSet<u64>>);

impl Offsets {
    /// Adds one event.
    pub(crate) fn insert(&mut self, Position { shard, offset }: Position) {
        self.insert_range(shard, offset..=offset);
    }

    /// Adds neighbours. Nothing is added by an empty range.
    pub(crate) fn insert_range(&mut self, shard: u32, range: RangeInclusive<u64>) {
        if !range.is_empty() {
            self.0.entry(shard).or_default().insert(range);
        }
    }

    /// Whether it holds no event.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// By shard, in the shards' order.
    pub(crate) fn shards(&self) -> impl Iterator<Item = (u32, &RangeInclusiveSet<u64>)> {
        self.0.iter().map(|(shard, offsets)| (*shard, offsets))
    }

    /// The offsets of one shard.
    pub(crate) fn of(&self, shard: u32) -> Option<&RangeInclusiveSet<u64>> {
        self.0.get(&shard)
    }

    /// The checkpoint of a shard: every event up to it is in the set; 0 if the first is not.
    pub(crate) fn checkpoint(&self, shard: u32) -> u64 {
        let first = self.of(shard).and_then(RangeInclusiveSet::first);
        first.map_or(0, |run| if *run.start() == 1 { *run.end() } else { 0 })
    }

    /// Every shard's checkpoint.
    pub(crate) fn checkpoints(&self) -> BTreeMap<u32, u64> {
        let checkpoint = |(shard, _)| (shard, self.checkpoint(shard));
        self.shards().map(checkpoint).collect()
    }
}

/// Offsets as PostgreSQL writes a multirange.
pub(crate) fn multirange(offsets: &RangeInclusiveSet<u64>) -> String {
    let ranges = offsets
        .iter()
        .map(|range| format!("[{},{})", range.start(), range.end() + 1));
    format!("{{{}}}", ranges.collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(offsets: &[u64]) -> Offsets {
        let mut set = Offsets::default();
        for offset in offsets {
            set.insert(Position::new(3, *offset).unwrap());
        }
        set
    }

    #[test]
    fn the_checkpoint_is_the_end_of_the_run_from_the_first() {
        for (offsets, expected) in [
            (&[][..], 0),
            (&[2, 3], 0),
            (&[1], 1),
            (&[3, 1, 2], 3),
            (&[1, 2, 4, 5], 2),
        ] {
            assert_eq!(set(offsets).checkpoint(3), expected, "{offsets:?}");
        }
        assert_eq!(set(&[1, 2]).checkpoints(), BTreeMap::from([(3, 2)]));
        assert_eq!(set(&[1]).checkpoint(4), 0);
    }

    #[test]
    fn neighbours_share_a_range() {
        let text = |offsets| multirange(set(offsets).of(3).unwrap());
        assert_eq!(text(&[9, 1, 3, 2]), "{[1,4),[9,10)}");
        let mut last = Offsets::default();
        last.insert(Position::new(3, GREATEST).unwrap());
        let text = multirange(last.of(3).unwrap());
        assert_eq!(text, format!("{{[{},{})}}", GREATEST, i64::MAX));
    }

    #[test]
    fn what_no_table_holds_is_no_position() {
        assert_eq!(Position::new(0, 0), None);
        assert_eq!(Position::new(0, GREATEST + 1), None);
        assert_eq!(Position::new(GREATEST_SHARD + 1, 1), None);
        assert!(Position::new(GREATEST_SHARD, GREATEST).is_some());
    }

    #[test]
    fn a_message_names_the_offsets_of_its_events() {
        let id = message_id(2, 7, 9);
        assert_eq!(named(&id, 0, 3), Position::new(2, 7));
        assert_eq!(named(&id, 2, 3), Position::new(2, 9));
        // One is left out, and nobody knows which.
        assert_eq!(named(&id, 0, 2), None);
        for strange in ["", "m", "2:7", "2:9-7", "x:1-1", "2:0-0", "2:1-x"] {
            assert_eq!(named(strange, 0, 1), None, "{strange}");
        }
        assert_eq!(named("2:0-18446744073709551615", 0, 0), None);
    }
}
