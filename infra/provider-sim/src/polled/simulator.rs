//! A polled provider behind a real port.

use crate::{
    geotab,
    hub::held,
    polled::{
        Desk, Fact, Fold, Limit, PolledConfig, PolledFault, PolledProvider, PolledRequest, Record,
        Secret, control,
    },
    rfms, samsara,
    server::{self, StartError},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

/// Counts of a polled provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolledStats {
    /// Requests since the start, refused ones included.
    pub requests: u64,
    /// Records served since the start, repeats included.
    pub records_served: u64,
    /// Reports that reached the provider since the start.
    pub reports: u64,
    /// Size of the fleet.
    pub vehicles: usize,
    /// Whether the vehicles report no more.
    pub is_paused: bool,
}

impl PolledStats {
    pub(crate) fn of(desk: &Desk) -> Self {
        let (reports, vehicles, is_paused) = {
            let history = desk.history();
            (history.last_seq(), history.vehicles(), history.is_paused)
        };
        Self {
            requests: desk.visits.count(),
            records_served: desk.ledger(|ledger| ledger.records),
            reports,
            vehicles,
            is_paused,
        }
    }
}

impl Desk {
    pub(crate) fn pause(&self) {
        self.history().is_paused = true;
    }

    pub(crate) fn resume(&self) {
        self.history().is_paused = false;
    }

    pub(crate) fn kill_sessions(&self) {
        held(&self.sessions).clear();
    }
}

/// A running polled provider. Dropping it stops it without waiting.
#[derive(Debug)]
pub struct PolledSimulator {
    address: SocketAddr,
    desk: Arc<Desk>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    _stop_on_drop: DropGuard,
}

impl PolledSimulator {
    /// Listens and answers. Has to be called within a tokio runtime.
    ///
    /// # Errors
    /// If the address cannot be listened on, or a setting is out of its range.
    pub fn start(config: PolledConfig) -> Result<Self, StartError> {
        config.check()?;
        let (provider, listen) = (config.provider, config.listen);
        let desk = Arc::new(Desk::new(config));
        let routes = match provider {
            PolledProvider::Rfms => rfms::routes(Arc::clone(&desk)),
            PolledProvider::Samsara => samsara::routes(Arc::clone(&desk)),
            PolledProvider::Geotab => geotab::routes(Arc::clone(&desk)),
        };
        let routes = routes.merge(control::routes(Arc::clone(&desk)));
        let (listener, address) = server::listen(listen)?;
        let (shutdown, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ends_all = shutdown.clone().drop_guard();
        let serving = server::serve(listener, routes, shutdown.clone());
        tasks.spawn(async move {
            let _ends_all = ends_all;
            serving.await;
        });
        Ok(Self {
            address,
            desk,
            tasks,
            _stop_on_drop: shutdown.clone().drop_guard(),
            shutdown,
        })
    }

    /// Whose protocol it speaks.
    #[must_use]
    pub fn provider(&self) -> PolledProvider {
        self.desk.config.provider
    }

    /// The address that a connection is given as its endpoint, e.g. `http://127.0.0.1:8091`.
    #[must_use]
    pub fn url(&self) -> String {
        let path = match self.provider() {
            PolledProvider::Rfms => rfms::BASE,
            PolledProvider::Samsara | PolledProvider::Geotab => "",
        };
        format!("{}{path}", self.control_url())
    }

    /// Base address of the control API.
    #[must_use]
    pub fn control_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The credential that a connection is given, in the provider's form, with the first secret.
    #[must_use]
    pub fn credential(&self) -> String {
        let secret = self.desk.config.secrets.first();
        let secret = secret.map(Secret::reveal).unwrap_or_default();
        match self.provider() {
            PolledProvider::Rfms | PolledProvider::Samsara => secret.to_owned(),
            PolledProvider::Geotab => geotab::credential(secret),
        }
    }

    /// The provider's ids of the vehicles, in the order of their drives.
    #[must_use]
    pub fn vehicles(&self) -> Vec<String> {
        let of = |vehicle| self.say(vehicle).0;
        (0..self.desk.config.drives.len()).map(of).collect()
    }

    fn say(&self, vehicle: usize) -> (String, fn(&Record) -> Vec<Fact>) {
        match self.provider() {
            PolledProvider::Rfms => (rfms::vehicle_id(vehicle), rfms::facts),
            PolledProvider::Samsara => (samsara::vehicle_id(vehicle), samsara::facts),
            PolledProvider::Geotab => (geotab::vehicle_id(vehicle), geotab::facts),
        }
    }

    /// The counts as of now.
    #[must_use]
    pub fn stats(&self) -> PolledStats {
        PolledStats::of(&self.desk)
    }

    /// The newest value of each signal of each vehicle that was on a page.
    #[must_use]
    pub fn served(&self) -> Fold {
        self.desk.ledger(|ledger| ledger.fold.clone())
    }

    /// The newest value of each signal of each vehicle that the provider has, whether or not somebody asked.
    #[must_use]
    pub fn known(&self) -> Fold {
        self.desk.known(|record| {
            let (vehicle, facts) = self.say(record.vehicle);
            (vehicle, facts(record))
        })
    }

    /// How many reports have not reached the provider yet. Once a paused fleet has none, nothing more comes.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.desk.history().under_way()
    }

    /// By feed: how many records between the first and the last that were served were on no page, and lost to a customer who
    /// took each page once.
    #[must_use]
    pub fn skipped(&self) -> BTreeMap<String, u64> {
        self.desk.ledger(crate::polled::Ledger::skipped)
    }

    /// The requests since the start, the last 20,000 of them.
    #[must_use]
    pub fn requests(&self) -> Vec<PolledRequest> {
        self.desk.visits.requests()
    }

    /// The most requests of one customer that were ever being answered at once.
    #[must_use]
    pub fn most_at_once(&self) -> usize {
        self.desk.visits.most_at_once()
    }

    /// The most requests of one customer to `pool` in any stretch of time as long as `period`.
    #[must_use]
    pub fn most_within(&self, pool: &str, period: Duration) -> usize {
        self.desk.visits.most_within(pool, period)
    }

    /// From now on the vehicles report nothing; what is under way still arrives.
    pub fn pause(&self) {
        self.desk.pause();
    }

    /// The vehicles report again.
    pub fn resume(&self) {
        self.desk.resume();
    }

    /// From now on this share of the reports comes late, by up to `by`.
    pub fn set_late(&self, share: f64, by: Duration) {
        let mut history = self.desk.history();
        history.late = share.clamp(0.0, 1.0);
        history.late_by_ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
    }

    /// From now on the vehicles' clocks are so far ahead of the provider's; negative: behind.
    pub fn set_clock_skew_ms(&self, skew_ms: i64) {
        self.desk.history().skew_ms = skew_ms;
    }

    /// From now on each pool allows so many requests. None: the provider's own limits.
    pub fn set_limit(&self, limit: Option<Limit>) {
        self.desk.set_limit(limit);
    }

    /// Lets the next `count` requests go wrong, after those that are to go wrong already.
    pub fn fail_next(&self, count: usize, fault: &PolledFault) {
        self.desk.fail_next(count, fault);
    }

    /// How many requests are still to go wrong.
    #[must_use]
    pub fn faults_left(&self) -> usize {
        self.desk.faults_left()
    }

    /// Ends all sessions; only Geotab has them.
    pub fn kill_sessions(&self) {
        self.desk.kill_sessions();
    }

    /// Whether last pages come with an empty cursor; only Samsara's do.
    pub fn set_empty_end_cursor(&self, is_empty: bool) {
        self.desk
            .empty_end_cursor
            .store(is_empty, Ordering::Relaxed);
    }

    /// Completes if the simulator ends by itself, which is always a fault.
    pub async fn ended(&self) {
        self.shutdown.cancelled().await;
    }

    /// Closes the port and waits until all tasks have ended.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
