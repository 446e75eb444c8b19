//! Configuration of the reactions.

use std::path::PathBuf;
use std::time::Duration;

use humantime::Duration as Written;
use ipnet::IpNet;
use runtime::access::AccessConfig;
use runtime::config::{AmqpConfig, BatchLimit, Config, DatabaseConfig, HttpConfig, Problems};
use runtime::outbound::{self, AddressRules};
use serde::{Deserialize, Serialize};

use super::list;
use crate::CoreConfig;

/// What a stop leaves for calls that are under way, with some to spare.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(20);
const YEAR: Duration = Duration::from_hours(24 * 365);
const LEAST: Duration = Duration::from_millis(1);

/// Configuration of the reactions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReactionsConfig {
    /// The broker.
    pub amqp: AmqpConfig,
    /// The database that holds the schema `reactions`.
    pub database: DatabaseConfig,
    /// The webhooks' API.
    pub http: HttpConfig,
    /// Who may use the APIs.
    pub access: AccessConfig,
    /// The core, which knows the API keys.
    pub core: CoreConfig,
    /// How much to commit at once.
    pub batch: BatchLimit,
    /// How webhooks are called.
    pub webhooks: WebhooksConfig,
    /// How long it is known what became of calls.
    pub deliveries: DeliveriesConfig,
}

/// How webhooks are called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksConfig {
    /// Whether `http://` URLs are taken beside `https://`.
    pub allow_http: bool,
    /// Whether every address may be called, private ones too.
    pub allow_private: bool,
    /// Networks that may be called beside the public internet.
    #[serde(with = "list")]
    pub allowed_networks: Vec<IpNet>,
    /// Authorities that are trusted beside the system's.
    pub extra_ca_file: Option<PathBuf>,
    /// The most endpoints of a workspace.
    pub max_endpoints: u32,
    /// The most deliveries that wait for one endpoint; further events are skipped.
    pub max_pending: u32,
    /// How long a call may take, to the answer's head.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// For how long a delivery is the sender's that took it.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// The most calls at the same time.
    pub concurrency: usize,
    /// The most of them to one endpoint.
    pub endpoint_concurrency: usize,
    /// How many bytes of an answer are kept.
    pub answer_bytes: usize,
    /// The waits between attempts.
    #[serde(with = "list")]
    pub retry_schedule: Vec<Written>,
    /// An endpoint to which every call has failed for so long is disabled.
    #[serde(with = "humantime_serde")]
    pub disable_after: Duration,
    /// For how long the old secret signs along after a rotation.
    #[serde(with = "humantime_serde")]
    pub secret_overlap: Duration,
    /// How often to look for what is due, at the least.
    #[serde(with = "humantime_serde")]
    pub look_every: Duration,
}

/// How long it is known what became of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeliveriesConfig {
    /// How long a delivery is kept once it is done.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
    /// How often to look for what is kept no longer.
    #[serde(with = "humantime_serde")]
    pub sweep_every: Duration,
}

impl Default for WebhooksConfig {
    fn default() -> Self {
        let (minutes, hours) = (Duration::from_mins, Duration::from_hours);
        let schedule = [
            Duration::from_secs(5),
            minutes(5),
            minutes(30),
            hours(2),
            hours(5),
            hours(10),
            hours(14),
            hours(20),
            hours(24),
        ];
        Self {
            allow_http: false,
            allow_private: false,
            allowed_networks: Vec::new(),
            extra_ca_file: None,
            max_endpoints: 20,
            max_pending: 100_000,
            timeout: Duration::from_secs(15),
            lease: minutes(1),
            concurrency: 256,
            endpoint_concurrency: 8,
            answer_bytes: 4096,
            retry_schedule: schedule.map(Written::from).to_vec(),
            disable_after: hours(5 * 24),
            secret_overlap: hours(24),
            look_every: Duration::from_secs(1),
        }
    }
}

impl WebhooksConfig {
    /// Which addresses may be called.
    #[must_use]
    pub fn address_rules(&self) -> AddressRules {
        AddressRules {
            allow_private: self.allow_private,
            allowed_networks: self.allowed_networks.clone(),
        }
    }

    /// The waits between attempts.
    #[must_use]
    pub fn schedule(&self) -> Vec<Duration> {
        self.retry_schedule
            .iter()
            .map(|&wait| wait.into())
            .collect()
    }

    fn validate(&self, problems: &mut Problems) {
        for (key, value, most) in [
            ("webhooks.concurrency", self.concurrency, 10_000),
            (
                "webhooks.endpoint_concurrency",
                self.endpoint_concurrency,
                1000,
            ),
            (
                "webhooks.max_endpoints",
                self.max_endpoints as usize,
                10_000,
            ),
            (
                "webhooks.max_pending",
                self.max_pending as usize,
                10_000_000,
            ),
        ] {
            if !(1..=most).contains(&value) {
                problems.add(key, &value, &format!("write a number from 1 to {most}"));
            }
        }
        if self.answer_bytes > 1024 * 1024 {
            let fix = "write a number up to 1048576 (1 MiB)";
            problems.add("webhooks.answer_bytes", &self.answer_bytes, fix);
        }
        if !(LEAST..=LONGEST_TIMEOUT).contains(&self.timeout) {
            let fix = "write a duration from 1ms to 20s";
            problems.add("webhooks.timeout", &self.timeout, fix);
        }
        if self.lease < self.timeout * 2 || self.lease > YEAR {
            let fix = "write a duration of twice webhooks.timeout or more, so that no call outlives its lease";
            problems.add("webhooks.lease", &self.lease, fix);
        }
        if self.retry_schedule.len() > 100 || self.schedule().iter().any(|wait| *wait > YEAR) {
            let fix = "write up to 100 waits of up to 365days each, such as 5s, 5m, 1h";
            problems.add("webhooks.retry_schedule", &self.retry_schedule, fix);
        }
        for (key, value) in [
            ("webhooks.disable_after", self.disable_after),
            ("webhooks.secret_overlap", self.secret_overlap),
        ] {
            if value > YEAR {
                problems.add(key, &value, "write a duration of up to 365days");
            }
        }
        if !(LEAST..=Duration::from_mins(10)).contains(&self.look_every) {
            let fix = "write a duration from 1ms to 10m";
            problems.add("webhooks.look_every", &self.look_every, fix);
        }
        if let Some(path) = &self.extra_ca_file
            && let Err(error) = outbound::certificates(path)
        {
            problems.add("webhooks.extra_ca_file", path, &error.to_string());
        }
    }
}

impl Default for DeliveriesConfig {
    fn default() -> Self {
        Self {
            retention: Duration::from_hours(7 * 24),
            sweep_every: Duration::from_secs(10),
        }
    }
}

impl DeliveriesConfig {
    fn validate(self, problems: &mut Problems) {
        if !(Duration::from_secs(1)..=YEAR * 10).contains(&self.retention) {
            let fix = "write a duration from 1s to 3650days";
            problems.add("deliveries.retention", &self.retention, fix);
        }
        if !(Duration::from_millis(10)..=Duration::from_hours(24)).contains(&self.sweep_every) {
            let fix = "write a duration from 10ms to 1day";
            problems.add("deliveries.sweep_every", &self.sweep_every, fix);
        }
    }
}

impl Default for ReactionsConfig {
    fn default() -> Self {
        Self {
            amqp: AmqpConfig::default(),
            database: DatabaseConfig::default(),
            http: HttpConfig::local(8085),
            access: AccessConfig::default(),
            core: CoreConfig::default(),
            batch: BatchLimit::default(),
            webhooks: WebhooksConfig::default(),
            deliveries: DeliveriesConfig::default(),
        }
    }
}

impl Config for ReactionsConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.access.validate(problems);
        self.http.validate(problems);
        self.core.validate(problems);
        self.database.validate(problems);
        self.batch.validate(problems);
        self.webhooks.validate(problems);
        self.deliveries.validate(problems);
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}

#[cfg(test)]
mod tests {
    use runtime::config;

    use super::*;

    fn load(settings: &[(&str, &str)]) -> Result<ReactionsConfig, Problems> {
        let needed = [
            ("access.internal_token", "sixteen-characters"),
            ("amqp.url", "amqp://host"),
            ("database.url", "postgres://host"),
        ];
        let all = needed.iter().chain(settings);
        config::load_from(all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn lists_are_read_from_a_text() {
        let config = load(&[
            ("webhooks.retry_schedule", "1s, 5m"),
            ("webhooks.allowed_networks", "10.0.0.0/8,fd00::/8"),
        ])
        .unwrap();
        let waits = [Duration::from_secs(1), Duration::from_mins(5)];
        assert_eq!(config.webhooks.schedule(), waits);
        assert_eq!(config.webhooks.allowed_networks.len(), 2);
        let config = load(&[("webhooks.retry_schedule", "")]).unwrap();
        assert!(config.webhooks.schedule().is_empty());
        assert_eq!(load(&[]).unwrap().webhooks, WebhooksConfig::default());
    }

    #[test]
    fn what_is_wrong_is_named_with_key_and_fix() {
        for (key, value) in [
            ("webhooks.concurrency", "0"),
            ("webhooks.endpoint_concurrency", "1001"),
            ("webhooks.max_endpoints", "0"),
            ("webhooks.max_pending", "0"),
            ("webhooks.answer_bytes", "1048577"),
            ("webhooks.timeout", "21s"),
            ("webhooks.lease", "29s"),
            ("webhooks.retry_schedule", "5s, soon"),
            ("webhooks.retry_schedule", "366days"),
            ("webhooks.allowed_networks", "10.0.0.0/33"),
            ("webhooks.disable_after", "366days"),
            ("webhooks.secret_overlap", "366days"),
            ("webhooks.look_every", "0s"),
            ("webhooks.extra_ca_file", "/no/such/file"),
            ("deliveries.retention", "0s"),
            ("deliveries.sweep_every", "1ms"),
        ] {
            let problems = load(&[(key, value)]).unwrap_err();
            let keys: Vec<_> = problems
                .as_slice()
                .iter()
                .map(|of| of.key.as_str())
                .collect();
            assert_eq!(keys, [key], "{value}: {problems}");
        }
    }
}
