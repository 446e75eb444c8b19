//! A service's life: its tasks, how they stop, and what it means when one stops by itself.
//!
//! Stopping goes in steps. The *soft* token asks workers to take in nothing new and finish what
//! they hold; once they are done, or 25 s have passed and the *hard* token has told them to let go,
//! the infrastructure under them (connections, pools, the HTTP server) closes. What was in hand at a
//! hard stop stays unacknowledged and comes back after the restart.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backoff::Stopped;
use crate::http::Readiness;

/// How long workers may take to finish what they hold.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(25);
/// With the drain, this stays below the 30 s that orchestrators usually give.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// One running service: shared by all of its tasks.
#[derive(Debug, Clone)]
pub struct Context(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    service: &'static str,
    instance: String,
    readiness: Readiness,
    soft: CancellationToken,
    hard: CancellationToken,
    closing: CancellationToken,
    workers: TaskTracker,
    infrastructure: TaskTracker,
    busy: Mutex<BTreeMap<&'static str, usize>>,
    failure: OnceLock<String>,
}

/// How a service ended, when it did not end well.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// A task ended although nobody had asked it to.
    #[error("{0}")]
    Task(String),
    /// Tasks were still busy after [`DRAIN_LIMIT`], or after a second signal.
    #[error("not everything in hand could be finished; the rest will be delivered again")]
    Drain,
}

impl Context {
    /// A service called `service`, one of possibly many instances.
    #[must_use]
    pub fn new(service: &'static str, instance: impl Into<String>) -> Self {
        let hard = CancellationToken::new();
        Self(Arc::new(Inner {
            service,
            instance: instance.into(),
            readiness: Readiness::default(),
            soft: hard.child_token(),
            hard,
            closing: CancellationToken::new(),
            workers: TaskTracker::new(),
            infrastructure: TaskTracker::new(),
            busy: Mutex::default(),
            failure: OnceLock::new(),
        }))
    }

    /// The service's name, such as `ingress-consumer`.
    #[must_use]
    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// The instance's name, unique among the service's instances.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.0.instance
    }

    /// `service/instance`: how the service calls itself at the broker and the database.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.0.service, self.0.instance)
    }

    /// The checks behind `/readyz`.
    #[must_use]
    pub fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    /// Asks workers to take in nothing new and finish what they hold.
    #[must_use]
    pub fn stopping(&self) -> &CancellationToken {
        &self.0.soft
    }

    /// Tells workers to let go of what they hold.
    #[must_use]
    pub fn letting_go(&self) -> &CancellationToken {
        &self.0.hard
    }

    /// Tells infrastructure to close: no worker needs it any more.
    #[must_use]
    pub fn closing(&self) -> &CancellationToken {
        &self.0.closing
    }

    /// Runs a worker. A worker that ends before it was asked to, well or not, ends the service.
    pub fn spawn<F>(&self, name: &'static str, worker: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let context = self.clone();
        *self.busy().entry(name).or_default() += 1;
        self.0.workers.spawn(async move {
            let ended = tokio::spawn(worker).await;
            if let Some(count) = context.busy().get_mut(name) {
                *count -= 1;
            }
            context.judge(name, ended);
        });
    }

    /// Runs a task that others need until they are done: it ends on [`Context::closing`].
    pub fn spawn_infrastructure<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = anyhow::Result<()>> + Send + 'static,
    {
        let context = self.clone();
        self.0.infrastructure.spawn(async move {
            let ended = tokio::spawn(task).await;
            context.judge(name, ended);
        });
    }

    /// How many workers of each name have not ended.
    fn busy(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn judge(&self, name: &str, ended: Result<anyhow::Result<()>, tokio::task::JoinError>) {
        let failure = match ended {
            Ok(Ok(())) if self.0.soft.is_cancelled() => return,
            Ok(Err(error)) if error.is::<Stopped>() && self.0.soft.is_cancelled() => return,
            Ok(Ok(())) => format!("task {name} ended although nobody asked it to"),
            Ok(Err(error)) => format!("task {name} gave up: {error:#}"),
            Err(error) => format!("task {name} panicked: {error}"),
        };
        tracing::error!(service = self.0.service, task = name, "{failure}");
        // Only the first failure is the cause; the others follow from the stop that it begins.
        self.0.failure.get_or_init(|| failure);
        self.0.soft.cancel();
    }

    /// Returns once the service was asked to stop or one of its tasks failed.
    pub async fn stop_requested(&self) {
        self.0.soft.cancelled().await;
    }

    /// Stops everything, in order, and says whether all went well.
    pub async fn stop(&self) -> Result<(), Failure> {
        self.0.soft.cancel();
        self.0.workers.close();
        let drained = tokio::select! {
            () = self.0.workers.wait() => true,
            () = self.0.hard.cancelled() => false,
            () = tokio::time::sleep(DRAIN_LIMIT) => false,
        };
        self.0.hard.cancel();
        if !drained {
            let mut busy = self.busy().clone();
            busy.retain(|_, count| *count > 0);
            tracing::warn!(
                service = self.0.service,
                ?busy,
                "workers did not finish in time"
            );
            within(CLOSE_LIMIT, self.0.workers.wait()).await;
        }
        self.0.closing.cancel();
        self.0.infrastructure.close();
        within(CLOSE_LIMIT, self.0.infrastructure.wait()).await;
        match self.0.failure.get() {
            Some(failure) => Err(Failure::Task(failure.clone())),
            None if drained => Ok(()),
            None => Err(Failure::Drain),
        }
    }
}

async fn within(limit: Duration, task: impl Future<Output = ()>) {
    if tokio::time::timeout(limit, task).await.is_err() {
        tracing::warn!(limit = ?limit, "tasks did not end in time and are left behind");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stop_waits_for_workers_before_it_closes_what_they_need() {
        let context = Context::new("test", "0");
        let (soft, closing) = (context.stopping().clone(), context.closing().clone());
        let needed = closing.clone();
        context.spawn("worker", async move {
            soft.cancelled().await;
            tokio::task::yield_now().await;
            assert!(!needed.is_cancelled());
            Ok(())
        });
        context.spawn_infrastructure("pool", async move {
            closing.cancelled().await;
            Ok(())
        });
        assert_eq!(context.stop().await, Ok(()));
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_ends_the_service_as_a_failure() {
        let context = Context::new("test", "0");
        context.spawn("quitter", async { Ok(()) });
        context.stop_requested().await;
        let failure = context.stop().await.unwrap_err().to_string();
        assert!(failure.contains("quitter"), "{failure}");
    }

    #[tokio::test]
    async fn a_panic_is_a_failure_that_names_the_task() {
        let context = Context::new("test", "0");
        context.spawn("thrower", async { panic!("ouch") });
        context.stop_requested().await;
        let failure = context.stop().await.unwrap_err().to_string();
        assert!(
            failure.contains("thrower") && failure.contains("ouch"),
            "{failure}"
        );
    }
}
