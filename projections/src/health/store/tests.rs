//! The tables agree with the pure judgement at any time, and everything is told once.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use shared_model::event::{ConnectionStatusChanged, Fact};
use shared_model::time::from_unix_millis;
use shared_model::{ConnectionId, EventType, Provider, VehicleId, WorkspaceId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::vehicle::{Standards, expire_other_limits, sweep, upsert};
use super::{finding, incident, retention, situation, transition, view};
use crate::fixture;
use crate::health::MIGRATIONS;
use crate::health::connection_store;
use crate::health::fold::{Heard, Registration};
use crate::health::freshness::{Freshness, Judgement, Limits, Run, freshness_at};
use crate::health::incident::Patience;
use crate::health::judgement::Cause;
use crate::health::limits::LimitsByProvider;
use crate::health::vehicle::{Transition, Vehicle};
use crate::{ConnectionChange, VehicleChange, VehicleKey};

const PATIENCE: Patience = Patience {
    open_after: TimeDelta::seconds(2),
    close_after: TimeDelta::seconds(3),
};

fn limits() -> LimitsByProvider {
    let limits = |stale, offline| Limits {
        stale_after: TimeDelta::seconds(stale),
        offline_after: TimeDelta::seconds(offline),
    };
    LimitsByProvider {
        usual: limits(5, 20),
        providers: BTreeMap::from([(provider("rfms"), limits(12, 40))]),
    }
}

fn at(second: i64) -> DateTime<Utc> {
    from_unix_millis(1_511_436_694_000 + 1000 * second).unwrap()
}

fn provider(name: &str) -> Provider {
    Provider::new(name).unwrap()
}

fn workspace() -> WorkspaceId {
    WorkspaceId::new("demo").unwrap()
}

fn key(number: usize) -> VehicleKey {
    VehicleKey {
        workspace: workspace(),
        vehicle: VehicleId::new(format!("bus-{number:02}")).unwrap(),
    }
}

fn id(number: u128) -> ConnectionId {
    ConnectionId(Uuid::from_u128(number))
}

fn change(key: &VehicleKey, change: Heard) -> VehicleChange<Heard> {
    VehicleChange {
        key: key.clone(),
        change,
        events: Vec::new(),
    }
}

fn heard(key: &VehicleKey, name: &str, receipts: &[i64]) -> VehicleChange<Heard> {
    let receipts = receipts.iter();
    let heard = Heard {
        receipts: receipts
            .map(|&second| (at(second), Some(provider(name))))
            .collect(),
        ..Heard::default()
    };
    change(key, heard)
}

fn registered(key: &VehicleKey, connection: u128, name: &str, second: i64) -> VehicleChange<Heard> {
    let registration = Registration {
        at: at(second),
        connection: id(connection),
        provider: provider(name),
    };
    let heard = Heard {
        registration: Some(registration),
        ..Heard::default()
    };
    change(key, heard)
}

fn status(
    connection: u128,
    name: &str,
    revision: u64,
    status: &str,
    since: i64,
) -> ConnectionChange {
    ConnectionChange {
        workspace: workspace(),
        fact: ConnectionStatusChanged {
            connection: id(connection),
            provider: provider(name),
            revision,
            status: status.to_owned(),
            since: at(since),
            reason: (status == "disconnected").then(|| "closed".to_owned()),
            error: None,
            owner: "publisher-0".to_owned(),
            epoch: 1,
            frames_per_minute: 0,
            reconnects: 0,
        },
    }
}

/// One connection to a database of a test's own, and what it is judged by.
struct Table {
    pg: sqlx::pool::PoolConnection<sqlx::Postgres>,
    limits: LimitsByProvider,
    late_by: i64,
}

impl Table {
    async fn new() -> Self {
        let pool = fixture::pool(&MIGRATIONS).await;
        Self {
            pg: pool.acquire().await.unwrap(),
            limits: limits(),
            late_by: 0,
        }
    }

    fn standards(&self, now: i64) -> Standards<'_> {
        Standards {
            limits: &self.limits,
            proven_until: at(now - self.late_by),
            now: at(now),
        }
    }

    async fn take(&mut self, changes: &[VehicleChange<Heard>], now: i64) -> Vec<Transition> {
        let limits = self.limits.clone();
        let standards = Standards {
            limits: &limits,
            ..self.standards(now)
        };
        upsert(&mut self.pg, changes, standards)
            .await
            .unwrap()
            .into_iter()
            .filter_map(|row| row.transition)
            .collect()
    }

    async fn sweep(&mut self, now: i64) -> Vec<Transition> {
        let limits = self.limits.clone();
        let standards = Standards {
            limits: &limits,
            ..self.standards(now)
        };
        let incidents = incident::sweep(
            &mut self.pg,
            |_| PATIENCE,
            standards.proven_until,
            standards.now,
        );
        incidents.await.unwrap();
        let mut all = Vec::new();
        loop {
            let (vehicles, transitions) = sweep(&mut self.pg, standards, 3).await.unwrap();
            all.extend(transitions);
            if vehicles < 3 {
                return all;
            }
        }
    }

    async fn connections(&mut self, changes: &[ConnectionChange]) {
        connection_store::upsert(&mut self.pg, changes)
            .await
            .unwrap();
    }

    async fn find(&mut self, key: &VehicleKey) -> view::Health {
        view::find(&mut self.pg, key).await.unwrap().unwrap()
    }

    async fn judgement(&mut self, key: &VehicleKey) -> Judgement {
        let found = self.find(key).await;
        let deadline = "SELECT deadline FROM health.vehicle WHERE workspace = $1 AND vehicle = $2";
        let deadline = sqlx::query_scalar(deadline)
            .bind(key.workspace.as_str())
            .bind(key.vehicle.as_str())
            .fetch_one(&mut *self.pg);
        Judgement {
            freshness: found.freshness,
            since: found.since,
            deadline: deadline.await.unwrap(),
        }
    }
}

fn freshness_of(transitions: &[Transition]) -> Vec<(Freshness, Option<Cause>, bool)> {
    let of = |transition: &Transition| {
        (
            transition.freshness,
            transition.cause,
            transition.said.is_some(),
        )
    };
    transitions.iter().map(of).collect()
}

async fn findings(pg: &mut PgConnection) -> Vec<(u64, Fact)> {
    let events = finding::read(pg, 0, 100_000).await.unwrap();
    let fact = |kind: &str, data| match EventType::from_name(kind) {
        Some(EventType::VehicleHealthChanged) => {
            Fact::VehicleHealthChanged(serde_json::from_value(data).unwrap())
        }
        Some(EventType::ProviderIncidentChanged) => {
            Fact::ProviderIncidentChanged(serde_json::from_value(data).unwrap())
        }
        other => panic!("{other:?} is not for health to find"),
    };
    let events = events.into_iter();
    events
        .map(|event| (event.number, fact(&event.kind, event.data)))
        .collect()
}

/// What happens in a second.
#[derive(Debug, Clone)]
enum Happening {
    Heard {
        vehicle: usize,
        provider: usize,
        ago: i64,
    },
    Status {
        connection: usize,
        status: usize,
    },
    Late(i64),
    Nothing,
}

fn happenings() -> impl Strategy<Value = Vec<(i64, Happening)>> {
    let heard = (
        0..6_usize,
        0..2_usize,
        prop_oneof![4 => Just(0_i64), 1 => 0..15_i64],
    );
    let one = prop_oneof![
        8 => heard.prop_map(|(vehicle, provider, ago)| Happening::Heard { vehicle, provider, ago }),
        3 => (0..3_usize, 0..5_usize)
            .prop_map(|(connection, status)| Happening::Status { connection, status }),
        1 => prop_oneof![Just(0_i64), 0..10_i64].prop_map(Happening::Late),
        2 => Just(Happening::Nothing),
    ];
    let pause = prop_oneof![6 => 0..3_i64, 1 => 0..25_i64];
    prop::collection::vec((pause, one), 20..60)
}

const PROVIDERS: [&str; 2] = ["rfms", "viriciti"];
/// The providers of connections 0, 1 and 2.
const OF: [&str; 3] = ["viriciti", "viriciti", "rfms"];
const STATUSES: [&str; 5] = [
    "disconnected",
    "silent",
    "connected",
    "subscribed",
    "subscribed",
];

#[tokio::test]
async fn the_tables_agree_with_the_pure_judgement_at_any_time() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        let mut table = Table::new().await;
        let mut receipts = BTreeMap::<usize, BTreeMap<DateTime<Utc>, Provider>>::new();
        let (mut now, mut revision) = (0, 0);
        for connection in 0..3 {
            let connected = status(connection, OF[connection as usize], 1, "subscribed", 0);
            table.connections(&[connected]).await;
        }
        // The last of six is of a connection that nothing is known of, such as one that is pushed.
        for vehicle in 0..6 {
            let connection = vehicle % 4;
            let name = OF.get(connection).unwrap_or(&"viriciti");
            let changes = [registered(&key(vehicle), connection as u128, name, 0)];
            table.take(&changes, 0).await;
        }
        for (pause, happening) in happenings().new_tree(&mut runner).unwrap().current() {
            now += pause;
            match happening {
                Happening::Heard {
                    vehicle,
                    provider: of,
                    ago,
                } => {
                    let of_vehicle = receipts.entry(vehicle).or_default();
                    let last = of_vehicle.last_key_value().map(|(last, _)| *last);
                    // In the order of the log, as its run needs it.
                    if last.is_none_or(|last| at(now - ago) > last) {
                        of_vehicle.insert(at(now - ago), provider(PROVIDERS[of]));
                        let changes = [heard(&key(vehicle), PROVIDERS[of], &[now - ago])];
                        table.take(&changes, now).await;
                        assert_eq!(table.take(&changes, now).await, [], "it is known");
                    }
                }
                Happening::Status {
                    connection,
                    status: to,
                } => {
                    revision += 1;
                    let (name, to) = (OF[connection], STATUSES[to]);
                    let said = status(connection as u128, name, 1 + revision, to, now);
                    table.connections(&[said]).await;
                }
                Happening::Late(seconds) => table.late_by = seconds,
                Happening::Nothing => {}
            }
            table.sweep(now).await;
            check(&mut table, &receipts, now, &mut seen).await;
        }
        check_history(&mut table).await;
    }
    // All of it has come up.
    for cause in Cause::ALL {
        for freshness in [Freshness::Stale, Freshness::Offline] {
            assert!(
                seen.contains(&(freshness, Some(cause))),
                "{freshness:?} {cause:?}"
            );
        }
    }
}

/// That no row would be judged otherwise now, and each as its receipts demand.
async fn check(
    table: &mut Table,
    receipts: &BTreeMap<usize, BTreeMap<DateTime<Utc>, Provider>>,
    now: i64,
    seen: &mut BTreeSet<(Freshness, Option<Cause>)>,
) {
    let proven_until = table.standards(now).proven_until;
    let mut around = situation::load(&mut table.pg, proven_until).await.unwrap();
    let keys: Vec<_> = (0..6).map(key).collect();
    let rows = super::vehicle::lock(&mut table.pg, keys.iter())
        .await
        .unwrap();
    let past = situation::load_past(&mut table.pg, &mut around, rows.values());
    past.await.unwrap();
    for (number, key) in keys.iter().enumerate() {
        let stored = &rows[key];
        let mut judged: Vehicle = stored.clone();
        let found = judged.judge(stored, &table.limits, &around, at(now));
        assert_eq!((found, &judged), (None, stored), "at {now}");
        if let Some(receipts) = receipts.get(&number) {
            let (_, last) = receipts.last_key_value().unwrap();
            let limits = table.limits.of(Some(last));
            let run = Run {
                since: stored.heard.unwrap().since,
                last: *receipts.keys().last().unwrap(),
            };
            let expected = freshness_at(run, at(now), limits);
            assert_eq!(stored.judgement.freshness, expected.freshness);
            assert_eq!(stored.judgement.since, expected.since);
        }
        seen.insert((stored.judgement.freshness, stored.cause));
    }
}

/// That the history has no gap, and that whoever follows the events knows how every vehicle is.
async fn check_history(table: &mut Table) {
    let found = findings(&mut table.pg).await;
    assert!(
        found
            .iter()
            .map(|(number, _)| *number)
            .eq(1..=found.len() as u64)
    );
    let head = finding::head(&mut table.pg).await.unwrap();
    assert_eq!(head.found, found.len() as u64);
    let mut told = BTreeMap::<VehicleId, (u64, String, Option<String>)>::new();
    let mut incidents = BTreeMap::new();
    for (_, fact) in found {
        match fact {
            Fact::VehicleHealthChanged(fact) => {
                assert_ne!(fact.cause.as_deref(), Some("provider_outage"));
                let now = (fact.number, fact.freshness, fact.cause);
                let before = told.insert(fact.vehicle, now.clone());
                assert_eq!(now.0, before.as_ref().map_or(0, |before| before.0) + 1);
                assert_eq!(fact.previous, before.clone().map(|before| before.1));
                let is_news = before.is_none_or(|before| (before.1, before.2) != (now.1, now.2));
                assert!(is_news, "nothing is said twice");
            }
            Fact::ProviderIncidentChanged(fact) => {
                let before = incidents
                    .insert(fact.incident, fact.number)
                    .unwrap_or_default();
                assert_eq!(fact.number, before + 1);
                assert_eq!(fact.state == "closed", fact.number == 2);
            }
            other => panic!("{other:?}"),
        }
    }
    for number in 0..6 {
        let stored = table.find(&key(number)).await;
        let (_, freshness, cause) = &told[&key(number).vehicle];
        if stored.cause != Some(Cause::ProviderOutage) {
            assert_eq!(freshness, stored.freshness.name());
            assert_eq!(cause.as_deref(), stored.cause.map(Cause::name));
        }
        let period = transition::Period::default();
        let history = transition::of_vehicle(&mut table.pg, &key(number), period, 1000)
            .await
            .unwrap();
        assert_eq!(history[0].freshness, stored.freshness);
        assert_eq!(history[0].incident, stored.incident);
        for (later, earlier) in history.iter().zip(&history[1..]) {
            assert_eq!(later.previous, Some(earlier.freshness));
        }
        assert_eq!(history.last().unwrap().previous, None);
    }
}

#[tokio::test]
async fn silence_moves_a_vehicle_on_and_a_registration_alone_does_not() {
    let mut table = Table::new().await;
    let (silent, unseen) = (key(1), key(2));
    let both = [
        registered(&silent, 1, "viriciti", 0),
        registered(&unseen, 1, "viriciti", 0),
    ];
    let added = table.take(&both, 0).await;
    assert_eq!(
        freshness_of(&added),
        [(Freshness::NeverSeen, None, true); 2]
    );
    assert_eq!(added[0].previous, None);
    let fresh = table.take(&[heard(&silent, "viriciti", &[1])], 1).await;
    assert_eq!(fresh[0].previous, Some(Freshness::NeverSeen));
    // A registration that comes late takes nothing back.
    assert_eq!(table.take(&both, 1).await, []);

    let why = Some(Cause::SourceSilent);
    assert_eq!(table.sweep(5).await, []);
    assert_eq!(
        freshness_of(&table.sweep(6).await),
        [(Freshness::Stale, why, true)]
    );
    assert_eq!(table.sweep(20).await, []);
    assert_eq!(
        freshness_of(&table.sweep(99).await),
        [(Freshness::Offline, why, true)]
    );
    assert_eq!(table.judgement(&silent).await.since, at(21));
    assert_eq!(table.judgement(&unseen).await, Judgement::never_seen(at(0)));

    let counts = view::count_all(&mut table.pg).await.unwrap();
    assert_eq!(counts.iter().map(|count| count.vehicles).sum::<i64>(), 2);
    let counts = view::count(&mut table.pg, &workspace()).await.unwrap();
    assert!(
        counts
            .iter()
            .all(|count| count.provider.as_deref() == Some("viriciti"))
    );
}

#[tokio::test]
async fn a_run_goes_on_over_batches_and_repeats_do_no_harm() {
    let mut table = Table::new().await;
    let key = key(1);
    for (receipts, since) in [(&[0, 4][..], 0), (&[8], 0), (&[13, 14], 13), (&[18], 13)] {
        let now = *receipts.last().unwrap();
        table.take(&[heard(&key, "viriciti", receipts)], now).await;
        let again = table.take(&[heard(&key, "viriciti", receipts)], now).await;
        assert_eq!(again, []);
        assert_eq!(table.judgement(&key).await.since, at(since));
    }
}

#[tokio::test]
async fn other_limits_judge_anew() {
    let mut table = Table::new().await;
    let key = key(1);
    let expire = async |table: &mut Table| {
        let limits = table.limits.clone();
        expire_other_limits(&mut table.pg, &limits, at(30))
            .await
            .unwrap()
    };
    expire(&mut table).await;
    table.take(&[heard(&key, "viriciti", &[0, 4])], 30).await;
    assert_eq!(expire(&mut table).await, 0);
    for (stale_after, offline_after) in [(60, 90), (10, 90), (10, 20), (5, 50), (29, 31)] {
        table.limits.usual = Limits {
            stale_after: TimeDelta::seconds(stale_after),
            offline_after: TimeDelta::seconds(offline_after),
        };
        assert_eq!(expire(&mut table).await, 1);
        table.sweep(30).await;
        let run = Run {
            since: at(0),
            last: at(4),
        };
        let expected = freshness_at(run, at(30), table.limits.usual);
        assert_eq!(table.judgement(&key).await, expected);
        assert_eq!(expire(&mut table).await, 0);
    }
}

#[tokio::test]
async fn an_outage_is_one_incident_and_no_vehicles_event() {
    let mut table = Table::new().await;
    let vehicles: Vec<_> = (0..40).map(key).collect();
    let all = |receipts: &[i64]| -> Vec<_> {
        let vehicles = vehicles.iter();
        vehicles
            .map(|key| heard(key, "viriciti", receipts))
            .collect()
    };
    table
        .connections(&[status(1, "viriciti", 1, "subscribed", 0)])
        .await;
    let registrations = vehicles.iter().map(|key| registered(key, 1, "viriciti", 0));
    table.take(&registrations.collect::<Vec<_>>(), 0).await;
    table.take(&all(&[1]), 1).await;
    let before = findings(&mut table.pg).await.len();

    table
        .connections(&[status(1, "viriciti", 2, "disconnected", 2)])
        .await;
    // A socket that opens ends nothing.
    table
        .connections(&[status(1, "viriciti", 3, "connected", 3)])
        .await;
    assert_eq!(table.sweep(3).await, []);
    table.sweep(4).await;
    let out = Some(Cause::ProviderOutage);
    assert_eq!(
        freshness_of(&table.sweep(6).await),
        [(Freshness::Stale, out, false); 40]
    );
    let found = findings(&mut table.pg).await.split_off(before);
    let [(_, Fact::ProviderIncidentChanged(opened))] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!((opened.vehicles, opened.opened_at), (40, at(2)));
    assert_eq!(opened.reason.as_deref(), Some("closed"));
    let filter = view::Filter {
        freshness: Some(Freshness::Stale),
        cause: out,
        provider: Some(provider("viriciti")),
        incident: Some(opened.incident),
    };
    let listed = view::list(&mut table.pg, &workspace(), &filter, Some("bus-09"), 100).await;
    assert_eq!(listed.unwrap().len(), 30);
    assert_eq!(incident::count_open(&mut table.pg).await.unwrap(), 1);

    // Back, but not for long enough; then for good, with all but one.
    table
        .connections(&[status(1, "viriciti", 4, "subscribed", 8)])
        .await;
    table.take(&all(&[8])[1..], 8).await;
    assert_eq!(table.sweep(10).await, []);
    assert_eq!(incident::count_open(&mut table.pg).await.unwrap(), 1);
    table.take(&all(&[11])[1..], 11).await;
    table.sweep(11).await;
    assert_eq!(incident::count_open(&mut table.pg).await.unwrap(), 0);
    assert_eq!(freshness_of(&table.sweep(12).await), []);
    let silent = table.sweep(13).await;
    assert_eq!(
        freshness_of(&silent),
        [(Freshness::Stale, Some(Cause::SourceSilent), true)]
    );
    assert_eq!(silent[0].key, key(0));
    let found = findings(&mut table.pg).await.split_off(before + 1);
    let [
        (_, Fact::ProviderIncidentChanged(closed)),
        (_, Fact::VehicleHealthChanged(silent)),
    ] = &found[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!((closed.number, closed.closed_at), (2, Some(at(8))));
    assert_eq!(silent.previous.as_deref(), Some("fresh"));
}

#[tokio::test]
async fn a_connection_that_is_removed_takes_its_incident_with_it() {
    let mut table = Table::new().await;
    table
        .connections(&[status(1, "viriciti", 1, "disconnected", 0)])
        .await;
    table.sweep(2).await;
    let demo = workspace();
    let open = incident::list(&mut table.pg, &demo, Some(incident::State::Open), None, 10);
    let open = open.await.unwrap();
    assert_eq!((open.len(), open[0].reason.as_str()), (1, "closed"));
    table
        .connections(&[status(1, "viriciti", 2, "removed", 5)])
        .await;
    table.sweep(5).await;
    let closed = incident::find(&mut table.pg, &workspace(), open[0].id).await;
    let closed = closed.unwrap().unwrap();
    assert_eq!(
        (closed.state.as_str(), closed.closed_at),
        ("closed", Some(at(5)))
    );
    table.sweep(100).await;
    assert_eq!(incident::count_open(&mut table.pg).await.unwrap(), 0);
}

#[tokio::test]
async fn what_is_old_goes_and_what_was_not_told_stays() {
    let mut table = Table::new().await;
    for second in 0..5 {
        let heard = heard(
            &key(usize::try_from(second).unwrap()),
            "viriciti",
            &[second],
        );
        table.take(&[heard], second).await;
    }
    finding::note_told(&mut table.pg, 3).await.unwrap();
    let removed = retention::remove_older(&mut table.pg, at(4), 1000).await;
    // Four changes, and the three of their findings that were told.
    assert_eq!(removed.unwrap(), 7);
    let left = findings(&mut table.pg).await;
    assert!(left.iter().map(|(number, _)| *number).eq([4, 5]));
    let removed = retention::remove_older(&mut table.pg, at(4), 1000).await;
    assert_eq!(removed.unwrap(), 0);
}

#[tokio::test]
async fn a_core_that_knows_more_than_was_found_is_told_the_rest_under_later_numbers() {
    let mut table = Table::new().await;
    for number in 0..3 {
        table
            .take(&[heard(&key(number), "viriciti", &[1])], 1)
            .await;
    }
    finding::note_told(&mut table.pg, 1).await.unwrap();
    // Another replica has told two; then the core turns out to have fewer.
    for told in [2, 1] {
        finding::note_told(&mut table.pg, told).await.unwrap();
        let head = finding::head(&mut table.pg).await.unwrap();
        assert_eq!((head.found, head.told), (3, told));
    }
    finding::note_told(&mut table.pg, 9).await.unwrap();
    let head = finding::head(&mut table.pg).await.unwrap();
    assert_eq!((head.found, head.told), (11, 9));
    let rest = finding::read(&mut table.pg, 9, 10).await.unwrap();
    assert!(rest.iter().map(|event| event.number).eq([10, 11]));
}
