//! The publisher's configuration.

mod backfill;
mod canary;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use runtime::access::AccessConfig;
use runtime::config::{AmqpConfig, Config, HttpConfig, Problems};
use runtime::outbound;
use serde::{Deserialize, Serialize};

pub use backfill::BackfillConfig;
pub use canary::CanaryConfig;

/// A stop may take 25 s in all.
const LONGEST_DRAIN: Duration = Duration::from_secs(22);
/// An envelope reports that many ranges of replaced numbers (`MOST_CONFLATED`). Each ends at a frame that
/// is sent; with more frames than that in an envelope, ranges could pile up.
const MOST_ENVELOPE_FRAMES: u32 = 1000;
const SMALLEST_SPOOL: u64 = 1024 * 1024;
const LARGEST_SPOOL: u64 = 1 << 50;

/// Everything that can be set.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublisherConfig {
    /// The broker.
    pub amqp: AmqpConfig,
    /// The publisher's own HTTP server.
    pub http: HttpConfig,
    /// Who may use the APIs.
    pub access: AccessConfig,
    /// The core, which says what to read.
    pub core: CoreConfig,
    /// The providers' websockets.
    pub stream: StreamConfig,
    /// How gaps are closed from the providers' histories.
    pub backfill: BackfillConfig,
    /// What lies between the sockets and the broker.
    pub window: WindowConfig,
    /// What is kept on disk while the broker takes nothing.
    pub spool: SpoolConfig,
    /// How many messages are published twice, to prove that it changes nothing.
    pub canary: CanaryConfig,
}

/// How to reach the core.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoreConfig {
    /// Base URL of the core's control API.
    pub url: String,
    /// How often to say "I am here" and ask what to read, at the least.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// The most streams that this publisher takes.
    pub max_streams: u32,
    /// How long to read on after being asked to stop, until other publishers have taken over.
    #[serde(with = "humantime_serde")]
    pub drain_limit: Duration,
}

/// How to deal with a provider's websocket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// The largest message, and part of a message, that is taken, in bytes.
    pub max_frame_bytes: u32,
    /// How long a connect may take, from the name's look-up to the upgrade's answer.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// The bound of the first wait before connecting again. Each wait is drawn from zero to its
    /// bound, and the bound doubles.
    #[serde(with = "humantime_serde")]
    pub backoff_min: Duration,
    /// What the bound doubles up to. A provider may ask for more.
    #[serde(with = "humantime_serde")]
    pub backoff_max: Duration,
    /// The bound starts over after a socket that brought frames and lived on for so long.
    #[serde(with = "humantime_serde")]
    pub healthy_after: Duration,
    /// The least wait after credentials that were refused, or settings that are not usable. Ends
    /// early when the credential changes.
    #[serde(with = "humantime_serde")]
    pub refused_wait: Duration,
    /// Over how long the first connects of a hundred streams or more are spread.
    #[serde(with = "humantime_serde")]
    pub start_spread: Duration,
    /// A file with certificates of further authorities to trust, in PEM.
    pub extra_ca_file: Option<PathBuf>,
    /// How long an open socket may bring no frame before the connection counts as silent.
    #[serde(with = "humantime_serde")]
    pub silent_after: Duration,
    /// How often to ping. A socket on which nothing came since the last ping is given up.
    #[serde(with = "humantime_serde")]
    pub ping_interval: Duration,
}

/// How much may wait for the broker, and how it leaves.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowConfig {
    /// Bytes of frames, from the socket to the confirm, over all partitions. Beyond, sockets are
    /// not read.
    pub max_bytes: u32,
    /// Unconfirmed envelopes per partition.
    pub in_flight: u32,
    /// The most frames in one envelope.
    pub max_envelope_frames: u32,
    /// The most bytes of frames in one envelope; a single larger frame goes alone.
    pub max_envelope_bytes: u32,
}

/// What is kept on disk while the broker takes nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpoolConfig {
    /// Where. Several publishers of one machine may share it.
    pub directory: String,
    /// Bytes of messages, over all partitions. Beyond, the window fills.
    pub max_bytes: u64,
}

impl Default for PublisherConfig {
    fn default() -> Self {
        Self {
            amqp: AmqpConfig::default(),
            http: HttpConfig::local(8080),
            access: AccessConfig::default(),
            core: CoreConfig {
                url: "http://127.0.0.1:8081".to_owned(),
                heartbeat: Duration::from_secs(5),
                max_streams: 10_000,
                drain_limit: Duration::from_secs(20),
            },
            stream: StreamConfig {
                max_frame_bytes: 1024 * 1024,
                connect_timeout: Duration::from_secs(10),
                backoff_min: Duration::from_millis(500),
                backoff_max: Duration::from_secs(30),
                healthy_after: Duration::from_mins(1),
                refused_wait: Duration::from_mins(1),
                start_spread: Duration::from_secs(5),
                extra_ca_file: None,
                silent_after: Duration::from_mins(5),
                ping_interval: Duration::from_secs(20),
            },
            backfill: BackfillConfig::default(),
            window: WindowConfig {
                max_bytes: 32 * 1024 * 1024,
                in_flight: 4,
                max_envelope_frames: 256,
                max_envelope_bytes: 128 * 1024,
            },
            spool: SpoolConfig {
                directory: "/var/lib/headrace/spool".to_owned(),
                max_bytes: 1024 * 1024 * 1024,
            },
            canary: CanaryConfig::default(),
        }
    }
}

impl Config for PublisherConfig {
    fn validate(&self, problems: &mut Problems) {
        self.access.validate(problems);
        self.http.validate(problems);
        self.amqp.validate(problems);
        self.core.validate(problems);
        self.stream.validate(problems);
        self.backfill.validate(problems);
        self.spool.validate(problems);
        self.window.validate(problems);
        self.canary.validate(problems);
        if self.window.max_bytes < self.stream.max_frame_bytes {
            problems.add(
                "window.max_bytes",
                &self.window.max_bytes,
                "write at least stream.max_frame_bytes, so that the largest frame fits",
            );
        }
    }
}

impl CoreConfig {
    fn validate(&self, problems: &mut Problems) {
        let usable = Url::parse(&self.url)
            .is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host());
        if !usable {
            problems.add(
                "core.url",
                &self.url,
                "write a URL such as http://127.0.0.1:8081",
            );
        }
        at_least_a_milli("core.heartbeat", self.heartbeat, "5s", problems);
        if self.drain_limit > LONGEST_DRAIN {
            problems.add(
                "core.drain_limit",
                &self.drain_limit,
                "write a duration up to 22s: what is in hand then has to be confirmed, within 25s of a stop",
            );
        }
    }
}

impl StreamConfig {
    fn validate(&self, problems: &mut Problems) {
        let limit = self.connect_timeout;
        at_least_a_milli("stream.connect_timeout", limit, "10s", problems);
        at_least_a_milli("stream.backoff_min", self.backoff_min, "500ms", problems);
        let interval = self.ping_interval;
        at_least_a_milli("stream.ping_interval", interval, "20s", problems);
        let limit = self.silent_after;
        at_least_a_milli("stream.silent_after", limit, "5m", problems);
        if self.backoff_max < self.backoff_min {
            problems.add(
                "stream.backoff_max",
                &self.backoff_max,
                "write at least stream.backoff_min",
            );
        }
        at_least_a_milli("stream.refused_wait", self.refused_wait, "1m", problems);
        if let Some(path) = &self.extra_ca_file
            && let Err(error) = outbound::certificates(path)
        {
            problems.add("stream.extra_ca_file", &path.display(), &error.to_string());
        }
        // A broker closes the channel of a message above its own limit, 16 MiB on RabbitMQ 4.
        if !(1..=8 * 1024 * 1024).contains(&self.max_frame_bytes) {
            let fix = "write a number from 1 to 8388608 (8 MiB)";
            problems.add("stream.max_frame_bytes", &self.max_frame_bytes, fix);
        }
    }
}

impl SpoolConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.directory.is_empty() {
            let fix = "write a directory that outlives restarts";
            problems.add("spool.directory", &self.directory, fix);
        }
        if !(SMALLEST_SPOOL..=LARGEST_SPOOL).contains(&self.max_bytes) {
            let fix = "write a number of bytes from 1048576 (1 MiB) to 1125899906842624 (1 PiB)";
            problems.add("spool.max_bytes", &self.max_bytes, fix);
        }
    }

    /// What is wrong if the directory cannot be used: something that only trying tells.
    pub(crate) fn unusable(&self, error: &std::io::Error) -> Problems {
        let mut problems = Problems::default();
        let fix = format!(
            "it cannot be made or written ({error}); name a directory in which the service may make files"
        );
        problems.add("spool.directory", &self.directory, &fix);
        problems
    }
}

impl WindowConfig {
    fn validate(&self, problems: &mut Problems) {
        at_least_one("window.max_bytes", self.max_bytes, problems);
        at_least_one("window.in_flight", self.in_flight, problems);
        if !(1..=MOST_ENVELOPE_FRAMES).contains(&self.max_envelope_frames) {
            let fix = "write a number from 1 to 1000";
            let frames = &self.max_envelope_frames;
            problems.add("window.max_envelope_frames", frames, fix);
        }
        let bytes = self.max_envelope_bytes;
        at_least_one("window.max_envelope_bytes", bytes, problems);
    }
}

fn at_least_one(key: &str, value: u32, problems: &mut Problems) {
    if value == 0 {
        problems.add(key, &value, "write 1 or more");
    }
}

fn at_least_a_milli(key: &str, value: Duration, example: &str, problems: &mut Problems) {
    if value < Duration::from_millis(1) {
        problems.add(key, &value, &format!("write a duration such as {example}"));
    }
}

#[cfg(test)]
mod tests {
    use runtime::config::SecretUrl;

    use super::*;

    fn problems(config: &PublisherConfig) -> Vec<String> {
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let problems = problems.as_slice().iter();
        problems.map(|problem| problem.key.clone()).collect()
    }

    #[test]
    fn the_defaults_lack_only_the_broker_and_the_internal_token() {
        assert_eq!(
            problems(&PublisherConfig::default()),
            ["access.internal_token", "amqp.url"]
        );
    }

    #[test]
    fn every_wrong_value_is_named() {
        let mut config = PublisherConfig {
            access: AccessConfig::internal("sixteen-characters"),
            ..PublisherConfig::default()
        };
        config.amqp.url = Some(SecretUrl::new("amqp://127.0.0.1/%2f"));
        config.core.url = "core:8081".to_owned();
        config.core.heartbeat = Duration::ZERO;
        config.stream.backoff_max = config.stream.backoff_min / 2;
        config.stream.refused_wait = Duration::ZERO;
        config.stream.extra_ca_file = Some("/no/such/file".into());
        config.backfill.requests_per_second = 0;
        config.window.in_flight = 0;
        config.window.max_bytes = 10;
        config.window.max_envelope_frames = 1001;
        config.spool.directory = String::new();
        config.spool.max_bytes = 1;
        config.canary.republish_percent = 100.5;
        assert_eq!(
            problems(&config),
            [
                "core.url",
                "core.heartbeat",
                "stream.backoff_max",
                "stream.refused_wait",
                "stream.extra_ca_file",
                "backfill.requests_per_second",
                "spool.directory",
                "spool.max_bytes",
                "window.in_flight",
                "window.max_envelope_frames",
                "canary.republish_percent",
                "window.max_bytes"
            ]
        );
    }
}
