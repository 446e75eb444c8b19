//! Both servers together.

use tokio_util::sync::CancellationToken;

use crate::binaries::Binaries;
use crate::data_dir::DataDir;
use crate::error::Error;
use crate::postgres::{Durability, Postgres};
use crate::rabbitmq::RabbitMq;
use crate::supervise::{Event, keep_running};

/// A running PostgreSQL and a running RabbitMQ in one data directory.
///
/// Everything takes `&self`, so that one task can keep the servers running while others use them. When it is dropped
/// without [`PrivateServices::stop`], the directory's watchdog stops the servers a moment later.
pub struct PrivateServices {
    postgres: Postgres,
    rabbitmq: RabbitMq,
    data: DataDir,
}

impl PrivateServices {
    /// Starts both servers at the same time; ready when both are.
    ///
    /// If one fails, the other is stopped before the error is returned.
    pub async fn start(
        binaries: &Binaries,
        data: DataDir,
        durability: Durability,
    ) -> Result<Self, Error> {
        let both = tokio::try_join!(
            Postgres::start(binaries, &data, durability),
            RabbitMq::start(binaries, &data),
        );
        match both {
            Ok((postgres, rabbitmq)) => Ok(Self {
                postgres,
                rabbitmq,
                data,
            }),
            Err(error) => {
                if let Err(closing) = data.close().await {
                    tracing::warn!(%closing, "could not clean up after a failed start");
                }
                Err(error)
            }
        }
    }

    /// Starts both in a fresh directory that does not outlive them, for tests.
    pub async fn ephemeral(binaries: &Binaries) -> Result<Self, Error> {
        let data = DataDir::ephemeral().await?;
        Self::start(binaries, data, Durability::Relaxed).await
    }

    /// The database server.
    #[must_use]
    pub fn postgres(&self) -> &Postgres {
        &self.postgres
    }

    /// The broker.
    #[must_use]
    pub fn rabbitmq(&self) -> &RabbitMq {
        &self.rabbitmq
    }

    /// The directory of both.
    #[must_use]
    pub fn data(&self) -> &DataDir {
        &self.data
    }

    /// Brings servers back that end without having been stopped by us, on the same ports, until `cancel` is cancelled.
    ///
    /// `on_event` is called from within, so it should be quick; a new pid comes with [`Event::Restarted`]. A server that is
    /// stopped on purpose stays stopped, until it is restarted on purpose.
    pub async fn keep_running(&self, cancel: CancellationToken, on_event: impl Fn(Event) + Sync) {
        tokio::select! {
            () = cancel.cancelled() => {}
            never = keep_running(&self.postgres, &on_event) => match never {},
            never = self.postgres.hasten_shutdowns() => match never {},
            never = keep_running(&self.rabbitmq, &on_event) => match never {},
        }
    }

    /// Stops both servers, in order or, where the directory is ephemeral, at once; then gives the directory free.
    ///
    /// For good: cancel [`PrivateServices::keep_running`] before, and do not restart a server afterwards.
    pub async fn stop(&self) -> Result<(), Error> {
        let (postgres, rabbitmq) = if self.data.is_ephemeral() {
            // Left to the watchdog, which kills them before it removes the directory.
            self.postgres.expect_exit();
            self.rabbitmq.expect_exit();
            (Ok(()), Ok(()))
        } else {
            tokio::join!(self.postgres.stop(), self.rabbitmq.stop())
        };
        // The directory is given free even if a server caused trouble: its watchdog ends it.
        let closed = self.data.close().await;
        postgres.and(rabbitmq).and(closed)
    }
}
