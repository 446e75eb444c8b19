//! Configuration of access control.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::JwtConfig;
use crate::config::{Problems, Secret};

/// The shortest internal credential that nobody guesses, in characters.
const SHORTEST: usize = 16;
/// A revocation acts within this at the latest.
const LONGEST_CACHE: Duration = Duration::from_mins(5);
const LONGEST_GRACE: Duration = Duration::from_hours(7 * 24);
const MOST_PER_SECOND: u32 = 1_000_000;

/// Who may use a service's APIs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessConfig {
    /// The credential of the services among themselves; the same everywhere.
    pub internal_token: Option<Secret>,
    /// A file that holds it.
    pub internal_token_file: Option<PathBuf>,
    /// One that is taken as well but never sent, while the first is being replaced.
    pub second_internal_token: Option<Secret>,
    /// A file that holds it.
    pub second_internal_token_file: Option<PathBuf>,
    /// How long it is remembered what API keys allow.
    pub keys: KeysConfig,
    /// How much may be asked.
    pub rate: RateConfig,
    /// Whose JSON web tokens are taken.
    pub jwt: JwtConfig,
}

/// How long it is remembered what API keys allow.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysConfig {
    /// How long an answer counts without asking again.
    #[serde(with = "humantime_serde")]
    pub cache: Duration,
    /// How long it counts on while the core is away.
    #[serde(with = "humantime_serde")]
    pub grace: Duration,
}

/// How much may be asked of one replica of a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateConfig {
    /// How many requests one principal may send per second; 0 for any number.
    pub requests_per_second: u32,
    /// How many it may send at once.
    pub burst: u32,
    /// How many unknown API keys are looked up per second, all senders together; 0 for any number.
    pub unknown_keys_per_second: u32,
}

impl Default for KeysConfig {
    fn default() -> Self {
        Self {
            cache: Duration::from_secs(10),
            grace: Duration::from_hours(1),
        }
    }
}

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            requests_per_second: 3000,
            burst: 6000,
            unknown_keys_per_second: 100,
        }
    }
}

impl AccessConfig {
    /// The services know one another by `token`.
    #[must_use]
    pub fn internal(token: &str) -> Self {
        Self {
            internal_token: Some(Secret::new(token)),
            ..Self::default()
        }
    }

    /// Adds what is wrong.
    pub fn validate(&self, problems: &mut Problems) {
        let fix = "write 16 or more characters that nobody guesses, such as what `openssl rand -hex 32` \
                   prints; the same for all services";
        if self.internal_token.is_none() {
            problems.add_without_value("access.internal_token", &format!("is not set; {fix}"));
        }
        for (key, token) in [
            ("access.internal_token", &self.internal_token),
            ("access.second_internal_token", &self.second_internal_token),
        ] {
            let token = token.as_ref().map(Secret::expose);
            if let Some(wrong) = token.and_then(wrong) {
                problems.add_without_value(key, &format!("{wrong}; {fix}"));
            }
        }
        self.keys.validate(problems);
        self.rate.validate(problems);
        self.jwt.validate(problems);
    }
}

fn wrong(token: &str) -> Option<&'static str> {
    if token.len() < SHORTEST {
        return Some("is too short");
    }
    // It travels in a header, where white space has a meaning.
    let graphic = token.bytes().all(|byte| byte.is_ascii_graphic());
    (!graphic).then_some("has white space or characters that are no ASCII")
}

impl KeysConfig {
    fn validate(&self, problems: &mut Problems) {
        if self.cache > LONGEST_CACHE {
            let fix = "write a duration of up to 5m: so long a revoked key may be used";
            problems.add("access.keys.cache", &self.cache, fix);
        }
        if !(self.cache..=LONGEST_GRACE).contains(&self.grace) {
            let fix = "write a duration from access.keys.cache to 7days";
            problems.add("access.keys.grace", &self.grace, fix);
        }
    }
}

impl RateConfig {
    fn validate(&self, problems: &mut Problems) {
        for (key, value, least) in [
            ("requests_per_second", self.requests_per_second, 0),
            ("burst", self.burst, 1),
            ("unknown_keys_per_second", self.unknown_keys_per_second, 0),
        ] {
            if !(least..=MOST_PER_SECOND).contains(&value) {
                let fix = format!("write a number from {least} to {MOST_PER_SECOND}");
                problems.add(&format!("access.rate.{key}"), &value, &fix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(change: impl FnOnce(&mut AccessConfig)) -> String {
        let mut config = AccessConfig::internal("a-token-of-the-test-and-no-other");
        change(&mut config);
        let mut problems = Problems::default();
        config.validate(&mut problems);
        let of = problems.as_slice().iter();
        let lines = of.map(|problem| format!("{} {}", problem.key, problem.message));
        lines.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn what_is_wrong_is_said_with_what_to_write() {
        assert_eq!(problems(|_| ()), "");
        for token in [None, Some("short"), Some("with a space in the midst of it")] {
            let said = problems(|config| config.internal_token = token.map(Secret::new));
            assert!(said.contains("openssl rand -hex 32"), "{said}");
            assert!(!said.contains("short\""), "{said}");
        }
        let second = Some(Secret::new("short"));
        let said = problems(|config| config.second_internal_token = second);
        assert!(said.contains("access.second_internal_token is too short"));
        let said = problems(|config| config.keys.cache = Duration::from_mins(6));
        assert!(
            said.contains("access.keys.cache") && said.contains("5m"),
            "{said}"
        );
        let said = problems(|config| config.keys.grace = Duration::from_secs(1));
        assert!(said.contains("access.keys.grace"), "{said}");
        let said = problems(|config| config.rate.burst = 0);
        assert!(said.contains("access.rate.burst is 0"), "{said}");
        assert_eq!(problems(|config| config.rate.requests_per_second = 0), "");
    }
}
