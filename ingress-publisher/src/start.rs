//! When a stream makes its first connect, so that a deploy is no herd at the provider's door.

use std::time::Duration;

use runtime::backoff::up_to;

/// How many streams that start together use all of the spread.
const MANY: u32 = 100;

/// How long a stream waits that is one of `together` to start.
pub(crate) fn first_wait(spread: Duration, together: usize) -> Duration {
    up_to(longest(spread, together))
}

/// A stream alone starts at once; the more there are, the wider they are spread.
fn longest(spread: Duration, together: usize) -> Duration {
    match u32::try_from(together).unwrap_or(u32::MAX).min(MANY) {
        0 | 1 => Duration::ZERO,
        together => spread * together / MANY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_are_spread_and_one_starts_at_once() {
        let spread = Duration::from_secs(5);
        assert_eq!(first_wait(spread, 1), Duration::ZERO);
        assert_eq!(longest(spread, 20), Duration::from_secs(1));
        assert_eq!(longest(spread, 100), spread);
        assert_eq!(longest(spread, 10_000), spread);
        assert!(first_wait(spread, 10_000) <= spread);
        assert_eq!(first_wait(Duration::ZERO, 10_000), Duration::ZERO);
    }
}
