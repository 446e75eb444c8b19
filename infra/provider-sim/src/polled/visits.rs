//! The requests that customers made, for tests to look at afterwards: when, how many at once, how many in a period.

use crate::hub::held;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

/// How many requests are remembered.
const REMEMBERED: usize = 20_000;

/// A request to a polled provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolledRequest {
    /// When it came, in milliseconds since the Unix epoch, by the provider's clock.
    pub at_ms: i64,
    /// How long the answer took.
    pub took: Duration,
    /// The pool that it was charged to.
    pub pool: &'static str,
    /// Path and query; of JSON-RPC, the method and the type asked for.
    pub target: String,
    /// The customer, by the place of the secret; none if it was not known.
    pub customer: Option<usize>,
    /// The status of the answer.
    pub status: u16,
    /// Whether it was answered with data.
    pub is_served: bool,
}

/// The requests since the start, as far as they are remembered.
#[derive(Debug, Default)]
pub(crate) struct Visits(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    requests: VecDeque<PolledRequest>,
    all: u64,
    at_once: Vec<usize>,
    most_at_once: usize,
}

/// Somebody who waits for an answer.
pub(crate) struct Waiting {
    visits: Arc<Visits>,
    customer: Option<usize>,
}

impl Visits {
    /// Notes that a customer waits from now on.
    pub(crate) fn begin(self: &Arc<Self>, customer: Option<usize>) -> Waiting {
        if let Some(customer) = customer {
            let mut log = held(&self.0);
            let needed = log.at_once.len().max(customer + 1);
            log.at_once.resize(needed, 0);
            log.at_once[customer] += 1;
            log.most_at_once = log.most_at_once.max(log.at_once[customer]);
        }
        Waiting {
            visits: Arc::clone(self),
            customer,
        }
    }

    pub(crate) fn add(&self, request: PolledRequest) {
        let mut log = held(&self.0);
        log.all += 1;
        log.requests.push_back(request);
        if log.requests.len() > REMEMBERED {
            log.requests.pop_front();
        }
    }

    pub(crate) fn requests(&self) -> Vec<PolledRequest> {
        held(&self.0).requests.iter().cloned().collect()
    }

    /// How many there were, those forgotten included.
    pub(crate) fn count(&self) -> u64 {
        held(&self.0).all
    }

    /// The most requests of one customer that were ever being answered at once.
    pub(crate) fn most_at_once(&self) -> usize {
        held(&self.0).most_at_once
    }

    /// The most requests of one customer to `pool` in any stretch of time as long as `period`.
    pub(crate) fn most_within(&self, pool: &str, period: Duration) -> usize {
        let period_ms = i64::try_from(period.as_millis()).unwrap_or(i64::MAX);
        let log = held(&self.0);
        let customers = log.at_once.len();
        let most_of = |customer| {
            let times = log
                .requests
                .iter()
                .filter(|request| request.pool == pool && request.customer == Some(customer));
            let mut times: Vec<_> = times.map(|request| request.at_ms).collect();
            times.sort_unstable();
            let until =
                |from: i64| times.partition_point(|at| *at < from.saturating_add(period_ms));
            let counts = times.iter().enumerate();
            counts.map(|(index, from)| until(*from) - index).max()
        };
        (0..customers).filter_map(most_of).max().unwrap_or(0)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(customer) = self.customer {
            held(&self.visits.0).at_once[customer] -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_at_once_and_in_a_period_are_counted_by_customer() {
        let visits = Arc::new(Visits::default());
        let first = visits.begin(Some(1));
        let second = visits.begin(Some(1));
        drop(first);
        let _third = visits.begin(Some(0));
        let _unknown = visits.begin(None);
        drop(second);
        assert_eq!(visits.most_at_once(), 2);
        for (at_ms, customer) in [(0, 0), (500, 1), (900, 0), (1000, 0), (1899, 0), (5000, 0)] {
            visits.add(PolledRequest {
                at_ms,
                took: Duration::ZERO,
                pool: "feed",
                target: "/".to_owned(),
                customer: Some(customer),
                status: 200,
                is_served: true,
            });
        }
        assert_eq!(visits.most_within("feed", Duration::from_secs(1)), 3);
        assert_eq!(visits.most_within("feed", Duration::from_mins(1)), 5);
        assert_eq!(visits.most_within("other", Duration::from_mins(1)), 0);
        assert_eq!((visits.count(), visits.requests().len()), (6, 6));
    }
}
