//! How many events to read at once. Pure.

/// The size of a first batch, unless the most is less.
const FIRST: u32 = 32;

/// The size of the next batch: small while there is little to do, so that the first event is on its way
/// soon, and doubled for as long as batches come back full, so that a backlog costs few queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    most: u32,
    next: u32,
}

impl Pace {
    /// Batches of up to `most` events, 1 or more.
    #[must_use]
    pub fn up_to(most: u32) -> Self {
        Self {
            most,
            next: FIRST.min(most),
        }
    }

    /// How many events to ask for.
    #[must_use]
    pub fn limit(self) -> u32 {
        self.next
    }

    /// So many were there when asked for [`Self::limit`].
    pub fn found(&mut self, count: usize) {
        let asked = self.next as usize;
        if count >= asked {
            self.next = self.next.saturating_mul(2).min(self.most);
        } else if count < asked / 4 {
            self.next = (self.next / 2).max(FIRST.min(self.most));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batches_double_while_they_are_full_and_shrink_when_there_is_little() {
        let mut pace = Pace::up_to(500);
        let mut limits = Vec::new();
        for count in [32, 64, 128, 256, 500, 200, 0, 0, 0, 0, 0] {
            pace.found(count);
            limits.push(pace.limit());
        }
        assert_eq!(limits, [64, 128, 256, 500, 500, 500, 250, 125, 62, 32, 32]);
    }

    proptest! {
        #[test]
        fn a_batch_is_never_empty_nor_above_its_bound(
            most in 1_u32.., counts in prop::collection::vec(0_usize..1_000_000, 0..100),
        ) {
            let mut pace = Pace::up_to(most);
            for count in counts {
                prop_assert!((1..=most).contains(&pace.limit()));
                pace.found(count.min(pace.limit() as usize));
            }
        }

        #[test]
        fn a_backlog_is_read_in_batches_of_the_bound_after_few(most in 1_u32..) {
            let mut pace = Pace::up_to(most);
            for _ in 0..32 {
                pace.found(pace.limit() as usize);
            }
            prop_assert_eq!(pace.limit(), most);
        }
    }
}
