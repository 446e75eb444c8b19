//! Changes of webhooks and the core's audit log.

use serde_json::json;

use super::{Scene, WEBHOOKS};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_leaves_an_entry_at_the_core_and_does_not_happen_without_one() {
    let scene = Scene::start(|_| {}).await;
    let (webhook, _) = scene.add("/", json!({})).await;
    let (status, _) = scene.call("GET", &webhook, None).await;
    assert_eq!(status, 200);
    let (change, ended) = scene.core.log().audit.entries[0].clone();
    assert_eq!((change.principal.as_str(), ended), ("internal", Some(201)));
    assert_eq!(change.workspace.as_deref(), Some("demo"));
    assert_eq!(
        (change.method.as_str(), change.path.as_str()),
        ("POST", WEBHOOKS)
    );
    assert_eq!(
        scene.core.log().audit.entries.len(),
        1,
        "reading leaves none"
    );

    scene.core.log().audit.is_away = true;
    let (status, problem) = scene.call("DELETE", &webhook, None).await;
    assert_eq!(status, 503, "{problem}");
    assert_eq!(problem["type"], "urn:headrace:problem:audit-away");
    scene.core.log().audit.is_away = false;
    assert_eq!(scene.call("GET", &webhook, None).await.0, 200);
    assert_eq!(scene.call("DELETE", &webhook, None).await.0, 204);
    let (change, ended) = scene.core.log().audit.entries[1].clone();
    assert_eq!((change.path, ended), (webhook, Some(204)));
    scene.stop().await;
}
