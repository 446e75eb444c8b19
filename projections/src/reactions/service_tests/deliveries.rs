//! What receivers get.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use shared_model::EventType;

use super::{Scene, WEBHOOKS, registered};
use crate::reactions::secret::Secret;

#[tokio::test(flavor = "multi_thread")]
async fn each_event_is_delivered_once_signed_to_those_who_want_it() {
    let scene = Scene::start(|_| ()).await;
    let (all, added) = scene.add("/all", json!({})).await;
    let only = json!({"event_types": ["vehicle.registered"], "filters": {"vehicles": ["bus-2"]}});
    let (some, _) = scene.add("/some", only).await;
    scene.publish_raw(b"{".to_vec()).await;
    // The bus may bring everything twice.
    for _ in 0..2 {
        for (offset, vehicle) in [(1, "bus-1"), (2, "bus-2")] {
            scene.registered(offset, vehicle).await;
        }
    }
    let incident =
        json!({"incident": "01890a5d-ac96-774b-bcce-b302099a8057", "provider": "viriciti"});
    let kind = EventType::ProviderIncidentChanged;
    scene.publish(3, "demo", kind, incident).await;
    scene
        .publish(
            4,
            "other",
            EventType::VehicleRegistered,
            registered("bus-2"),
        )
        .await;
    // The bus keeps the order, so whatever comes before this has come.
    scene.registered(5, "bus-5").await;
    let calls = scene.receiver.called("/all", 4).await;
    let done =
        |items: &[Value]| items.len() == 4 && items.iter().all(|of| of["status"] == "succeeded");
    let items = scene.deliveries(&all, done).await;
    let events: Vec<_> = items
        .iter()
        .map(|of| of["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["0:5", "0:3", "0:2", "0:1"], "newest first");
    scene
        .deliveries(&some, |items| {
            items.len() == 1 && items[0]["status"] == "succeeded"
        })
        .await;
    assert_eq!(scene.receiver.calls("/all").len(), 4);
    assert_eq!(scene.receiver.calls("/some").len(), 1);

    let secret = Secret::parse(added["secret"].as_str().unwrap()).unwrap();
    let ids: BTreeSet<_> = calls.iter().map(|call| call.header("webhook-id")).collect();
    assert_eq!(ids.len(), 4);
    for call in &calls {
        let body: Value = serde_json::from_str(&call.body).unwrap();
        let id = format!(
            "{}:{}",
            added["id"].as_str().unwrap(),
            body["id"].as_str().unwrap()
        );
        assert_eq!(call.header("webhook-id"), id);
        let timestamp: i64 = call.header("webhook-timestamp").parse().unwrap();
        let signature = secret.sign(&id, timestamp, &call.body);
        assert_eq!(call.header("webhook-signature"), signature);
        assert_eq!(call.header("content-type"), "application/json");
        assert!(call.header("user-agent").starts_with("Headrace/"));
        assert_eq!(body["workspace"], "demo");
        assert!(body["data"].is_object() && body["timestamp"].is_string());
    }
    let page = scene.client.get(format!("http://{}/metrics", scene.http));
    let page = page.send().await.unwrap().text().await.unwrap();
    for (name, label) in [
        ("headrace_reaction_events_total", "outcome=\"handled\""),
        (
            "headrace_reaction_rejected_messages_total",
            "reason=\"malformed\"",
        ),
        ("headrace_webhook_deliveries_made_total", ""),
        ("headrace_webhook_deliveries_total", "outcome=\"succeeded\""),
        ("headrace_webhook_attempts_total", "outcome=\"succeeded\""),
        ("headrace_webhook_attempt_duration_seconds_bucket", ""),
        ("headrace_webhook_pending_deliveries", ""),
        ("headrace_webhook_oldest_pending_seconds", ""),
        ("headrace_webhook_endpoints", "state=\"enabled\""),
    ] {
        let counted = |line: &str| line.starts_with(name) && line.contains(label);
        assert!(page.lines().any(counted), "{name} {label}: {page}");
    }
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_signs_along_for_a_while() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, added) = scene.add("/ok", json!({})).await;
    let (status, rotated) = scene
        .call("POST", &format!("{webhook}/secret/rotate"), None)
        .await;
    assert_eq!(status, 200, "{rotated}");
    assert_eq!(rotated["previous"]["secret"], added["secret"]);
    assert_ne!(rotated["secret"], added["secret"]);
    assert_eq!(
        scene
            .call("GET", &format!("{webhook}/secret"), None)
            .await
            .1,
        rotated
    );
    scene.registered(1, "bus-1").await;
    let call = scene.receiver.called("/ok", 1).await.remove(0);
    let timestamp: i64 = call.header("webhook-timestamp").parse().unwrap();
    let sign = |secret: &Value| {
        let secret = Secret::parse(secret.as_str().unwrap()).unwrap();
        secret.sign(call.header("webhook-id"), timestamp, &call.body)
    };
    let both = format!("{} {}", sign(&rotated["secret"]), sign(&added["secret"]));
    assert_eq!(call.header("webhook-signature"), both);
    scene.stop().await;

    // Once the overlap is over, the old one is worth nothing.
    let scene = Scene::start(|config| config.secret_overlap = std::time::Duration::ZERO).await;
    let (webhook, _) = scene.add("/ok", json!({})).await;
    let chosen = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let (_, rotated) = scene
        .call(
            "POST",
            &format!("{webhook}/secret/rotate"),
            Some(json!({"secret": chosen})),
        )
        .await;
    assert_eq!(rotated, json!({"secret": chosen, "previous": null}));
    scene.registered(1, "bus-1").await;
    let call = scene.receiver.called("/ok", 1).await.remove(0);
    assert_eq!(call.header("webhook-signature").split(' ').count(), 1);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_can_be_seen_and_sent_again_by_hand() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene
        .add("/talks", json!({"event_types": ["vehicles.seen"]}))
        .await;
    // A test is sent whatever the webhook wants.
    let (status, test) = scene.call("POST", &format!("{webhook}/test"), None).await;
    assert_eq!((status, &test["event_type"]), (202, &json!("webhook.test")));
    let log = scene.log(&webhook, "succeeded").await;
    assert_eq!(log.len(), 1);
    assert_eq!(
        (&log[0]["status"], &log[0]["outcome"]),
        (&json!(200), &json!("succeeded"))
    );
    let response = log[0]["response"].as_str().unwrap();
    assert!(
        response.starts_with("word\u{fffd} ") && response.len() < 8192,
        "{response}"
    );

    let path = format!("{webhook}/deliveries/{}", test["id"].as_str().unwrap());
    let (_, one) = scene.call("GET", &path, None).await;
    assert_eq!(one["body"]["type"], "webhook.test");
    let (status, _) = scene.call("POST", &format!("{path}/redeliver"), None).await;
    assert_eq!(status, 202);
    let calls = scene.receiver.called("/talks", 2).await;
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    assert_eq!(calls[0].body, calls[1].body);
    crate::fixture::eventually(
        || scene.call("GET", &path, None),
        |(_, one)| one["status"] == "succeeded" && one["attempts"] == 2,
    )
    .await;
    assert_eq!(
        scene.call("GET", WEBHOOKS, None).await.1["items"][0]["enabled"],
        true
    );
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_is_forgotten_after_a_while_and_with_its_webhook() {
    let mut scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene.add("/fails", json!({})).await;
    let (kept, _) = scene.add("/ok", json!({})).await;
    scene.registered(1, "bus-1").await;
    scene.deliveries(&webhook, |items| items.len() == 1).await;
    assert_eq!(scene.call("DELETE", &webhook, None).await.0, 204);
    assert_eq!(scene.call("GET", &webhook, None).await.0, 404);
    assert_eq!(scene.call("DELETE", &webhook, None).await.0, 404);
    let url = scene.config.database.url.clone().unwrap();
    let pool = sqlx::PgPool::connect(url.expose()).await.unwrap();
    let left = || async {
        let count = sqlx::query_scalar("SELECT count(*) FROM reactions.delivery");
        count.fetch_one(&pool).await.unwrap()
    };
    let is_one = |count: &i64| *count == 1;
    crate::fixture::eventually(left, is_one).await;
    scene.log(&kept, "succeeded").await;
    scene.context.stop().await.unwrap();
    scene.config.deliveries.retention = std::time::Duration::from_secs(1);
    (scene.context, scene.http) = super::start(&scene.config).await;
    scene.deliveries(&kept, <[Value]>::is_empty).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_the_work_and_send_nothing_twice() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene.add("/ok", json!({})).await;
    let (other, _) = super::start(&scene.config).await;
    for offset in 1..=60 {
        // Each replica may be given either copy.
        scene.registered(offset, "bus-1").await;
        scene.registered(offset, "bus-1").await;
    }
    let done =
        |items: &[Value]| items.len() == 60 && items.iter().all(|of| of["status"] == "succeeded");
    scene.deliveries(&webhook, done).await;
    let ids: BTreeSet<_> = scene
        .receiver
        .calls("/ok")
        .iter()
        .map(|call| call.header("webhook-id").to_owned())
        .collect();
    assert_eq!((ids.len(), scene.receiver.calls("/ok").len()), (60, 60));
    other.stop().await.unwrap();
    scene.stop().await;
}
