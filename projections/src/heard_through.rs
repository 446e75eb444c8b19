//! Through which provider a vehicle was last heard from, and so which limits of silence it is judged by.
//! Pure.
//!
//! One rule for all projections, so that they agree on how fresh a vehicle is.

use chrono::{DateTime, Utc};
use shared_model::Provider;
use shared_model::signal::Provenance;

/// The provider of the signal that came last, for a vehicle that was last heard from at
/// `last_received_at`; none if there is no signal. Of two at once either, but always the same.
///
/// What a provider was asked for counts from when it was observed, so its receipt may be later than
/// `last_received_at`; it does not make the vehicle one of that provider's.
pub(crate) fn heard_through<'a>(
    last_received_at: DateTime<Utc>,
    signals: impl Iterator<Item = &'a Provenance>,
) -> Option<&'a Provider> {
    let heard_at = |signal: &Provenance| {
        if signal.received_at <= last_received_at {
            signal.received_at
        } else {
            signal.observed_at.min(last_received_at)
        }
    };
    signals
        .max_by_key(|signal| (heard_at(signal), &signal.provider))
        .map(|signal| &signal.provider)
}

#[cfg(test)]
mod tests {
    use shared_model::time::from_unix_millis;

    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
    }

    fn signal(observed: i64, received: i64, provider: &str) -> Provenance {
        Provenance {
            observed_at: at(observed),
            received_at: at(received),
            provider: Provider::new(provider).unwrap(),
            clock_ahead: false,
        }
    }

    fn through(last: i64, signals: &[Provenance]) -> Option<&str> {
        heard_through(at(last), signals.iter()).map(Provider::as_str)
    }

    #[test]
    fn it_is_the_provider_of_the_signal_that_came_last() {
        let signals = [
            signal(0, 3, "samsara"),
            signal(0, 5, "rfms"),
            signal(4, 4, "geotab"),
        ];
        assert_eq!(through(5, &signals), Some("rfms"));
        assert_eq!(through(5, &[]), None);
        let at_once = [signal(1, 5, "rfms"), signal(0, 5, "samsara")];
        assert_eq!(through(5, &at_once), Some("samsara"));
    }

    #[test]
    fn what_was_asked_for_counts_from_when_it_was_observed() {
        // Asked for at 9, when the vehicle had last been heard from at 5.
        let old = [signal(4, 5, "viriciti"), signal(2, 9, "rfms")];
        assert_eq!(through(5, &old), Some("viriciti"));
        let new = [signal(4, 5, "viriciti"), signal(7, 9, "rfms")];
        assert_eq!(through(7, &new), Some("rfms"));
    }
}
