//! When a connection's outage begins and ends. Pure.

use chrono::{DateTime, TimeDelta, Utc};

use super::freshness::later;

/// How long a connection may be out before that is an incident, and well before it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// An outage of so long is an incident.
    pub open_after: TimeDelta,
    /// A provider that sends for so long again has ended it.
    pub close_after: TimeDelta,
}

/// How a connection is doing, as far as incidents go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Since when its provider has not been sending (UTC), and why, as a word.
    pub out: Option<(DateTime<Utc>, String)>,
    /// Since when it has (UTC).
    pub well_since: Option<DateTime<Utc>>,
    /// It is there no more.
    pub is_removed: bool,
    /// Whether an incident is open.
    pub has_incident: bool,
}

/// What becomes of a connection's incident.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// One begins.
    Open {
        /// When the outage began (UTC).
        began: DateTime<Utc>,
        /// Why, as a word.
        reason: String,
    },
    /// It is over.
    Close {
        /// When it ended (UTC).
        ended: DateTime<Utc>,
    },
}

/// What is to be done about a connection, if anything, at `now`, when everything that was said until
/// `proven_until` is known.
///
/// While the pipeline is late, a connection that was out may be well long since, and the other way
/// round: so only what lasted until then counts.
#[must_use]
pub fn step(
    condition: &Condition,
    patience: Patience,
    proven_until: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Option<Step> {
    let lasted = |since, patience| later(since, patience) <= proven_until.min(now);
    if condition.has_incident {
        let well = condition
            .well_since
            .filter(|&since| lasted(since, patience.close_after));
        let ended = if condition.is_removed {
            Some(now)
        } else {
            well
        };
        return ended.map(|ended| Step::Close { ended });
    }
    let (began, reason) = condition
        .out
        .clone()
        .filter(|(since, _)| !condition.is_removed && lasted(*since, patience.open_after))?;
    Some(Step::Open { began, reason })
}

#[cfg(test)]
mod tests {
    use shared_model::time::from_unix_millis;

    use super::*;

    const PATIENCE: Patience = Patience {
        open_after: TimeDelta::seconds(120),
        close_after: TimeDelta::seconds(30),
    };

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    fn out(since: i64) -> Condition {
        Condition {
            out: Some((at(since), "closed".to_owned())),
            well_since: None,
            is_removed: false,
            has_incident: false,
        }
    }

    fn well(since: i64) -> Condition {
        Condition {
            out: None,
            well_since: Some(at(since)),
            has_incident: true,
            ..out(0)
        }
    }

    fn opened(began: i64) -> Step {
        Step::Open {
            began: at(began),
            reason: "closed".to_owned(),
        }
    }

    #[test]
    fn an_outage_is_an_incident_once_it_has_lasted() {
        let step = |condition: &Condition, now| step(condition, PATIENCE, at(now), at(now));
        assert_eq!(step(&out(10), 129), None);
        assert_eq!(step(&out(10), 130), Some(opened(10)));
        let open = Condition {
            has_incident: true,
            ..out(10)
        };
        assert_eq!(step(&open, 1000), None, "there is one already");
    }

    #[test]
    fn it_is_over_once_the_provider_has_sent_for_a_while() {
        let step = |condition: &Condition, now| step(condition, PATIENCE, at(now), at(now));
        assert_eq!(step(&well(10), 39), None);
        assert_eq!(step(&well(10), 40), Some(Step::Close { ended: at(10) }));
        let without = Condition {
            has_incident: false,
            ..well(10)
        };
        assert_eq!(step(&without, 1000), None);
    }

    #[test]
    fn a_connection_that_is_removed_has_no_incident() {
        let removed = Condition {
            is_removed: true,
            ..out(10)
        };
        assert_eq!(step(&removed, PATIENCE, at(1000), at(1000)), None);
        let removed = Condition {
            has_incident: true,
            ..removed
        };
        let closed = Some(Step::Close { ended: at(11) });
        assert_eq!(step(&removed, PATIENCE, at(0), at(11)), closed);
    }

    #[test]
    fn what_is_not_known_to_have_lasted_does_not_count() {
        let out = out(10);
        assert_eq!(step(&out, PATIENCE, at(129), at(1000)), None);
        assert_eq!(step(&out, PATIENCE, at(130), at(1000)), Some(opened(10)));
        assert_eq!(step(&well(10), PATIENCE, at(39), at(1000)), None);
    }
}
