//! What a stream has missed: pure bookkeeping of which stretch of which series is still to be asked for.
//!
//! Times are milliseconds since the Unix epoch. A series is one label of one device, known by its
//! place in the subscription.

use std::time::Duration;

/// A stretch of time, `from` before `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    /// Its beginning.
    pub(crate) from: i64,
    /// Its end.
    pub(crate) to: i64,
}

impl Span {
    /// How long it is.
    pub(crate) const fn length(self) -> i64 {
        self.to - self.from
    }

    /// Its first part, of at most `longest`.
    pub(crate) fn first(self, longest: i64) -> Self {
        Self {
            to: self.to.min(self.from.saturating_add(longest.max(1))),
            ..self
        }
    }

    /// What is left of it once all before `until` is there.
    pub(crate) fn after(self, until: i64) -> Option<Self> {
        let from = self.from.max(until);
        (from < self.to).then_some(Self { from, ..self })
    }
}

/// How a gap is bounded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// How long before the last sign of life it begins.
    pub(crate) margin: Duration,
    /// How far back it is closed.
    pub(crate) max_age: Duration,
}

/// What is missing of each series; nothing at all is an empty list.
pub(crate) type Missing = Vec<Option<Span>>;

/// What a stream has missed so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    /// The last sign of life before what is missing but not yet planned.
    since: Option<i64>,
    missing: Missing,
}

impl Gaps {
    /// Nothing is missing but what came after `since`.
    pub(crate) fn new(since: Option<i64>) -> Self {
        Self {
            since,
            missing: Vec::new(),
        }
    }

    /// Whether something is missing, planned or not.
    pub(crate) fn any(&self) -> bool {
        self.since.is_some() || self.missing.iter().any(Option::is_some)
    }

    /// A session has ended, of which `heard` was the last sign of life.
    pub(crate) fn session_ended(&mut self, heard: i64) {
        // If an earlier end is not planned yet, all since then is missing.
        self.since = Some(self.since.map_or(heard, |since| since.min(heard)));
    }

    /// What to ask for of `series` series, once the stream is live again at `now`; `None` if
    /// nothing. What is left of an earlier gap is joined with the new one, with what lies between:
    /// a repeat costs little and keeps this small.
    pub(crate) fn plan(&self, series: usize, now: i64, bounds: Bounds) -> Option<Missing> {
        let oldest = now.saturating_sub(millis(bounds.max_age));
        let margin = millis(bounds.margin);
        let new = self.since.map(|since| Span {
            from: since.saturating_sub(margin),
            to: now,
        });
        let missing: Vec<_> = (0..series)
            .map(|at| {
                let left = self.missing.get(at).copied().flatten();
                join(left, new).and_then(|span| span.after(oldest))
            })
            .collect();
        missing.iter().any(Option::is_some).then_some(missing)
    }

    /// `missing` is what is asked for now.
    pub(crate) fn planned(&mut self, missing: Missing) {
        self.since = None;
        self.missing = missing;
    }

    /// All of a series before `until` has been taken.
    pub(crate) fn closed(&mut self, series: usize, until: i64) {
        if let Some(missing) = self.missing.get_mut(series) {
            *missing = missing.and_then(|span| span.after(until));
        }
        self.forget();
    }

    /// What is missing of a series will not be asked for again.
    pub(crate) fn given_up(&mut self, series: usize) {
        if let Some(missing) = self.missing.get_mut(series) {
            *missing = None;
        }
        self.forget();
    }

    fn forget(&mut self) {
        if self.missing.iter().all(Option::is_none) {
            self.missing = Vec::new();
        }
    }
}

fn join(one: Option<Span>, other: Option<Span>) -> Option<Span> {
    match (one, other) {
        (Some(one), Some(other)) => Some(Span {
            from: one.from.min(other.from),
            to: one.to.max(other.to),
        }),
        (one, other) => one.or(other),
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        margin: Duration::from_millis(10),
        max_age: Duration::from_secs(1),
    };

    fn span(from: i64, to: i64) -> Span {
        Span { from, to }
    }

    #[test]
    fn a_first_session_misses_nothing() {
        let gaps = Gaps::default();
        assert!(!gaps.any());
        assert_eq!(gaps.plan(2, 5000, BOUNDS), None);
    }

    #[test]
    fn what_came_between_two_sessions_is_missing() {
        let mut gaps = Gaps::new(None);
        gaps.session_ended(5000);
        // A session that ends before anything is planned brings no later beginning.
        gaps.session_ended(5100);
        assert!(gaps.any());
        let missing = gaps.plan(2, 5200, BOUNDS).unwrap();
        assert_eq!(missing, [Some(span(4990, 5200)), Some(span(4990, 5200))]);
        gaps.planned(missing);
        gaps.closed(0, 5200);
        gaps.closed(1, 5100);
        assert_eq!(gaps.missing, [None, Some(span(5100, 5200))]);
        // The socket breaks before all is there.
        gaps.session_ended(5300);
        let missing = gaps.plan(2, 5400, BOUNDS).unwrap();
        assert_eq!(missing, [Some(span(5290, 5400)), Some(span(5100, 5400))]);
        gaps.planned(missing);
        gaps.closed(0, 5400);
        gaps.given_up(1);
        assert_eq!(gaps, Gaps::default());
    }

    #[test]
    fn what_is_too_old_is_not_asked_for() {
        let gaps = Gaps::new(Some(100));
        assert_eq!(
            gaps.plan(1, 5000, BOUNDS).unwrap(),
            [Some(span(4000, 5000))]
        );
        let mut gaps = Gaps::default();
        gaps.planned(vec![Some(span(100, 200))]);
        assert_eq!(gaps.plan(1, 5000, BOUNDS), None);
    }

    proptest! {
        #[test]
        fn parts_cover_a_span_exactly_and_none_is_too_long(
            from in -1_000_000_000_000_i64..2_000_000_000_000,
            length in 1_i64..10_000_000_000,
            longest in 10_000_000_i64..3_000_000_000,
        ) {
            let whole = Span { from, to: from + length };
            let (mut left, mut at) = (Some(whole), whole.from);
            while let Some(span) = left {
                let part = span.first(longest);
                prop_assert_eq!(part.from, at);
                prop_assert!((1..=longest).contains(&part.length()));
                at = part.to;
                left = span.after(part.to);
            }
            prop_assert_eq!(at, whole.to);
        }

        #[test]
        fn whatever_happens_all_between_sessions_is_asked_for(
            steps in prop::collection::vec((1_i64..200, 1_i64..200, any::<bool>(), 0_i64..300), 1..20),
        ) {
            // Sessions of some length with outages between; part of each plan is carried out.
            let bounds = Bounds { max_age: Duration::from_hours(1), ..BOUNDS };
            let mut gaps = Gaps::default();
            let mut outages = Vec::new();
            let mut now = 1_000_000;
            for (lived, away, is_planned, done) in steps {
                now += lived;
                gaps.session_ended(now);
                outages.push((now, now + away));
                now += away;
                if is_planned {
                    let missing = gaps.plan(1, now, bounds).unwrap();
                    gaps.planned(missing.clone());
                    if let Some(span) = missing[0] {
                        let until = span.from + done;
                        gaps.closed(0, until);
                        outages.retain_mut(|(from, to)| { *from = (*from).max(until); from < to });
                    }
                }
            }
            if let Some(missing) = gaps.plan(1, now, bounds) {
                let span = missing[0].unwrap();
                for (from, to) in outages {
                    prop_assert!(span.from <= from && to <= span.to);
                }
            } else {
                prop_assert!(outages.is_empty());
            }
        }
    }
}
