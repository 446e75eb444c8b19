//! API keys as their makers and holders see them.

use std::time::Duration;

use chrono::TimeDelta;
use ingress_consumer::access::PgAccess;
use reqwest::Method;
use runtime::access::{ApiKey, KeyCheck, KeySource, Scope};
use runtime::clock;
use serde_json::{Value, json};
use shared_model::ConnectionId;
use tests::frames::frame;
use tests::harness::{INTERNAL_TOKEN, Options, World, eventually};

use crate::ingest::{envelope, push_connection};

use crate::program::program;

const SOON: Duration = Duration::from_secs(90);
const INGEST: &str = "/v1/provider-ingest";
const KEYS: &str = "/v1/workspaces/depot/api-keys";

/// What a request of the holder of `key` is answered: status, problem's name or nothing, and body.
async fn ask(
    world: &World,
    key: &str,
    method: Method,
    path: &str,
    body: Option<Value>,
) -> (u16, String, Value) {
    let mut request = world.http.request(method, world.url(path)).bearer_auth(key);
    if let Some(body) = body {
        request = request.json(&body);
    }
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let body: Value = answer.json().await.unwrap_or_default();
    let name = body["type"].as_str().unwrap_or_default();
    let name = name.replace("urn:headrace:problem:", "");
    (status, name, body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_opens_its_own_workspace_alone() {
    let world = World::with(Options::core_only()).await;
    let manager = world.key(&["depot"], &[Scope::Read, Scope::Manage]).await;
    let order = json!({"name": "board", "scopes": ["read"]});
    let request = world.http.post(world.url(KEYS)).bearer_auth(&manager);
    let answer = request.json(&order).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    let made: Value = answer.json().await.unwrap();
    let key = made["key"].as_str().unwrap().to_owned();
    assert_eq!(made["state"], "active");

    let (status, shown) = world.get_with(&manager, &location).await;
    assert_eq!((status, &shown["id"]), (200, &made["id"]));
    let (_, listed) = world.get_with(&manager, KEYS).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{listed}");
    let secret = key.rsplit('_').next().unwrap();
    let digest = key.parse::<ApiKey>().unwrap().digest();
    for text in [shown.to_string(), listed.to_string()] {
        assert!(!text.contains(secret) && !text.contains(&digest), "{text}");
    }

    let (_, me) = world.get_with(&key, "/v1/me").await;
    let id = made["id"].as_str().unwrap();
    let expected = json!({"principal": format!("key:{id}"), "kind": "api_key",
        "workspaces": ["depot"], "scopes": ["read"]});
    assert_eq!(me, expected);
    let header = reqwest::Client::new().get(world.url("/v1/me"));
    let answer = header.header("x-api-key", &key).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let answer = reqwest::get(world.url("/v1/me")).await.unwrap();
    assert_eq!(answer.status(), 401);
    let (_, me) = world.get("/v1/me").await;
    assert_eq!(
        (&me["kind"], &me["workspaces"]),
        (&json!("internal"), &Value::Null)
    );

    // It reads, and no more; and nothing is told of other workspaces.
    let (status, name, _) = ask(&world, &key, Method::GET, KEYS, None).await;
    assert_eq!((status, name.as_str()), (403, "scope-missing"));
    let (status, name, _) = ask(
        &world,
        &manager,
        Method::GET,
        "/v1/workspaces/other/api-keys",
        None,
    )
    .await;
    assert_eq!((status, name.as_str()), (403, "workspace-forbidden"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_or_has_expired_opens_nothing() {
    let world = World::with(Options::core_only()).await;
    let manager = world.key(&["depot"], &[Scope::Manage]).await;
    let end = clock::now() + TimeDelta::seconds(2);
    let mut keys = Vec::new();
    for expires_at in [json!(end), Value::Null] {
        let order = json!({"name": "short", "scopes": ["manage"], "expires_at": expires_at});
        let (status, _, made) = ask(&world, &manager, Method::POST, KEYS, Some(order)).await;
        assert_eq!(status, 201, "{made}");
        let text = |field: &str| made[field].as_str().unwrap().to_owned();
        keys.push((text("id"), text("key")));
    }
    let revoked = format!("{KEYS}/{}", keys[1].0);
    assert_eq!(world.get_with(&keys[1].1, "/v1/me").await.0, 200);
    for _ in 0..2 {
        let (status, _, _) = ask(&world, &manager, Method::DELETE, &revoked, None).await;
        assert_eq!(status, 204);
    }
    for (_, key) in &keys {
        let me = || async { world.get_with(key, "/v1/me").await.0 };
        eventually(SOON, "the key opens nothing", me, |status| *status == 401).await;
    }
    let (_, listed) = world.get_with(&manager, KEYS).await;
    let told: Vec<_> = listed["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| key["state"].clone())
        .collect();
    assert_eq!(told, ["active", "expired", "revoked"]);
    let nobody = format!("{KEYS}/0123456789abcdef");
    let (status, name, _) = ask(&world, &manager, Method::DELETE, &nobody, None).await;
    assert_eq!((status, name.as_str()), (404, "api-key-not-found"));
    // Whoever guesses the id does not know the secret.
    let guess = format!("hr_{}_{}", keys[1].0, "0".repeat(64));
    assert_eq!(world.get_with(&guess, "/v1/me").await.0, 401);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_makes_a_hundred_keys_that_count() {
    let world = World::with(Options::core_only()).await;
    let manager = world.key(&["depot"], &[Scope::Read, Scope::Manage]).await;
    // The first two count no more, and one is another workspace's.
    sqlx::query(
        "INSERT INTO core.api_key
             (id, digest, name, workspaces, scopes, created_at, created_by, expires_at, revoked_at)
         SELECT lpad(to_hex(n), 16, '0'), 'none', 'k', ARRAY[CASE n WHEN 3 THEN 'harbour' ELSE 'depot' END],
             ARRAY['read'], now(), 'test', CASE n WHEN 1 THEN now() END, CASE n WHEN 2 THEN now() END
         FROM generate_series(1, 101) AS n",
    )
    .execute(&world.pool)
    .await
    .unwrap();
    let order = || Some(json!({"name": "k", "scopes": ["read"]}));
    let make = async || ask(&world, &manager, Method::POST, KEYS, order()).await;
    assert_eq!(make().await.0, 201);
    let (status, name, body) = make().await;
    assert_eq!(
        (status, name.as_str()),
        (409, "too-many-api-keys"),
        "{body}"
    );
    let one = format!("{KEYS}/{:016x}", 9);
    let (status, ..) = ask(&world, &manager, Method::DELETE, &one, None).await;
    assert_eq!(status, 204);
    assert_eq!(make().await.0, 201);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_makes_a_key_that_may_do_more_than_they_may() {
    let world = World::with(Options::core_only()).await;
    let manager = world.key(&["depot"], &[Scope::Read, Scope::Manage]).await;
    let operator = world.key(&["depot", "harbour"], &Scope::ALL).await;
    let (both, three) = (json!(["depot", "harbour"]), json!(["depot", "other"]));
    for (key, path, order, expected) in [
        (
            &manager,
            KEYS,
            json!({"name": "k", "scopes": ["operate"]}),
            (403, "scope-missing"),
        ),
        (
            &manager,
            KEYS,
            json!({"name": "k", "scopes": ["ingest"]}),
            (403, "scope-missing"),
        ),
        (
            &manager,
            KEYS,
            json!({"name": "", "scopes": ["read"]}),
            (400, "invalid-api-key"),
        ),
        (
            &manager,
            KEYS,
            json!({"name": "k", "scopes": []}),
            (400, "invalid-api-key"),
        ),
        (
            &manager,
            KEYS,
            json!({"name": "k", "scopes": ["admin"]}),
            (422, "invalid-body"),
        ),
        (
            &manager,
            "/v1/api-keys",
            json!({"name": "k", "scopes": ["read"], "workspaces": both}),
            (403, "scope-missing"),
        ),
        (
            &operator,
            KEYS,
            json!({"name": "k", "scopes": ["operate"]}),
            (201, ""),
        ),
        (
            &operator,
            "/v1/api-keys",
            json!({"name": "k", "scopes": ["read"], "workspaces": three}),
            (403, "workspace-forbidden"),
        ),
        (
            &operator,
            "/v1/api-keys",
            json!({"name": "k", "scopes": ["read"], "workspaces": both}),
            (201, ""),
        ),
    ] {
        let (status, name, body) = ask(&world, key, Method::POST, path, Some(order)).await;
        assert_eq!((status, name.as_str()), expected, "{body}");
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workspace_sees_a_shared_key_but_neither_its_other_workspaces_nor_revokes_it() {
    let world = World::with(Options::core_only()).await;
    let manager = world.key(&["depot"], &[Scope::Manage]).await;
    let operator = world.key(&["depot", "harbour"], &[Scope::Operate]).await;
    let id = operator.split('_').nth(1).unwrap();
    let (_, shown) = world.get_with(&manager, &format!("{KEYS}/{id}")).await;
    assert_eq!(
        (&shown["shared"], &shown["workspaces"]),
        (&json!(true), &json!(["depot"]))
    );
    let (_, listed) = world.get_with(&manager, KEYS).await;
    assert!(!listed.to_string().contains("harbour"), "{listed}");
    let own = format!("{KEYS}/{id}");
    let (status, name, _) = ask(&world, &manager, Method::DELETE, &own, None).await;
    assert_eq!((status, name.as_str()), (403, "api-key-shared"));

    // Page by page, in the order in which they were made.
    let (_, first) = world.get_with(&operator, "/v1/api-keys?limit=1").await;
    assert_eq!(first["items"][0]["id"], manager.split('_').nth(1).unwrap());
    let next = first["next"].as_str().unwrap();
    let (_, second) = world
        .get_with(&operator, &format!("/v1/api-keys?limit=1&after={next}"))
        .await;
    assert_eq!(
        (&second["items"][0]["id"], &second["next"]),
        (&json!(id), &Value::Null)
    );
    let (status, name, _) = ask(&world, &operator, Method::GET, "/v1/api-keys?after=x", None).await;
    assert_eq!((status, name.as_str()), (400, "invalid-cursor"));

    // Who operates sees and revokes what is within reach.
    let wider = world.key(&["depot", "other"], &[Scope::Read]).await;
    let wider = format!("/v1/api-keys/{}", wider.split('_').nth(1).unwrap());
    assert_eq!(
        ask(&world, &operator, Method::DELETE, &wider, None).await.0,
        404
    );
    assert_eq!(world.get(&wider).await.0, 200);
    let own = format!("/v1/api-keys/{id}");
    assert_eq!(
        ask(&world, &operator, Method::DELETE, &own, None).await.0,
        204
    );
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_use_of_a_key_is_noted_once_a_minute() {
    let world = World::with(Options::core_only()).await;
    let key: ApiKey = world.key(&["depot"], &[Scope::Read]).await.parse().unwrap();
    let check = KeyCheck {
        id: key.id.clone(),
        digest: key.digest(),
    };
    let source = PgAccess::new(world.pool.clone());
    let noted = || async {
        let (_, shown) = world.get(&format!("{KEYS}/{}", key.id)).await;
        shown["last_used_at"].as_str().map(str::to_owned)
    };
    assert_eq!(noted().await, None);
    let grant = source.check(&check).await.unwrap().unwrap();
    assert_eq!(
        (grant.workspaces, grant.scopes),
        (vec!["depot".to_owned()], vec![Scope::Read])
    );
    let first = noted().await;
    assert!(first.is_some());
    source.check(&check).await.unwrap();
    assert_eq!(noted().await, first);
    sqlx::query("UPDATE core.api_key SET last_used_at = last_used_at - interval '61 seconds'")
        .execute(&world.pool)
        .await
        .unwrap();
    source.check(&check).await.unwrap();
    assert!(noted().await >= first);

    // The other services ask the core for the same.
    let url = format!("{}/internal/v1/api-keys/check", world.core_url());
    let answer = world.http.post(&url).json(&check).send().await.unwrap();
    let told: Value = answer.json().await.unwrap();
    assert_eq!(told["scopes"], json!(["read"]), "{told}");
    let wrong = KeyCheck {
        digest: "0".repeat(64),
        ..check
    };
    let answer = world.http.post(&url).json(&wrong).send().await.unwrap();
    assert_eq!(answer.status(), 404);
    let answer = world
        .http
        .post(&url)
        .bearer_auth(key.expose())
        .json(&wrong)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 403);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_are_taken_for_the_workspaces_of_their_sender_alone() {
    let world = World::with(Options::core_only()).await;
    let settings = json!({"vehicles": {"bus-1": ["soc"]}});
    let own = push_connection(&world, "depot", settings.clone()).await;
    let others = push_connection(&world, "harbour", settings).await;
    let sender = world.key(&["depot"], &[Scope::Ingest]).await;
    let body = [frame(
        "bus-1",
        "soc",
        json!(5),
        clock::now().timestamp_millis(),
    )];
    let to = |workspace: &str, connection| envelope(workspace, connection, &body);
    let unknown = ConnectionId(clock::new_id());
    // It makes no difference whether what was named is there.
    for wrong in [
        json!([to("depot", own), to("harbour", others)]),
        json!([to("harbour", unknown)]),
    ] {
        let order = Some(wrong);
        let (status, name, body) = ask(&world, &sender, Method::POST, INGEST, order).await;
        assert_eq!(
            (status, name.as_str()),
            (403, "workspace-forbidden"),
            "{body}"
        );
    }
    let seen = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM core.session");
    assert_eq!(seen.fetch_one(&world.pool).await.unwrap(), 0);
    let order = Some(to("depot", own));
    let (status, _, answer) = ask(&world, &sender, Method::POST, INGEST, order).await;
    assert_eq!(
        (status, &answer["frames"][0]["verdict"]),
        (200, &json!("accepted")),
        "{answer}"
    );
    let reader = world.key(&["depot"], &[Scope::Read]).await;
    let order = Some(to("depot", own));
    let (status, name, _) = ask(&world, &reader, Method::POST, INGEST, order).await;
    assert_eq!((status, name.as_str()), (403, "scope-missing"));
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_key_of_a_deployment_is_made_in_its_database() {
    let world = World::with(Options::core_only()).await;
    let database = world.servers.private.postgres().url(&world.vhost);
    let create = |workspace: &str| {
        let mut command = tokio::process::Command::new(program());
        command
            .args([
                "service",
                "ingress-consumer",
                "create-key",
                "--name",
                "first",
                "--workspace",
                workspace,
            ])
            .args(["--scope", "manage", "--expires-in", "1day"])
            .env("HEADRACE_ACCESS__INTERNAL_TOKEN", INTERNAL_TOKEN)
            .env("AMQP_URL", &world.amqp)
            .env("DATABASE_URL", &database);
        command.output()
    };
    let made = create("depot").await.unwrap();
    let said = String::from_utf8(made.stdout).unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
    let key = said.trim();
    assert!(key.parse::<ApiKey>().is_ok(), "{said}");
    assert!(!String::from_utf8_lossy(&made.stderr).contains(key));
    let (status, keys) = world.get_with(key, KEYS).await;
    assert_eq!(
        (status, &keys["items"][0]["created_by"]),
        (200, &json!("command"))
    );
    let (_, audit) = world.get("/v1/audit?principal=command").await;
    assert_eq!(audit["items"][0]["status"], 201, "{audit}");
    let refused = create("No Such").await.unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(refused.stdout.is_empty());
    world.stop().await;
}
