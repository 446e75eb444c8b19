//! Configuration of the live updates.

use std::time::Duration;

use runtime::access::AccessConfig;
use runtime::config::{Config, HttpConfig, Problems};
use serde::{Deserialize, Serialize};

use crate::core_config::CoreConfig;

/// A proxy gives up on an answer that says nothing for longer, the gateway too.
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(25);
const DAY: Duration = Duration::from_hours(24);

/// Configuration of the live updates.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveConfig {
    /// Where it listens.
    pub http: HttpConfig,
    /// Who may use the APIs.
    pub access: AccessConfig,
    /// The core, whose log the updates are.
    pub core: CoreConfig,
    /// Its readers.
    pub live: LiveSettings,
}

/// How readers are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveSettings {
    /// How many of the newest events are kept in memory for readers that come back.
    pub buffer_events: usize,
    /// And how many bytes of them.
    pub buffer_bytes: usize,
    /// How many events may wait for one reader.
    pub reader_events: usize,
    /// And how many bytes of them.
    pub reader_bytes: usize,
    /// How long a stream says nothing, at the most.
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    /// How long nothing may be written to a reader's socket although something waits.
    #[serde(with = "humantime_serde")]
    pub slow_after: Duration,
    /// The most readers at once.
    pub max_readers: usize,
    /// The most of them with one credential.
    pub max_readers_per_principal: usize,
    /// How long a stream goes on before its reader has to connect again.
    #[serde(with = "humantime_serde")]
    pub max_duration: Duration,
    /// How often it is looked whether a reader's credential is still good.
    #[serde(with = "humantime_serde")]
    pub check_access_every: Duration,
}

impl Default for LiveConfig {
    fn default() -> Self {
        Self {
            http: HttpConfig::local(8086),
            access: AccessConfig::default(),
            core: CoreConfig::default(),
            live: LiveSettings::default(),
        }
    }
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            buffer_events: 20_000,
            buffer_bytes: 32 * 1024 * 1024,
            reader_events: 4000,
            reader_bytes: 8 * 1024 * 1024,
            heartbeat: Duration::from_secs(15),
            slow_after: Duration::from_secs(30),
            max_readers: 5000,
            max_readers_per_principal: 1000,
            max_duration: Duration::from_hours(1),
            check_access_every: Duration::from_mins(1),
        }
    }
}

impl Config for LiveConfig {
    fn validate(&self, problems: &mut Problems) {
        self.access.validate(problems);
        self.http.validate(problems);
        self.core.validate(problems);
        self.live.validate(problems);
    }
}

impl LiveSettings {
    fn validate(&self, problems: &mut Problems) {
        for (key, value) in [
            ("live.buffer_events", self.buffer_events),
            ("live.buffer_bytes", self.buffer_bytes),
            ("live.reader_events", self.reader_events),
            ("live.reader_bytes", self.reader_bytes),
            ("live.max_readers", self.max_readers),
            (
                "live.max_readers_per_principal",
                self.max_readers_per_principal,
            ),
        ] {
            if value == 0 {
                problems.add(key, &value, "write 1 or more");
            }
        }
        for (key, value, most) in [
            ("live.heartbeat", self.heartbeat, LONGEST_HEARTBEAT),
            ("live.slow_after", self.slow_after, DAY),
            ("live.max_duration", self.max_duration, DAY),
            ("live.check_access_every", self.check_access_every, DAY),
        ] {
            if value < Duration::from_millis(1) || value > most {
                let fix = format!(
                    "write a duration from 1ms to {}",
                    humantime::format_duration(most)
                );
                problems.add(key, &value, &fix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use runtime::config;

    use super::*;

    fn problems(key: &str, value: &str) -> usize {
        let token = "the-internal-token-of-the-tests";
        let settings = [("access.internal_token", token), (key, value)];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        match config::load_from::<LiveConfig>(settings) {
            Ok(_) => 0,
            Err(problems) => problems.as_slice().len(),
        }
    }

    #[test]
    fn limits_are_checked() {
        for (key, good, bad) in [
            ("live.buffer_events", "1", "0"),
            ("live.reader_bytes", "1", "0"),
            ("live.max_readers", "7", "0"),
            ("live.max_readers_per_principal", "7", "0"),
            ("live.heartbeat", "25s", "26s"),
            ("live.slow_after", "100ms", "0s"),
            ("live.max_duration", "1day", "2days"),
            ("live.check_access_every", "1s", "0s"),
        ] {
            assert_eq!(problems(key, good), 0, "{key} = {good}");
            assert_eq!(problems(key, bad), 1, "{key} = {bad}");
        }
    }
}
