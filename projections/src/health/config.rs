//! Configuration of the health projection.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::TimeDelta;
use runtime::access::AccessConfig;
use runtime::config::{AmqpConfig, BatchLimit, Config, DatabaseConfig, HttpConfig, Problems};
use serde::{Deserialize, Serialize};
use shared_model::Provider;

use super::{Limits, LimitsByProvider, Patience};
use crate::CoreConfig;
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
    /// Who may use the APIs.
    pub access: AccessConfig,
    /// How much to commit at once.
    pub batch: BatchLimit,
    /// The core, whose log has what does not arrive, and which is told of what was found.
    pub core: CoreConfig,
    /// When a missing event is fetched.
    pub gaps: GapsConfig,
    /// When silence becomes a fact.
    pub freshness: FreshnessConfig,
    /// When a connection's outage becomes a fact.
    pub incidents: IncidentsConfig,
    /// How long findings are kept.
    pub history: HistoryConfig,
}

/// When silence becomes a fact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreshnessConfig {
    /// A vehicle that was not heard from for so long is stale.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// A vehicle that was not heard from for so long is offline.
    #[serde(with = "humantime_serde")]
    pub offline_after: Duration,
    /// Limits of providers that report more seldom, or more often.
    pub providers: BTreeMap<Provider, ProviderFreshness>,
    /// How often to look for vehicles whose time has run out.
    #[serde(with = "humantime_serde")]
    pub sweep_every: Duration,
    /// With events that have waited for longer than this, a silence is not proven.
    #[serde(with = "humantime_serde")]
    pub pipeline_late_after: Duration,
}

/// A provider's own limits; what it has not is as for all others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderFreshness {
    /// See [`FreshnessConfig::stale_after`].
    #[serde(default, with = "humantime_serde::option")]
    pub stale_after: Option<Duration>,
    /// See [`FreshnessConfig::offline_after`].
    #[serde(default, with = "humantime_serde::option")]
    pub offline_after: Option<Duration>,
}

/// When a connection's outage becomes a fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncidentsConfig {
    /// A connection that was out for so long has an incident.
    #[serde(with = "humantime_serde")]
    pub open_after: Duration,
    /// It is over once the provider has sent for so long again.
    #[serde(with = "humantime_serde")]
    pub close_after: Duration,
}

/// How long findings are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryConfig {
    /// Older changes of health and incidents are removed.
    #[serde(with = "humantime_serde")]
    pub retention: Duration,
}

impl Default for FreshnessConfig {
    fn default() -> Self {
        // Who promises a report an hour must not be called stale in between.
        let hourly = ProviderFreshness {
            stale_after: Some(Duration::from_hours(1)),
            offline_after: Some(Duration::from_hours(6)),
        };
        let seldom = ["geotab", "rfms"].map(Provider::new);
        Self {
            stale_after: Duration::from_mins(5),
            offline_after: Duration::from_hours(1),
            providers: seldom
                .into_iter()
                .flatten()
                .map(|of| (of, hourly))
                .collect(),
            sweep_every: Duration::from_secs(1),
            pipeline_late_after: Duration::from_mins(1),
        }
    }
}

/// What validation lets through fits; anything else is as good as never.
fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

impl FreshnessConfig {
    /// The limits that vehicles are judged by.
    pub(crate) fn limits(&self) -> LimitsByProvider {
        let limits = |of: ProviderFreshness| Limits {
            stale_after: delta(of.stale_after.unwrap_or(self.stale_after)),
            offline_after: delta(of.offline_after.unwrap_or(self.offline_after)),
        };
        LimitsByProvider {
            usual: limits(ProviderFreshness::default()),
            providers: self
                .providers
                .iter()
                .map(|(provider, of)| (provider.clone(), limits(*of)))
                .collect(),
        }
    }

    pub(super) fn late_after(&self) -> TimeDelta {
        delta(self.pipeline_late_after)
    }

    pub(crate) fn validate(&self, problems: &mut Problems) {
        let usual = ("freshness".to_owned(), ProviderFreshness::default());
        let providers = self
            .providers
            .iter()
            .map(|(provider, of)| (format!("freshness.providers.{provider}"), *of));
        for (section, of) in std::iter::once(usual).chain(providers) {
            let stale = of.stale_after.unwrap_or(self.stale_after);
            let offline = of.offline_after.unwrap_or(self.offline_after);
            let (stale_key, offline_key) = (
                format!("{section}.stale_after"),
                format!("{section}.offline_after"),
            );
            for (key, value) in [(&stale_key, stale), (&offline_key, offline)] {
                if !(LEAST..=MOST).contains(&value) {
                    problems.add(key, &value, "write a duration from 1s to 3650d");
                }
            }
            if offline <= stale {
                let fix = format!("write a duration longer than {stale_key}, which is {stale:?}");
                problems.add(&offline_key, &offline, &fix);
            }
        }
        if self.sweep_every < Duration::from_millis(1) {
            problems.add(
                "freshness.sweep_every",
                &self.sweep_every,
                "write a duration such as 1s",
            );
        }
        if !(LEAST..=MOST).contains(&self.pipeline_late_after) {
            problems.add(
                "freshness.pipeline_late_after",
                &self.pipeline_late_after,
                "write a duration from 1s to 3650d",
            );
        }
    }
}

impl Default for IncidentsConfig {
    fn default() -> Self {
        Self {
            open_after: Duration::from_mins(2),
            close_after: Duration::from_secs(30),
        }
    }
}

impl IncidentsConfig {
    pub(super) fn patience(self) -> Patience {
        Patience {
            open_after: delta(self.open_after),
            close_after: delta(self.close_after),
        }
    }

    fn validate(self, problems: &mut Problems) {
        for (key, value) in [
            ("incidents.open_after", self.open_after),
            ("incidents.close_after", self.close_after),
        ] {
            if !(Duration::from_millis(1)..=MOST).contains(&value) {
                problems.add(key, &value, "write a duration from 1ms to 3650d");
            }
        }
    }
}

impl Default for HistoryConfig {
    fn default() -> Self {
        Self {
            retention: Duration::from_hours(24 * 30),
        }
    }
}

impl HistoryConfig {
    fn validate(self, problems: &mut Problems) {
        if !(Duration::from_hours(1)..=MOST).contains(&self.retention) {
            problems.add(
                "history.retention",
                &self.retention,
                "write a duration from 1h to 3650d",
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
            access: AccessConfig::default(),
            batch: BatchLimit::default(),
            core: CoreConfig::default(),
            gaps: GapsConfig::default(),
            freshness: FreshnessConfig::default(),
            incidents: IncidentsConfig::default(),
            history: HistoryConfig::default(),
        }
    }
}

impl Config for HealthConfig {
    fn validate(&self, problems: &mut Problems) {
        self.amqp.validate(problems);
        self.access.validate(problems);
        self.http.validate(problems);
        self.database.validate(problems);
        self.batch.validate(problems);
        self.core.validate(problems);
        self.gaps.validate(problems);
        self.freshness.validate(problems);
        self.incidents.validate(problems);
        self.history.validate(problems);
    }

    fn database(&self) -> Option<&DatabaseConfig> {
        Some(&self.database)
    }
}

#[cfg(test)]
mod tests;
