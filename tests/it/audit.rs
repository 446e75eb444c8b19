//! The audit log: who has changed what.

use std::time::Duration;

use runtime::access::Scope;
use serde_json::{Value, json};
use tests::harness::{Options, World, eventually};

const SOON: Duration = Duration::from_secs(30);
const KEYS: &str = "/v1/workspaces/depot/api-keys";

/// Asks for a key in `depot` with `key`; the answer's status and the problem's name.
async fn change(world: &World, key: &str) -> (u16, String) {
    let order = json!({"name": "audited", "scopes": ["manage"]});
    let request = world.http.post(world.url(KEYS)).bearer_auth(key);
    let answer = request.json(&order).send().await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap();
    (status, body["type"].as_str().unwrap_or_default().to_owned())
}

async fn entries(world: &World, path: &str) -> Vec<Value> {
    let (status, page) = world.get(path).await;
    assert_eq!(status, 200, "{page}");
    page["items"].as_array().unwrap().clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_has_an_entry_with_its_maker_and_its_end() {
    let world = World::with(Options::core_only()).await;
    let manager = world.key(&["depot"], &[Scope::Manage]).await;
    let reader = world.key(&["harbour"], &[Scope::Operate]).await;
    let id = manager.split('_').nth(1).unwrap();
    assert_eq!(change(&world, &manager).await.0, 201);
    let (status, page) = world.get_with(&manager, "/v1/workspaces/depot/audit").await;
    assert_eq!(status, 200, "{page}");
    let entry = &page["items"][0];
    assert_eq!(entry["principal"], format!("key:{id}"));
    assert_eq!(entry["method"], "POST");
    assert_eq!(entry["route"], "/v1/workspaces/{workspace}/api-keys");
    assert_eq!(
        (&entry["path"], &entry["status"]),
        (&json!(KEYS), &json!(201))
    );
    assert!(!page.to_string().contains("audited"), "{page}");

    // What fails has one too, and what only reads has none.
    let nobody = world.url(&format!("{KEYS}/0123456789abcdef"));
    let request = world.http.delete(nobody).bearer_auth(&manager);
    assert_eq!(request.send().await.unwrap().status(), 404);
    let depot = entries(&world, "/v1/workspaces/depot/audit").await;
    let statuses: Vec<_> = depot.iter().map(|entry| entry["status"].clone()).collect();
    assert_eq!(statuses, [404, 201]);

    // The whole installation's, which the workspace does not see: the keys that this test has made.
    let (status, all) = world.get_with(&reader, "/v1/audit").await;
    assert_eq!(
        (status, all["items"].as_array().unwrap().len()),
        (200, 4),
        "{all}"
    );
    assert_eq!(world.get_with(&manager, "/v1/audit").await.0, 403);
    assert!(
        entries(&world, "/v1/workspaces/harbour/audit")
            .await
            .is_empty()
    );

    let by = |principal: &str| format!("/v1/audit?principal={principal}");
    assert_eq!(entries(&world, &by("internal")).await.len(), 2);
    assert_eq!(entries(&world, &by(&format!("key:{id}"))).await.len(), 2);
    let at = depot[0]["at"].as_str().unwrap();
    assert_eq!(
        entries(&world, &format!("/v1/audit?from={at}")).await.len(),
        1
    );
    assert_eq!(
        entries(&world, &format!("/v1/audit?to={at}")).await.len(),
        3
    );
    let (_, first) = world.get("/v1/audit?limit=3").await;
    let next = first["next"].as_str().unwrap();
    let rest = entries(&world, &format!("/v1/audit?limit=3&after={next}")).await;
    assert_eq!(rest, [all["items"][3].clone()]);
    assert_eq!(world.get("/v1/audit?from=yesterday").await.0, 400);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_written_down_does_not_happen() {
    let world = World::with(Options::core_only()).await;
    let manager = world.key(&["depot"], &[Scope::Manage]).await;
    let rename = |from: &str, to: &str| format!("ALTER TABLE core.{from} RENAME TO {to}");
    let run = |sql: String| async {
        let sql = sqlx::AssertSqlSafe(sql);
        sqlx::query(sql).execute(&world.pool).await.unwrap();
    };
    run(rename("audit", "audit_away")).await;
    let (status, name) = change(&world, &manager).await;
    assert_eq!(
        (status, name.as_str()),
        (503, "urn:headrace:problem:audit-away")
    );
    run(rename("audit_away", "audit")).await;
    let (_, keys) = world.get(KEYS).await;
    assert_eq!(keys["items"].as_array().unwrap().len(), 1, "{keys}");
    assert_eq!(change(&world, &manager).await.0, 201);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_kept_as_long_as_is_said() {
    let mut options = Options::core_only();
    options.settings = vec![("audit.retention", "10m"), ("parked.sweep_every", "200ms")];
    let world = World::with(options).await;
    let manager = world.key(&["depot"], &[Scope::Manage]).await;
    assert_eq!(change(&world, &manager).await.0, 201);
    assert_eq!(change(&world, &manager).await.0, 201);
    let newest = entries(&world, "/v1/audit?limit=1").await[0]["id"].clone();
    sqlx::query("UPDATE core.audit SET at = at - interval '11 minutes' WHERE id::text <> $1")
        .bind(newest.as_str())
        .execute(&world.pool)
        .await
        .unwrap();
    let left = || entries(&world, "/v1/audit");
    let left = eventually(SOON, "old entries are gone", left, |left| left.len() == 1).await;
    assert_eq!(left[0]["id"], newest);
    world.stop().await;
}
