//! The parts of a configuration that several services have.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Problems, SecretUrl};

/// How to reach RabbitMQ.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AmqpConfig {
    /// `amqp://user:password@host:port/vhost` (or `amqps`); the vhost `/` is written `%2f`.
    pub url: Option<SecretUrl>,
    /// A file that holds the URL.
    pub url_file: Option<PathBuf>,
    /// How many messages a consumer may hold unacknowledged.
    pub prefetch: u16,
    /// How long to wait for a confirm before the connection counts as lost.
    #[serde(with = "humantime_serde")]
    pub confirm_timeout: Duration,
}

impl Default for AmqpConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            prefetch: 256,
            confirm_timeout: Duration::from_secs(30),
        }
    }
}

impl AmqpConfig {
    /// Adds what is wrong.
    pub fn validate(&self, problems: &mut Problems) {
        match &self.url {
            None => problems.add_without_value(
                "amqp.url",
                "is not set; set it to amqp://user:password@host:5672/%2f",
            ),
            Some(url)
                if !["amqp://", "amqps://"]
                    .iter()
                    .any(|s| url.expose().starts_with(s)) =>
            {
                problems.add("amqp.url", url, "write amqp://user:password@host:5672/%2f");
            }
            Some(_) => {}
        }
        if self.prefetch == 0 {
            problems.add(
                "amqp.prefetch",
                &self.prefetch,
                "write a number from 1 to 65535",
            );
        }
        if self.confirm_timeout.is_zero() {
            problems.add(
                "amqp.confirm_timeout",
                &self.confirm_timeout,
                "write a duration such as 30s",
            );
        }
    }
}

/// How to reach PostgreSQL.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database`.
    pub url: Option<SecretUrl>,
    /// A file that holds the URL.
    pub url_file: Option<PathBuf>,
    /// The most connections that this process opens.
    pub max_connections: u32,
    /// How long one statement may run.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self {
            url: None,
            url_file: None,
            max_connections: 10,
            statement_timeout: Duration::from_secs(30),
        }
    }
}

impl DatabaseConfig {
    /// Adds what is wrong.
    pub fn validate(&self, problems: &mut Problems) {
        match &self.url {
            None => problems.add_without_value(
                "database.url",
                "is not set; set it to postgres://user:password@host:5432/database",
            ),
            Some(url)
                if !["postgres://", "postgresql://"]
                    .iter()
                    .any(|s| url.expose().starts_with(s)) =>
            {
                problems.add(
                    "database.url",
                    url,
                    "write postgres://user:password@host:5432/database",
                );
            }
            Some(_) => {}
        }
        if self.max_connections == 0 {
            problems.add(
                "database.max_connections",
                &self.max_connections,
                "write 1 or more",
            );
        }
        if self.statement_timeout < Duration::from_millis(1) {
            problems.add(
                "database.statement_timeout",
                &self.statement_timeout,
                "write a duration such as 30s",
            );
        }
    }
}

/// Where the service's HTTP server listens, and for how many.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
    /// So many connections are open at once; further ones wait until one ends.
    pub max_connections: usize,
}

impl HttpConfig {
    /// Listens on `port` of the loopback interface.
    #[must_use]
    pub fn local(port: u16) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    /// Listens on `listen`.
    #[must_use]
    pub const fn at(listen: SocketAddr) -> Self {
        Self {
            listen,
            max_connections: 8192,
        }
    }

    /// Adds what is wrong.
    pub fn validate(&self, problems: &mut Problems) {
        if !(1..=1_000_000).contains(&self.max_connections) {
            let fix = "write a number from 1 to 1000000";
            problems.add("http.max_connections", &self.max_connections, fix);
        }
    }
}

/// How much a consumer takes and commits at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchLimit {
    /// At most so many messages.
    pub messages: usize,
    /// No further message once so many bytes are taken.
    pub bytes: usize,
}

impl Default for BatchLimit {
    fn default() -> Self {
        Self {
            messages: 200,
            bytes: 4 * 1024 * 1024,
        }
    }
}

impl BatchLimit {
    /// Adds what is wrong.
    pub fn validate(&self, problems: &mut Problems) {
        for (key, value) in [
            ("batch.messages", self.messages),
            ("batch.bytes", self.bytes),
        ] {
            if value == 0 {
                problems.add(key, &value, "write 1 or more");
            }
        }
    }
}
