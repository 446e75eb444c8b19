//! What a polled provider has told its customers, so that a test can say what they must know now.

use std::collections::{BTreeMap, BTreeSet};

/// A value in canonical units: per cent, metres, kilometres an hour, kilowatts, degrees.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value {
    /// A number.
    Number(f64),
    /// Degrees north and east.
    Position(f64, f64),
}

/// One value of one signal.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Told {
    /// When it was so, in milliseconds since the Unix epoch, by the clock that the provider gives.
    pub observed_ms: i64,
    /// What it was.
    pub value: Value,
}

/// A statement that a record makes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Fact {
    /// The canonical name of the signal.
    pub(crate) signal: &'static str,
    pub(crate) told: Told,
}

impl Fact {
    pub(crate) const fn number(signal: &'static str, observed_ms: i64, value: f64) -> Self {
        Self {
            signal,
            told: Told {
                observed_ms,
                value: Value::Number(value),
            },
        }
    }

    pub(crate) const fn position(observed_ms: i64, latitude: f64, longitude: f64) -> Self {
        Self {
            signal: "position",
            told: Told {
                observed_ms,
                value: Value::Position(latitude, longitude),
            },
        }
    }
}

/// The newest value of each signal of each vehicle, whatever order they came in.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fold(BTreeMap<String, BTreeMap<&'static str, Told>>);

impl Fold {
    pub(crate) fn add(&mut self, vehicle: &str, fact: Fact) {
        let signals = self.0.entry(vehicle.to_owned()).or_default();
        let newest = signals.entry(fact.signal).or_insert(fact.told);
        if newest.observed_ms < fact.told.observed_ms {
            *newest = fact.told;
        }
    }

    /// The provider's ids of the vehicles.
    pub fn vehicles(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What is known of `vehicle`, by the canonical names of the signals.
    #[must_use]
    pub fn signals(&self, vehicle: &str) -> BTreeMap<&'static str, Told> {
        self.0.get(vehicle).cloned().unwrap_or_default()
    }
}

/// What was served since the start.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) fold: Fold,
    /// Records on all pages, repeats included.
    pub(crate) records: u64,
    /// The places in the history that each feed's pages were about. First pages of last known values do not count.
    served: BTreeMap<String, BTreeSet<u64>>,
}

impl Ledger {
    /// Notes that a page of `feed` held the record at `seq`; what is before `oldest` is forgotten.
    pub(crate) fn serve(&mut self, feed: &str, seq: u64, oldest: u64) {
        if !self.served.contains_key(feed) {
            self.served.insert(feed.to_owned(), BTreeSet::new());
        }
        if let Some(served) = self.served.get_mut(feed) {
            served.insert(seq);
            while served.first().is_some_and(|first| *first < oldest) {
                served.pop_first();
            }
        }
    }

    /// How many records between the first and the last that were served of `feed` were never served.
    pub(crate) fn skipped(&self) -> BTreeMap<String, u64> {
        let gaps = |served: &BTreeSet<u64>| {
            let (first, last) = (served.first()?, served.last()?);
            Some(last - first + 1 - served.len() as u64)
        };
        self.served
            .iter()
            .map(|(feed, served)| (feed.clone(), gaps(served).unwrap_or(0)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_wins_in_any_order() {
        let facts = [(3, 30.0), (1, 10.0), (2, 20.0)];
        let mut fold = Fold::default();
        for (time, value) in facts {
            fold.add("a", Fact::number("speed", time, value));
        }
        fold.add("a", Fact::position(1, 52.0, 5.0));
        let known = fold.signals("a");
        assert_eq!(known["speed"].value, Value::Number(30.0));
        assert_eq!(known["position"].value, Value::Position(52.0, 5.0));
        assert!(fold.signals("b").is_empty());
        assert_eq!(fold.vehicles().collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn a_gap_in_what_was_served_is_counted() {
        let mut ledger = Ledger::default();
        for seq in [5, 6, 9, 6] {
            ledger.serve("a", seq, 1);
        }
        ledger.serve("b", 40, 1);
        assert_eq!(
            ledger.skipped(),
            BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 0)])
        );
        ledger.serve("a", 10, 9);
        assert_eq!(ledger.skipped()["a"], 0);
    }
}
