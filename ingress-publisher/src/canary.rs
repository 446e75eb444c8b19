//! The canary: some messages are published twice for good, to prove all the time that it changes nothing.

use xxhash_rust::xxh3::xxh3_64;

/// Fractions of a percent that can be told apart.
const STEPS: u64 = 10_000;

/// Chooses messages by their ids, so that every publisher chooses the same ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Canary {
    /// How many of a hundred times [`STEPS`] messages.
    threshold: u64,
}

impl Canary {
    /// Chooses `percent` of all messages, 0 to 100.
    pub(crate) fn new(percent: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a cast of what is out of range ends at the bounds"
        )]
        let threshold = (percent * STEPS as f64).round() as u64;
        Self {
            threshold: threshold.min(100 * STEPS),
        }
    }

    /// Whether the message is published twice.
    pub(crate) fn chooses(self, message_id: &str) -> bool {
        xxh3_64(message_id.as_bytes()) % (100 * STEPS) < self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(percent: f64) -> usize {
        let canary = Canary::new(percent);
        (0..100_000)
            .filter(|number| canary.chooses(&format!("session/{number}")))
            .count()
    }

    #[test]
    fn so_many_are_chosen_and_always_the_same() {
        assert_eq!((chosen(0.0), chosen(-1.0), chosen(f64::NAN)), (0, 0, 0));
        assert_eq!((chosen(100.0), chosen(1000.0)), (100_000, 100_000));
        assert!((900..1100).contains(&chosen(1.0)), "{}", chosen(1.0));
        assert!((20..80).contains(&chosen(0.05)), "{}", chosen(0.05));
        assert_eq!(chosen(12.5), chosen(12.5));
        let (few, many) = (Canary::new(5.0), Canary::new(50.0));
        let ids: Vec<_> = (0..1000).map(|number| format!("m/{number}")).collect();
        assert!(
            ids.iter().all(|id| !few.chooses(id) || many.chooses(id)),
            "who is chosen among few is chosen among many"
        );
    }
}
