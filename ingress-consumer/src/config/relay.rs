//! Configuration of the service `outbox-relay`.

use std::time::Duration;

use runtime::access::AccessConfig;
use runtime::config::{AmqpConfig, Config, DatabaseConfig, HttpConfig, Problems};
use serde::{Deserialize, Serialize};

use super::DAY;

/// Configuration of the service `outbox-relay`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// The broker.
    pub amqp: AmqpConfig,
    /// The database.
    pub database: DatabaseConfig,
    /// Probes and metrics.
    pub http: RelayHttp,
    /// Who may use the APIs.
    pub access: AccessConfig,
    /// How the log is relayed.
    pub relay: RelaySettings,
}

/// Where the relay listens.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RelayHttp(pub HttpConfig);

impl Default for RelayHttp {
    fn default() -> Self {
        Self(HttpConfig::local(8082))
    }
}

/// How the log is relayed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelaySettings {
    /// For how long a shard is a relay's after it last said that it runs.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How many events to read at once under load.
    pub batch_events: u32,
    /// How many of them may share a message.
    pub message_events: usize,
    /// How many messages of a shard may be under way to the broker.
    pub window_messages: usize,
    /// How many bytes they may have together.
    pub window_bytes: usize,
    /// How often to look without having been told of new events.
    #[serde(with = "humantime_serde")]
    pub poll_every: Duration,
    /// How often the broker may refuse an event before it is given up on.
    pub attempts: u32,
    /// How long to wait before the second attempt; the wait doubles with each one.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// The longest wait between two attempts.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
}

impl Default for RelaySettings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            batch_events: 2000,
            message_events: 100,
            window_messages: 64,
            window_bytes: 8 * 1024 * 1024,
            poll_every: Duration::from_secs(1),
            attempts: 8,
            backoff_min: Duration::from_secs(5),
            backoff_max: Duration::from_mins(5),
        }
    }
}

impl RelaySettings {
    /// How long to wait after the broker has refused an event `attempts` times.
    #[must_use]
    pub fn pause(&self, attempts: u32) -> Duration {
        let doubled = 1_u32
            .checked_shl(attempts.saturating_sub(1))
            .unwrap_or(u32::MAX);
        self.backoff_min
            .saturating_mul(doubled)
            .min(self.backoff_max)
    }

    fn validate(&self, problems: &mut Problems) {
        for (key, is_none) in [
            ("relay.batch_events", self.batch_events == 0),
            ("relay.message_events", self.message_events == 0),
            ("relay.window_messages", self.window_messages == 0),
            ("relay.window_bytes", self.window_bytes == 0),
            ("relay.attempts", self.attempts == 0),
        ] {
            if is_none {
                problems.add(key, &0, "write 1 or more");
            }
        }
        // The database counts attempts in `integer`.
        if i32::try_from(self.attempts).is_err() {
            problems.add("relay.attempts", &self.attempts, "write 2147483647 or less");
        }
        if !(Duration::from_secs(1)..=Duration::from_mins(10)).contains(&self.lease) {
            problems.add(
                "relay.lease",
                &self.lease,
                "write a duration from 1s to 10m",
            );
        }
        for (key, value) in [
            ("relay.poll_every", &self.poll_every),
            ("relay.backoff_min", &self.backoff_min),
            ("relay.backoff_max", &self.backoff_max),
        ] {
            if !(Duration::from_millis(10)..=DAY).contains(value) {
                problems.add(key, value, "write a duration from 10ms to 1day");
            }
        }
        if self.backoff_min > self.backoff_max {
            problems.add(
                "relay.backoff_min",
                &self.backoff_min,
                "write a duration up to relay.backoff_max",
            );
        }
    }
}

impl Config for RelayConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.access.validate(problems);
        self.http.0.validate(problems);
        self.database.validate(problems);
        if self.database.max_connections < 2 {
            problems.add(
                "database.max_connections",
                &self.database.max_connections,
                "write 2 or more: one connection waits for notifications",
            );
        }
        self.relay.validate(problems);
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_named_with_what_to_write() {
        let mut problems = Problems::default();
        RelaySettings::default().validate(&mut problems);
        assert!(problems.as_slice().is_empty(), "{problems:?}");
        let wrong = RelaySettings {
            lease: Duration::ZERO,
            batch_events: 0,
            message_events: 0,
            window_messages: 0,
            window_bytes: 0,
            poll_every: Duration::ZERO,
            attempts: 0,
            backoff_min: Duration::ZERO,
            backoff_max: 2 * DAY,
        };
        wrong.validate(&mut problems);
        let text = format!("{problems:?}");
        for key in [
            "lease",
            "batch_events",
            "message_events",
            "window_messages",
            "window_bytes",
            "poll_every",
            "attempts",
            "backoff_min",
            "backoff_max",
        ] {
            assert!(text.contains(&format!("relay.{key}")), "{key}: {text}");
        }
        let mut problems = Problems::default();
        let wrong = RelaySettings {
            backoff_min: DAY,
            attempts: u32::MAX,
            ..RelaySettings::default()
        };
        wrong.validate(&mut problems);
        assert_eq!(problems.as_slice().len(), 2, "{problems:?}");
    }

    #[test]
    fn waits_double_up_to_their_bound() {
        let settings = RelaySettings::default();
        let waits: Vec<_> = (1..=8).map(|n| settings.pause(n).as_secs()).collect();
        assert_eq!(waits, [5, 10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(settings.pause(u32::MAX).as_secs(), 300);
    }
}
