//! Where in the log a reader is. Pure.
//!
//! An event's `id:` is the position behind it: of every shard the offset up to which its reader has had
//! everything. So whoever comes back with one goes on right there, whichever process answers. Readers
//! do not look into it: it is a version, then numbers of seven bits a byte, as base64.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use shared_model::log::LogState;

/// The way in which positions are written.
const FORMAT: u8 = 1;
/// More shards than any installation has.
const MOST_SHARDS: u64 = 4096;

/// A place between events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    /// Of the log.
    pub(super) generation: u64,
    /// By shard: everything up to this offset is before the place.
    offsets: Vec<u64>,
}

/// Text that is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no position of an event stream")]
pub(super) struct NoPosition;

/// Why the log cannot be read on from a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It is of a log with another number of shards.
    Foreign,
    /// The log was restored, and does not have all that is before the position, or has other events there.
    Restored,
    /// The log no longer has all that is behind it.
    Truncated,
}

impl Position {
    /// Behind these offsets, by shard.
    pub(super) const fn new(generation: u64, offsets: Vec<u64>) -> Self {
        Self {
            generation,
            offsets,
        }
    }

    /// Behind everything that `log` has.
    pub(super) fn end_of(log: &LogState) -> Self {
        let heads = log.shards.iter().map(|shard| shard.head);
        Self::new(log.generation, heads.collect())
    }

    /// How many shards it knows.
    pub(super) fn shards(&self) -> u32 {
        u32::try_from(self.offsets.len()).unwrap_or_default()
    }

    /// Up to here it has everything of `shard`.
    pub(super) fn of(&self, shard: u32) -> u64 {
        self.offsets.get(shard as usize).copied().unwrap_or(0)
    }

    /// Moves behind `offset` of `shard`, never back.
    pub(super) fn advance(&mut self, shard: u32, offset: u64) {
        if let Some(known) = self.offsets.get_mut(shard as usize) {
            *known = offset.max(*known);
        }
    }

    /// Becomes the same as `other`.
    pub(super) fn move_to(&mut self, other: &Self) {
        self.generation = other.generation;
        self.offsets.clone_from(&other.offsets);
    }

    /// Whether nothing is before `other` that is not before this.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let mut both = self.offsets.iter().zip(&other.offsets);
        both.all(|(own, other)| own >= other)
    }

    /// Behind everything that is before either.
    pub(super) fn joined(&self, other: &Self) -> Self {
        let both = self.offsets.iter().zip(&other.offsets);
        Self::new(
            self.generation,
            both.map(|(own, other)| *own.max(other)).collect(),
        )
    }

    /// The position in `log` as it is now, if the log can be read on from there.
    ///
    /// Up to what the log held when it was found restored, both generations are the same; what a reader
    /// had beyond that is not in it, and where two generations lie between, nobody knows.
    pub(super) fn usable_in(mut self, log: &LogState) -> Result<Self, Unusable> {
        if self.offsets.len() != log.shards.len() {
            return Err(Unusable::Foreign);
        }
        let is_current = self.generation == log.generation;
        if !is_current && self.generation + 1 != log.generation {
            return Err(Unusable::Restored);
        }
        for shard in &log.shards {
            let offset = self.of(shard.shard);
            if offset > shard.head || !is_current && offset > shard.restored {
                return Err(Unusable::Restored);
            }
            if offset + 1 < shard.first {
                return Err(Unusable::Truncated);
            }
        }
        self.generation = log.generation;
        Ok(self)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = vec![FORMAT];
        write(&mut bytes, self.generation);
        write(&mut bytes, self.offsets.len() as u64);
        for offset in &self.offsets {
            write(&mut bytes, *offset);
        }
        f.write_str(&BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for Position {
    type Err = NoPosition;

    fn from_str(text: &str) -> Result<Self, NoPosition> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok().ok_or(NoPosition)?;
        let (format, mut rest) = bytes.split_first().ok_or(NoPosition)?;
        if *format != FORMAT {
            return Err(NoPosition);
        }
        let generation = read(&mut rest)?;
        let count = read(&mut rest)?;
        if count > MOST_SHARDS {
            return Err(NoPosition);
        }
        let offsets: Vec<_> = (0..count)
            .map(|_| read(&mut rest))
            .collect::<Result<_, _>>()?;
        if rest.is_empty() {
            Ok(Self::new(generation, offsets))
        } else {
            Err(NoPosition)
        }
    }
}

/// Seven bits a byte, the lowest first; the eighth says that more follow.
fn write(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

/// PostgreSQL counts in `bigint`, so nine bytes are enough, and no sum of a number and one overflows.
fn read(bytes: &mut &[u8]) -> Result<u64, NoPosition> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or(NoPosition)?;
        *bytes = rest;
        number |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(NoPosition)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use shared_model::log::ShardState;

    use super::*;

    fn log(generation: u64, shards: &[(u64, u64, u64)]) -> LogState {
        let shard = |(number, (first, head, restored)): (u32, &(u64, u64, u64))| ShardState {
            shard: number,
            first: *first,
            head: *head,
            relayed: 0,
            restored: *restored,
            waiting_since: None,
        };
        LogState {
            shards: (0..).zip(shards).map(shard).collect(),
            generation,
        }
    }

    fn at(generation: u64, offsets: &[u64]) -> Position {
        Position::new(generation, offsets.to_vec())
    }

    proptest! {
        #[test]
        fn a_position_is_read_as_it_is_written(
            generation in 0..(i64::MAX as u64),
            offsets in prop::collection::vec(0..(i64::MAX as u64), 0..20),
        ) {
            let position = Position::new(generation, offsets);
            prop_assert_eq!(position.to_string().parse(), Ok(position));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,40}", bytes: Vec<u8>) {
            let encoded = BASE64_URL_SAFE_NO_PAD.encode(bytes);
            for text in [text, encoded] {
                if let Ok(position) = text.parse::<Position>() {
                    prop_assert_eq!(position.to_string().parse(), Ok(position));
                }
            }
        }
    }

    #[test]
    fn a_position_is_short() {
        let text = at(1, &[1_000_000; 4]).to_string();
        assert_eq!(text, "AQEEwIQ9wIQ9wIQ9wIQ9");
        for bad in [
            "",
            "AA",
            "AQ",
            "AgEA",
            "AQEB",
            "AQEAAA",
            "4711",
            "AQEEwIQ9wIQ9wIQ9wIQ9 ",
        ] {
            assert_eq!(bad.parse::<Position>(), Err(NoPosition), "{bad}");
        }
    }

    #[test]
    fn positions_join_and_cover() {
        let (a, b) = (at(1, &[5, 1]), at(1, &[3, 7]));
        assert!(!a.covers(&b) && !b.covers(&a) && a.covers(&a));
        assert_eq!(a.joined(&b), at(1, &[5, 7]));
        let mut moved = b;
        moved.advance(0, 2);
        moved.advance(1, 9);
        moved.advance(7, 9);
        assert_eq!(moved, at(1, &[3, 9]));
    }

    #[test]
    fn a_log_is_read_on_from_what_it_has() {
        let state = log(1, &[(3, 10, 0), (1, 4, 0)]);
        for (offsets, expected) in [
            (&[10, 4][..], None),
            (&[2, 0], None),
            (&[1, 0], Some(Unusable::Truncated)),
            (&[11, 0], Some(Unusable::Restored)),
            (&[5], Some(Unusable::Foreign)),
        ] {
            let found = at(1, offsets).usable_in(&state).err();
            assert_eq!(found, expected, "{offsets:?}");
        }
    }

    #[test]
    fn after_a_restore_only_what_both_histories_share_is_read_on_from() {
        let state = log(3, &[(1, 20, 10)]);
        assert_eq!(at(2, &[10]).usable_in(&state), Ok(at(3, &[10])));
        assert_eq!(at(3, &[20]).usable_in(&state), Ok(at(3, &[20])));
        for unusable in [at(2, &[11]), at(1, &[5]), at(4, &[5])] {
            assert_eq!(unusable.usable_in(&state), Err(Unusable::Restored));
        }
    }
}
