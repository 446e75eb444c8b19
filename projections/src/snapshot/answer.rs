//! A vehicle's snapshot as it is answered. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use shared_model::WorkspaceId;
use shared_model::event::PublishedReading;
use utoipa::ToSchema;

use super::etag;
use super::fields::{Field, Fields};
use super::fold::Snapshot;
use crate::health::{Freshness, LimitsByProvider, Run, freshness_at};

/// The latest published value of every signal of a vehicle. Where `fields` asks for some of it only, the
/// rest is left out.
#[derive(Debug, Serialize, ToSchema)]
#[expect(
    clippy::option_option,
    reason = "to a client, null is something else than what is left out"
)]
pub(super) struct VehicleSnapshot {
    /// The workspace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false)]
    workspace: Option<WorkspaceId>,
    /// The vehicle.
    vehicle: String,
    /// Orders the values: raised by one whenever one of them changes by more than its deadband. 0 before
    /// the first.
    #[schema(minimum = 0)]
    version: i64,
    /// Since the vehicle was last heard from; null if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, required = false, minimum = 0)]
    age_seconds: Option<Option<f64>>,
    /// How recently that was, by the limits of the provider that it was last heard from through.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Freshness, required = false)]
    freshness: Option<Freshness>,
    /// When the vehicle was last heard from (UTC); null if it never was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<DateTime<Utc>>, required = false)]
    last_received_at: Option<Option<DateTime<Utc>>>,
    /// The values, by signal.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = BTreeMap<String, PublishedReading>, required = false)]
    signals: Option<BTreeMap<String, PublishedReading>>,
}

/// How an answer is made of what is stored.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    /// Whose vehicles they are.
    pub(super) workspace: &'a WorkspaceId,
    /// Which parts are asked for.
    pub(super) fields: &'a Fields,
    /// The limits of silence.
    pub(super) limits: &'a LimitsByProvider,
    /// When it is answered (UTC).
    pub(super) now: DateTime<Utc>,
}

impl View<'_> {
    /// What is answered for a vehicle, and its entity tag.
    pub(super) fn of(&self, vehicle: String, snapshot: Snapshot) -> (VehicleSnapshot, String) {
        let freshness = freshness(&snapshot, self.limits, self.now);
        let tag = etag::of_snapshot(&snapshot, freshness);
        let last = snapshot.last_received_at;
        let age_seconds = last.map(|last| age(last, self.now));
        let fields = self.fields;
        let answer = VehicleSnapshot {
            workspace: fields.pick(Field::Workspace, self.workspace.clone()),
            vehicle,
            version: snapshot.version,
            age_seconds: fields.pick(Field::AgeSeconds, age_seconds),
            freshness: fields.pick(Field::Freshness, freshness),
            last_received_at: fields.pick(Field::LastReceivedAt, last),
            signals: fields.pick_signals(snapshot.readings()),
        };
        (answer, tag)
    }
}

/// How fresh a vehicle is, as the health projection judges it.
fn freshness(snapshot: &Snapshot, limits: &LimitsByProvider, now: DateTime<Utc>) -> Freshness {
    let Some(last) = snapshot.last_received_at else {
        return Freshness::NeverSeen;
    };
    let limits = limits.of(snapshot.provider.as_ref());
    freshness_at(Run { since: last, last }, now, limits).freshness
}

/// Whole milliseconds, in seconds. A receipt that another clock puts into the future is new.
fn age(last_received_at: DateTime<Utc>, now: DateTime<Utc>) -> f64 {
    let millis = (now - last_received_at).num_milliseconds();
    millis.max(0) as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use shared_model::time::from_unix_millis;

    use super::*;
    use crate::Change;
    use crate::health::FreshnessConfig;
    use crate::snapshot::fold::tests::changed;

    fn at(millis: i64) -> DateTime<Utc> {
        from_unix_millis(1_511_436_694_000 + millis).unwrap()
    }

    fn answer(snapshot: Snapshot, fields: Option<&str>, now: DateTime<Utc>) -> Value {
        let view = View {
            workspace: &WorkspaceId::new("demo").unwrap(),
            fields: &Fields::read(fields).unwrap(),
            limits: &FreshnessConfig::default().limits(),
            now,
        };
        serde_json::to_value(view.of("bus-1".to_owned(), snapshot).0).unwrap()
    }

    fn snapshot() -> Snapshot {
        Snapshot::of(changed(1, 2)).unwrap().remove(0).1
    }

    #[test]
    fn a_snapshot_is_written_as_promised() {
        let reading = json!({"value": 2, "unit": "%", "observed_at": "2017-11-23T11:31:38Z",
            "received_at": "2017-11-23T11:31:38Z", "provider": "samsara"});
        assert_eq!(
            answer(snapshot(), None, at(5_250)),
            json!({"workspace": "demo", "vehicle": "bus-1", "version": 2, "age_seconds": 1.25,
                "freshness": "fresh", "last_received_at": "2017-11-23T11:31:38Z",
                "signals": {"signal_0": reading, "signal_1": reading}})
        );
    }

    #[test]
    fn a_vehicle_never_heard_from_has_no_age() {
        assert_eq!(
            answer(Snapshot::default(), None, at(0)),
            json!({"workspace": "demo", "vehicle": "bus-1", "version": 0, "age_seconds": null,
                "freshness": "never_seen", "last_received_at": null, "signals": {}})
        );
    }

    #[test]
    fn only_what_is_asked_for_is_written() {
        assert_eq!(
            answer(snapshot(), Some("age_seconds"), at(5_250)),
            json!({"vehicle": "bus-1", "version": 2, "age_seconds": 1.25})
        );
        assert_eq!(
            answer(
                Snapshot::default(),
                Some("age_seconds,signals.speed"),
                at(0)
            ),
            json!({"vehicle": "bus-1", "version": 0, "age_seconds": null, "signals": {}})
        );
    }

    #[test]
    fn a_vehicle_is_judged_by_the_limits_of_its_provider() {
        let later = at(4_000) + chrono::TimeDelta::minutes(10);
        let freshness = |provider: &str| {
            let mut snapshot = snapshot();
            snapshot.provider = Some(provider.parse().unwrap());
            answer(snapshot, None, later)["freshness"].clone()
        };
        assert_eq!(
            (freshness("samsara"), freshness("rfms")),
            (json!("stale"), json!("fresh"))
        );
    }

    #[test]
    fn an_age_is_never_negative() {
        assert!(age(at(1), at(0)).abs() < f64::EPSILON);
        assert!((age(at(0), at(1_234)) - 1.234).abs() < f64::EPSILON);
    }
}
