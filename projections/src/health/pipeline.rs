//! How far behind the core's event log the projection is.
//!
//! A silence is proven only as far as everything that was said has been applied. Before the first answer of
//! the core nothing is known of the log, so nothing is proven.

use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use shared_model::log::LogState;

/// How far the projection has come.
#[derive(Debug, Default)]
pub struct Pipeline {
    complete_until: Mutex<Option<DateTime<Utc>>>,
}

impl Pipeline {
    /// Takes in what the core says of the log to this projection, which asked at `asked_at` (UTC).
    ///
    /// While the core does not answer, nothing is taken in, and the projection falls behind: nobody can
    /// tell what it has not seen.
    pub fn learn(&self, log: &LogState, asked_at: DateTime<Utc>) {
        let waiting = log.shards.iter().filter_map(|shard| shard.waiting_since);
        let complete = waiting.min().map_or(asked_at, |since| since.min(asked_at));
        *self
            .complete_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(complete);
    }

    /// How far behind the projection is at `now`, if anything is known.
    pub fn lag(&self, now: DateTime<Utc>) -> Option<TimeDelta> {
        let complete = *self
            .complete_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        complete.map(|complete| (now - complete).max(TimeDelta::zero()))
    }
}

#[cfg(test)]
mod tests {
    use shared_model::log::ShardState;
    use shared_model::time::from_unix_millis;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    fn log(waiting: &[Option<i64>]) -> LogState {
        let shard = |(shard, waiting_since): (u32, &Option<i64>)| ShardState {
            shard,
            first: 1,
            head: 9,
            relayed: 9,
            restored: 0,
            waiting_since: waiting_since.map(at),
        };
        LogState {
            shards: (0..).zip(waiting).map(shard).collect(),
            generation: 1,
        }
    }

    #[test]
    fn it_is_as_late_as_the_event_that_waits_longest() {
        let pipeline = Pipeline::default();
        assert_eq!(pipeline.lag(at(100)), None, "nothing is known");
        pipeline.learn(&log(&[None, None]), at(100));
        assert_eq!(pipeline.lag(at(100)), Some(TimeDelta::zero()));
        assert_eq!(pipeline.lag(at(103)), Some(TimeDelta::seconds(3)));
        pipeline.learn(&log(&[Some(50), None, Some(40)]), at(110));
        assert_eq!(pipeline.lag(at(110)), Some(TimeDelta::seconds(70)));
        pipeline.learn(&log(&[None, None, None]), at(120));
        assert_eq!(pipeline.lag(at(120)), Some(TimeDelta::zero()));
        // Clocks that are not in step do not make it early.
        pipeline.learn(&log(&[Some(130)]), at(121));
        assert_eq!(pipeline.lag(at(120)), Some(TimeDelta::zero()));
    }
}
