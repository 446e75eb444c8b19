//! Many frames, each twice: nothing is lost and nothing counts twice.

use std::collections::BTreeMap;

use headrace::services::Service;
use serde_json::Value;
use shared_model::Envelope;
use tests::EventLog;
use tests::frames::{drives, shuffled, vehicles};
use tests::harness::{World, envelopes};
use tests::model::{Fold, shown};

/// Envelopes as a busy publisher makes them: several frames of one partition together.
fn packed(envelopes: &[Envelope]) -> Vec<Envelope> {
    let mut of_partition = BTreeMap::<u32, Vec<&Envelope>>::new();
    for envelope in envelopes {
        of_partition
            .entry(envelope.partition)
            .or_default()
            .push(envelope);
    }
    of_partition
        .values()
        .flat_map(|envelopes| envelopes.chunks(10))
        .map(|chunk| Envelope {
            frames: chunk
                .iter()
                .flat_map(|envelope| envelope.frames.clone())
                .collect(),
            ..chunk[0].clone()
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_frames_of_200_vehicles_delivered_twice_equal_the_fold() {
    let world = World::start().await;
    let vehicles = vehicles(200);
    let connection = world.connect_nowhere("w", &vehicles).await;
    let frames = drives(
        20_000,
        &vehicles,
        20_000,
        runtime::clock::now().timestamp_millis(),
    );
    let envelopes = packed(&envelopes("w", connection, &frames));
    let twice = shuffled(9, &[envelopes.clone(), envelopes].concat());
    world.publish(&twice).await;
    world.drained().await;

    let fold = Fold::of(&frames);
    let mut after = String::new();
    let mut found = 0;
    loop {
        let (status, page) = world
            .get(&format!("/v1/workspaces/w/vehicles?limit=37{after}"))
            .await;
        assert_eq!(status, 200, "{page}");
        for snapshot in page["items"].as_array().unwrap() {
            let vehicle = snapshot["vehicle"].as_str().unwrap();
            assert_eq!(shown(snapshot), fold.signals(vehicle), "{vehicle}");
            found += 1;
        }
        match &page["next"] {
            Value::String(next) => after = format!("&after={next}"),
            _ => break,
        }
    }
    assert_eq!(found, 200);
    let (_, health) = world.get("/v1/workspaces/w/health").await;
    assert_eq!(
        (&health["vehicles"], &health["fresh"]),
        (&200.into(), &200.into()),
        "{health}"
    );

    // Everything was seen, so each session's numbers are one range a partition.
    let ranges = "SELECT max(array_length(ARRAY(SELECT unnest(seen)), 1)), sum(upper(seen) - 1)::bigint FROM core.session";
    let seen: (i32, i64) = sqlx::query_as(ranges).fetch_one(&world.pool).await.unwrap();
    assert_eq!(seen, (1, 20_000));

    let log = EventLog::read(&world.pool).await;
    log.assert_dense();
    assert_eq!(log.types["vehicle.registered"], 200);
    assert_eq!(log.versions.len(), 200);
    assert!(
        Service::ALL
            .into_iter()
            .all(|service| world.is_well(service))
    );
    world.stop().await;
}
