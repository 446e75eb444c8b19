//! When a vehicle was paused.

use std::collections::VecDeque;

/// How many pauses of a vehicle are remembered; the oldest is forgotten first.
const REMEMBERED: usize = 64;

/// The pauses of a vehicle, in the order of time; milliseconds since the Unix epoch.
#[derive(Debug, Default)]
pub(crate) struct Silences(VecDeque<(i64, Option<i64>)>);

impl Silences {
    /// A pause begins, unless one has begun.
    pub(crate) fn begin(&mut self, now_ms: i64) {
        if self.0.back().is_none_or(|(_, end)| end.is_some()) {
            if self.0.len() == REMEMBERED {
                self.0.pop_front();
            }
            self.0.push_back((now_ms, None));
        }
    }

    /// The pause ends, if there is one.
    pub(crate) fn end(&mut self, now_ms: i64) {
        if let Some((_, end @ None)) = self.0.back_mut() {
            *end = Some(now_ms);
        }
    }

    /// Since when there had been a pause at `time_ms`.
    pub(crate) fn since(&self, time_ms: i64) -> Option<i64> {
        let covers =
            |(from, to): &&(i64, Option<i64>)| *from < time_ms && to.is_none_or(|to| time_ms < to);
        self.0.iter().find(covers).map(|(from, _)| *from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_are_remembered_up_to_a_limit() {
        let mut silences = Silences::default();
        silences.end(5);
        for n in 0..100 {
            silences.begin(n * 10);
            silences.begin(n * 10 + 1);
            silences.end(n * 10 + 5);
        }
        silences.begin(1000);
        assert_eq!(silences.0.len(), REMEMBERED);
        assert_eq!(silences.since(992), Some(990));
        assert_eq!(silences.since(995), None);
        assert_eq!(silences.since(1000), None, "what it said then was heard");
        assert_eq!(silences.since(i64::MAX), Some(1000));
    }
}
