//! Receivers that misbehave, and a sender that dies.

use std::time::Duration;

use serde_json::{Value, json};

use super::Scene;
use crate::fixture::{self, eventually};

fn outcomes(log: &[Value]) -> Vec<&str> {
    log.iter()
        .map(|attempt| attempt["outcome"].as_str().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_is_made_again_with_the_same_id_until_it_succeeds() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene.add("/fails-twice", json!({})).await;
    scene.registered(1, "bus-1").await;
    let log = scene.log(&webhook, "succeeded").await;
    assert_eq!(outcomes(&log), ["refused", "refused", "succeeded"]);
    assert_eq!(log[0]["status"], 502);
    assert!(log[0]["error"].as_str().unwrap().contains("502"), "{log:?}");
    let calls = scene.receiver.calls("/fails-twice");
    assert_eq!(calls.len(), 3);
    assert!(
        calls
            .iter()
            .all(|call| call.header("webhook-id") == calls[0].header("webhook-id"))
    );
    assert!(calls[1].at - calls[0].at >= Duration::from_millis(100));
    assert!(calls[2].at - calls[1].at >= Duration::from_millis(200));
    assert_eq!(
        scene.call("GET", &webhook, None).await.1["failing_since"],
        Value::Null
    );
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_hangs_holds_up_nobody_else_and_is_given_up() {
    let scene = Scene::start(|config| {
        config.concurrency = 4;
        config.endpoint_concurrency = 2;
    })
    .await;
    let (hanging, _) = scene.add("/hangs", json!({})).await;
    let (well, _) = scene.add("/ok", json!({})).await;
    for offset in 1..=20 {
        scene.registered(offset, "bus-1").await;
    }
    let done =
        |items: &[Value]| items.len() == 20 && items.iter().all(|of| of["status"] == "succeeded");
    scene.deliveries(&well, done).await;
    // Two hang from the first moment on, and were there all along.
    let still = scene.deliveries(&hanging, |items| items.len() == 20).await;
    assert!(
        still.iter().all(|of| of["status"] == "pending"),
        "{still:?}"
    );
    let calls = scene.receiver.calls("/hangs");
    let together = calls
        .iter()
        .filter(|call| call.at - calls[0].at < Duration::from_millis(900));
    assert!(together.count() <= 2, "{calls:?}");
    let (_, view) = scene.call("DELETE", &hanging, None).await;
    assert_eq!(view, Value::Null);
    scene.stop().await;

    let scene = Scene::start(|config| config.timeout = Duration::from_millis(100)).await;
    let (hanging, _) = scene.add("/hangs", json!({})).await;
    scene.registered(1, "bus-1").await;
    let log = scene.log(&hanging, "failed").await;
    assert_eq!(outcomes(&log), ["timed_out"; 4]);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_a_failure_and_is_not_followed() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene.add("/redirects", json!({})).await;
    scene.registered(1, "bus-1").await;
    let log = scene.log(&webhook, "failed").await;
    assert_eq!(outcomes(&log), ["redirected"; 4]);
    assert_eq!(log[0]["status"], 307);
    assert!(scene.receiver.calls("/elsewhere").is_empty());
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_gone_is_disabled_and_what_it_missed_can_be_recovered() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, added) = scene.add("/gone-once", json!({})).await;
    scene.registered(1, "bus-1").await;
    assert_eq!(outcomes(&scene.log(&webhook, "failed").await), ["gone"]);
    let (_, view) = scene.call("GET", &webhook, None).await;
    assert_eq!(
        (&view["enabled"], &view["disabled_reason"]),
        (&json!(false), &json!("gone"))
    );
    assert!(view["disabled_at"].is_string());
    scene.registered(2, "bus-2").await;
    let skipped = |items: &[Value]| items.len() == 2 && items[0]["status"] == "skipped";
    scene.deliveries(&webhook, skipped).await;
    assert_eq!(scene.receiver.calls("/gone-once").len(), 1);

    let since = json!({"since": added["created_at"]});
    let recover = format!("{webhook}/recover");
    let (status, refused) = scene.call("POST", &recover, Some(since.clone())).await;
    assert_eq!(
        (status, &refused["type"]),
        (409, &json!("urn:headrace:problem:webhook-disabled"))
    );
    let (_, view) = scene
        .call("PATCH", &webhook, Some(json!({"enabled": true})))
        .await;
    assert_eq!(
        (&view["enabled"], &view["disabled_reason"]),
        (&json!(true), &Value::Null)
    );
    let (status, recovered) = scene.call("POST", &recover, Some(since)).await;
    assert_eq!((status, recovered), (202, json!({"deliveries": 2})));
    let done = |items: &[Value]| items.iter().all(|of| of["status"] == "succeeded");
    scene.deliveries(&webhook, done).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_limits_is_left_in_peace_for_as_long_as_it_asks() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene.add("/limits", json!({})).await;
    scene.registered(1, "bus-1").await;
    assert_eq!(
        outcomes(&scene.log(&webhook, "succeeded").await),
        ["refused", "succeeded"]
    );
    let calls = scene.receiver.calls("/limits");
    assert!(
        calls[1].at - calls[0].at >= Duration::from_secs(2),
        "{calls:?}"
    );
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_only_fails_is_disabled_and_the_rest_is_skipped() {
    let scene = Scene::start(|config| {
        config.disable_after = Duration::from_millis(200);
        // Nothing is due a second time meanwhile.
        config.retry_schedule = vec![Duration::from_hours(1).into()];
    })
    .await;
    let (webhook, _) = scene.add("/fails", json!({})).await;
    scene.registered(1, "bus-1").await;
    let failing = |answer: &(u16, Value)| answer.1["failing_since"].is_string();
    let (_, view) = eventually(|| scene.call("GET", &webhook, None), failing).await;
    assert_eq!(view["enabled"], true);
    let mut offset = 1;
    // Time passes between the failures.
    loop {
        offset += 1;
        scene.registered(offset, "bus-1").await;
        scene.receiver.called("/fails", 1).await;
        let (_, view) = scene.call("GET", &webhook, None).await;
        if view["disabled_reason"] == "failing" {
            break;
        }
        assert!(offset < 1000, "{view}");
    }
    let skipped =
        |items: &[Value]| !items.is_empty() && items.iter().all(|of| of["status"] == "skipped");
    scene.deliveries(&webhook, skipped).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_one_that_fails_is_bounded_and_can_be_recovered() {
    let scene = Scene::start(|config| {
        config.max_pending = 3;
        config.retry_schedule = vec![Duration::from_hours(1).into()];
    })
    .await;
    let (webhook, added) = scene.add("/fails", json!({})).await;
    // One after the other: a batch that finds room is taken whole.
    for offset in 1..=5 {
        scene.registered(offset, "bus-1").await;
        let all = usize::try_from(offset).unwrap();
        scene.deliveries(&webhook, |items| items.len() == all).await;
    }
    let count = |items: &[Value], status| items.iter().filter(|of| of["status"] == status).count();
    let items = scene.deliveries(&webhook, |_| true).await;
    assert_eq!(
        (count(&items, "pending"), count(&items, "skipped")),
        (3, 2),
        "{items:?}"
    );
    assert_eq!(items[0]["status"], "skipped");
    let body = json!({"since": added["created_at"]});
    let (_, recovered) = scene
        .call("POST", &format!("{webhook}/recover"), Some(body))
        .await;
    assert_eq!(recovered, json!({"deliveries": 2}));
    scene
        .deliveries(&webhook, |items| count(items, "pending") == 5)
        .await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_leads_inside_is_not_called() {
    let scene = Scene::start(|config| config.allow_private = false).await;
    let url = format!("http://localhost:{}/ok", scene.receiver.port());
    let (webhook, _) = scene.add("/ok", json!({"url": url})).await;
    scene.registered(1, "bus-1").await;
    let log = scene.log(&webhook, "failed").await;
    assert_eq!(outcomes(&log), ["not_allowed"; 4]);
    assert!(
        log[0]["error"].as_str().unwrap().contains("not public"),
        "{log:?}"
    );
    assert!(scene.receiver.calls("/ok").is_empty());
    scene.stop().await;

    // What was taken while more was allowed is asked about again.
    let mut scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene.add("/ok", json!({})).await;
    scene.context.stop().await.unwrap();
    scene.config.webhooks.allow_private = false;
    (scene.context, scene.http) = super::start(&scene.config).await;
    scene.registered(1, "bus-1").await;
    assert_eq!(
        outcomes(&scene.log(&webhook, "failed").await),
        ["not_allowed"; 4]
    );
    assert!(scene.receiver.calls("/ok").is_empty());
    scene.stop().await;

    // A network that is allowed is.
    let scene = Scene::start(|config| {
        config.allow_private = false;
        config.allowed_networks = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let url = format!("http://localhost:{}/ok", scene.receiver.port());
    let (webhook, _) = scene.add("/ok", json!({"url": url})).await;
    scene.registered(1, "bus-1").await;
    scene.log(&webhook, "succeeded").await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sender_that_dies_before_it_has_written_what_came_of_a_call_makes_it_again() {
    let mut scene = Scene::start(|config| config.timeout = Duration::from_millis(900)).await;
    let (webhook, _) = scene.add("/held", json!({})).await;
    scene.registered(1, "bus-1").await;
    scene.receiver.called("/held", 1).await;
    // The receiver has it and says so, but that cannot be written.
    fixture::set_away(&scene.config.database, true).await;
    scene.receiver.release.notify_one();
    let unready = |answer: &(u16, Value)| answer.0 == 503;
    eventually(|| scene.call("GET", "/readyz", None), unready).await;
    scene.restart().await;
    fixture::set_away(&scene.config.database, false).await;
    let calls = scene.receiver.called("/held", 2).await;
    assert_eq!(calls[0].header("webhook-id"), calls[1].header("webhook-id"));
    assert_eq!(calls[0].body, calls[1].body);
    scene.receiver.release.notify_one();
    let log = scene.log(&webhook, "succeeded").await;
    // Of the first attempt nobody knows.
    assert_eq!(outcomes(&log), ["succeeded"]);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_events_and_what_came_of_calls_wait() {
    let scene = Scene::start(|config| config.lease = Duration::from_mins(1)).await;
    let (webhook, _) = scene.add("/held", json!({})).await;
    scene.registered(1, "bus-1").await;
    scene.receiver.called("/held", 1).await;
    fixture::set_away(&scene.config.database, true).await;
    scene.receiver.release.notify_one();
    scene.registered(2, "bus-2").await;
    let unready = |answer: &(u16, Value)| answer.0 == 503;
    eventually(|| scene.call("GET", "/readyz", None), unready).await;
    fixture::set_away(&scene.config.database, false).await;
    scene.receiver.called("/held", 2).await;
    scene.receiver.release.notify_one();
    let done =
        |items: &[Value]| items.len() == 2 && items.iter().all(|of| of["status"] == "succeeded");
    scene.deliveries(&webhook, done).await;
    assert_eq!(scene.receiver.calls("/held").len(), 2);
    scene.stop().await;
}
