//! How much of something scarce each principal may have at once, so that none has all of it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

/// A share for each principal, all of one size; clones share them.
#[derive(Debug, Clone)]
pub struct Shares {
    size: usize,
    by_principal: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
}

impl Shares {
    /// Shares of `size` permits each.
    #[must_use]
    pub fn of_size(size: usize) -> Self {
        Self {
            size: size.min(Semaphore::MAX_PERMITS),
            by_principal: Arc::default(),
        }
    }

    /// The share of `principal`. It is remembered for as long as somebody has it, or a permit of it.
    #[must_use]
    pub fn of(&self, principal: &str) -> Arc<Semaphore> {
        let mut shares = self
            .by_principal
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(principal).and_then(Weak::upgrade) {
            return share;
        }
        shares.retain(|_, share| share.strong_count() > 0);
        let share = Arc::new(Semaphore::new(self.size));
        shares.insert(principal.to_owned(), Arc::downgrade(&share));
        share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_principal_has_a_share_of_its_own_for_as_long_as_it_is_used() {
        let shares = Shares::of_size(2);
        let [one, two] = [(); 2].map(|()| shares.of("a").try_acquire_owned());
        assert!(one.is_ok() && two.is_ok());
        assert!(shares.of("a").try_acquire_owned().is_err());
        assert!(shares.of("b").try_acquire_owned().is_ok());
        drop(one);
        assert!(shares.of("a").try_acquire_owned().is_ok());
        drop(two);
        drop(shares.of("c"));
        assert_eq!(shares.by_principal.lock().unwrap().len(), 1);
    }
}
