//! The API of webhooks.

use serde_json::{Value, json};

use super::{Scene, WEBHOOKS};

fn problem(answer: &(u16, Value)) -> (u16, &str) {
    let kind = answer.1["type"].as_str().unwrap_or_default();
    (answer.0, kind.rsplit(':').next().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_added_listed_changed_and_removed() {
    let scene = Scene::start(|config| config.max_endpoints = 2).await;
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let more = json!({"description": "the depot's", "event_types": ["vehicle.registered"],
        "filters": {"providers": ["viriciti"]}, "secret": secret});
    let (one, added) = scene.add("/one", more).await;
    assert_eq!(added["secret"], secret);
    let mut shown = added.clone();
    shown.as_object_mut().unwrap().remove("secret");
    assert_eq!(scene.call("GET", &one, None).await, (200, shown.clone()));
    let (two, _) = scene.add("/two", json!({})).await;
    let url = scene.receiver.url("/three");
    let third = scene
        .call("POST", WEBHOOKS, Some(json!({"url": url})))
        .await;
    assert_eq!(problem(&third), (409, "too-many-webhooks"));
    let (_, page) = scene
        .call("GET", &format!("{WEBHOOKS}?limit=1"), None)
        .await;
    assert_eq!(page["items"], json!([shown]));
    let next = page["next"].as_str().unwrap();
    let (_, page) = scene
        .call("GET", &format!("{WEBHOOKS}?limit=1&after={next}"), None)
        .await;
    assert_eq!(
        (page["items"][0]["url"].as_str(), &page["next"]),
        (Some(&*scene.receiver.url("/two")), &Value::Null)
    );

    // What is absent stays, null is all, and a workspace never sees another's.
    let patch = json!({"event_types": null, "description": "theirs"});
    let (status, changed) = scene.call("PATCH", &one, Some(patch)).await;
    assert_eq!((status, &changed["event_types"]), (200, &Value::Null));
    assert_eq!(
        (&changed["filters"], &changed["url"]),
        (&shown["filters"], &shown["url"])
    );
    let (_, off) = scene
        .call("PATCH", &one, Some(json!({"enabled": false})))
        .await;
    assert_eq!(
        (&off["enabled"], &off["disabled_reason"]),
        (&json!(false), &json!("by_hand"))
    );
    let (_, still) = scene
        .call("PATCH", &one, Some(json!({"description": ""})))
        .await;
    assert_eq!(
        (&still["enabled"], &still["disabled_at"]),
        (&json!(false), &off["disabled_at"])
    );
    for (method, path, body) in [
        ("GET", "", None),
        ("PATCH", "", Some(json!({"enabled": true}))),
        ("DELETE", "", None),
        ("GET", "/secret", None),
        ("POST", "/secret/rotate", None),
        ("GET", "/deliveries", None),
        (
            "POST",
            "/recover",
            Some(json!({"since": "2017-11-23T11:31:34Z"})),
        ),
        ("POST", "/test", None),
    ] {
        let other = one.replace("/demo/", "/other/") + path;
        let answer = scene.call(method, &other, body).await;
        assert_eq!(
            problem(&answer),
            (404, "webhook-not-found"),
            "{method} {path}"
        );
    }
    assert_eq!(
        scene
            .call("GET", "/v1/workspaces/other/webhooks", None)
            .await
            .1["items"],
        json!([])
    );
    assert_eq!(scene.call("DELETE", &two, None).await.0, 204);
    scene.add("/three", json!({})).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_what_to_do() {
    let scene = Scene::start(|config| config.allow_private = false).await;
    for (body, part) in [
        (json!({"url": "https://127.0.0.1/"}), "not public"),
        (
            json!({"url": "https://user:hunter2@example.com/"}),
            "user or password",
        ),
        (
            json!({"url": "https://example.com", "event_types": ["vehicle.sold"]}),
            "vehicle.sold",
        ),
        (
            json!({"url": "https://example.com", "event_types": []}),
            "leave it out",
        ),
        (
            json!({"url": "https://example.com", "filters": {"vehicles": []}}),
            "1 to 1000",
        ),
        (
            json!({"url": "https://example.com", "filters": {"vehicles": [" "]}}),
            "vehicle",
        ),
        (
            json!({"url": "https://example.com", "filters": {"providers": ["A B"]}}),
            "provider",
        ),
        (
            json!({"url": "https://example.com", "filters": {"colour": ["red"]}}),
            "colour",
        ),
        (
            json!({"url": "https://example.com", "secret": "hunter2"}),
            "whsec_",
        ),
        (
            json!({"url": "https://example.com", "description": "x".repeat(501)}),
            "500",
        ),
        (json!({"uri": "https://example.com"}), "uri"),
    ] {
        let (status, problem) = scene.call("POST", WEBHOOKS, Some(body.clone())).await;
        assert_eq!(status, 422, "{body}: {problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains(part) && !detail.contains("hunter2"),
            "{detail}"
        );
    }
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_to_a_webhook_is_refused_with_the_reason() {
    let scene = Scene::start(|_| ()).await;
    let (webhook, _) = scene
        .add("/ok", json!({"url": "https://example.com/"}))
        .await;
    let unknown = "01890a5d-ac96-774b-bcce-b302099a8057";
    for (method, path, body, expected) in [
        (
            "GET",
            "/deliveries?status=lost",
            None,
            (400, "invalid-status"),
        ),
        ("GET", "/deliveries?limit=0", None, (400, "invalid-limit")),
        (
            "PATCH",
            "",
            Some(json!({"url": "gopher://x"})),
            (422, "invalid-webhook"),
        ),
        (
            "POST",
            "/secret/rotate",
            Some(json!({"secret": "short"})),
            (422, "invalid-webhook"),
        ),
        (
            "POST",
            "/secret/rotate",
            Some(json!({"key": "short"})),
            (400, "invalid-body"),
        ),
        (
            "POST",
            "/recover",
            Some(json!({"since": "yesterday"})),
            (422, "invalid-body"),
        ),
        (
            "GET",
            &format!("/deliveries/{unknown}"),
            None,
            (404, "delivery-not-found"),
        ),
        (
            "POST",
            &format!("/deliveries/{unknown}/redeliver"),
            None,
            (404, "delivery-not-found"),
        ),
        ("GET", "/deliveries/7", None, (400, "invalid-path")),
    ] {
        let answer = scene.call(method, &format!("{webhook}{path}"), body).await;
        assert_eq!(problem(&answer), expected, "{method} {path}: {}", answer.1);
    }
    scene
        .call("PATCH", &webhook, Some(json!({"enabled": false})))
        .await;
    for path in ["/test", &format!("/deliveries/{unknown}/redeliver")] {
        let answer = scene.call("POST", &format!("{webhook}{path}"), None).await;
        assert_eq!(problem(&answer), (409, "webhook-disabled"), "{path}");
    }
    scene.stop().await;
}
