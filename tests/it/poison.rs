//! What cannot be read is parked with its reason, and its batch mates land.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use shared_model::{Envelope, headers};
use tests::frames::frame;
use tests::harness::{World, envelopes, eventually};

const SOON: Duration = Duration::from_secs(30);

type Parked = Vec<(String, Option<String>, Vec<u8>)>;

async fn parked(world: &World) -> Parked {
    let query = "SELECT reason, workspace, body FROM core.parked_frame ORDER BY reason, id";
    sqlx::query_as(query).fetch_all(&world.pool).await.unwrap()
}

async fn reasons_eventually(world: &World, expected: &[&str]) -> Parked {
    let ask = || parked(world);
    eventually(SOON, "parked", ask, |found| {
        found
            .iter()
            .map(|(reason, ..)| reason.as_str())
            .eq(expected.iter().copied())
    })
    .await
}

/// One envelope with all frames, so that they are one batch.
fn together(envelopes: &[Envelope]) -> Envelope {
    let mut envelope = envelopes[0].clone();
    envelope.frames = envelopes
        .iter()
        .flat_map(|envelope| envelope.frames.clone())
        .collect();
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_frame_is_parked_and_its_batch_mates_land() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let now = runtime::clock::now().timestamp_millis();
    let bodies = [
        frame("bus-1", "soc", json!(50), now),
        "this is not JSON \u{0}".to_owned(),
        frame("bus-1", "speed", json!("fast"), now),
        frame("bus-1", "odo", json!(12), now),
    ];
    let envelope = together(&envelopes("w", connection, &bodies));
    for _ in 0..3 {
        world.send(std::slice::from_ref(&envelope)).await;
    }
    world.drained().await;
    let found = reasons_eventually(&world, &["invalid_syntax", "invalid_value"]).await;
    assert_eq!(found[0].1.as_deref(), Some("w"));
    assert_eq!(found[0].2, bodies[1].as_bytes());
    assert_eq!(found[1].2, bodies[2].as_bytes());
    let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-1/snapshot").await;
    assert_eq!(snapshot["signals"]["state_of_charge"]["value"], 50.0);
    assert_eq!(snapshot["signals"]["odometer"]["value"], 12_000.0);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_the_database_refuses_is_found_by_halving_and_parked_alone() {
    let world = World::start().await;
    let vehicles = tests::frames::vehicles(20);
    let connection = world.connect_nowhere("w", &vehicles).await;
    for statement in [
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'not this one' USING ERRCODE = '22023'; END $$",
        "CREATE TRIGGER refuse BEFORE UPDATE ON core.vehicle FOR EACH ROW
         WHEN (NEW.vehicle = 'bus-7') EXECUTE FUNCTION refuse()",
    ] {
        sqlx::query(statement).execute(&world.pool).await.unwrap();
    }
    let now = runtime::clock::now().timestamp_millis();
    let bodies: Vec<_> = vehicles
        .iter()
        .map(|v| frame(v, "soc", json!(50), now))
        .collect();
    world
        .send(&[together(&envelopes("w", connection, &bodies))])
        .await;
    let found = reasons_eventually(&world, &["rejected_by_store"]).await;
    assert_eq!(found[0].2, bodies[6].as_bytes());
    let ask = || async { world.get("/v1/workspaces/w/health").await.1 };
    eventually(SOON, "its mates have landed", ask, |health| {
        (&health["fresh"], &health["never_seen"]) == (&json!(19), &json!(1))
    })
    .await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_are_no_envelopes_are_parked_whole() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let now = runtime::clock::now().timestamp_millis();
    let good = &envelopes("w", connection, &[frame("bus-1", "soc", json!(1), now)])[0];

    world
        .send_raw(0, std::collections::BTreeMap::default(), b"hello".to_vec())
        .await;
    let mut from_the_future = good.encode_headers();
    from_the_future.insert(headers::ENVELOPE_VERSION.to_owned(), "2.0".to_owned());
    world
        .send_raw(0, from_the_future, good.encode_body().to_vec())
        .await;
    world.send(std::slice::from_ref(good)).await;

    let found = reasons_eventually(&world, &["undecodable_envelope", "unsupported_version"]).await;
    assert_eq!(found[0].2, b"hello");
    world.drained().await;
    let (_, health) = world.get("/v1/workspaces/w/health").await;
    assert_eq!(health["fresh"], 1, "{health}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_never_gets_what_came_over_anothers_connection() {
    let world = World::start().await;
    let connection = world.connect_nowhere("ours", &["bus-1".to_owned()]).await;
    let now = runtime::clock::now().timestamp_millis();
    let body = [frame("bus-1", "soc", json!(1), now)];
    let nobody = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    world.send(&envelopes("theirs", connection, &body)).await;
    world.send(&envelopes("ours", nobody, &body)).await;
    let reasons = ["connection_mismatch", "unknown_connection"];
    let found = reasons_eventually(&world, &reasons).await;
    // Nor does naming a workspace put a frame among what the workspace has parked.
    assert!(
        found.iter().all(|(_, workspace, _)| workspace.is_none()),
        "{found:?}"
    );
    world.drained().await;
    assert_eq!(
        world.get("/v1/workspaces/theirs/vehicles").await.1["items"],
        json!([])
    );
    assert_eq!(
        world.get("/v1/workspaces/ours/health").await.1["never_seen"],
        1
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_refuse_vehicles_that_it_does_not_name() {
    let world = World::start().await;
    let settings = json!({"vehicles": {"bus-1": ["soc"]}, "register_unknown": false});
    let connection = world
        .connect("w", "ws://127.0.0.1:9/nowhere", settings)
        .await;
    let now = runtime::clock::now().timestamp_millis();
    let bodies = [
        frame("bus-1", "soc", json!(1), now),
        frame("stray", "soc", json!(2), now),
    ];
    world.send(&envelopes("w", connection, &bodies)).await;
    let found = reasons_eventually(&world, &["unknown_vehicle"]).await;
    assert_eq!(found[0].2, Bytes::from(bodies[1].clone()));
    world.drained().await;
    assert_eq!(
        world
            .get("/v1/workspaces/w/vehicles/stray/snapshot")
            .await
            .0,
        404
    );
    assert_eq!(
        world
            .get("/v1/workspaces/w/vehicles/bus-1/snapshot")
            .await
            .0,
        200
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_whose_clock_is_ahead_freezes_no_vehicle() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let now = runtime::clock::now();
    let body = |soc, at: chrono::DateTime<chrono::Utc>| {
        [frame("bus-1", "soc", json!(soc), at.timestamp_millis())]
    };
    let tomorrow = now + chrono::Duration::days(1);
    let mut ahead = envelopes("w", connection, &body(1, tomorrow));
    ahead[0].frames[0].received_at = tomorrow;
    world.send(&ahead).await;
    world.send(&envelopes("w", connection, &body(2, now))).await;
    reasons_eventually(&world, &["received_in_future"]).await;
    world.drained().await;
    let (_, snapshot) = world.get("/v1/workspaces/w/vehicles/bus-1/snapshot").await;
    assert_eq!(
        snapshot["signals"]["state_of_charge"]["value"], 2.0,
        "{snapshot}"
    );
    world.stop().await;
}
