//! What may be set, and what comes of it.

use runtime::config::load_from;

use super::*;

fn problems(freshness: FreshnessConfig) -> Vec<String> {
    let mut problems = Problems::default();
    freshness.validate(&mut problems);
    let keys = problems.as_slice().iter();
    keys.map(|problem| problem.key.clone()).collect()
}

fn set(settings: &[(&str, &str)]) -> Result<HealthConfig, Problems> {
    let needed = [
        ("access.internal_token", "sixteen-characters"),
        ("amqp.url", "amqp://broker"),
        ("database.url", "postgres://database"),
    ];
    let all = needed.iter().chain(settings);
    load_from(all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())))
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

#[test]
fn a_provider_has_its_own_limits_or_the_usual_ones() {
    let config = set(&[
        ("freshness.stale_after", "10s"),
        ("freshness.providers.rfms.stale_after", "2h"),
        ("freshness.providers.hfp.stale_after", "5s"),
    ])
    .unwrap();
    let limits = config.freshness.limits();
    let of = |name: &str| {
        let limits = limits.of(Some(&Provider::new(name).unwrap()));
        (
            limits.stale_after.num_seconds(),
            limits.offline_after.num_seconds(),
        )
    };
    assert_eq!(of("viriciti"), (10, 3600));
    assert_eq!(of("rfms"), (7200, 21_600), "the rest is as built in");
    assert_eq!(of("hfp"), (5, 3600), "the rest is as usual");
    assert_eq!(limits.of(None), limits.usual);
    assert_eq!(limits.shortest().stale_after.num_seconds(), 5);
}

#[test]
fn a_provider_that_reports_hourly_does_not_flap() {
    let limits = FreshnessConfig::default().limits();
    for name in ["rfms", "geotab"] {
        let limits = limits.of(Some(&Provider::new(name).unwrap()));
        assert!(limits.stale_after >= TimeDelta::hours(1), "{name}");
    }
}

#[test]
fn what_cannot_be_is_named_with_what_to_write() {
    let refused = |key: &str, value: &str| {
        let problems = set(&[(key, value)]).unwrap_err().to_string();
        assert!(problems.contains("write a duration"), "{problems}");
        problems
    };
    let problems = refused("freshness.providers.rfms.stale_after", "7h");
    let key = "freshness.providers.rfms.offline_after \
               (HEADRACE_FRESHNESS__PROVIDERS__RFMS__OFFLINE_AFTER)";
    assert!(problems.contains(key), "{problems}");
    for key in [
        "incidents.open_after",
        "incidents.close_after",
        "history.retention",
    ] {
        assert!(refused(key, "0s").contains(key));
    }
    assert!(refused("freshness.pipeline_late_after", "1ms").contains("pipeline_late_after"));
    for (key, value) in [
        ("freshness.providers.rfms.stale", "1h"),
        ("freshness.providers.RFMS!.stale_after", "1h"),
        ("core.url", "core:8081"),
    ] {
        assert!(set(&[(key, value)]).is_err(), "{key}");
    }
}
