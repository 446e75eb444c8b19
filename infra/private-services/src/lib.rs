//! Private PostgreSQL and RabbitMQ servers: found or installed, started, watched, restarted and stopped by the program
//! that needs them, in one directory, on loopback ports that nobody else uses.
//!
//! What it guarantees:
//!
//! - Servers of the machine on their standard ports are neither used nor disturbed.
//! - Data, ports and passwords survive from one start to the next on the same [`DataDir`].
//! - One program at a time owns a directory: the second gets [`Error::Locked`] with the pid of the first.
//! - No server outlives its owner. A small watchdog process stops the servers (and removes an ephemeral directory) when the
//!   owner ends in any way, `kill -9` included.
//! - A server that dies comes back on the same ports while [`PrivateServices::keep_running`] is polled.
//!
//! When a server does not come up, the error carries the last lines of its log. Identifying processes relies on Linux
//! `/proc`. As root, PostgreSQL and RabbitMQ run as their own unprivileged users.

mod account;
mod binaries;
mod chromium;
mod data_dir;
mod docker;
mod error;
mod files;
mod install;
mod management;
mod pid_file;
mod ports;
mod postgres;
mod rabbitmq;
mod server_process;
mod services;
mod supervise;
mod watchdog;

pub use binaries::{Binaries, PostgresSource, RabbitMqSource};
pub use chromium::chromium;
pub use data_dir::DataDir;
pub use error::{Error, Service};
pub use ports::free_address;
pub use postgres::{Durability, Postgres};
pub use rabbitmq::RabbitMq;
pub use server_process::Exit;
pub use services::PrivateServices;
pub use supervise::Event;

/// Login, default database, node and default directory of the private servers.
pub const NAME: &str = "headrace";
