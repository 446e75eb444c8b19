//! Configuration of the health projection.

use std::time::Duration;

use chrono::TimeDelta;
use runtime::config::{AmqpConfig, BatchLimit, Config, DatabaseConfig, HttpConfig, Problems};
use serde::{Deserialize, Serialize};

use super::Limits;
use crate::core_config::CoreConfig;
use crate::gaps_config::GapsConfig;

const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_hours(24 * 3650);

/// Configuration of the health projection.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// The broker.
    pub amqp: AmqpConfig,
    /// The database that holds the schema `health`.
    pub database: DatabaseConfig,
    /// The read API.
    pub http: HttpConfig,
    /// How much to commit at once.
    pub batch: BatchLimit,
    /// The core, whose log has what does not arrive.
    pub core: CoreConfig,
    /// When a missing event is fetched.
    pub gaps: GapsConfig,
    /// When silence becomes a fact.
    pub freshness: FreshnessConfig,
}

/// When silence becomes a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshnessConfig {
    /// A vehicle that was not heard from for so long is stale.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// A vehicle that was not heard from for so long is offline.
    #[serde(with = "humantime_serde")]
    pub offline_after: Duration,
    /// How often to look for vehicles whose time has run out.
    #[serde(with = "humantime_serde")]
    pub sweep_every: Duration,
}

impl Default for FreshnessConfig {
    fn default() -> Self {
        Self {
            stale_after: Duration::from_mins(5),
            offline_after: Duration::from_hours(1),
            sweep_every: Duration::from_secs(1),
        }
    }
}

impl FreshnessConfig {
    /// The limits that vehicles are judged by.
    pub(super) fn limits(self) -> Limits {
        // What validation lets through fits; anything else is as good as never.
        let delta = |duration| TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX);
        Limits {
            stale_after: delta(self.stale_after),
            offline_after: delta(self.offline_after),
        }
    }

    fn validate(self, problems: &mut Problems) {
        for (key, value) in [
            ("freshness.stale_after", self.stale_after),
            ("freshness.offline_after", self.offline_after),
        ] {
            if !(LEAST..=MOST).contains(&value) {
                problems.add(key, &value, "write a duration from 1s to 3650d");
            }
        }
        if self.offline_after <= self.stale_after {
            problems.add(
                "freshness.offline_after",
                &self.offline_after,
                "write a duration longer than freshness.stale_after",
            );
        }
        if self.sweep_every < Duration::from_millis(1) {
            problems.add(
                "freshness.sweep_every",
                &self.sweep_every,
                "write a duration such as 1s",
            );
        }
    }
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            amqp: AmqpConfig::default(),
            database: DatabaseConfig::default(),
            http: HttpConfig::local(8084),
            batch: BatchLimit::default(),
            core: CoreConfig::default(),
            gaps: GapsConfig::default(),
            freshness: FreshnessConfig::default(),
        }
    }
}

impl Config for HealthConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.database.validate(problems);
        self.batch.validate(problems);
        self.core.validate(problems);
        self.gaps.validate(problems);
        self.freshness.validate(problems);
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(freshness: FreshnessConfig) -> Vec<String> {
        let mut problems = Problems::default();
        freshness.validate(&mut problems);
        problems
            .as_slice()
            .iter()
            .map(|problem| problem.key.clone())
            .collect()
    }

    #[test]
    fn limits_are_in_order_and_within_bounds() {
        let of = |stale, offline| FreshnessConfig {
            stale_after: Duration::from_millis(stale),
            offline_after: Duration::from_millis(offline),
            ..FreshnessConfig::default()
        };
        assert!(problems(FreshnessConfig::default()).is_empty());
        assert!(problems(of(1000, 1001)).is_empty());
        assert_eq!(problems(of(2000, 2000)), ["freshness.offline_after"]);
        assert_eq!(problems(of(999, 5000)), ["freshness.stale_after"]);
        assert_eq!(problems(of(1000, u64::MAX)), ["freshness.offline_after"]);
    }

    #[test]
    fn a_sweep_needs_a_pause() {
        let freshness = FreshnessConfig {
            sweep_every: Duration::ZERO,
            ..FreshnessConfig::default()
        };
        assert_eq!(problems(freshness), ["freshness.sweep_every"]);
    }
}
