//! Closing gaps: what a stream missed while it had no socket, asked for where the provider keeps it.
//!
//! After each connect a task beside the socket asks for the latest value of everything that is
//! subscribed. Once the new socket is live it asks for the history of each series since the last
//! sign of life of the old one. What it finds it hands to the session, a datum at a time, through a
//! small channel: there the data are numbered and submitted like live frames, which come first. So a
//! full window holds the task back as it does the socket. What was not taken when the socket breaks
//! is asked for again after the next connect.

mod ask;
mod gaps;
mod task;

use std::sync::Arc;

use bytes::Bytes;
use shared_model::FrameOrigin;
use tokio::sync::{Notify, mpsc};
use tokio_util::task::AbortOnDropHandle;

pub(crate) use gaps::{Gaps, Missing};
pub(crate) use task::Job;

/// How many data wait for the session.
const QUEUE: usize = 64;

/// What the task hands to the session. Whatever is told of a series comes behind its data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Handed {
    /// A datum, in the form that the socket has.
    Datum {
        /// How it was found.
        origin: FrameOrigin,
        /// The frame's body.
        body: Bytes,
    },
    /// This is what will be asked for.
    Planned(Missing),
    /// All of a series before a time has been handed over.
    Closed {
        /// Its place in the subscription.
        series: usize,
        /// The time.
        until: i64,
    },
    /// What is missing of a series cannot be had.
    GivenUp {
        /// Its place in the subscription.
        series: usize,
    },
}

/// The task of one session. It ends with this handle.
#[derive(Debug)]
pub(crate) struct Backfill {
    handed: mpsc::Receiver<Handed>,
    live: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Backfill {
    /// Starts `job`.
    pub(crate) fn start(job: Job) -> Self {
        let (hand, handed) = mpsc::channel(QUEUE);
        let live = Arc::new(Notify::new());
        let task = tokio::spawn(job.run(hand, Arc::clone(&live)));
        Self {
            handed,
            live,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// The socket has brought a datum: what comes from now on comes by itself.
    pub(crate) fn is_live(&self) {
        self.live.notify_one();
    }

    /// What is handed over next, or nothing ever where there is nothing more; `running` is let go
    /// then. Nothing is lost if this is dropped before it has finished.
    pub(crate) async fn next(running: &mut Option<Self>) -> Handed {
        if let Some(backfill) = running
            && let Some(handed) = backfill.handed.recv().await
        {
            return handed;
        }
        *running = None;
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests;
