//! Lists, against the real database.

use std::time::Instant;

use serde_json::{Value, json};
use shared_model::event::{EventType, Fact};
use sqlx::{PgPool, Row};

use super::*;
use crate::fixture;
use crate::health::FreshnessConfig;
use crate::schema::Schema;
use crate::snapshot::MIGRATIONS;
use crate::snapshot::filter::tests::read;
use crate::snapshot::fold::tests::{changed, registered, seen};
use crate::snapshot::store::tests::{changes, workspace};
use crate::snapshot::store::upsert;

const LIVE: Schema = Schema("snapshot");

fn at(time: &str) -> DateTime<Utc> {
    format!("2026-11-23T{time}Z").parse().unwrap()
}

fn cutoffs(now: &str) -> Cutoffs {
    Cutoffs::at(at(now), &FreshnessConfig::default().limits())
}

fn names(page: Vec<(String, Snapshot)>) -> Vec<String> {
    page.into_iter().map(|(vehicle, _)| vehicle).collect()
}

/// What a filter finds at 12:00, in full.
async fn found(pool: &PgPool, parameters: &[(&str, &str)]) -> Vec<String> {
    let mut connection = pool.acquire().await.unwrap();
    let (workspace, cutoffs) = (workspace("ours"), cutoffs("12:00:00"));
    let filter = read(parameters).unwrap();
    let found = list(&mut connection, &workspace, None, 100, &filter, &cutoffs);
    names(found.await.unwrap())
}

/// A vehicle that was heard from through `provider` at a time of the day, with these values.
fn vehicle(name: &str, provider: &str, time: &str, values: &[(&str, Value)]) -> Fact {
    let signals: serde_json::Map<_, _> = values
        .iter()
        .map(|(signal, value)| {
            let reading = json!({"value": value, "unit": "%", "observed_at": at(time),
                "received_at": at(time), "provider": provider});
            ((*signal).to_owned(), reading)
        })
        .collect();
    let data = json!({"vehicle": name, "version": 1, "revision": 1, "changed": [],
        "last_received_at": at(time), "signals": signals});
    Fact::read(EventType::VehicleSnapshotChanged, data).unwrap()
}

fn position(longitude: f64, latitude: f64) -> Value {
    json!({"latitude": latitude, "longitude": longitude})
}

async fn fleet(name: &str, facts: &[Fact]) -> PgPool {
    let pool = fixture::pool(&MIGRATIONS).await;
    let mut connection = pool.acquire().await.unwrap();
    let changes = changes(&workspace(name), facts);
    upsert(&mut connection, LIVE, &changes).await.unwrap();
    pool
}

#[tokio::test]
async fn pages_follow_the_bytes_of_the_ids_within_one_workspace() {
    let facts = [registered(1), changed(0, 3), seen(&[(2, 4)])];
    let pool = fleet("ours", &facts).await;
    let mut connection = pool.acquire().await.unwrap();
    let (ours, theirs) = (workspace("ours"), workspace("theirs"));
    let their_changes = changes(&theirs, &facts);
    upsert(&mut connection, LIVE, &their_changes).await.unwrap();
    let mut odd = changes(&ours, &facts[..1]);
    odd[0].key.vehicle = VehicleId::new("Bus №7 / Süd").unwrap();
    upsert(&mut connection, LIVE, &odd).await.unwrap();

    let (all, cutoffs) = (Filter::default(), cutoffs("12:00:00"));
    let page = list(&mut connection, &ours, None, 3, &all, &cutoffs).await;
    assert_eq!(names(page.unwrap()), ["Bus №7 / Süd", "bus-0", "bus-1"]);
    let after = VehicleId::new("bus-1").unwrap();
    let page = list(&mut connection, &ours, Some(&after), 3, &all, &cutoffs).await;
    assert_eq!(names(page.unwrap()), ["bus-2"]);
    let empty = workspace("empty");
    let page = list(&mut connection, &empty, None, 3, &all, &cutoffs).await;
    assert!(page.unwrap().is_empty());
}

#[tokio::test]
async fn vehicles_are_found_by_how_fresh_they_are_now() {
    let mut facts = vec![
        vehicle("a", "viriciti", "11:55:00.000001", &[("speed", json!(1))]),
        vehicle("b", "viriciti", "11:55:00", &[("speed", json!(1))]),
        // Heard from through one that reports once an hour.
        vehicle("c", "rfms", "11:30:00", &[("speed", json!(1))]),
        vehicle("d", "viriciti", "11:00:00", &[("speed", json!(1))]),
        vehicle("e", "rfms", "06:00:00", &[("speed", json!(1))]),
        vehicle("f", "geotab", "06:00:00.1", &[("speed", json!(1))]),
    ];
    facts.push(registered(1));
    let pool = fleet("ours", &facts).await;
    assert_eq!(found(&pool, &[("freshness", "fresh")]).await, ["a", "c"]);
    assert_eq!(found(&pool, &[("freshness", "stale")]).await, ["b", "f"]);
    assert_eq!(found(&pool, &[("freshness", "offline")]).await, ["d", "e"]);
    let never = [("freshness", "never_seen,fresh")];
    assert_eq!(found(&pool, &never).await, ["a", "bus-1", "c"]);
    // Who registered it, for one that never was heard from.
    let provider = [("provider", "viriciti")];
    assert_eq!(found(&pool, &provider).await, ["a", "b", "bus-1", "d"]);
    let both = [("provider", "rfms"), ("freshness", "offline")];
    assert_eq!(found(&pool, &both).await, ["e"]);
    let since = [("observed_since", "2026-11-23T11:55:00Z")];
    assert_eq!(found(&pool, &since).await, ["a", "b"]);
}

#[tokio::test]
async fn what_is_no_number_is_in_no_range_and_harms_nothing() {
    let soc = |name: &str, value: Value| {
        vehicle(name, "viriciti", "12:00:00", &[("state_of_charge", value)])
    };
    let facts = [
        soc("a", json!(20.1)),
        soc("b", json!(19.9)),
        soc("c", json!("NaN")),
        soc("d", json!("20.1")),
        soc("e", Value::Null),
        soc("f", json!({"number": 20.1})),
        soc("g", json!([20.1])),
        vehicle("h", "viriciti", "12:00:00", &[("speed", json!(20.1))]),
        soc("i", json!(true)),
        soc("j", json!(20)),
        soc("k", json!(0)),
    ];
    let pool = fleet("ours", &facts).await;
    // Such a number does not come from us; whoever writes it must not take the list down.
    let huge = r#"{"state_of_charge": {"value": 1e400, "unit": "%"},
        "position": {"value": {"latitude": 1e400, "longitude": -1e400}, "unit": "deg"}}"#;
    sqlx::query("UPDATE snapshot.vehicle SET signals = $1::text::jsonb WHERE vehicle = 'i'")
        .bind(huge)
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(found(&pool, &[("soc_min", "20.1")]).await, ["a"]);
    assert_eq!(
        found(&pool, &[("soc_max", "20.1")]).await,
        ["a", "b", "j", "k"]
    );
    let between = [("soc_min", "19.9"), ("soc_max", "20")];
    assert_eq!(found(&pool, &between).await, ["b", "j"]);
    assert_eq!(found(&pool, &[("soc_max", "0")]).await, ["k"]);
    let everywhere = [("bbox", "-180,-90,180,90")];
    assert!(found(&pool, &everywhere).await.is_empty());
}

#[tokio::test]
async fn a_box_may_cross_the_antimeridian() {
    let at = |name: &str, longitude, latitude| {
        let value = position(longitude, latitude);
        vehicle(name, "viriciti", "12:00:00", &[("position", value)])
    };
    let facts = [
        at("amsterdam", 4.9, 52.37),
        at("suva", 178.44, -18.14),
        at("apia", -171.76, -13.83),
        at("edge", 180.0, -16.0),
        vehicle(
            "nowhere",
            "viriciti",
            "12:00:00",
            &[("position", json!("52.37,4.9"))],
        ),
        vehicle(
            "half",
            "viriciti",
            "12:00:00",
            &[("position", json!({"latitude": 52.37}))],
        ),
    ];
    let pool = fleet("ours", &facts).await;
    let within = |text: &'static str| {
        let pool = pool.clone();
        async move { found(&pool, &[("bbox", text)]).await }
    };
    assert_eq!(within("4,52,5,53").await, ["amsterdam"]);
    assert_eq!(within("4.9,52.37,4.9,52.37").await, ["amsterdam"]);
    assert_eq!(within("177,-20,-170,-10").await, ["apia", "edge", "suva"]);
    assert_eq!(within("177,-17,-170,-10").await, ["apia", "edge"]);
    assert_eq!(within("-180,-90,180,90").await.len(), 4);
    assert!(within("6,52,4,53").await.is_empty());
}

#[tokio::test]
async fn a_text_is_found_in_an_id_in_whatever_case() {
    let at = |name: &str| vehicle(name, "viriciti", "12:00:00", &[("speed", json!(1))]);
    let facts = ["BUS-10", "bus_1%", "Tram 1", "bus\\1"].map(at);
    let pool = fleet("ours", &facts).await;
    assert_eq!(
        found(&pool, &[("search", "bUs")]).await,
        ["BUS-10", "bus\\1", "bus_1%"]
    );
    // It is a text, and no pattern.
    assert_eq!(found(&pool, &[("search", "%")]).await, ["bus_1%"]);
    assert_eq!(found(&pool, &[("search", "_1")]).await, ["bus_1%"]);
    assert_eq!(found(&pool, &[("search", "\\")]).await, ["bus\\1"]);
    assert_eq!(found(&pool, &[("search", "AM 1")]).await, ["Tram 1"]);
}

#[tokio::test]
async fn the_migration_writes_what_the_projection_would() {
    let facts = [
        changed(0, 3),
        seen(&[(2, 4), (1, 7)]),
        vehicle("c", "rfms", "11:30:00", &[("speed", json!(1))]),
    ];
    let pool = fleet("ours", &facts).await;
    let rows = || async {
        sqlx::query_scalar::<_, String>("SELECT v::text FROM snapshot.vehicle AS v ORDER BY 1")
            .fetch_all(&pool)
            .await
            .unwrap()
    };
    let expected = rows().await;
    let migration =
        include_str!("../../../../migrations/snapshot/0003_add_provider_and_observed_at.sql");
    let (_, update) = migration.split_once(";\n").unwrap();
    sqlx::raw_sql("UPDATE snapshot.vehicle SET provider = NULL, observed_at = NULL")
        .execute(&pool)
        .await
        .unwrap();
    assert_ne!(rows().await, expected);
    sqlx::raw_sql(update).execute(&pool).await.unwrap();
    assert_eq!(rows().await, expected);
}

/// How long lists take. `HEADRACE_TEST_SNAPSHOT_VEHICLES` says of how many vehicles, 2,000 unless it is
/// set.
#[tokio::test]
async fn a_filter_that_finds_little_reads_a_workspace_fast() {
    let vehicles = std::env::var("HEADRACE_TEST_SNAPSHOT_VEHICLES").ok();
    let vehicles: usize = vehicles.map_or(2_000, |text| text.parse().expect("a number"));
    let all = [
        "odometer",
        "speed",
        "power",
        "energy",
        "battery_voltage",
        "battery_current",
        "range",
    ];
    let facts: Vec<_> = (0..vehicles)
        .map(|number| {
            let share = number as f64 / vehicles as f64;
            let mut values = vec![
                ("state_of_charge", json!(100.0 * share)),
                ("position", position(180.0 * share, 45.0)),
            ];
            values.extend(all.map(|signal| (signal, json!(number))));
            vehicle(&format!("bus-{number:06}"), "viriciti", "12:00:00", &values)
        })
        .collect();
    let pool = fleet("ours", &facts).await;
    sqlx::raw_sql("VACUUM ANALYZE snapshot.vehicle")
        .execute(&pool)
        .await
        .unwrap();
    let mut connection = pool.acquire().await.unwrap();
    let (workspace, cutoffs) = (workspace("ours"), cutoffs("12:00:00"));
    for parameters in [
        &[][..],
        &[("soc_min", "99.9")],
        &[("bbox", "179.9,40,180,50")],
        &[("freshness", "offline")],
        &[("search", "bus-000001")],
        &[("observed_since", "2026-11-23T12:00:01Z")],
    ] {
        let filter = read(parameters).unwrap();
        let mut best = f64::MAX;
        let mut count = 0;
        for _ in 0..7 {
            let started = Instant::now();
            let found = list(&mut connection, &workspace, None, 101, &filter, &cutoffs).await;
            count = found.unwrap().len();
            best = best.min(started.elapsed().as_secs_f64());
        }
        println!(
            "{vehicles} vehicles, {parameters:?}: {count} found in {:.1} ms",
            best * 1000.0
        );
        assert!(best < 1.0, "{parameters:?} takes {best} s");
    }
    let size = sqlx::query("SELECT pg_total_relation_size('snapshot.vehicle')");
    let size: i64 = size.fetch_one(&pool).await.unwrap().get(0);
    println!("the table has {} bytes a vehicle", size / vehicles as i64);
}
