//! Parked frames: kept within bounds, looked at, discarded, and replayed once they can be read.

use std::time::Duration;

use serde_json::{Value, json};
use shared_model::{ConnectionId, Envelope};
use tests::frames::frame;
use tests::harness::{Options, World, envelopes, eventually};

use crate::ingest::{envelope, post, push_connection};
use crate::program::headrace;

const SOON: Duration = Duration::from_secs(30);

fn now() -> i64 {
    runtime::clock::now().timestamp_millis()
}

/// `label` is a name that no connection knows for the speed; `"fast"` is no number of it.
fn labelled(label: &str, value: Value, at: i64) -> String {
    frame("bus-1", label, value, at)
}

async fn push(world: &World) -> ConnectionId {
    let settings = json!({"vehicles": {"bus-1": ["soc"]}, "register_unknown": false});
    push_connection(world, "w", settings).await
}

async fn order(world: &World, verb: &str, order: &Value) -> Value {
    let url = world.url(&format!("/v1/workspaces/w/parked/{verb}"));
    let answer = world.http.post(url).json(order).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    answer.json().await.unwrap()
}

/// The workspace's parked frames.
async fn listed(world: &World, query: &str) -> Vec<Value> {
    let (status, page) = world.get(&format!("/v1/workspaces/w/parked?{query}")).await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().unwrap().clone()
}

/// What an operator does: the connection is given other settings.
async fn set(world: &World, connection: ConnectionId, settings: Value) {
    sqlx::query("UPDATE core.connection SET settings = $2 WHERE connection = $1")
        .bind(connection.0)
        .bind(settings)
        .execute(&world.pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_parked_is_listed_shown_and_discarded() {
    let world = World::start().await;
    let connection = push(&world).await;
    let at = now();
    let bodies = [
        "not JSON".to_owned(),
        labelled("speed", json!("fast"), at),
        labelled("speed", json!("slow"), at),
        frame("stray", "soc", json!(1), at),
    ];
    post(&world, &envelope("w", connection, &bodies)).await;
    let all = listed(&world, "").await;
    assert_eq!(all.len(), 4);
    assert_eq!(all[0]["reason"], "invalid_syntax");
    assert_eq!(all[0]["connection"], connection.to_string());
    assert_eq!(
        (&all[0]["attempts"], &all[0]["repeats"]),
        (&json!(0), &json!(0))
    );
    assert_eq!(all[0]["size"], 8);
    for (query, count) in [
        ("reason=invalid_value", 2),
        ("provider=viriciti&reason=unknown_vehicle", 1),
        ("provider=samsara", 0),
        (&format!("connection={connection}"), 4),
        ("connection=01890a5d-ac96-774b-bcce-b302099a8057", 0),
        ("from=2100-01-01T00:00:00Z", 0),
        ("to=2100-01-01T00:00:00Z", 4),
    ] {
        assert_eq!(listed(&world, query).await.len(), count, "{query}");
    }
    // Pages.
    let (_, page) = world.get("/v1/workspaces/w/parked?limit=3").await;
    let next = page["next"].as_i64().unwrap();
    assert_eq!(
        listed(&world, &format!("limit=3&after={next}")).await,
        all[3..]
    );

    let id = all[1]["id"].as_i64().unwrap();
    let (_, shown) = world.get(&format!("/v1/workspaces/w/parked/{id}")).await;
    assert_eq!(
        (&shown["encoding"], &shown["body"]),
        (&json!("text"), &json!(bodies[1]))
    );
    assert_eq!(
        world
            .get(&format!("/v1/workspaces/other/parked/{id}"))
            .await
            .0,
        404
    );
    assert_eq!(
        world.get("/v1/workspaces/other/parked").await.1["items"],
        json!([])
    );
    assert_eq!(
        world.get("/v1/workspaces/w/parked?colour=blue").await.0,
        400
    );

    let filter = json!({"filter": {"reason": "invalid_value"}, "dry_run": true});
    let foreseen = order(&world, "discard", &filter).await;
    assert_eq!(
        (&foreseen["frames"], &foreseen["dry_run"]),
        (&json!(2), &json!(true))
    );
    assert_eq!(listed(&world, "").await.len(), 4);
    let filter = json!({"filter": {"reason": "invalid_value"}});
    let done = order(&world, "discard", &filter).await;
    assert_eq!((&done["frames"], &done["next"]), (&json!(2), &Value::Null));
    assert_eq!(listed(&world, "").await.len(), 2);
    let part = order(&world, "discard", &json!({"filter": {}, "limit": 1})).await;
    assert_eq!(part["frames"], 1);
    assert!(part["next"].is_i64(), "{part}");
    assert_eq!(listed(&world, "reason=unknown_vehicle").await.len(), 1);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_by_now_is_replayed_with_its_own_time_and_the_rest_stays() {
    let world = World::start().await;
    let connection = push(&world).await;
    let at = now();
    let received = runtime::clock::now() - chrono::Duration::minutes(10);
    let bodies = [
        frame("bus-2", "soc", json!(41), at - 1_200_000),
        frame("bus-2", "soc", json!(42), at - 660_000),
        "not JSON".to_owned(),
        frame("bus-3", "soc", json!("much"), at),
    ];
    let mut body = envelope("w", connection, &bodies);
    body["frames"][1]["received_at"] = json!(received);
    post(&world, &body).await;
    let before = listed(&world, "").await;
    assert_eq!(before.len(), 4);

    let repaired = json!({"vehicles": {"bus-1": ["soc"]}});
    set(&world, connection, repaired).await;
    let dry = json!({"filter": {"provider": "viriciti"}, "dry_run": true});
    let foreseen = order(&world, "replay", &dry).await;
    assert_eq!(foreseen["verdicts"], json!({"accepted": 2, "parked": 2}));
    assert_eq!(
        foreseen["reasons"],
        json!({"invalid_syntax": 1, "invalid_value": 1})
    );
    assert_eq!(foreseen["items"][0]["verdict"], "accepted");
    assert_eq!(
        listed(&world, "").await,
        before,
        "a dry run changes nothing"
    );
    assert_eq!(
        world
            .get("/v1/workspaces/w/vehicles/bus-2/snapshot")
            .await
            .0,
        404
    );

    let done = order(
        &world,
        "replay",
        &json!({"filter": {"provider": "viriciti"}}),
    )
    .await;
    assert_eq!(done["verdicts"], foreseen["verdicts"]);
    assert_eq!((&done["frames"], &done["next"]), (&json!(4), &Value::Null));
    let after = listed(&world, "").await;
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&before[2..]));
    assert!(after.iter().all(|row| row["attempts"] == 1), "{after:?}");
    assert_eq!(after[1]["reason"], "invalid_value");

    let (value, heard): (Value, chrono::DateTime<chrono::Utc>) = sqlx::query_as(
        "SELECT signals->'state_of_charge', last_received_at FROM core.vehicle
         WHERE vehicle = 'bus-2'",
    )
    .fetch_one(&world.pool)
    .await
    .unwrap();
    assert_eq!(value["value"], 42.0, "{value}");
    assert!(
        value
            .to_string()
            .contains(&received.format("%Y-%m-%dT%H:%M").to_string()),
        "{value}"
    );
    assert!(heard > received);
    world.drained().await;
    let (status, _) = world.get("/v1/workspaces/w/vehicles/bus-2/snapshot").await;
    assert_eq!(status, 200);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_are_delivered_again_are_not_counted_again() {
    let world = World::with(Options {
        settings: vec![("parked.copies", "2")],
        ..Options::default()
    })
    .await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let mut sent = envelopes("w", connection, &vec!["not JSON".to_owned(); 10]);
    for _ in 0..2 {
        world.send(&sent).await;
    }
    let sign = frame("bus-1", "soc", json!(5), now());
    let mut after = envelopes("w", connection, &[sign]);
    // Behind them in their queue.
    after[0].partition = sent.remove(0).partition;
    world.send(&after).await;
    let known = || async {
        world
            .get("/v1/workspaces/w/vehicles/bus-1/snapshot")
            .await
            .1
    };
    eventually(SOON, "what came after is accepted", known, |snapshot| {
        snapshot["signals"]["state_of_charge"]["value"] == 5.0
    })
    .await;
    let rows = listed(&world, "").await;
    let repeats: Vec<_> = rows.iter().map(|row| &row["repeats"]).collect();
    assert_eq!(repeats, [0, 8]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_the_same_poison_is_a_few_rows_and_a_count() {
    let world = World::with(Options {
        settings: vec![("parked.copies", "3")],
        ..Options::default()
    })
    .await;
    let connection = push(&world).await;
    let stray = frame("bus-2", "soc", json!(7), now());
    let flood = vec![stray.clone(); 500];
    for _ in 0..2 {
        let answer = post(&world, &envelope("w", connection, &flood)).await;
        let answer: Value = answer.json().await.unwrap();
        let frames = answer["frames"].as_array().unwrap();
        assert!(frames.iter().all(|frame| frame["verdict"] == "parked"));
    }
    let other = frame("bus-2", "soc", json!(8), now());
    post(&world, &envelope("w", connection, &[other])).await;
    let kept = listed(&world, "").await;
    let repeats: Vec<_> = kept
        .iter()
        .map(|row| row["repeats"].as_i64().unwrap())
        .collect();
    assert_eq!(repeats, [0, 0, 997, 0]);
    assert!(
        kept[2]["last_at"].as_str() > kept[2]["parked_at"].as_str(),
        "{}",
        kept[2]
    );
    let seen: String = sqlx::query_scalar("SELECT seen::text FROM core.session")
        .fetch_one(&world.pool)
        .await
        .unwrap();
    assert_eq!(seen, "{[1,1002)}", "each copy's number was seen");

    set(&world, connection, json!({"vehicles": {"bus-1": ["soc"]}})).await;
    let done = order(&world, "replay", &json!({"filter": {}})).await;
    assert_eq!(
        (&done["frames"], &done["copies"]),
        (&json!(4), &json!(1001))
    );
    assert_eq!(done["items"][2]["copies"], 998);
    assert_eq!(listed(&world, "").await, [] as [Value; 0]);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_or_too_much_is_removed() {
    let world = World::with(Options {
        settings: vec![
            ("parked.sweep_every", "100ms"),
            ("parked.max_rows", "5"),
            ("parked.max_bytes", "300"),
            ("ingest.key_retention", "1s"),
        ],
        ..Options::default()
    })
    .await;
    let connection = push(&world).await;
    let bodies: Vec<_> = (0..20).map(|n| format!("not JSON {n:02}")).collect();
    let key = world
        .http
        .post(world.url("/v1/provider-ingest"))
        .header("idempotency-key", "k");
    key.json(&envelope("w", connection, &bodies))
        .send()
        .await
        .unwrap();
    let sizes = || async {
        let rows = listed(&world, "").await;
        rows.iter()
            .map(|row| row["size"].as_i64().unwrap())
            .collect::<Vec<_>>()
    };
    eventually(SOON, "as many as may be", sizes, |sizes| sizes.len() == 5).await;
    let kept = listed(&world, "").await;
    let (_, newest) = world
        .get(&format!("/v1/workspaces/w/parked/{}", kept[4]["id"]))
        .await;
    assert_eq!(newest["body"], "not JSON 19");
    let large = vec!["x".repeat(140), "y".repeat(140)];
    post(&world, &envelope("w", connection, &large)).await;
    eventually(SOON, "as much as may be", sizes, |sizes| {
        sizes[..] == [11, 140, 140]
    })
    .await;

    let old = "UPDATE core.parked_frame SET last_at = now() - interval '40 days' WHERE id = $1";
    sqlx::query(old)
        .bind(kept[4]["id"].as_i64())
        .execute(&world.pool)
        .await
        .unwrap();
    eventually(SOON, "the old one is gone", sizes, |sizes| {
        sizes[..] == [140, 140]
    })
    .await;
    let keys = || async {
        let query = "SELECT count(*) FROM core.ingest_key";
        sqlx::query_scalar::<_, i64>(query)
            .fetch_one(&world.pool)
            .await
            .unwrap()
    };
    eventually(SOON, "the key is forgotten", keys, |keys| *keys == 0).await;
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_no_workspace_is_for_operators() {
    let world = World::start().await;
    let connection = world.connect_nowhere("w", &["bus-1".to_owned()]).await;
    let at = now();
    // One of another workspace's name, one of no connection, and a message that is no envelope yet.
    let body = [frame("bus-1", "soc", json!(1), at)];
    let mismatched = envelopes("other", connection, &body);
    let unknown = envelopes("w", ConnectionId(runtime::clock::new_id()), &body);
    world.send(&mismatched).await;
    world.send(&unknown).await;
    let good: Envelope = envelopes("w", connection, &[frame("bus-1", "soc", json!(9), at + 1)])
        .pop()
        .unwrap();
    let mut headers = good.encode_headers();
    let name = shared_model::headers::WORKSPACE;
    let workspace = headers.remove(name).unwrap();
    world
        .send_raw(good.partition, headers, good.encode_body().to_vec())
        .await;
    let base = world.url("/v1/parked");
    let ask = || async {
        let answer = world.http.get(&base).send().await.unwrap();
        let page: Value = answer.json().await.unwrap();
        page["items"].as_array().unwrap().clone()
    };
    let found = eventually(SOON, "all are parked", ask, |items| items.len() == 3).await;
    assert_eq!(
        world.get("/v1/workspaces/w/parked").await.1["items"],
        json!([])
    );
    let of = |reason: &str| found.iter().find(|row| row["reason"] == reason).unwrap();
    assert_eq!(of("connection_mismatch")["claimed_workspace"], "other");
    let message = of("undecodable_envelope")["id"].as_i64().unwrap();
    let shown: Value = world
        .http
        .get(format!("{base}/{message}"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert!(
        shown["headers"]["headrace-connection"].is_string(),
        "{shown}"
    );

    let replay = async || -> Value {
        let request = world
            .http
            .post(format!("{base}/replay"))
            .json(&json!({"filter": {}}));
        request.send().await.unwrap().json().await.unwrap()
    };
    let done = replay().await;
    assert_eq!(done["verdicts"], json!({"parked": 3}), "{done}");
    // Whatever an operator does, a workspace never gets another's data.
    let mismatch = "connection_mismatch";
    assert_eq!(done["reasons"][mismatch], 1, "{done}");

    // A message that can be decoded by now: its frames are accepted.
    sqlx::query("UPDATE core.parked_frame SET headers = headers || jsonb_build_object($2::text, $3::text) WHERE id = $1")
        .bind(message)
        .bind(name)
        .bind(workspace)
        .execute(&world.pool)
        .await
        .unwrap();
    let done = replay().await;
    assert_eq!(
        done["verdicts"],
        json!({"accepted": 1, "parked": 2}),
        "{done}"
    );
    let left = ask().await;
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|row| row["attempts"] == 2), "{left:?}");
    let discard = world
        .http
        .post(format!("{base}/discard"))
        .json(&json!({"filter": {}}));
    let done: Value = discard.send().await.unwrap().json().await.unwrap();
    assert_eq!(done["frames"], 2);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_frames_are_looked_after_from_the_command_line() {
    let world = World::start().await;
    let connection = push(&world).await;
    let bodies = [
        frame("bus-2", "soc", json!(42), now()),
        "not JSON".to_owned(),
    ];
    post(&world, &envelope("w", connection, &bodies)).await;
    set(&world, connection, json!({"vehicles": {"bus-1": ["soc"]}})).await;
    let id = listed(&world, "").await[0]["id"].to_string();
    let run = async |arguments: &[&str]| {
        let all = [&["parked"], arguments, &["--workspace=w"]].concat();
        headrace(&world, &all).await
    };
    run(&["show", "999999"])
        .await
        .fails_for("no parked frame 999999");
    run(&["discard"]).await.fails_for("--all");
    for (arguments, says, left) in [
        (
            &["list", "--reason=invalid_syntax"][..],
            "invalid_syntax",
            2,
        ),
        (&["show", &id][..], id.as_str(), 2),
        (&["replay", "--all", "--dry-run"][..], "\"frames\":2", 2),
        (&["replay", "--provider=viriciti"][..], "\"accepted\":1", 1),
        (&["discard", "--all", "--dry-run"][..], "\"frames\":1", 1),
        (
            &["discard", "--reason=invalid_syntax"][..],
            "\"frames\":1",
            0,
        ),
    ] {
        run(arguments).await.says(says);
        assert_eq!(listed(&world, "").await.len(), left, "{arguments:?}");
    }
    world.stop().await;
}
